"""pytest-benchmark cases of the host's part of calls: from the public function to the launch itself, which does nothing here.

python -m pytest bench/test_host.py --benchmark-timer=time.process_time --benchmark-columns=min,median

Triton's own compiler, binder and launcher run, over the stub of libcuda that the tests have (tests/emulator). No GPU is needed.
The least of the rounds counts, of the process's own time, so that other processes disturb less.
"""

import os

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported: the interpreter launches nothing

import pathlib
import sys

import pytest
import torch
import torch.nn.functional as F

import tritonds
from bench.workloads import MEAN, STD

ROUNDS = {"rounds": 500, "warmup_rounds": 5}
SIZE = (24, 24)
"""So small that the kernels would take less time than the host does."""


@pytest.fixture(scope="module", autouse=True)
def stub(tmp_path_factory):
    """Triton launches into the stub, and the package takes CPU tensors for a GPU's."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
    from emulator import driver

    os.environ.setdefault("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
    driver.install(90)
    tritonds.ops.why_no_triton = lambda device_type: None
    torch.set_num_threads(1)


def interpolation():
    """PyTorch's, of one pixel to one pixel, so that hardly more than its dispatch is left."""
    pixel = torch.rand(1, 1, 1, 1, requires_grad=True)
    return lambda: F.interpolate(pixel, (1, 1), mode="bilinear", align_corners=False)


def operator():
    net = layer()
    weights = tritonds.CoefficientWeights(*net.weights())
    image = torch.rand(1, 3, 48, 48).bfloat16()
    texture = torch.rand(1, 16, 48, 48).bfloat16().contiguous(memory_format=torch.channels_last)
    return lambda: tritonds.downsize(image, texture, weights, SIZE, prior="bilinear", backend="triton")


def layer(images=None):
    net = tritonds.DownsizeNet(SIZE, prior="bilinear", mean=MEAN, std=STD, backend="triton").bfloat16()
    return net if images is None else lambda: net(images)


def pixels(*shape):
    return torch.randint(256, shape, dtype=torch.uint8)


CALLS = {
    "interpolate": interpolation,
    "downsize": operator,
    "layer, one image": lambda: layer(pixels(1, 3, 48, 48)),
    "layer, a batch": lambda: layer(pixels(8, 3, 48, 48)),
    "layer, a list of 32": lambda: layer([pixels(3, 48 + i, 64 - i) for i in range(32)]),
}


@pytest.fixture(params=list(CALLS))
def call(request):
    return CALLS[request.param]()


@pytest.mark.benchmark(group="forward")
@torch.inference_mode()
def test_forward(benchmark, call):
    benchmark.pedantic(call, iterations=5, **ROUNDS)


@pytest.mark.benchmark(group="backward alone")
def test_backward(benchmark, call):
    ones = torch.ones_like(call())

    def backward(result):
        result.backward(ones)

    benchmark.pedantic(backward, setup=lambda: ((call(),), {}), **ROUNDS)
