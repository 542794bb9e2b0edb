"""Launches that go past Triton's own binding of arguments: as good as its own, and only where nobody would see a difference."""

import contextlib

import pytest
import torch
from cases import Case, make, net_of

import tritonds
from tritonds import repeats

pytestmark = pytest.mark.compiled


@pytest.fixture
def bindings(monkeypatch):
    """How often Triton itself worked a launch out, as a list that grows; no launch is known at the start."""
    from triton.runtime.jit import JITFunction

    from tritonds.kernels import area_pool, gather, plan

    for kept in (
        plan.forward_plan,
        plan.backward_plan,
        area_pool.area_pool_plan,
        gather.weighted_gather_plan,
        gather.weighted_gather_grad_image_plan,
    ):
        kept.cache_clear()
    monkeypatch.setattr(repeats, "_known", {})
    seen, original = [], JITFunction.run

    def run(self, *args, **kwargs):
        seen.append(self.__name__)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(JITFunction, "run", run)
    return seen


def downsized(inputs, case, backend="triton"):
    return tritonds.downsize(*inputs, case.size_out, backend=backend)


def assert_right(inputs, case):
    torch.testing.assert_close(downsized(inputs, case), downsized(inputs, case, "torch"), rtol=1e-5, atol=1e-6)


def test_launches_after_the_first_are_right_and_not_bound_again(device, bindings):
    case = Case(n=1, size_in=(13, 11), size_out=(5, 4))
    inputs = [make(case, device) for _ in range(3)]  # all are kept, so that each lies elsewhere in memory
    for one in inputs:
        assert_right(one, case)
    assert bindings == ["downsize_kernel"]


def test_gradients_are_those_of_triton_s_own_launches(device, bindings):
    case = Case(n=1, dtype=torch.float16)
    inputs = make(case, device)
    own = gradients(case, inputs)
    bound = sorted(bindings)
    kernels = ["area_pool_kernel", "downsize_backward_kernel", "downsize_kernel", "sum_rows_kernel"]
    assert bound == [*kernels, "weighted_gather_grad_image_kernel"]
    again = gradients(case, inputs)
    assert sorted(bindings) == bound
    for first, last in zip(own, again, strict=True):
        assert torch.equal(first, last)


def gradients(case, inputs):
    image, texture, weights = inputs
    leaves = [image.clone().requires_grad_(), texture.clone().requires_grad_(), weights.out_weight.clone().requires_grad_()]
    y = tritonds.downsize(*leaves[:2], weights._replace(out_weight=leaves[2]), case.size_out, backend="triton")
    return torch.autograd.grad(y, leaves, torch.ones_like(y))


def test_dtypes_do_not_share_a_kernel(device, bindings):
    """Of these images of uint8 and float32 all else about a launch is the same, factors and summands too."""
    nets = [net_of(backend).to(device) for backend in ("triton", "torch")]
    pixels = torch.randint(256, (1, 3, 12, 10), dtype=torch.uint8, device=device)
    for image, mean, std in [(pixels, 0.5, 0.25), (pixels.float(), 127.5, 63.75)] * 2:
        for net in nets:
            net.mean, net.std = [mean] * 3, [std] * 3
        with torch.no_grad():
            torch.testing.assert_close(*[net(image, (5, 4)) for net in nets], rtol=1e-5, atol=1e-5)
    assert bindings == ["downsize_kernel"] * 2


@pytest.mark.parametrize("unaligned", ["image", "texture", "out_weight"])
def test_tensors_that_start_elsewhere(unaligned, device, bindings):
    """Not at a multiple of 16 bytes: another kernel, if the compiler was told of it."""
    case = Case(n=1, layout="channels_last", texture=16)
    for shifted in (False, True, False, True):
        image, texture, weights = make(case, device)
        given = {"image": image, "texture": texture, "out_weight": weights.out_weight}
        if shifted:
            given[unaligned] = elsewhere(given[unaligned])
        inputs = given["image"], given["texture"], weights._replace(out_weight=given["out_weight"])
        assert_right(inputs, case)
    assert len(bindings) == 2


