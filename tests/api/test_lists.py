"""Images of several sizes in one batch, stretched or letterboxed: each as if it were alone."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from cases import BACKENDS, LIST_SIZES, MEAN, PRIORS, STD, Case, each_backend, error, images_of, make, net_of

import tritonds
from tritonds import DownsizeNet, geometry
from tritonds.labels import map_boxes, map_masks


@each_backend
@pytest.mark.parametrize("letterbox", [False, True], ids=["stretched", "letterboxed"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_image_as_if_alone(dtype, letterbox, backend, device):
    net = net_of(backend, taps=4, prior="antialias").to(device)
    images = images_of(LIST_SIZES, device, dtype)
    together = net(images, letterbox=letterbox, fill=0.25)
    alone = [net(image.unsqueeze(0), letterbox=letterbox, fill=0.25) for image in images]
    in_lists = [net([image], letterbox=letterbox, fill=0.25) for image in images[:3]]
    if letterbox:
        assert torch.equal(together.mask, torch.cat([y.mask for y in alone]))
        assert torch.equal(together.scale, torch.cat([y.scale for y in alone]))
        assert torch.equal(together.offset, torch.cat([y.offset for y in alone]))
        together, alone, in_lists = together.images, [y.images for y in alone], [y.images for y in in_lists]
    for row, one in [*zip(together, alone, strict=True), *zip(together, in_lists, strict=False)]:
        if backend == "triton":
            assert torch.equal(row, one[0])
        else:  # PyTorch's matrix products may sum in another order
            torch.testing.assert_close(row, one[0], rtol=1e-5, atol=1e-6)


def test_whole_pixels_count_alike_in_loops_and_written_out(device):
    """Where 1 / 41, rounded, times 41 is not 1."""
    net = net_of("triton", (41, 2)).to(device)
    image = torch.rand(3, 82, 4, device=device)
    assert torch.equal(net([image]), net(image.unsqueeze(0)))


@pytest.mark.parametrize(("dtype", "letterbox"), [(torch.uint8, False), (torch.float32, True)])
def test_the_bits_do_not_depend_on_where_programs_start(dtype, letterbox, device, monkeypatch, fresh_plans):
    """Rows of the source that two bins share are convolved once, if both are of one program."""
    from tritonds.kernels import launchers as kernels

    net = net_of("triton", (7, 5)).to(device)
    images = images_of(LIST_SIZES[:2], device, dtype)
    results = []
    for least in (10**6, 1):  # programs, of one row or of eight
        monkeypatch.setattr(kernels.plan, "tile_shape", lambda pixels: (1, 16))
        monkeypatch.setattr(kernels.launch, "ENOUGH_PROGRAMS", least)
        y = net(images, letterbox=letterbox)
        y = y.images if letterbox else y
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), list(net.parameters()))])
    assert torch.equal(results[0][0], results[1][0])
    for got, expected in zip(results[0][1:], results[1][1:], strict=True):
        assert error(got, expected.double()) < 1e-5


@pytest.mark.parametrize("letterbox", [False, True], ids=["stretched", "letterboxed"])
def test_lists_have_the_values_and_gradients_of_the_reference(letterbox, device):
    nets = [net_of(backend).to(device) for backend in BACKENDS]
    images = images_of(LIST_SIZES, device)
    grad_output = torch.randn(len(LIST_SIZES), 3, 6, 8, device=device)
    results = []
    for net in nets:
        y = net(images, letterbox=letterbox)
        y = y.images if letterbox else y
        results.append([y.detach(), *torch.autograd.grad(y, list(net.parameters()), grad_output)])
    for got, expected in zip(*results, strict=True):
        assert error(got, expected.double()) < 1e-5


@each_backend
def test_gradients_to_the_images_of_a_list(backend, device):
    """Each as if alone; only Triton's single launch has none, and is not taken."""
    net = net_of(backend).to(device)
    images = [image.requires_grad_() for image in images_of(LIST_SIZES[:4], device, torch.float32)]
    y = net(images)
    weight = torch.randn_like(y)
    grads = torch.autograd.grad((y * weight).sum(), images)
    for image, one, got in zip(images, weight, grads, strict=True):
        leaf = image.detach().unsqueeze(0).requires_grad_()
        (expected,) = torch.autograd.grad((net(leaf)[0] * one).sum(), leaf)
        torch.testing.assert_close(got, expected[0], rtol=1e-4, atol=1e-5)


