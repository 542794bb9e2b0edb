"""Calls that repeat an earlier one: right for whatever changes between them, and refused where the first would have been."""

import gc
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from cases import Case, make, net_of
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode

import tritonds
from tritonds import functional, repeats

pytestmark = pytest.mark.compiled
CASE = Case(n=1, size_in=(9, 8), size_out=(2, 3), texture=4, distance=4, hidden=4)


@pytest.fixture
def long(monkeypatch):
    """The calls that were checked and planned, as a list that grows; no call is known at the start."""
    seen = []
    monkeypatch.setattr(repeats, "_known", {})
    for name in ("_downsize", "_downsize_image"):
        original = getattr(functional, name)
        monkeypatch.setattr(functional, name, lambda *args, original=original: (seen.append(1), original(*args))[1])
    return seen


def downsized(inputs, backend="triton", **options):
    return tritonds.downsize(*inputs, CASE.size_out, backend=backend, **options)


def assert_right(inputs, **options):
    torch.testing.assert_close(downsized(inputs, **options), downsized(inputs, "torch", **options), rtol=1e-5, atol=1e-6)


def nets(device, **options):
    """A network for Triton, and one of the same weights for PyTorch."""
    net, other = (net_of(backend, (2, 3), **options).to(device) for backend in ("triton", "torch"))
    other.load_state_dict(net.state_dict())
    return net, other


def assert_alike(net, other, image):
    torch.testing.assert_close(net(image), other(image), rtol=1e-5, atol=1e-5)


def pixels(device, *shape):
    return torch.randint(256, shape, dtype=torch.uint8, device=device)


def test_repeated_calls_take_the_short_way_and_are_right(device, long):
    inputs = [make(CASE, device) for _ in range(3)]  # all are kept, so that each lies elsewhere in memory
    for one in inputs:
        y = downsized(one)
        torch.testing.assert_close(y, downsized(one, "torch"), rtol=1e-5, atol=1e-6)
    assert len(long) == 1 + len(inputs)  # PyTorch's are never kept
    assert_right(make(replace(CASE, n=2), device))  # all strides are the same


