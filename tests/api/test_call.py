"""Calls go past PyTorch's dispatcher, but only where nobody would see a difference."""

import pytest
import torch
from cases import Case, make
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import tritonds
from tritonds import ops

CASE = Case(n=1)
OPERATOR = torch.ops.tritonds.downsize.default


@pytest.fixture
def dispatched(monkeypatch):
    """Operators that are called by way of the dispatcher; the others' implementations alone."""
    seen = []
    original = ops.IMPLEMENTATIONS[OPERATOR]
    monkeypatch.setitem(ops.IMPLEMENTATIONS, OPERATOR, lambda *args: (seen.append("directly"), original(*args))[1])
    return seen


def call(device, **changes):
    image, texture, weights = make(CASE, device)
    return tritonds.downsize(image, texture, weights._replace(**changes), CASE.size_out, backend="triton")


def test_plain_calls_go_directly(device, dispatched):
    call(device)
    assert dispatched == ["directly"]


def test_inference_mode_gives_inference_tensors(device):
    with torch.inference_mode():
        assert call(device).is_inference()
    assert not call(device).is_inference()


class _DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class _FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [_DispatchMode, _FunctionMode])
def test_modes_see_the_operator(kind, device):
    mode = kind()
    mode.seen = []
    with mode:
        call(device)
    assert OPERATOR in mode.seen


def test_flops_are_counted(device):
    with FlopCounterMode(display=False) as counter:
        call(device)
    assert counter.get_flop_counts()["Global"][torch.ops.tritonds.downsize] > 0


def test_profilers_see_the_operator(device):
    with torch.profiler.profile() as profile:
        call(device)
    assert "tritonds::downsize" in {event.key for event in profile.key_averages()}


def test_tensor_subclasses_see_the_operator(device):
    seen = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    image, texture, weights = make(CASE, device)
    y = tritonds.downsize(image.as_subclass(Watched), texture, weights, CASE.size_out, backend="triton")
    assert OPERATOR in seen
    assert type(y) is Watched


@pytest.mark.parametrize("wants", ["image", "texture", "weight"])
def test_gradients_are_recorded(wants, device):
    image, texture, weights = make(CASE, device)
    leaf = {"image": image, "texture": texture, "weight": weights.hidden_weights[0]}[wants].requires_grad_()
    y = tritonds.downsize(image, texture, weights, CASE.size_out, backend="triton")
    z = tritonds.downsize(image, texture, weights, CASE.size_out, backend="torch")
    got, expected = (torch.autograd.grad(result.square().sum(), leaf)[0] for result in (y, z))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_forward_mode_is_refused_by_name(device):
    image, texture, weights = make(CASE, device)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(image, torch.ones_like(image))
        with pytest.raises(RuntimeError, match="forward-mode"):
            tritonds.downsize(dual, texture, weights, CASE.size_out, backend="triton")
