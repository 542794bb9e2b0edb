"""Compile the kernels ahead of time, without a GPU, and read registers, spills and load widths off the result.

Launchers are called with tensors on PyTorch's meta device; each launch is recorded instead of run. So what is compiled is what
a launcher would really run for such tensors: same specialisation, same tile, same number of warps.
"""

import os

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported: the interpreter's functions cannot be compiled

import pathlib
import re
import subprocess
import tempfile
import unittest.mock
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tritonds.kernels import launch as launch_module

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

    kernel: Any
    programs: int
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a launch; the counts are None where the target has no disassembler here."""

    name: str
    target: str
    warps: int
    shared_bytes: int
    registers: int | None
    stack_bytes: int | None
    instructions: int | None
    loads: int | None
    wide_loads: int | None
    sass: str = ""


def record(function: Callable[[], object]) -> list[Launch]:
    """The launches that ``function`` asks for; none is run."""
    launches: list[Launch] = []

    def keep(kernel: Any, programs: int, arguments: dict[str, Any]) -> None:
        launches.append(Launch(kernel, programs, arguments))

    with unittest.mock.patch.object(launch_module, "run", keep):
        function()
    return launches


def compile_launch(launch: Launch, target: str) -> Compiled:
    """Compile one recorded launch for ``target``, a key of :data:`TARGETS`."""
    options = {key: launch.arguments[key] for key in ("num_warps", "num_stages", "maxnreg") if key in launch.arguments}
    compiled = triton.compile(_source(launch), target=TARGETS[target], options=options)
    name = launch.kernel.fn.__name__
    shared = compiled.metadata.shared
    if "cubin" not in compiled.asm:
        return Compiled(name, target, options["num_warps"], shared, None, None, None, None, None)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        sass = _run("nvdisasm", "-c", file.name)
    loads = re.findall(r"LDG\.E[.\w]*", sass)
    return Compiled(
        name,
        target,
        options["num_warps"],
        shared,
        registers=int(re.findall(r"REG:(\d+)", usage)[-1]),
        stack_bytes=int(re.findall(r"STACK:(\d+)", usage)[-1]),
        instructions=len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", sass, re.MULTILINE)),
        loads=len(loads),
        wide_loads=sum(".128" in load for load in loads),
        sass=sass,
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


POINTERS = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([NVIDIA_TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout
