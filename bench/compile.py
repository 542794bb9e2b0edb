"""Compile the kernels ahead of time, without a GPU, and read registers, spills and load widths off the result.

    python -m bench.compile                     the default network's kernels, as a table
    python -m bench.compile --json > bench/results/kernels/sm_90.json       what the README's predictions are written from
    python -m bench.compile --cover 0/4         the first quarter of a set that covers every pair of choices, as a table

Launchers are called with tensors on PyTorch's meta device; each launch is recorded instead of run. So what is compiled is
what a launcher would really run for such tensors: same specialisation, same tile, same number of warps.
"""

import os

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported: the interpreter's functions cannot be compiled

import dataclasses
import datetime
import json
import pathlib
import re
import subprocess
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import rich.box
import rich.console
import rich.table
import torch
import triton
import typer
from allpairspy import AllPairs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tritonds.kernels import launch as launch_module

from bench.cost import Cost, cost, parse
from bench.workloads import NAMED
from tritonds import kernels

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
NVIDIA_TOOLS = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Launch:
    """A launch as a launcher asked for it."""

    operator: str
    """Of the launchers, the one that was called."""
    kernel: Any
    programs: int
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """What distinguishes one compiled kernel from another, as far as a caller can choose it."""

    dtype: str = "bf16"
    taps: int = 2
    prior: str = "none"
    texture: bool = True
    distance: bool = True
    layers: int = 1
    channels_last: bool = True
    channels: int = 16
    """E, F and M alike."""
    workload: str = "hdx8"
    """Whose sizes."""


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a launch; the counts are None where the target has no disassembler here.

    The cost is predicted for sm_90 alone.
    """

    variant: Variant
    operator: str
    name: str
    target: str
    warps: int
    shared_bytes: int
    seconds: float
    """That compiling took: what a first call waits for, once for each machine."""
    registers: int | None = None
    stack_bytes: int | None = None
    instructions: int | None = None
    loads: int | None = None
    wide_loads: int | None = None
    cost: Cost | None = None


def record(operator: Callable[..., None], *arguments: object) -> list[Launch]:
    """The launches that an operator asks for, given these arguments; none is run."""
    launches: list[Launch] = []

    def keep(kernel: Any, programs: int, arguments: dict[str, Any]) -> None:
        launches.append(Launch(operator.__name__, kernel, programs, arguments))

    with unittest.mock.patch.object(launch_module, "run", keep):
        operator(*arguments)
    return launches


def launches_of(variant: Variant, parts: bool) -> list[Launch]:
    """Forward and backward launches.

    With ``parts``, also those of the operators that do a part of the work each.
    """
    dtype = {name: dtype for dtype, name in POINTERS.items()}[variant.dtype]
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format

    def features(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta").contiguous(memory_format=layout)

    def weight(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    workload = NAMED[variant.workload]
    batch, size = workload.batch, workload.size
    image, output = features(batch, 3, *workload.image), features(batch, 3, *size)
    channels = variant.channels
    texture = features(batch, channels, *workload.image) if variant.texture else None
    weights = [weight(channels, 2 * variant.taps), weight(channels)] if variant.distance else []
    width = channels * (variant.texture + variant.distance)
    for _ in range(variant.layers):
        weights += [weight(channels, width), weight(channels)]
        width = channels
    weights += [weight(variant.taps**2, width), weight(variant.taps**2)]
    grad_texture = None if texture is None else torch.empty_like(texture)
    grads = (grad_texture, weight(sum(t.numel() for t in weights)))
    options = (variant.taps, variant.prior)

    network = (texture, weights, variant.distance)
    launches = record(kernels.downsize, image, *network, output, *options)
    launches += record(kernels.downsize_backward, output, image, *network, None, *grads, *options)
    if parts:
        to_image = record(kernels.downsize_backward, output, image, *network, torch.empty_like(image), *grads, *options)
        launches += [dataclasses.replace(launch, operator="downsize_backward, to the image too") for launch in to_image]
        a = features(batch, variant.taps**2, *size)
        launches += record(kernels.coefficients, workload.image, *network, a, *options)
        launches += record(kernels.coefficients_backward, a, workload.image, *network, *grads, *options)
        launches += record(kernels.weighted_gather2d, image, a, output, variant.taps)
        gradients = (torch.empty_like(image), torch.empty_like(a))
        launches += record(kernels.weighted_gather2d_backward, output, image, a, *gradients, variant.taps)
        launches += record(kernels.area_pool2d, image, output)
    return launches


def default_variants() -> list[Variant]:
    """The default network, with and without antialiasing prior, in both layouts; and its fastest form at other scales."""
    networks = [(dtype, 2, "none") for dtype in ("bf16", "fp16", "fp32")]
    networks += [(dtype, 4, "antialias") for dtype in ("bf16", "fp32")]
    variants = [
        Variant(dtype=dtype, taps=taps, prior=prior, channels_last=channels_last)
        for dtype, taps, prior in networks
        for channels_last in (True, False)
    ]
    elsewhere = [Variant(workload=name) for name in ("poster160", "seg768", "uhd")]
    return [*variants, *elsewhere, Variant(workload="seg768", channels_last=False)]


def covering_variants() -> list[Variant]:
    """A small set in which every two choices occur together."""
    choices = {
        "dtype": list(POINTERS.values()),
        "taps": [1, 2, 3, 4, 6, 8],
        "prior": ["none", "bilinear", "antialias"],
        "texture": [True, False],
        "distance": [True, False],
        "layers": [0, 1, 2, 3],
        "channels_last": [True, False],
        "channels": [16, 5, 32],
    }

    def valid(row: list[Any]) -> bool:
        return len(row) < 5 or row[3] or row[4]  # texture or distance

    return [Variant(*row) for row in AllPairs(list(choices.values()), filter_func=valid)]


@dataclass(frozen=True)
class Binary:
    """A compiled kernel: the fields that it gives to :class:`Compiled`, and its machine code where that can be read here."""

    figures: dict[str, Any]
    sass: str | None


def compile_launch(launch: Launch, target: str) -> Binary:
    """Compile one recorded launch for ``target``, a key of :data:`TARGETS`."""
    options = {key: launch.arguments[key] for key in ("num_warps", "num_stages")}
    start = time.perf_counter()
    compiled = triton.compile(_source(launch), target=TARGETS[target], options=options)
    seconds = time.perf_counter() - start
    figures = {"warps": options["num_warps"], "shared_bytes": compiled.metadata.shared, "seconds": seconds}
    if "cubin" not in compiled.asm:
        return Binary(figures, None)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        sass = _run("nvdisasm", "-c", "-gi", file.name)
    loads = re.findall(r"LDG\.E[.\w]*", sass)
    figures |= {
        "registers": int(re.findall(r"REG:(\d+)", usage)[-1]),
        "stack_bytes": int(re.findall(r"STACK:(\d+)", usage)[-1]),
        "instructions": len(parse(sass)[0]),
        "loads": len(loads),
        "wide_loads": sum(".128" in load for load in loads),
    }
    return Binary(figures, sass)


def _cost(launch: Launch, variant: Variant, binary: Binary) -> Cost:
    workload = NAMED[variant.workload]
    tensors = [value for value in launch.arguments.values() if isinstance(value, torch.Tensor)]
    assert binary.sass is not None
    return cost(
        binary.sass,
        launch.arguments,
        launch.programs,
        binary.figures["registers"],
        binary.figures["shared_bytes"],
        pixels=workload.batch * workload.size[0] * workload.size[1],
        moved=sum(tensor.numel() * tensor.itemsize for tensor in tensors),
    )


def _source(launch: Launch) -> ASTSource:
    """Signature, constants and alignment, as the just-in-time compiler would derive them from the arguments."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + POINTERS[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "i32" if abs(value) <= 2**31 - 1 else "i64"
    return ASTSource(launch.kernel, signature, constants, attributes)


