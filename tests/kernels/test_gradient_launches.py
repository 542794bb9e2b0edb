"""Launches of repeated backward passes: streams, captures, hooks, devices and threads are what they are at each of them."""

import threading

import pytest
import torch
from cases import net_of
from torch.utils._python_dispatch import TorchDispatchMode

from tritonds import ops, repeats

pytestmark = pytest.mark.compiled
each_kind = pytest.mark.parametrize("several", [False, True], ids=["batch", "list"])
KERNELS = ["downsize_backward_kernel", "texture_grad_weights_kernel", "sum_rows_kernel"]


@pytest.fixture
def long(monkeypatch):
    """The backward passes that were planned, as a list that grows; no call is known at the start."""
    seen, original = [], ops._backward
    monkeypatch.setattr(repeats, "_known", {})
    monkeypatch.setattr(ops, "_backward", lambda *args: (seen.append(1), original(*args))[1])
    return seen


class Problem:
    """A layer, images for it, and the gradient of the result. Two calls come before, so that the next one is a repetition."""

    def __init__(self, several, device):
        self.net, self.other = (net_of(backend, (1, 3)).to(device) for backend in ("triton", "torch"))
        shapes = [(3, 9, 8), (3, 5, 7)] if several else [(1, 3, 9, 8)]
        self.images = [torch.randint(256, shape, dtype=torch.uint8, device=device) for shape in shapes]
        self.given = self.images if several else self.images[0]
        self.noise = torch.randn(2 if several else 1, 3, 1, 3, device=device)
        for _ in range(2):
            self.gradients()

    def result(self, net=None):
        return (net or self.net)(self.given)

    def gradients(self, net=None):
        net = net or self.net
        return torch.autograd.grad(self.result(net), list(net.parameters()), self.noise)

    def change(self):
        """Other values in the same memory."""
        for image in self.images:
            image.copy_(torch.randint_like(image, 256))
        self.noise.normal_()
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.mul_(1.5)
        self.other.load_state_dict(self.net.state_dict())

    def assert_right(self, found):
        for a, b in zip(found, self.gradients(self.other), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.fixture
def launcher():
    """The class of Triton's launchers."""
    from triton.runtime import driver

    return driver.active.launcher_cls


def test_the_stream_is_read_at_every_launch(device, launcher, long, monkeypatch):
    from triton.runtime import driver

    problem, streams, original = Problem(True, device), [], launcher.__call__

    def launch(self, *args):
        streams.append(args[3])
        return original(self, *args[:3], 0, *args[4:])

    monkeypatch.setattr(launcher, "__call__", launch)
    expected = []
    for count, stream in enumerate((0, 7, 9), start=1):
        result = problem.result()
        monkeypatch.setattr(driver.active, "get_current_stream", lambda _, stream=stream: stream)
        torch.autograd.grad(result, list(problem.net.parameters()), problem.noise)
        expected += [[0, 0, 7][count - 1], *[stream] * len(KERNELS)]
    assert streams == expected
    assert len(long) == 2


@each_kind
def test_a_pass_is_launches_alone(several, device, launcher, long, monkeypatch):
    """As a capture takes it: launches that run later, in the same memory, on whatever is there by then."""
    if device.type == "cuda":
        pytest.skip("captures graphs itself")
    problem, captured = Problem(several, device), []
    with monkeypatch.context() as capture:
        capture.setattr(launcher, "__call__", lambda *args: captured.append(args))
        found = problem.gradients()
    for _ in range(2):
        problem.change()
        for launch in captured:
            launcher.__call__(*launch)
        problem.assert_right(found)
    assert len(captured) == 1 + len(KERNELS)
    assert len(long) == 2


@pytest.mark.gpu
@each_kind
def test_a_graph_of_repeated_passes(several, device, long):
    problem, stream = Problem(several, device), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as PyTorch asks for, before a pass is captured
        problem.gradients()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = problem.gradients()
    for _ in range(2):
        problem.change()
        graph.replay()
        problem.assert_right(found)
    assert len(long) == 2


@pytest.mark.gpu
@each_kind
def test_passes_on_several_streams(several, device, long):
    problem = Problem(several, device)
    expected, found = problem.gradients(), []
    torch.cuda.synchronize()
    for stream in [torch.cuda.Stream() for _ in range(3)] * 4:
        with torch.cuda.stream(stream):
            found.append(problem.gradients())
    torch.cuda.synchronize()
    for grads in found:
        assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))


