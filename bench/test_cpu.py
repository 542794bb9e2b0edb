"""pytest-benchmark cases of the providers that a CPU has: 1080p to 540p, float32, 16 channels.

python -m pytest bench/test_cpu.py
"""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its operators then take a CPU's tensors

import dataclasses

import pytest
import torch

from bench import providers, workloads

CPU = torch.device("cpu")
TIMED = ("reference", "reference-compiled", "net-eager", "net-compiled", "bilinear-aa")


@pytest.fixture(scope="module", params=[False, True], ids=["channels-first", "channels-last"])
def problem(request):
    workload = dataclasses.replace(workloads.NAMED["hd"], channels_last=request.param)
    return providers.Problem(workload, "forward", CPU)


@pytest.mark.parametrize("name", TIMED)
@torch.inference_mode()
def test_provider(benchmark, problem, name):
    function, inputs = providers.build(name, problem)
    assert providers.errors(name, problem, function, inputs).acceptable
    benchmark.pedantic(function, rounds=10, warmup_rounds=3)
