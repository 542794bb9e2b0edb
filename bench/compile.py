"""Compile the kernels ahead of time, without a GPU, and read registers, spills and load widths off the result.

Ends with an error if an operand of a matrix product lies in registers such that it may be multiplied wrongly.

    python -m bench.compile                     the default network's kernels, as a table
    python -m bench.compile --json > bench/results/kernels/sm_90.json       what the docs predict from
    python -m bench.compile --cover --part 0/3  the first third of two sets that cover every pair of choices, as a table

Launchers are called with tensors on PyTorch's meta device; each launch is recorded instead of run. So what is compiled is
what a launcher would really run for such tensors: same specialisation, same tile, same number of warps.
"""

import os

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported: the interpreter's functions cannot be compiled

import collections
import dataclasses
import datetime
import json
import pathlib
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import rich.box
import rich.console
import rich.table
import torch
import triton
import typer
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.bands import bands
from bench.cost import Cost, cost
from bench.operands import repeated_operands
from bench.sass import parse
from bench.variants import Variant, covering_variants, default_variants
from bench.workloads import MEAN, NAMED, STD
from tritonds.coefficient_weights import output_rows
from tritonds.kernels import launch as launch_module
from tritonds.kernels import launchers as kernels

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
    """The launcher that was called."""
    kernel: Any
    programs: int
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a launch; the counts are None where nothing was disassembled.

    The cost is predicted for sm_90 alone.
    """

    variant: Variant
    operator: str
    name: str
    target: str
    warps: int
    shared_bytes: int
    seconds: float
    """How long compiling took. The first call on a machine waits so long."""
    repeated_operands: list[str]
    """Operands of matrix products that may be multiplied wrongly."""
    registers: int | None = None
    stack_bytes: int | None = None
    instructions: int | None = None
    loads: int | None = None
    wide_loads: int | None = None
    cost: Cost | None = None


def record(operator: Callable[..., None], *arguments: object) -> list[Launch]:
    """The launches that an operator asks for, given these arguments; none is run."""
    with launch_module.record() as launches:
        operator(*arguments)
    return [Launch(operator.__name__, *launch) for launch in launches]


def launches_of(variant: Variant, parts: bool) -> list[Launch]:
    """Forward and backward launches.

    With ``parts``, also those of the operators that do a part of the work each, and of the gradient to the image.
    """
    setting = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if variant.tf32 else "ieee"
    try:
        return _from_image(variant, parts) if variant.image else _from_texture(variant, parts)
    finally:
        torch.backends.cuda.matmul.fp32_precision = setting


def _tensor(variant: Variant, *shape: int, dtype: str = "") -> torch.Tensor:
    """A tensor of the variant's dtype or another. With four dimensions it has the variant's layout."""
    layout = torch.channels_last if variant.channels_last and len(shape) == 4 else torch.contiguous_format
    names = {name: dtype for dtype, name in POINTERS.items()}
    return torch.empty(*shape, dtype=names[dtype or variant.dtype], device="meta").contiguous(memory_format=layout)


def _weights(variant: Variant) -> list[torch.Tensor]:
    """The coefficient network's."""
    channels = variant.channels
    weights = [_tensor(variant, channels, 2 * variant.taps), _tensor(variant, channels)] if variant.distance else []
    width = channels * (variant.texture + variant.distance)
    for _ in range(variant.layers):
        weights += [_tensor(variant, channels, width), _tensor(variant, channels)]
        width = channels
    rows = output_rows(variant.taps, variant.prior)
    return [*weights, _tensor(variant, rows, width), _tensor(variant, rows)]


def _from_texture(variant: Variant, parts: bool) -> list[Launch]:
    workload = NAMED[variant.workload]
    batch, size = workload.batch, workload.size
    image, output = _tensor(variant, batch, 3, *workload.image), _tensor(variant, batch, 3, *size)
    texture = _tensor(variant, batch, variant.channels, *workload.image) if variant.texture else None
    weights = _weights(variant)
    grads = (None if texture is None else torch.empty_like(texture), _flat_like(weights))
    options = (variant.taps, variant.prior)

    network = (texture, weights, variant.distance)
    launches = record(kernels.downsize, image, *network, output, *options)
    launches += record(kernels.downsize_backward, output, image, *network, None, *grads, *options)
    if parts:
        launches += _to_image(kernels.downsize_backward, output, image, *network, torch.empty_like(image), *grads, *options)
        a = _tensor(variant, batch, variant.taps**2, *size)
        launches += record(kernels.coefficients, workload.image, *network, a, *options)
        launches += record(kernels.coefficients_backward, a, workload.image, *network, *grads, *options)
        launches += record(kernels.weighted_gather2d, image, a, output, variant.taps)
        gradients = (torch.empty_like(image), torch.empty_like(a))
        launches += record(kernels.weighted_gather2d_backward, output, image, a, *gradients, variant.taps)
        launches += record(kernels.area_pool2d, image, output)
    return launches