def elsewhere(x):
    """The same values and strides, one element past an aligned address."""
    base = x.new_full((x.numel() + 1,), float("nan"))
    view = base[1:].as_strided(x.shape, x.stride(), 1)
    return view.copy_(x)


@pytest.mark.parametrize("watch", ["enter", "exit", "pre_run", "function"])
def test_hooks_see_every_launch(watch, device, bindings, monkeypatch):
    from triton import knobs

    from tritonds.kernels.forward import downsize_kernel

    case, seen = Case(n=1), []
    inputs = make(case, device)
    downsized(inputs, case)
    with contextlib.ExitStack() as stack:
        if watch == "pre_run":
            downsize_kernel.add_pre_run_hook(lambda *_, **__: seen.append(watch))
            stack.callback(downsize_kernel.pre_run_hooks.clear)
        elif watch == "function":  # in place of Triton's chain
            setting = stack.enter_context(monkeypatch.context())
            setting.setattr(knobs.runtime, "launch_enter_hook", lambda _: seen.append(watch))
        else:
            chain = getattr(knobs.runtime, f"launch_{watch}_hook")
            hook = lambda _: seen.append(watch)  # noqa: E731
            chain.add(hook)
            stack.callback(chain.remove, hook)
        before = len(bindings)
        downsized(inputs, case)
        downsized(inputs, case)
    assert len(bindings) == before + 2
    assert seen == [watch] * 2
    downsized(inputs, case)
    assert len(bindings) == before + 2


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [("runtime", "debug", True), ("compilation", "instrumentation_mode", "consan"), (None, "debug", True)],
)
def test_debugging_takes_triton_s_way(group, name, value, monkeypatch):
    from triton import knobs

    from tritonds.kernels import relaunch
    from tritonds.kernels.forward import downsize_kernel

    assert relaunch._is_plain(downsize_kernel)
    monkeypatch.setattr(getattr(knobs, group) if group else downsize_kernel, name, value)
    assert not relaunch._is_plain(downsize_kernel)


def test_the_stream_is_read_at_every_launch(device, bindings, monkeypatch):
    from triton.backends.nvidia.driver import CudaLauncher
    from triton.runtime import driver

    case, streams, original = Case(n=1), [], CudaLauncher.__call__

    def launch(self, *args):
        streams.append(args[3])
        return original(self, *args[:3], 0, *args[4:])

    inputs = make(case, device)
    monkeypatch.setattr(CudaLauncher, "__call__", launch)
    for stream in (0, 7, 9):
        monkeypatch.setattr(driver.active, "get_current_stream", lambda _, stream=stream: stream)
        downsized(inputs, case)
    assert streams == [0, 7, 9]
    assert bindings == ["downsize_kernel"]


def test_another_device_has_kernels_of_its_own(device, bindings, monkeypatch):
    from triton.runtime import driver

    if device.type == "cuda":
        pytest.skip("needs a GPU more")
    case = Case(n=1)
    inputs = make(case, device)
    for index, count in ((0, 1), (0, 1), (1, 2), (1, 2), (0, 2)):
        monkeypatch.setattr(driver.active, "get_current_device", lambda index=index: index)
        downsized(inputs, case)
        assert len(bindings) == count


@pytest.mark.gpu
def test_tensors_on_the_cpu_are_refused_after_a_launch_too(device):
    from tritonds import ops
    from tritonds.coefficient_weights import flatten

    case = Case(n=1)
    image, texture, weights = make(case, device)
    downsized((image, texture, weights), case)
    elsewhere = [*flatten(weights)[:-1], weights.out_bias.cpu()]
    with pytest.raises(ValueError, match="cannot be accessed"):
        ops.downsize(image, texture, elsewhere, True, *case.size_out, case.taps, "none")
