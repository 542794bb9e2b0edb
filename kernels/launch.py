"""What every launcher shares: the launch itself, dtypes, tile shapes, strides and index width."""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from . import relaunch

MAX_INT32 = 2**31 - 1
INTERPRETED = isinstance(tl.cdiv, InterpretedFunction)
"""Whether Triton was imported as its own interpreter, which runs kernels on a CPU."""


class Plan(NamedTuple):
    """All of a launch but its tensors. It is kept, and used again."""

    programs: int
    arguments: dict[str, Any]
    """Integers, constants and options."""
    ready: dict[Any, relaunch.Ready]
    """Launches of this plan that can be repeated, by what selects their kernel."""


def plan_of(programs: int, **arguments: Any) -> Plan:
    """A plan whose loops have one stage.

    Many small programs hide each other's latency, and pipelining through shared memory would lower occupancy.
    """
    return Plan(programs, arguments | {"num_stages": 1}, {})


def launch(kernel: Any, plan: Plan, device: torch.device, tensors: dict[str, Any]) -> None:
    """Run ``plan.programs`` instances of ``kernel`` on ``device``; none for an empty output.

    ``tensors`` holds by argument a tensor, None, or a tuple of both. All launches of a plan have the same order of arguments.
    """
    if plan.programs == 0:
        return
    if device.type == "meta":
        launches = _recorded.get()
        if launches is not None:
            launches.append(Launch(kernel, plan.programs, plan.arguments | tensors))
    elif device.type != "cuda" or device.index == torch.cuda.current_device():
        run(kernel, plan, tensors)
    else:  # Triton launches on the current device
        with torch.cuda.device(device):
            run(kernel, plan, tensors)


def run(kernel: Any, plan: Plan, tensors: dict[str, Any]) -> None:
    """The one place where a kernel starts."""
    if INTERPRETED:
        kernel[(plan.programs,)](**plan.arguments, **tensors)
    else:
        relaunch.run(kernel, plan.programs, plan.arguments, tensors, plan.ready)


class Launch(NamedTuple):
    """A recorded launch, of tensors without memory."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]

    def key(self) -> tuple[Any, ...]:
        """What decides which compiled kernel the launch needs, given that all tensors start at multiples of 16 bytes."""
        return (self.kernel.__name__, *((name, self._decisive(name, value)) for name, value in self.arguments.items()))

    def _decisive(self, name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple([self._decisive(name, part) for part in value])
        if isinstance(value, Tensor):
            # AMD's compiler wants to know whether 32 bits reach all of it.
            return value.dtype, value.untyped_storage().nbytes() > MAX_INT32
        if isinstance(value, int) and name in self.kernel.arg_names:
            return abs(value) > MAX_INT32
        return value  # constants, an option, or None


_recorded: contextvars.ContextVar[list[Launch] | None] = contextvars.ContextVar("recorded", default=None)


@contextlib.contextmanager
def record() -> Iterator[list[Launch]]:
    """Record what this thread launches on PyTorch's meta device, where nothing runs. On a GPU it would launch the same."""
    launches: list[Launch] = []
    token = _recorded.set(launches)
    try:
        yield launches
    finally:
        _recorded.reset(token)


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """The dtype that kernels accumulate in."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def dot_precision(dtype: torch.dtype) -> str:
    """Precision of float32 matrix products: IEEE, or TF32 where PyTorch's own setting asks for it on an NVIDIA GPU."""
    if dtype != torch.float32 or torch.version.hip is not None:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def all_registers() -> dict[str, int]:
    """Launch options that let a program's threads have 255 registers each; there are such options for NVIDIA GPUs alone.

    Without them ptxas stops at 168 where it deems a few bytes of spills worth a third warp a scheduler. In which kernels it
    does so changes with every version of Triton.
    """
    return {} if torch.version.hip is not None else {"maxnreg": 255}


def few_registers() -> dict[str, int]:
    """Launch options, for NVIDIA GPUs alone, that keep a program's threads to 184 registers each: 11 warps a multiprocessor.

    Without them ptxas takes some 240 in loops over bins, and 8 warps are few to wait for their loads side by side.
    """
    return {} if torch.version.hip is not None else {"maxnreg": 184}


