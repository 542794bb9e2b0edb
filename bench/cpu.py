"""What the network costs on a CPU, as multiples of PyTorch's antialiased interpolation in the same run: 1080p to 540p, float32.

    python -m bench.cpu                    on the threads that PyTorch takes
    python -m bench.cpu --threads 1 --only forward
    MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824 python -m bench.cpu    nothing given back to the system

All take turns, so that a change of the machine's load or clock reaches all. Seconds are of the wall clock, and of all of the
process's threads: on a machine that others use, too, only the latter say something. Page faults are those of the last round.
Memory is the most that PyTorch allocates at once, the result included.
"""

import functools
import os
import resource
import time
from collections.abc import Callable
from typing import Annotated, Any

import rich.box
import rich.console
import rich.table
import torch
import torch.nn.functional as F
import typer

from bench import providers, workloads
from bench.options import known
from tritonds import methods

UNIT = "interpolation, forward"
PASSES = ("forward", "forward+backward")


def peak_bytes(function: Callable[[], Any]) -> int:
    """The most that is allocated at once while ``function`` runs, in bytes."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    total = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    return peak


def functions_of(passes: list[str]) -> dict[str, Callable[[], Any]]:
    """Interpolations; the network in strips, compiled, and by the reference, on whole images; networks without texture."""
    problem = providers.Problem(workloads.NAMED["hd"], "forward", torch.device("cpu"))
    problem.layout = torch.contiguous_format
    image, size, net = problem.image, problem.workload.size, problem.net
    functions: dict[str, Callable[[], Any]] = {
        UNIT: functools.partial(F.interpolate, image, size, mode="bilinear", antialias=True),
        "bicubic interpolation, forward": functools.partial(F.interpolate, image, size, mode="bicubic", antialias=True),
    }
    compiled = torch.compile(net, dynamic=False)

    def whole() -> torch.Tensor:
        with providers.whole_images():
            result: torch.Tensor = net(image)
        return result

    def without_gradients(network: Callable[[], torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            return network()

    def with_gradients(network: Callable[[], torch.Tensor]) -> None:
        network().sum().backward()

    networks = {"in strips": lambda: net(image), "compiled": lambda: compiled(image), "whole images": whole}
    for name in ("distance-only-k4", "distance-only-k8-bicubic"):
        networks[name] = functools.partial(methods.ARCHITECTURES[name](backend="torch"), image, size)
    for name, network in networks.items():
        if "forward" in passes:
            functions[f"{name}, forward"] = functools.partial(without_gradients, network)
        if "forward+backward" in passes:
            functions[f"{name}, forward+backward"] = functools.partial(with_gradients, network)
    return functions


def measure(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """The least seconds of wall clock and CPU, page faults and bytes of each."""
    found = {}
    for name, function in functions.items():
        function()
        found[name] = {"wall": float("inf"), "cpu": float("inf"), "faults": 0.0, "memory": float(peak_bytes(function))}
    for _ in range(rounds):
        for name, function in functions.items():
            faults, wall, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter(), time.process_time()
            function()
            row = found[name]
            row["wall"] = min(row["wall"], time.perf_counter() - wall)
            row["cpu"] = min(row["cpu"], time.process_time() - cpu)
            row["faults"] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return found


def main(
    threads: Annotated[int | None, typer.Option(help="of PyTorch; its own choice if not given")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 20,
    only: Annotated[list[str] | None, typer.Option(help=f"passes: {', '.join(PASSES)}")] = None,
) -> None:
    """Print a table."""
    if threads is not None:
        torch.set_num_threads(threads)
    found = measure(functions_of(known("only", only, PASSES) or list(PASSES)), rounds)
    table = rich.table.Table("", "ms", "x", "ms of CPU", "x", "page faults", "MB at once", box=rich.box.MARKDOWN)
    unit = found[UNIT]
    for name, row in found.items():
        wall, cpu = (f"{1e3 * row[clock]:.1f}" for clock in ("wall", "cpu"))
        times = [wall, f"{row['wall'] / unit['wall']:.1f}", cpu, f"{row['cpu'] / unit['cpu']:.1f}"]
        table.add_row(name, *times, f"{row['faults']:.0f}", f"{row['memory'] / 1e6:.1f}")
    rich.console.Console(width=128).print(table)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} processors, load {load}, PyTorch {torch.__version__}")


if __name__ == "__main__":
    typer.run(main)
