"""The layer: its start, its ablations, its state, training through either backend, and what users put into it."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, MEAN, STD, each_backend, error, net_of, randomized

import tritonds


@each_backend
@pytest.mark.parametrize(("prior", "taps", "antialias"), [("bilinear", 2, False), ("antialias", 6, True)])
def test_starts_as_its_prior(prior, taps, antialias, backend, device):
    image = torch.rand(2, 3, 13, 17, device=device)
    net = tritonds.DownsizeNet((6, 7), prior=prior, taps=taps, backend=backend).to(device)
    expected = F.interpolate(image, (6, 7), mode="bilinear", antialias=antialias)
    torch.testing.assert_close(net(image), expected, rtol=1e-5, atol=1e-6)


@each_backend
def test_starts_as_the_mean_of_its_taps_without_a_prior(backend, device):
    image = torch.rand(2, 3, 13, 17, device=device)
    net = tritonds.DownsizeNet((6, 7), backend=backend).to(device)
    quarter = torch.full((2, 4, 6, 7), 0.25, device=device)
    torch.testing.assert_close(net.coefficients(image), quarter)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"texture_channels": 0},
        {"distance_channels": 0},
        {"texture_layers": 3, "hidden_layers": 0},
        {"in_channels": 1, "taps": 3, "prior": "antialias", "hidden_layers": 3, "hidden_channels": 5},
        {"taps": 3, "prior": "lanczos"},
    ],
)
def test_backends_agree(options, device):
    nets = [randomized(tritonds.DownsizeNet((6, 7), backend=b, **options)).to(device) for b in BACKENDS]
    nets[1].load_state_dict(nets[0].state_dict())
    image = torch.rand(2, options.get("in_channels", 3), 13, 17, device=device)
    results = []
    for net in nets:
        leaf = image.clone().requires_grad_()
        y = net(leaf)
        y.square().sum().backward()
        results.append([y.detach(), leaf.grad, *[p.grad for p in net.parameters()]])
        torch.testing.assert_close(net.coefficients(image).sum(dim=1), torch.ones(2, 6, 7, device=device))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_copies_and_pickles(device):
    net = randomized(tritonds.DownsizeNet((6, 7), taps=3, prior="antialias")).to(device)
    image = torch.rand(1, 3, 13, 17, device=device)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    loaded = tritonds.DownsizeNet((6, 7), taps=3, prior="antialias").to(device)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), loaded):
        assert torch.equal(other(image), net(image))


def test_state_dict_names_are_stable():
    names = {name: tuple(value.shape) for name, value in tritonds.DownsizeNet(hidden_layers=2).state_dict().items()}
    assert names == {
        "texture.0.weight": (16, 3, 3, 3),
        "texture.0.bias": (16,),
        "distance.weight": (16, 4),
        "distance.bias": (16,),
        "hidden.0.weight": (16, 32),
        "hidden.0.bias": (16,),
        "hidden.1.weight": (16, 16),
        "hidden.1.bias": (16,),
        "out.weight": (4, 16),
        "out.bias": (4,),
    }


def test_says_what_it_is():
    text = repr(tritonds.DownsizeNet((6, 7), prior="bilinear"))
    assert "size=(6, 7), taps=2, prior='bilinear', backend='auto'" in text
    assert "Conv2d(3, 16" in text


def test_size_at_call_comes_first(device):
    net = tritonds.DownsizeNet((6, 7)).to(device)
    image = torch.rand(1, 3, 13, 17, device=device)
    assert net(image).shape == (1, 3, 6, 7)
    assert net(image, (2, 3)).shape == (1, 3, 2, 3)
    assert net(image[:0]).shape == (0, 3, 6, 7)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_result_keeps_the_images_memory_format(memory_format, device):
    image = torch.rand(2, 3, 13, 17, device=device).contiguous(memory_format=memory_format)
    for backend in BACKENDS:
        y = tritonds.DownsizeNet((6, 7), backend=backend).to(device)(image)
        assert y.is_contiguous(memory_format=memory_format)


def test_training_is_the_same_through_either_backend(device):
    image = torch.rand(2, 3, 12, 10, device=device)
    target = torch.rand(2, 3, 5, 4, device=device)
    curves = []
    for backend in BACKENDS:
        torch.manual_seed(0)
        net = tritonds.DownsizeNet((5, 4), backend=backend, texture_channels=4, distance_channels=4, hidden_channels=4)
        net = net.to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        losses = []
        for _ in range(6):
            loss = (net(image) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < curves[0][0]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_on_submodules_are_called(hook, device):
    """Which they are if the submodules are; the result is the same."""
    net = net_of("triton").to(device)
    image = torch.rand(1, 3, 12, 16, device=device, requires_grad=True)
    fused = net(image)
    calls = []
    getattr(net.texture[0], hook)(lambda *arguments: calls.append(1))
    y = net(image)
    y.sum().backward()
    assert calls
    torch.testing.assert_close(y, fused, rtol=1e-5, atol=1e-6)


def test_parametrized_convolutions_are_called(device):
    net = net_of("triton").to(device)
    image = torch.rand(1, 3, 12, 16, device=device)
    fused = net(image)
    torch.nn.utils.parametrizations.weight_norm(net.texture[0])
    torch.testing.assert_close(net(image), fused, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"padding_mode": "reflect", "padding": 1},
        {"padding": 2, "dilation": 2},
        {"padding": 0},
        {"kernel_size": 1},
        {"padding": 1, "bias": False},
        {"padding": 1, "stride": 2},
        {},
    ],
)
def test_other_convolutions_are_called(options, device):
    """Whatever a user puts in the place of the layer's own."""
    nets = [net_of(backend).to(device) for backend in BACKENDS]
    torch.manual_seed(2)
    nets[0].texture[0] = torch.nn.Conv2d(3, 6, **{"kernel_size": 3, "padding": 0} | options).to(device)
    nets[1].texture[0] = nets[0].texture[0]
    image = torch.rand(1, 3, 12, 16, device=device)
    torch.testing.assert_close(nets[0](image), nets[1](image), rtol=1e-5, atol=1e-6)


@each_backend
def test_pixels_are_normalised_in_float32_whatever_the_activations_are_in(backend, device):
    image = torch.randint(256, (1, 3, 40, 40), dtype=torch.uint8, device=device)
    options = dict(taps=4, prior="antialias", mean=MEAN[:3], std=STD[:3], out_dtype=torch.float32)
    net = tritonds.DownsizeNet((20, 20), backend=backend, **options)  # untrained: no activation counts
    net = net.to(device, torch.float16)
    mean, std = (torch.tensor(v[:3], device=device).view(-1, 1, 1) for v in (MEAN, STD))
    expected = F.interpolate((image / 255 - mean) / std, (20, 20), mode="bilinear", antialias=True)
    torch.testing.assert_close(net(image), expected, rtol=1e-5, atol=1e-5)


@each_backend
def test_autocast(backend, device):
    """Parameters in float32, activations in half precision, as everywhere under autocast; uint8 stays what it is."""
    dtype = torch.float16 if device.type == "cuda" or backend == "triton" else torch.bfloat16
    net = net_of(backend).to(device)
    image = torch.randint(256, (1, 3, 12, 16), dtype=torch.uint8, device=device)
    exact = net(image)
    with torch.autocast(device.type, dtype=dtype):
        y = net(image)
        listed = net([image[0]])
    assert y.dtype == listed.dtype == dtype
    assert error(y, exact.double()) < 2e-2
    assert error(listed, exact.double()) < 2e-2
    y.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())