def _from_image(variant: Variant, parts: bool) -> list[Launch]:
    workload = NAMED[variant.workload]
    images = _images(variant)
    output = _tensor(variant, workload.batch, 3, *workload.size, dtype=variant.out)
    texture_weight = _tensor(variant, variant.channels, 3, 3, 3).contiguous()  # as the layer has it
    texture_weights = [texture_weight, _tensor(variant, variant.channels)] if variant.texture else []
    weights = _weights(variant)
    normalized = variant.image == "u8"
    factors = tuple(1 / (255 * s) for s in STD) if normalized else ()
    summands = tuple(-m / s for m, s in zip(MEAN, STD, strict=True)) if normalized else ()
    options = (variant.taps, variant.prior, factors, summands, 0.0 if variant.letterbox else None)

    network = (images, texture_weights, weights, variant.distance)
    grad_weights = _flat_like([*texture_weights, *weights])
    launches = record(kernels.downsize_image, *network, output, *options)
    launches += record(kernels.downsize_image_backward, output, *network, None, grad_weights, *options)
    if parts and images[0].ndim == 4 and images[0].is_floating_point():
        grad_image = torch.empty_like(images[0])
        launches += _to_image(kernels.downsize_image_backward, output, *network, grad_image, grad_weights, *options)
    return launches


def _images(variant: Variant) -> list[torch.Tensor]:
    """One batch, or images (C, H, W) that differ in size."""
    workload = NAMED[variant.workload]
    sizes = workload.sizes or [workload.image]
    batches = [_tensor(variant, 1 if workload.sizes else workload.batch, 3, *size, dtype=variant.image) for size in sizes]
    return [batch[0] for batch in batches] if workload.sizes else batches


def _flat_like(weights: list[torch.Tensor]) -> torch.Tensor:
    """A tensor for the gradients of ``weights``."""
    return weights[-1].new_empty(sum(t.numel() for t in weights))


def _to_image(operator: Callable[..., None], *arguments: object) -> list[Launch]:
    launches = record(operator, *arguments)
    return [dataclasses.replace(launch, operator=f"{launch.operator}, to the image too") for launch in launches]


@dataclass(frozen=True)
class Binary:
    """A compiled kernel: the fields that it gives to :class:`Compiled`, and its machine code if it was disassembled."""

    figures: dict[str, Any]
    sass: str | None


def compile_launch(launch: Launch, target: str, disassemble: bool) -> Binary:
    """Compile one recorded launch for ``target``, a key of :data:`TARGETS`."""
    options = {key: launch.arguments[key] for key in ("num_warps", "num_stages", "maxnreg") if key in launch.arguments}
    start = time.perf_counter()
    compiled = triton.compile(_source(launch), target=TARGETS[target], options=options)
    seconds = time.perf_counter() - start
    figures = {
        "warps": options["num_warps"],
        "shared_bytes": compiled.metadata.shared,
        "seconds": seconds,
        "repeated_operands": repeated_operands(compiled.asm["ttgir"]),
    }
    if "cubin" not in compiled.asm:
        return Binary(figures, None)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        sass = _run("nvdisasm", "-c", "-gi", "-hex", file.name) if disassemble else None
    figures["registers"] = int(re.findall(r"REG:(\d+)", usage)[-1])
    figures["stack_bytes"] = int(re.findall(r"STACK:(\d+)", usage)[-1])
    if sass is None:
        return Binary(figures, None)
    loads = re.findall(r"LDG\.E[.\w]*", sass)
    figures |= {
        "instructions": len(parse(sass)[0]),
        "loads": len(loads),
        "wide_loads": sum(".128" in load for load in loads),
    }
    return Binary(figures, sass)


def _cost(launch: Launch, variant: Variant, binary: Binary) -> Cost:
    """The launch's cost. If images differ in size, the launch has the first of them and a table of all."""
    workload = NAMED[variant.workload]
    tensors = [value for value in tree_leaves(launch.arguments) if isinstance(value, torch.Tensor)]
    tensors += _images(variant)[1:] if workload.sizes and "table_ptr" in launch.arguments else []
    assert binary.sass is not None
    return cost(
        binary.sass,
        launch.arguments,
        launch.programs,
        binary.figures["registers"],
        binary.figures["shared_bytes"],
        pixels=workload.batch * workload.size[0] * workload.size[1],
        moved=sum(tensor.numel() * tensor.itemsize for tensor in tensors),
        channels_last=variant.channels_last,
        bins=_bins(launch, variant) if variant.image and "table_ptr" in launch.arguments else None,
    )


def _bins(launch: Launch, variant: Variant) -> collections.Counter[tuple[int, int]]:
    """Bands and columns of the bins in each step of all strips."""
    workload = NAMED[variant.workload]
    completed = launch.kernel.fn.__name__ == "texture_grad_weights_kernel"
    return bands(workload, variant.letterbox, launch.arguments["rows"], completed)


