"""The host's part of calls: from the public function to the launch itself, which does nothing here. Needs no GPU.

python -m bench.host

Triton's own compiler, binder and launcher run, over the stub of libcuda that the tests have (tests/emulator). Times are CPU
time of this process, the least of many rounds, so that other processes count less. They are figures of this machine, and of the
host alone.
"""

import os

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported: the interpreter launches nothing

import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import rich.box
import rich.console
import rich.table
import torch
import torch.nn.functional as F
import triton
import typer

from bench.measure import machine
from bench.workloads import MEAN, STD
from tritonds import CoefficientWeights, DownsizeNet, downsize

ROUNDS, CALLS = 200, 10
SIZE = (24, 24)


class Case(NamedTuple):
    """A call, and its parts as are measured: forward without gradients, and the backward pass alone."""

    name: str
    goal: int | None
    """Microseconds that the forward call may take. The backward pass may take twice as many."""
    call: Callable[[], torch.Tensor]


class Result(NamedTuple):
    """Microseconds of CPU time, the least of the rounds."""

    name: str
    goal: int | None
    forward: float
    recorded: float
    """The forward call with gradients wanted."""
    backward: float


def install() -> None:
    """Have Triton launch into the stub, and the package take CPU tensors for a GPU's."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
    from emulator import driver  # type: ignore[import-not-found]

    os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp(prefix="tritonds-host-"))
    driver.install(90)
    from tritonds import ops

    ops.why_no_triton = lambda device_type: None  # type: ignore[assignment]


def cases() -> list[Case]:
    """Small problems, whose kernels would take less time than the host does."""
    dtype = torch.bfloat16
    image = torch.rand(1, 3, 48, 48).to(dtype)
    texture = torch.rand(1, 16, 48, 48).to(dtype).contiguous(memory_format=torch.channels_last)
    net = DownsizeNet(SIZE, prior="bilinear", mean=MEAN, std=STD, backend="triton").to(dtype)
    weights = CoefficientWeights(*[_detached(part) for part in net.weights()])
    batch = torch.randint(0, 256, (8, 3, 48, 48), dtype=torch.uint8)
    images = [torch.randint(0, 256, (3, 48 + i, 64 - i), dtype=torch.uint8) for i in range(32)]
    return [
        Case("F.interpolate", None, _interpolate(image.float())),
        Case("downsize", 30, lambda: downsize(image, texture, weights, SIZE, prior="bilinear", backend="triton")),
        Case("DownsizeNet, one image", 45, lambda: net(batch[:1])),
        Case("DownsizeNet, a batch", 45, lambda: net(batch)),
        Case("DownsizeNet, a list of 32", 120, lambda: net(images)),
    ]


def _detached(part: Any) -> Any:
    if isinstance(part, tuple):
        return tuple(_detached(x) for x in part)
    return part.detach().requires_grad_()


def _interpolate(image: torch.Tensor) -> Callable[[], torch.Tensor]:
    """An interpolation of one pixel to one pixel, so that hardly more than its dispatch is left."""
    pixel = image[:, :1, :1, :1].clone().requires_grad_()
    return lambda: F.interpolate(pixel, (1, 1), mode="bilinear", align_corners=False)


def measure(case: Case) -> Result:
    """Each case by itself, after calls that compile and fill caches."""

    @torch.inference_mode()
    def forward() -> None:
        case.call()

    for _ in range(3):
        forward()
        result = case.call()
        result.backward(torch.ones_like(result))
    ones = torch.ones_like(result)
    rounds = [_recorded(case, ones) for _ in range(ROUNDS)]
    forward_time = min(_microseconds(forward) for _ in range(ROUNDS))
    return Result(case.name, case.goal, forward_time, *(min(times) for times in zip(*rounds, strict=True)))


def _recorded(case: Case, ones: torch.Tensor) -> tuple[float, float]:
    """(Microseconds of a call with gradients wanted, and of its backward pass)."""
    results: list[torch.Tensor] = []
    recorded = _microseconds(lambda: results.append(case.call()))
    remaining = iter(results)
    return recorded, _microseconds(lambda: next(remaining).backward(ones))


def _microseconds(run: Callable[[], None]) -> float:
    start = time.process_time_ns()
    for _ in range(CALLS):
        run()
    return (time.process_time_ns() - start) / CALLS / 1000


def table(results: list[Result]) -> rich.table.Table:
    cpu = machine(torch.device("cpu"))["cpu"]
    title = f"CPU time of a call in µs; {cpu}, PyTorch {torch.__version__}, Triton {triton.__version__}"
    shown = rich.table.Table(title=title, box=rich.box.SIMPLE)
    for name in ("call", "goal", "forward", "of F.interpolate's", "forward, recorded", "backward alone"):
        shown.add_column(name, justify="left" if name == "call" else "right")
    for row in results:
        times = [f"{row.forward:.1f}", f"{row.forward / results[0].forward:.1f}", f"{row.recorded:.1f}", f"{row.backward:.1f}"]
        shown.add_row(row.name, "" if row.goal is None else str(row.goal), *times)
    return shown


def main(as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False) -> None:
    """Measure the host's part of calls."""
    torch.set_num_threads(1)
    install()
    results = [measure(case) for case in cases()]
    if as_json:
        print(json.dumps([result._asdict() for result in results], indent=1))
    else:
        rich.console.Console(width=120).print(table(results))


if __name__ == "__main__":
    typer.run(main)
