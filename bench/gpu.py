"""What to run on a GPU that is there for ten minutes, most important first, so that an early end leaves the most useful part.

    python -m bench.gpu --out bench/results                 under eight minutes; what `make gpu` runs
    python -m bench.gpu --out elsewhere --rehearse          the same steps on a CPU, small: that it starts, writes, and ends

Each step is a process of its own, whose output is in the folder while it runs; ``gpu-steps.json`` holds the outcome of
all steps so far.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider")
DRAWS = "tests/kernels/test_compiled.py"
NEEDED = ("allpairspy", "hypothesis", "matplotlib", "numpy", "pytest", "rich", "safetensors", "triton", "typer", "xdist")


@dataclass(frozen=True)
class Step:
    name: str
    seconds: int
    """The time after which the step is stopped."""
    command: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    name: str
    seconds: float
    status: int | str
    """The exit status, or why there is none."""


def steps(out: pathlib.Path, rehearse: bool) -> list[Step]:
    """The steps, in their order. They compile at most 235 kernels, which takes a dozen processes a minute."""
    parity = (*PYTEST, DRAWS)
    plot = (sys.executable, "-m", "bench", "plot", str(out / "gpu.json"), "--out", str(out / "plots"))
    if rehearse:
        few = (*parity, "--kernels", "emulated", "--draws", "1")
        bench = (sys.executable, "-m", "bench", "--budget", "1", "--out", str(out / "gpu.json"))
        return [
            Step("parity of uint8 images", 120, (*few, "-k", "uint8_images and 0")),
            Step("benchmark", 120, bench),
            Step("plots", 60, plot),
            Step("parity of the rest", 120, (*few, "-k", "test_area_pooling")),
            Step("CUDA graphs, torch.compile, large batches", 120, (*PYTEST, "-m", "gpu", "tests/api/test_image.py")),
            *_sanitized((*few, "-n", "0", "-k", "test_area_pooling"), 60),
        ]
    many = (*parity, "-n", "12")
    return [
        Step("parity of uint8 images", 90, (*many, "--draws", "12", "-k", "uint8_images or lists or same_bits")),
        Step("benchmark", 190, (sys.executable, "-m", "bench", "--budget", "150", "--out", str(out / "gpu.json"))),
        Step("plots", 20, plot),
        Step("parity of the rest", 60, (*many, "--draws", "6", "-k", "not uint8_images and not lists and not same_bits")),
        Step("CUDA graphs, torch.compile, large batches", 40, (*PYTEST, "-n", "4", "-m", "gpu", "tests")),
        *_sanitized((*parity, "-n", "0", "--draws", "1", "-k", "uint8_images or test_given_texture"), 35),
    ]


def _sanitized(command: tuple[str, ...], seconds: int) -> list[Step]:
    """NVIDIA's compute-sanitizer around ``command``. PyTorch's cache of memory would hide what lies outside of a tensor."""
    tool = shutil.which("compute-sanitizer") or "compute-sanitizer"
    return [
        Step(
            kind, seconds, (tool, "--tool", kind, "--error-exitcode", "9", *command), (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)
        )
        for kind in ("memcheck", "racecheck")
    ]


def run(step: Step, out: pathlib.Path) -> Outcome:
    """Run a step; what it prints is in the folder, by its name, while it is printed."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(step.variables)
    status: int | str
    with (out / f"gpu-{step.name.replace(',', '').replace(' ', '-')}.txt").open("w") as output:
        try:
            process = subprocess.Popen(
                step.command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            status = process.wait(step.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too: what comes next is measured
            process.wait()
            status = f"stopped after {step.seconds} s"
        except FileNotFoundError:
            status = f"{step.command[0]} is not there"
    return Outcome(step.name, round(time.perf_counter() - start, 1), status)


def main() -> None:
    """Parity, benchmark, more parity and the sanitizer, on the GPU of this machine."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=main.__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results", help="folder for results")
    parser.add_argument("--rehearse", action="store_true", help="small, on a CPU, with the kernels emulated")
    options = parser.parse_args()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}; pip install -e '.[bench,compiled]', or those alone if need be")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for step in steps(out, options.rehearse):
        print(f"{step.name} (up to {step.seconds} s)", flush=True)
        outcomes.append(run(step, out))
        print(f"    {outcomes[-1].seconds} s, {outcomes[-1].status}", flush=True)
        (out / "gpu-steps.json").write_text(json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], indent=1))
    sys.exit(any(outcome.status not in (0, "compute-sanitizer is not there") for outcome in outcomes))


if __name__ == "__main__":
    main()