def _source(launch: Launch) -> ASTSource:
    """Signature, constants and alignment, as the just-in-time compiler would derive them from the arguments."""
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}

    def type_of(value: Any, path: tuple[int, ...], constant: bool, aligned: bool) -> Any:
        if constant or value is None:
            constants[path] = value
            return "constexpr"
        if isinstance(value, tuple):
            return type(value)(*(type_of(part, (*path, index), False, aligned) for index, part in enumerate(value)))
        if isinstance(value, torch.Tensor):
            attributes[path] = [["tt.divisibility", 16]] if aligned else []
            return "*" + POINTERS[value.dtype]
        return "i32" if abs(value) <= 2**31 - 1 else "i64"

    for index, parameter in enumerate(launch.kernel.params):
        value, aligned = launch.arguments[parameter.name], not parameter.do_not_specialize_on_alignment
        signature[parameter.name] = type_of(value, (index,), parameter.is_constexpr, aligned)
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


def compile_all(
    variants: list[Variant], targets: list[str], parts_of: Callable[[int], bool], disassemble: bool
) -> Iterator[Compiled]:
    """Compile the launches of ``variants``, one after the other; also the partial operators' where ``parts_of`` their index.

    What several launches share is compiled once. If disassembled, each has its cost, which depends on the sizes too.
    """
    made: dict[tuple[str, ...], Binary] = {}
    for index, variant in enumerate(variants):
        for launch in launches_of(variant, parts_of(index)):
            source = _source(launch)
            for target in targets:
                if variant.tf32 and TARGETS[target].backend == "hip":
                    continue
                key = (launch.kernel.fn.__name__, str(source.signature), str(source.constants), target)
                if key not in made:
                    made[key] = compile_launch(launch, target, disassemble)
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
    inputs = "+".join(name for name, there in (("distance", v.distance), ("texture", v.texture)) if there)
    return {
        "operator": row.operator,
        "kernel": row.name,
        "target": row.target,
        "workload": v.workload,
        "dtype": v.dtype + (" tf32" if v.tf32 else "") + (f" to {v.out}" if v.out else ""),
        "layout": "NHWC" if v.channels_last else "NCHW",
        "images": f"{v.image} letterboxed" if v.letterbox else v.image,
        "K": str(v.taps) if v.prior == "none" else f"{v.taps} {v.prior}",
        "network": f"{inputs} {v.channels}, {v.layers} hidden",
        "warps": str(row.warps),
        "regs": "" if row.registers is None else str(row.registers),
        "stack B": "" if row.stack_bytes is None else str(row.stack_bytes),
        "shared B": str(row.shared_bytes),
        "compile s": f"{row.seconds:.1f}",
        "16 B loads": "" if row.loads is None else f"{row.wide_loads} of {row.loads}",
        "resident": "" if c is None else str(c.resident_warps),
        "instr/px": "" if c is None else f"{c.instructions_per_pixel:.1f}",
        "B/px": "" if c is None else f"{c.bytes_per_pixel:.0f}",
        "issue us": "" if c is None else f"{c.issue_us:.1f}",
        "pipe us": "" if c is None else f"{c.pipe_us:.1f} {c.busiest_pipe}",
        "bytes us": "" if c is None else f"{c.bandwidth_us:.1f}",
        "latency us": "" if c is None else f"{c.latency_us:.1f}",
        "guess us": "" if c is None else f"{c.guess_us():.1f}",
    }


def main(
    target: Annotated[list[str], typer.Option(help="sm_80, sm_90, sm_100 or gfx942")] = ["sm_90"],  # noqa: B006  typer copies it
    cover: Annotated[
        bool, typer.Option("--cover", help="sets that cover every pair of choices, instead of the default")
    ] = False,
    part: Annotated[str, typer.Option(help="i/n: every n-th variant from the i-th on")] = "0/1",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Compile kernels ahead of time and show what the compiler made of them."""
    first, step = map(int, part.split("/"))
    variants = (covering_variants() if cover else default_variants())[first::step]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache  # nothing compiled before, so that the time is that of compiling
        # Of the first variant all parts, of images all gradients.
        rows = list(compile_all(variants, target, lambda i: i == 0 or bool(variants[i].image), disassemble=not cover))
    if as_json:
        versions = {"triton": triton.__version__, "date": str(datetime.date.today())}
        print(json.dumps(versions | {"rows": [dataclasses.asdict(row) for row in rows]}, indent=1))
    else:
        rich.console.Console(width=300).print(table(rows))
    faults = [f"{r.name}, {r.target}, {r.operator}, {r.variant}: {text}" for r in rows for text in r.repeated_operands]
    if faults:
        typer.echo("\n".join(["Operands that registers hold more than once:", *faults]), err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