def next_power_of_2(n: int) -> int:
    """The least power of two that is at least ``n``. (Triton's own is made for kernels, and slow at every launch.)"""
    return 1 << (n - 1).bit_length()


def cdiv(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


def padded(channels: int) -> int:
    """Channels rounded up to a power of two that a matrix product takes as its inner dimension."""
    return max(16, next_power_of_2(channels))


def tile_shape(pixels: int) -> tuple[int, int]:
    """(rows, columns) of a tile of ``pixels``: one row, whose geometry is then the same for all of a program's threads.

    In the interpreter, where a program costs much the same whatever its tile, always one large tile.
    """
    return (8, 16) if INTERPRETED else (1, pixels)


def tiles(batch: int, height: int, width: int, tile: tuple[int, int]) -> int:
    """How many tiles cover ``batch`` planes of ``height`` x ``width`` pixels."""
    return batch * cdiv(height, tile[0]) * cdiv(width, tile[1])


def tile_columns(batch: int, height: int, width: int, tile: tuple[int, int]) -> tuple[int, int]:
    """(columns, rows): tile columns of ``rows`` tiles each, one below the other. What these have in common is computed once.

    Only as many rows as leave all processors several programs, up to eight.
    """
    rows = min(8, max(1, tiles(batch, height, width, tile) // ENOUGH_PROGRAMS))
    return batch * cdiv(cdiv(height, tile[0]), rows) * cdiv(width, tile[1]), rows


ENOUGH_PROGRAMS = 8192
"""Programs of one warp that keep an H200 busy: its processors hold about half as many of the larger kernels' at once."""


class Layout(NamedTuple):
    """How a (N, C, H, W) tensor lies in memory. A launch depends on this and on the dtype."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]


def layout_of(x: Tensor) -> Layout:
    return Layout(x.shape, x.stride())


def layout(x: Tensor | None) -> Layout | None:
    return None if x is None else layout_of(x)


def needs_int64(axes: list[tuple[int, int]], layouts: list[Layout | None]) -> bool:
    """Whether the geometry of an (n_in, n_out) axis, or an offset inside one image, overflows 32 bits."""
    # The largest integer is distance_numerator's, up to (2 * (n + 8) + 1) * n for either n, on top of the other's.
    largest = max([max(axis) for axis in axes], default=0)
    if 4 * (largest + 9) * largest > MAX_INT32:
        return True
    return any(x is not None and _extent(x) > MAX_INT32 for x in layouts)


def _extent(x: Layout) -> int:
    """Largest element offset inside one image of the batch."""
    return sum((size - 1) * abs(stride) for size, stride in zip(x.shape[1:], x.stride[1:], strict=True) if size > 1)


class Strides(NamedTuple):
    """Strides of a (N, C, H, W) tensor; n, h and w in units of ``align`` elements, which is 1 unless channels lie last."""

    n: int
    c: int
    h: int
    w: int
    channels_last: bool
    align: int
    dense: bool
    """Whether neighbouring pixels lie side by side."""


def aligned_strides(x: Layout | None) -> Strides:
    """Strides as kernels take them that load 16 bytes at a time.

    The compiler has to know that channels-last pixels start at multiples of 16 bytes. So their strides are passed in units of
    ``align`` elements, which is a compile-time constant.
    """
    if x is None:
        return Strides(0, 0, 0, 0, True, 1, False)
    n, c, h, w = (stride if size > 1 else 0 for size, stride in zip(x.shape, x.stride, strict=True))
    channels_last = c == 1 or x.shape[1] == 1
    align = math.gcd(16, n, h, w) if channels_last else 1
    dense = w == (x.shape[1] if channels_last else 1) and w % align == 0
    return Strides(n // align, c, h // align, w // align, channels_last, align, dense)


def stride_arguments(name: str, strides: Sequence[int], axes: str = "nchw") -> dict[str, int]:
    """The strides of a tensor along ``axes``, by a kernel's arguments."""
    return {f"{name}_stride_{axis}": stride for axis, stride in zip(axes, strides, strict=True)}