def test_lists_of_other_sizes_are_repetitions_too(device, long):
    net, other = nets(device)
    with torch.no_grad():
        for sizes in ([(9, 8), (5, 7)], [(5, 11), (12, 3)], [(6, 6), (6, 6)]):
            images = [pixels(device, 3, *size) for size in sizes]
            y, z = net(images, letterbox=True), other(images, letterbox=True)
            for a, b in zip(y, z, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert len(long) == 1 + 3
        assert_alike(net, other, [pixels(device, 3, 9, 8).permute(0, 2, 1), pixels(device, 9, 8, 3).permute(2, 0, 1)])
        assert_alike(net, other, [pixels(device, 9, 8, 3).permute(2, 0, 1), pixels(device, 5, 4, 3).permute(2, 0, 1)])
        assert_alike(net, other, [pixels(device, 3, 9, 8), pixels(device, 3, 5, 4)])
        assert_alike(net, other, [pixels(device, 3, 9, 8)])
        assert len(long) == 9 + 3


def test_gradients_of_repeated_calls(device, long):
    net, other = nets(device)
    images = [pixels(device, 1, 3, 9, 8) for _ in range(2)]
    net.requires_grad_(False)
    net(images[0])
    net.requires_grad_()
    for image in images:
        got, expected = (torch.autograd.grad(model(image).square().sum(), list(model.parameters())) for model in (net, other))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert len(long) == 2 + 2


def test_what_is_changed_between_calls_counts(device, long):
    """Each of these is another call, or none that is kept."""
    net, other = nets(device)
    image = pixels(device, 1, 3, 9, 8)

    def both(change):
        change(net), change(other)
        assert_alike(net, other, image)
        assert_alike(net, other, image)

    with torch.no_grad():
        both(lambda net: None)
        both(lambda net: net.out.weight.mul_(2))
        both(lambda net: setattr(net.out.weight, "data", torch.ones_like(net.out.weight)))
        both(lambda net: setattr(net, "std", [0.5, 0.25, 1.0]))
        both(lambda net: setattr(net, "out_dtype", torch.float16))
        both(lambda net: setattr(net, "out_dtype", None))
        both(lambda net: net.to(memory_format=torch.channels_last))
        both(lambda net: setattr(net.out.weight, "data", net.out.weight.t().contiguous().t()))
        parametrizations.weight_norm(net.out), parametrizations.weight_norm(other.out)
        both(lambda net: net.out.parametrizations.weight.original0.data.mul_(3))
        seen = []
        handle = net.hidden[0].register_forward_hook(lambda *_: seen.append(1))
        assert_alike(net, other, image)
        assert seen == [1]
        handle.remove()
        image = image.float() / 255
        both(lambda net: None)
        image = image.contiguous(memory_format=torch.channels_last)
        both(lambda net: None)


def test_tensors_made_in_inference_mode_can_be_trained_on(device, long):
    net, other = nets(device)
    with torch.inference_mode():
        images = [pixels(device, 1, 3, 9, 8) for _ in range(2)]
        assert net(images[0]).is_inference()
        assert net(images[0]).is_inference()
    net(images[0].clone())
    y = net(images[1])
    assert not y.is_inference()
    y.sum().backward()
    torch.testing.assert_close(y, other(images[1]), rtol=1e-5, atol=1e-5)


def test_negated_views_and_one_tensor_twice(device, long):
    image, _, weights = make(CASE, device)
    assert image.shape[1] + 1 == CASE.texture
    image = torch.cat([image, image[:, :1]], dim=1)
    negated = torch.complex(image, image).conj().imag
    assert negated.is_neg()
    for texture in (image, image.clone(), negated.contiguous(), image):
        assert_right((image, texture, weights))
    assert_right((negated.contiguous(), image, weights))
    plain = negated.resolve_neg()
    torch.testing.assert_close(downsized((plain, image, weights)), downsized((image, image.clone(), weights)).neg())
    strided = plain.new_zeros(*plain.shape, 2)[..., 1].copy_(plain)
    for one in (strided, negated):  # of the same strides
        torch.testing.assert_close(downsized((one, image, weights)), downsized((plain, image, weights)))


WRONG = [
    {"size": (1.0, 3)},
    {"size": (True, 3)},
    {"taps": 2.0},
    {"taps": True},
    {"prior": ["bilinear"]},
    {"backend": "tritons"},
    {"mean": [0, 0, True]},
    {"std": [0.5, 0.5]},
    {"fill": True},
    {"letterbox": 0},
    {"out_dtype": "float32"},
    {"texture_bias": None},
    {"texture_weight": "weight"},
]


def test_wrong_arguments_are_refused_as_before(device, long):
    net, _ = nets(device)
    weight, bias, weights = net.texture[0].weight, net.texture[0].bias, net.weights()
    image, images = pixels(device, 1, 3, 9, 8), [pixels(device, 3, 9, 8), pixels(device, 3, 5, 4)]
    right = {
        "image": image, "texture_weight": weight, "texture_bias": bias, "weights": weights, "size": (1, 3), "taps": 2,
        "prior": None, "mean": [0.0, 0.0, 0.0], "std": None, "fill": 0.0, "letterbox": False, "out_dtype": None,
        "backend": "triton",
    }  # fmt: skip
    forms = [
        {"weights": weights._replace(hidden_weights=torch.stack(weights.hidden_weights))},
        {"weights": weights._replace(hidden_biases=())},
        {"weights": weights._replace(out_bias=None)},
        {"weights": tuple(weights)},
        {"image": image.cpu().to_sparse().to(device)},
        {"image": image[0]},
        {"image": [images[0], images[1][:, :0]]},
        {"image": [images[0], images[1].float()]},
        {"image": [images[0], images[1][:2]]},
        {"image": []},
    ]
    wrong = WRONG + forms
    expected = [refusal(right | change) for change in wrong]
    for given in (image, images):
        for _ in range(2):
            tritonds.downsize_image(**right | {"image": given})
        changed = [{"image": given} | change for change in wrong]
        assert [refusal(right | change) for change in changed] == expected


def refusal(arguments):
    with pytest.raises((TypeError, ValueError)) as error:
        tritonds.downsize_image(**arguments)
    return type(error.value), str(error.value)


def test_nothing_is_kept_alive_and_little_is_kept(device, long, monkeypatch):
    monkeypatch.setattr(repeats, "CAPACITY", 2)
    alive = []
    for width in (8, 7, 6, 5):
        image, texture, weights = make(Case(n=1, size_in=(6, width), size_out=(2, 2)), device)
        image.requires_grad_()
        for _ in range(2):
            y = tritonds.downsize(image, texture, weights, (2, 2), backend="triton")
            alive += map(weakref.ref, (image, texture, weights.out_weight, y))
        assert len(repeats._known) <= 2
    del image, texture, weights, y
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_watchers_see_repeated_calls(device, long):
    inputs, seen = make(CASE, device), []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    for _ in range(2):
        downsized(inputs)
    with Mode():
        downsized(inputs)
    assert torch.ops.tritonds.downsize.default in seen


def test_autocast_casts(device, long):
    """The network's weights are copied then, so nothing is kept."""
    net, _ = nets(device)
    image = pixels(device, 1, 3, 9, 8)
    for _ in range(2):
        assert net(image).dtype == torch.float32
        with torch.autocast(device.type, torch.bfloat16):
            assert net(image).dtype == torch.bfloat16
    assert len(long) == 3


def test_threads_do_not_disturb_each_other(device, long):
    inputs, results = [make(CASE, device) for _ in range(2)], {}
    expected = [downsized(one, "torch") for one in inputs]

    def repeat(index):
        results[index] = [downsized(inputs[index]) for _ in range(3)]

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, y in enumerate(expected):
        for result in results[index]:
            torch.testing.assert_close(result, y, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_a_graph_of_repeated_calls(device, long):
    net, other = nets(device)
    images = [pixels(device, 3, 9, 8), pixels(device, 3, 5, 7)]
    with torch.no_grad():
        for _ in range(2):
            net(images)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = net(images)
        for image in images:
            image.copy_(pixels(device, *image.shape))
        graph.replay()
        torch.testing.assert_close(y, other(images), rtol=1e-5, atol=1e-5)