@hypothesis.settings(max_examples=6, phases=set(hypothesis.Phase) - {hypothesis.Phase.shrink})
@hypothesis.given(data=st.data())
def test_any_mix_of_sizes(data):
    side = st.one_of(st.just(1), st.integers(1, 20))
    sizes = data.draw(st.lists(st.tuples(side, side), min_size=1, max_size=5))
    size = (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)))
    letterbox, taps = data.draw(st.booleans()), data.draw(st.integers(1, 4))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = net_of("triton", size, taps=taps, prior=data.draw(st.sampled_from(PRIORS))).to(device)
    images = images_of(sizes, device)
    y = net(images, letterbox=letterbox)
    net.backend = "torch"
    z = net(images, letterbox=letterbox)
    if letterbox:
        assert torch.equal(y.mask, z.mask)
        y, z = y.images, z.images
    assert error(y, z.double()) < 1e-5
    net.backend = "triton"
    for row, image in zip(y, images, strict=True):
        alone = net(image.unsqueeze(0), letterbox=letterbox)
        assert torch.equal(row, (alone.images if letterbox else alone)[0])


@each_backend
def test_letterboxes_hold_the_image_resized_to_its_region(backend, device):
    net = net_of(backend, (9, 8)).to(device)
    images = images_of(LIST_SIZES, device)
    y = net(images, letterbox=True, fill=-3.0)
    labels = [torch.ones(image.shape[1:], dtype=torch.bool, device=device) for image in images]
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        size_in = tuple(image.shape[1:])
        (h, w), (top, left) = geometry.letterbox(size_in, (9, 8))
        region = y.images[index, :, top : top + h, left : left + w]
        torch.testing.assert_close(region, net(image.unsqueeze(0), (h, w))[0], rtol=0, atol=0 if backend == "triton" else 1e-6)
        assert torch.equal(y.mask[index], map_masks(label, (9, 8), letterbox=True))
        assert (y.images[index][:, ~y.mask[index]] == -3).all()
        box = torch.tensor([0.0, 0, size_in[1], size_in[0]], device=device)
        mapped = map_boxes(box, size_in, (9, 8), letterbox=True)
        torch.testing.assert_close(mapped, (box.view(2, 2) * y.scale[index] + y.offset[index]).flatten())


@each_backend
def test_letterboxing_a_batch(backend, device):
    net = net_of(backend, (8, 8)).to(device)
    image = torch.randint(256, (2, 3, 12, 6), dtype=torch.uint8, device=device)
    y = net(image, letterbox=True, fill=1.0)
    torch.testing.assert_close(y.images[..., 2:6], net(image, (8, 4)), rtol=1e-5, atol=1e-6)
    assert (y.images[..., :2] == 1).all()
    assert y.mask.sum() == 2 * 8 * 4
    empty = net(image[:0], letterbox=True)
    assert empty.images.shape == (0, 3, 8, 8)
    assert empty.mask.shape == (0, 8, 8)
    assert empty.scale.shape == (0, 2)


def test_images_too_wide_for_a_launch_in_a_list(device):
    images = images_of(LIST_SIZES[:3], device, torch.float32, channels=11)
    weights = make(Case(c=11, texture=3), device)[2]
    texture_weights = torch.randn(3, 11, 3, 3, device=device), torch.randn(3, device=device)
    y, z = (tritonds.downsize_image(images, *texture_weights, weights, (4, 5), backend=b) for b in BACKENDS)
    torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-5)


def test_letterboxes_of_a_pixel_keep_the_memory_format(device):
    image = torch.rand(1, 3, 20, 1, device=device).contiguous(memory_format=torch.channels_last)
    strides = [net_of(backend, (1, 4)).to(device)(image, letterbox=True).images.stride() for backend in BACKENDS]
    assert strides[0] == strides[1]


@each_backend
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_results_keep_the_images_memory_format(memory_format, backend, device):
    net = net_of(backend).to(device)
    image = torch.randint(256, (2, 3, 12, 16), dtype=torch.uint8, device=device).contiguous(memory_format=memory_format)
    assert net(image).is_contiguous(memory_format=memory_format)
    assert net(list(image)).is_contiguous(memory_format=memory_format)


def test_distance_only_layers_take_lists(device):
    images = images_of(LIST_SIZES, device)
    nets = [DownsizeNet((6, 8), texture_channels=0, mean=MEAN[:3], std=STD[:3], backend=b).to(device) for b in BACKENDS]
    nets[1].load_state_dict(nets[0].state_dict())
    torch.testing.assert_close(nets[0](images), nets[1](images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"texture_layers": 2}, {"hidden_layers": 0}])
def test_layers_of_either_backend_agree_on_lists(options, device):
    images = images_of(LIST_SIZES, device)
    y, z = (net_of(backend, **options).to(device)(images, letterbox=True).images for backend in BACKENDS)
    torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-5)


def test_images_made_in_inference_mode_train(device):
    net = net_of("triton").to(device)
    with torch.inference_mode():
        images = images_of(LIST_SIZES[:2], device)
    net(images).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