def test_gradients_of_normalised_images_need_nothing_from_the_host(device):
    """No such pass is repeated, but it may be captured: a copy of numbers to the device would end the capture."""
    from tritonds.kernels import launchers

    net, image = net_of("triton", (2, 3)).to(device), torch.rand(1, 3, 4, 5, device=device)
    grads, seen = (torch.empty_like(image), None), []
    weights = [net.texture[0].weight.detach(), net.texture[0].bias.detach()], repeats.given(net.weights())
    noise = torch.randn(1, 3, 2, 3, device=device)

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    for factors in ((1.0,) * 3, (2.0, 3.0, -5.0)):
        with Mode():
            launchers.downsize_image_backward(
                noise, [image], weights[0], weights[1], True, *grads, net.taps, "none", factors, (0.0,) * 3, None
            )
    assert seen
    assert not [func for func in seen if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.lift_fresh)]


@pytest.mark.parametrize("watch", ["enter", "exit", KERNELS[-1]])
def test_hooks_take_triton_s_way(watch, device, long, monkeypatch):
    from triton import knobs

    from tritonds.kernels import sums

    problem, seen = Problem(False, device), []
    result = problem.result()
    with monkeypatch.context() as setting:
        if watch == KERNELS[-1]:
            setting.setattr(sums.sum_rows_kernel, "pre_run_hooks", [lambda *_, **__: seen.append(watch)])
        else:
            setting.setattr(knobs.runtime, f"launch_{watch}_hook", lambda _: seen.append(watch))
        found = torch.autograd.grad(result, list(problem.net.parameters()), problem.noise)
    assert len(seen) == (1 if watch == KERNELS[-1] else len(KERNELS))
    assert len(long) == 3
    assert all(torch.equal(a, b) for a, b in zip(found, problem.gradients(), strict=True))
    assert len(long) == 3


def test_profilers_see_passes(device, long):
    problem = Problem(False, device)
    result = problem.result()
    with torch.profiler.profile() as profile:
        torch.autograd.grad(result, list(problem.net.parameters()), problem.noise)
    assert "tritonds::downsize_image_backward" in [event.name for event in profile.events()]
    assert len(long) == 3


def test_another_device_has_passes_of_its_own(device, long, monkeypatch):
    from triton.runtime import driver

    if device.type == "cuda":
        pytest.skip("needs a GPU more")
    problem = Problem(False, device)
    for index, count in ((0, 2), (1, 3), (0, 3)):
        result = problem.result()
        with monkeypatch.context() as setting:
            setting.setattr(driver.active, "get_current_device", lambda index=index: index)
            torch.autograd.grad(result, list(problem.net.parameters()), problem.noise)
        assert len(long) == count


def test_passes_do_not_share_memory(device, long):
    """The second one of a graph that is kept, and with memory that is not filled."""
    problem = Problem(True, device)
    result, parameters = problem.result(), list(problem.net.parameters())
    first = torch.autograd.grad(result, parameters, problem.noise, retain_graph=True)
    before = [x.clone() for x in first]
    torch.use_deterministic_algorithms(False)
    second = torch.autograd.grad(result, parameters, 2 * problem.noise)
    for a, b, c in zip(first, before, second, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(2 * a, c)
    assert len(long) == 2


def test_images_that_are_replaced_between_the_passes(device, long):
    problem = Problem(True, device)
    result = problem.result()
    problem.images[0].data = torch.randint_like(problem.images[0], 256)
    problem.assert_right(torch.autograd.grad(result, list(problem.net.parameters()), problem.noise))
    assert len(long) == 2


def test_images_of_which_hooks_give_back_others_at_the_same_address(device, long):
    problem = Problem(True, device)

    def unpack(x):
        return x[:, :1].expand_as(x) if x.dim() == 3 else x

    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, unpack):
        found = problem.gradients()
    problem.given = [unpack(image) for image in problem.images]
    problem.assert_right(found)


def test_threads_do_not_disturb_each_other(device, long):
    problem, found = Problem(True, device), {}
    expected, results = problem.gradients(), [problem.result() for _ in range(2)]

    def run(index):
        found[index] = torch.autograd.grad(results[index], list(problem.net.parameters()), problem.noise * 2**index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        assert all(torch.equal(a, 2**index * b) for a, b in zip(found[index], expected, strict=True))
    assert len(long) == 2
