"""How it is measured: time, memory, launches and host time of one call, and the record of a whole run.

On a GPU ``triton.testing.do_bench`` times by events, the L2 cache flushed before each call; on a CPU ``torch.utils.benchmark``
with all threads. A result file is complete JSON after each row.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch._C._autograd import DeviceType
from torch.utils import benchmark

from . import providers
from .workloads import NAMED, Case

SCHEMA = 1
ROOT = pathlib.Path(__file__).parent.parent
QUANTILES = [0.5, 0.2, 0.8]
COPY_BYTES = {"cuda": 2 * 2**30, "cpu": 256 * 2**20}
"""Size of the tensor whose copy shows the bandwidth: much more than caches hold."""
QUEUED_LAUNCHES = 500
"""A GPU's queue takes about 1000 launches; beyond that a submission waits for the GPU."""

Row = dict[str, Any]
DIED: Row = {"status": "failed", "reason": "the process died while measuring this"}
"""What the file says of a row while it is measured, since compiled code can crash."""


def run(cases: Sequence[Case], device: torch.device, out: pathlib.Path, *, quick: bool, budget: float) -> Iterator[Row]:
    """Measure one case after the other, and give each row once it is in the file ``out``."""
    start = time.perf_counter()
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "quick": quick,
        "machine": machine(device),
        "copy_gb_per_s": copy_bandwidth(device, quick),
        "first_call_s": None,
        "rows": [],
    }
    with contextlib.suppress(Exception):  # the operator's rows report the error
        result["first_call_s"] = first_call(device)
    problem = None
    for case in cases:
        row = {"workload": dataclasses.asdict(case.workload), "mode": case.mode, "provider": case.provider}
        reason = "time budget" if time.perf_counter() - start > budget else providers.unavailable(case.provider, device)
        result["rows"].append(row)
        write(result | {"rows": [*result["rows"][:-1], row | DIED]}, out)
        try:
            if reason is not None:
                row |= {"status": "not measured", "reason": reason}
            else:
                if problem is None or (problem.workload, problem.mode) != (case.workload, case.mode):
                    problem = None  # frees its memory before the next takes some
                    problem = providers.Problem(case.workload, case.mode, device)
                row |= measure(case, problem, result["copy_gb_per_s"], quick)
        except Exception as error:
            row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}".strip()}
        write(result, out)
        yield row


def measure(case: Case, problem: providers.Problem, copy_gb_per_s: float, quick: bool) -> Row:
    """Check a provider, then time it; a wrong one is not timed."""
    if problem.device.type == "cuda":
        torch.cuda.empty_cache()  # the cache holds blocks of the previous case's sizes
    function, inputs = providers.build(case.provider, problem)
    errors = providers.errors(case.provider, problem, function, inputs)
    row: Row = {"error": errors.output, "gradient_error": errors.gradient}
    if not errors.acceptable:
        limits = f"{errors.output_tolerance:.1e} and {errors.gradient_tolerance:.1e}"
        found = ", ".join(f"{e:.1e}" for e in (errors.output, errors.gradient) if e is not None)
        return row | {"status": "wrong", "reason": f"errors of output and gradients: {found}; allowed are {limits}"}

    def call() -> object:
        return torch.autograd.grad(function(), inputs, problem.grad_output)

    with torch.inference_mode(not inputs):
        timed = call if inputs else function
        row |= _timing(timed, problem.device, quick)
        row |= _on_gpu(timed) if problem.device.type == "cuda" else {"peak_bytes": None, "launches": None, "host_us": None}
    necessary = case.workload.necessary_bytes(providers.PROVIDERS[case.provider].kind, case.mode)
    gb_per_s = necessary / row["median_ms"] / 1e6
    row |= {"necessary_bytes": necessary, "gb_per_s": gb_per_s, "copy_share": gb_per_s / copy_gb_per_s}
    return row | {"status": "measured", "reason": None}


def copy_bandwidth(device: torch.device, quick: bool) -> float:
    """Gigabytes read and written per second by a copy that no cache holds."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    milliseconds: float = _timing(lambda: target.copy_(source), device, quick)["median_ms"]
    return 2 * source.nbytes / milliseconds / 1e6


def first_call(device: torch.device) -> float | None:
    """Seconds of the fused operator's first call, with nothing compiled before; None without a GPU."""
    if providers.unavailable("fused", device) is not None:
        return None
    problem = providers.Problem(NAMED["poster160"], "forward", device)
    function, _ = providers.build("fused", problem)
    with tempfile.TemporaryDirectory() as cache, unittest.mock.patch.dict(os.environ, TRITON_CACHE_DIR=cache):
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        return time.perf_counter() - start


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on, beside the code, and the code's commit."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "device_type": device.type,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": _commit(),
    }


def write(result: dict[str, Any], path: pathlib.Path) -> None:
    """Replace ``path`` at once, so that it is never half written. Lists of numbers take a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    text = re.sub(r"\[\n([-+.\w\s,]+)\]", lambda of: f"[{' '.join(of[1].split())}]", json.dumps(result, indent=1))
    temporary.write_text(text + "\n")
    temporary.replace(path)


def _timing(call: Callable[[], object], device: torch.device, quick: bool) -> Row:
    """Median, first and last quintile, in milliseconds."""
    if device.type == "cuda":
        import triton.testing

        rep = 20 if quick else 100  # milliseconds
        quantiles = triton.testing.do_bench(call, warmup=10, rep=rep, quantiles=QUANTILES)
        if 10 * quantiles[0] > rep and not quick:  # too few calls for quantiles
            quantiles = triton.testing.do_bench(call, warmup=10, rep=10 * quantiles[0], quantiles=QUANTILES)
    else:
        timer = benchmark.Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        seconds = timer.timeit(1).median  # also a first call to warm up
        measured = timer.blocked_autorange(min_run_time=max(0.1 if quick else 1.0, 5 * seconds))
        quantiles = np.quantile(measured.times, QUANTILES) * 1000
    return {name: float(value) for name, value in zip(("median_ms", "p20_ms", "p80_ms"), quantiles, strict=True)}


def _on_gpu(call: Callable[[], object]) -> Row:
    """What a call needs beside time on the device."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    peak = torch.cuda.max_memory_allocated() - before
    launches = _launches(call)
    return {"peak_bytes": peak, "launches": launches, "host_us": _host_us(call, launches)}


def _launches(call: Callable[[], object]) -> int | None:
    """What one call starts on the GPU: kernels, copies and fills alike. None where the driver lets nobody count."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profile.events() or ()) or None


def _host_us(call: Callable[[], object], launches: int | None) -> float:
    """Microseconds that it takes to submit a call, not to finish it: no slower GPU work hides it."""
    calls = max(1, min(50, QUEUED_LAUNCHES // (launches or QUEUED_LAUNCHES)))
    times = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return statistics.median(times) / calls * 1e6


def _cpu() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    commit = _output("git", "rev-parse", "--short", "HEAD")
    changed = _output("git", "status", "--porcelain", "--", ".", ":!bench/results")
    return f"{commit}-dirty" if commit and changed else commit


def _output(*command: str) -> str | None:
    """What a program prints, or None if it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