POINTERS = {
    torch.uint8: "u8",
    torch.int64: "i64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([NVIDIA_TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout


def compile_all(variants: list[Variant], targets: list[str], parts_of: Callable[[int], bool]) -> Iterator[Compiled]:
    """Compile the launches of ``variants``, one after the other; also the partial operators' where ``parts_of`` their index.

    What several launches share is compiled once. Each has its cost, which depends on the sizes too.
    """
    made: dict[tuple[str, ...], Binary] = {}
    for index, variant in enumerate(variants):
        for launch in launches_of(variant, parts_of(index)):
            source = _source(launch)
            for target in targets:
                key = (launch.kernel.fn.__name__, str(source.signature), str(source.constants), target)
                if key not in made:
                    made[key] = compile_launch(launch, target)
                binary = made[key]
                priced = binary.sass is not None and target == "sm_90"
                cost = _cost(launch, variant, binary) if priced else None
                yield Compiled(variant, launch.operator, launch.kernel.fn.__name__, target, **binary.figures, cost=cost)


def table(rows: list[Compiled]) -> rich.table.Table:
    """One row a launch; spills show as stack."""
    title = f"Triton {triton.__version__}, {datetime.date.today()}. Microseconds are predicted for an H200, not measured."
    result = rich.table.Table(title=title, box=rich.box.SIMPLE)
    for name in _cells(rows[0]):
        result.add_column(name, no_wrap=True)
    for row in rows:
        result.add_row(*_cells(row).values())
    return result


def _cells(row: Compiled) -> dict[str, str]:
    """One line of the table, by heading."""
    v, c = row.variant, row.cost
    inputs = "+".join(letter for letter, there in (("E", v.distance), ("F", v.texture)) if there)
    return {
        "operator": row.operator,
        "kernel": row.name,
        "target": row.target,
        "workload": v.workload,
        "dtype": v.dtype,
        "layout": "NHWC" if v.channels_last else "NCHW",
        "K": str(v.taps) if v.prior == "none" else f"{v.taps} {v.prior}",
        "network": f"{inputs}={v.channels}, {v.layers} hidden",
        "warps": str(row.warps),
        "regs": "" if row.registers is None else str(row.registers),
        "stack B": "" if row.stack_bytes is None else str(row.stack_bytes),
        "shared B": str(row.shared_bytes),
        "compile s": f"{row.seconds:.1f}",
        "16 B loads": "" if row.loads is None else f"{row.wide_loads} of {row.loads}",
        "occupancy": "" if c is None else f"{c.occupancy:.0%}",
        "instr/px": "" if c is None else f"{c.instructions_per_pixel:.1f}",
        "B/px": "" if c is None else f"{c.bytes_per_pixel:.0f}",
        "issue us": "" if c is None else f"{c.issue_us:.1f}",
        "pipe us": "" if c is None else f"{c.pipe_us:.1f} {c.busiest_pipe}",
        "memory us": "" if c is None else f"{c.bandwidth_us:.1f}",
        "predicted us": "" if c is None else f"{c.predicted_us:.1f}",
    }


def main(
    target: Annotated[list[str], typer.Option(help="sm_80, sm_90, sm_100 or gfx942")] = ["sm_90"],  # noqa: B006  typer copies it
    cover: Annotated[str, typer.Option(help="i/n: the i-th of n parts of the covering set")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Compile kernels ahead of time and show what the compiler made of them."""
    variants = default_variants()
    if cover:
        part, parts = map(int, cover.split("/"))
        variants = covering_variants()[part::parts]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache  # nothing compiled before, so that the time is that of compiling
        # Of the default network all operators; of the covering set those of every third choice.
        rows = list(compile_all(variants, target, (lambda index: index % 3 == 0) if cover else (lambda index: index == 0)))
    if as_json:
        versions = {"triton": triton.__version__, "date": str(datetime.date.today())}
        print(json.dumps(versions | {"rows": [dataclasses.asdict(row) for row in rows]}, indent=1))
    else:
        rich.console.Console(width=300).print(table(rows))


if __name__ == "__main__":
    typer.run(main)
