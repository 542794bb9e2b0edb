"""Backward passes that repeat an earlier one: the same bits as the long way, and right for whatever changes between them."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from cases import Case, make, net_of

import tritonds
from tritonds import ops, repeats

pytestmark = pytest.mark.compiled
CASE = Case(n=1, size_in=(9, 8), size_out=(2, 3), texture=4, distance=4, hidden=4)


@pytest.fixture
def long(monkeypatch):
    """The backward passes that were planned, as a list that grows; no call is known at the start."""
    seen, original = [], ops._backward
    monkeypatch.setattr(repeats, "_known", {})
    monkeypatch.setattr(ops, "_backward", lambda *args: (seen.append(1), original(*args))[1])
    return seen


def leaves_of(inputs):
    image, texture, weights = inputs
    return image.requires_grad_(), texture.requires_grad_(), weights.out_weight.requires_grad_()


def result_of(inputs, case=CASE, backend="triton"):
    return tritonds.downsize(*inputs, case.size_out, backend=backend)


def gradients(inputs, grad_output, wanted=(0, 1, 2), case=CASE, backend="triton"):
    leaves = leaves_of(inputs)
    return torch.autograd.grad(result_of(inputs, case, backend), [leaves[index] for index in wanted], grad_output)


def assert_right(inputs, grad_output, wanted=(0, 1, 2), case=CASE):
    found = gradients(inputs, grad_output, wanted, case)
    for a, b in zip(found, gradients(inputs, grad_output, wanted, case, "torch"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def noise(device, case=CASE):
    return torch.randn(case.n, 3, *case.size_out, device=device, dtype=case.dtype)


CASES = {
    "any bins": CASE,
    "whole bins": replace(CASE, size_in=(4, 6), layout="channels_last"),
    "half": replace(CASE, dtype=torch.float16),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_repeated_passes_have_the_bits_of_the_long_way(case, device, long):
    inputs, y = make(case, device), noise(device, case)
    passes = [gradients(inputs, y, case=case) for _ in range(4)]
    assert len(long) == 2  # of the call that was not known yet, and of the one that was observed
    for one in passes[1:]:
        assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(passes[0], one, strict=True))
    if case.dtype == torch.float32:
        assert_right(make(case, device), noise(device, case), case=case)  # other values, elsewhere in memory
        assert len(long) == 2


@pytest.mark.parametrize("several", [False, True])
def test_layers(several, device, long):
    nets = [net_of(backend, (2, 3)).to(device) for backend in ("triton", "torch")]
    nets[1].load_state_dict(nets[0].state_dict())
    shapes = [((3, 9, 8), (3, 5, 7)), ((3, 5, 11), (3, 12, 3))] * 2 if several else [(1, 3, 9, 8)] * 4
    for shape in shapes:
        image = [pixels(device, *one) for one in shape] if several else pixels(device, *shape)
        found = []
        for net in nets:
            y = net(image, letterbox=several)
            y = y[0] if several else y
            found.append(torch.autograd.grad(y.square().sum(), list(net.parameters())))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert len(long) == 2


def pixels(device, *shape):
    return torch.randint(256, shape, dtype=torch.uint8, device=device)


def test_what_changes_between_passes_counts(device, long):
    inputs = make(CASE, device)
    for _ in range(2):
        for wanted in ((0, 1, 2), (1,), (0,), (2,)):
            assert_right(inputs, noise(device), wanted)
        assert_right(inputs, noise(device).contiguous(memory_format=torch.channels_last))
        assert_right(inputs, noise(device)[:, :, :1].expand(-1, -1, 2, -1))
        assert_right(inputs, noise(device).flip(3).transpose(2, 3).contiguous().transpose(2, 3))
        negated = torch.complex(noise(device), noise(device)).conj().imag
        assert negated.is_neg()
        strided = negated.new_zeros(*negated.shape, 2)[..., 1].copy_(negated)
        for one in (strided, strided, negated):  # of the same strides
            assert_right(inputs, one)


def test_hooks_on_what_is_saved_may_give_back_other_tensors(device, long):
    inputs = make(CASE, device)
    for _ in range(3):
        gradients(inputs, noise(device))
    for unpack in (lambda x: x.mT.contiguous().mT if x.dim() == 4 else x.clone(), lambda x: torch.complex(x, -x).conj().imag):
        y = noise(device)
        expected = gradients(inputs, y, backend="torch")
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), unpack):
            found = gradients(inputs, y)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("negated", [False, True])
def test_hooks_on_a_list_s_images_may_give_back_others(negated, device, long):
    net = net_of("triton", (2, 3)).to(device)
    images = [torch.rand(*size, 3, device=device).permute(2, 0, 1) for size in ((9, 8), (5, 7))]
    if negated:
        images = [torch.complex(x, x).contiguous().real for x in images]  # strides as those of the negated view below

    def found():
        return torch.autograd.grad(net(images).square().sum(), list(net.parameters()))

    def unpack(x):
        if x.dim() != 3:
            return x
        if not negated:
            return x.contiguous()
        return torch.complex(x, -x).conj().imag if x.shape[1] == 5 else x

    found()
    found()
    expected = found()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, unpack):
        changed = found()
    for a, b in zip(changed, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_one_tensor_as_image_and_gradient(device, long):
    case = replace(CASE, size_in=(2, 3))
    inputs = make(case, device)
    gradients(inputs, noise(device, case), case=case)
    for _ in range(2):
        assert_right(inputs, inputs[0], case=case)
        assert_right(inputs, noise(device, case), case=case)


def test_gradients_to_normalised_images(device, long):
    nets = [net_of(backend, (2, 3)).to(device) for backend in ("triton", "torch")]
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        net.mean, net.std = [0.5] * 3, [0.25, 0.5, 2.0]
    for _ in range(3):
        image = torch.rand(1, 3, 4, 5, device=device, requires_grad=True)
        a, b = (torch.autograd.grad(net(image).square().sum(), image)[0] for net in nets)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_second_derivatives_are_refused_after_repetitions_too(device, long):
    inputs = make(CASE, device)
    for _ in range(3):
        gradients(inputs, noise(device))
    (grad,) = torch.autograd.grad(result_of(inputs).square().sum(), leaves_of(inputs)[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad.sum().backward()


def test_watchers_see_repeated_passes(device, long):
    inputs = make(CASE, device)
    for _ in range(3):
        gradients(inputs, noise(device))
    y, one = result_of(inputs), noise(device)
    with torch.profiler.profile() as profile:
        torch.autograd.grad(y, leaves_of(inputs), one)
    assert "tritonds::downsize_backward" in [event.name for event in profile.events()]


def test_launch_hooks_see_repeated_passes(device, long, monkeypatch):
    from triton import knobs

    inputs, seen = make(CASE, device), []
    for _ in range(3):
        gradients(inputs, noise(device))
    y, one = result_of(inputs), noise(device)
    monkeypatch.setattr(knobs.runtime, "launch_enter_hook", lambda _: seen.append(1))
    torch.autograd.grad(y, leaves_of(inputs), one)
    assert len(seen) == 4  # the backward kernel, a gather for image and texture each, and the sums


def test_nothing_is_kept_alive(device, long):
    alive = []
    for _ in range(3):
        inputs, y = make(CASE, device), noise(device)
        alive += map(weakref.ref, (*inputs[:2], y, *gradients(inputs, y)))
    del inputs, y
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_another_autograd_function_in_the_operator_s_place(device, long, monkeypatch):
    """Its results are not recorded as the package's own are, so that no call of it is repeated."""
    operator = ops.downsize

    class Other(torch.autograd.Function):
        @staticmethod
        def forward(ctx, image, *rest):
            return ops.IMPLEMENTATIONS[operator](image, *rest)

        @staticmethod
        def backward(ctx, grad_output):
            return torch.full((1, 3, *CASE.size_in), 7.0, device=grad_output.device), *[None] * 7

    monkeypatch.setitem(ops._AUTOGRAD, operator, Other.apply)
    inputs = make(CASE, device)
    for _ in range(2):
        (grad,) = gradients(inputs, noise(device), wanted=(0,))
        assert torch.equal(grad, torch.full_like(grad, 7.0))
