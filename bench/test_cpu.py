"""pytest-benchmark cases for what runs on a CPU: 1080p to 540p, float32, 16 channels; and the host's part of a launch.

python -m pytest bench/test_cpu.py
"""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its operators then take a CPU's tensors

import pytest
import torch
import torch.nn.functional as F

import tritonds

SIZE = (540, 960)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return tritonds.DownsizeNet(SIZE, backend="torch").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 1080, 1920, generator=torch.Generator().manual_seed(0))


def timed(benchmark, function, *arguments):
    benchmark.pedantic(function, arguments, rounds=10, warmup_rounds=3)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_reference(benchmark, net, image, memory_format, compiled):
    """The operator alone, given texture features."""
    texture = net.texture(image).contiguous(memory_format=memory_format)
    function = torch.compile(tritonds.downsize) if compiled else tritonds.downsize
    timed(benchmark, function, image, texture, net.weights(), SIZE)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_downsizenet(benchmark, net, image, compiled):
    """The whole layer, texture CNN included."""
    timed(benchmark, torch.compile(net) if compiled else net, image)


def test_interpolate_antialiased(benchmark, image):
    """What it competes with."""
    timed(benchmark, lambda x: F.interpolate(x, SIZE, mode="bilinear", antialias=True), image)


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_host_overhead(benchmark, monkeypatch, mode):
    """One call of the fused operator up to the launch itself, which does nothing here."""
    from tritonds.kernels import launch

    monkeypatch.setattr(launch, "run", lambda kernel, programs, arguments: None)
    net = tritonds.DownsizeNet((9, 11))
    image, texture, weights = torch.rand(1, 3, 20, 24), torch.rand(1, 16, 20, 24), net.weights()
    with getattr(torch, mode)():
        benchmark(lambda: tritonds.downsize(image, texture, weights, (9, 11), backend="triton"))
