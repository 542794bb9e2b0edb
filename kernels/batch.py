"""Images of different sizes and strides in one launch: a table with a row for each, and where in the result it goes."""

import array
import functools
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import geometry
from .area_pool import bin_width
from .groups import Plane, Target
from .launch import MAX_INT32, needs_int64

COLUMNS = tl.constexpr(16)
"""Columns of the table. Kernels read a row by position: a :class:`Plane`'s fields, then a :class:`Target`'s, then padding."""


@triton.jit
def image_at(n, table_ptr, images, C: tl.constexpr):
    """Image ``n``: from the table if there is one; else all images are alike, one behind the other."""
    if table_ptr is None:
        ptr = n  # no pointer, but None cannot be returned, and without an image it is never read
        if images.ptr is not None:
            ptr = images.ptr + n * images.stride_n
        return Plane(ptr, images.stride_c, images.stride_h, images.stride_w, images.h, images.w)
    else:
        row_ptr = table_ptr + n * COLUMNS
        return Plane(
            tl.load(row_ptr).to(images.ptr.dtype), _field(row_ptr, 1, C), _field(row_ptr, 2, C), _field(row_ptr, 3, C),
            _field(row_ptr, 4, C), _field(row_ptr, 5, C),
        )  # fmt: skip


@triton.jit
def target_at(n, table_ptr, target, C: tl.constexpr):
    """What image ``n`` is resized to: ``target``, unless there is a table."""
    if table_ptr is None:
        return target
    else:
        row_ptr = table_ptr + n * COLUMNS
        return Target(
            _field(row_ptr, 6, C), _field(row_ptr, 7, C), _field(row_ptr, 8, C), _field(row_ptr, 9, C),
            _field(row_ptr, 10, C), _field(row_ptr, 11, C),
        )  # fmt: skip


@triton.jit
def _field(row_ptr, COLUMN: tl.constexpr, C: tl.constexpr):
    value = tl.load(row_ptr + COLUMN)
    return value if C.INDEX64 else value.to(tl.int32)


class Traits(NamedTuple):
    """What a launch depends on of an image in a list, beside its row of the table."""

    channels: int
    channels_adjacent: bool
    contiguous: bool
    index64: bool
    """Whether its geometry or offsets need 64 bits."""


class Rows(NamedTuple):
    """The table of a list of images, on the host."""

    data: bytearray
    traits: frozenset[Traits]


def read(images: Sequence[Tensor], size: tuple[int, int], letterboxed: bool) -> Rows:
    """The table of ``images`` (C, H, W), each of which is resized to ``size``, or letterboxed within it.

    Raises:
        ValueError: an image of other dimensions, or without pixels.
    """
    data, traits = bytearray(), set()
    for image in images:
        row, its = _row(image.shape, image.stride(), size, letterboxed)
        data += image.data_ptr().to_bytes(8, sys.byteorder)
        data += row
        traits.add(its)
    return Rows(data, frozenset(traits))


def table(rows: Rows, device: torch.device) -> Tensor:
    """``rows`` as a tensor on ``device``."""
    host = torch.frombuffer(rows.data, dtype=torch.int64)
    if device.type != "cuda":
        return host.to(device)
    pinned = torch.empty(host.shape, dtype=torch.int64, device="cpu", pin_memory=True).copy_(host)
    if torch.cuda.is_current_stream_capturing():
        _captured.append(pinned)
    return pinned.to(device, non_blocking=True)


_captured: list[Tensor] = []
"""Tables that a CUDA graph copies again at every replay."""


@functools.lru_cache(maxsize=4096)
def _row(shape: tuple[int, ...], strides: tuple[int, ...], size: tuple[int, int], letterboxed: bool) -> tuple[bytes, Traits]:
    """(A row of the table behind its pointer, what else matters) for an image."""
    channels, height, width = shape
    if 0 in shape:
        raise ValueError("an image without pixels")
    region, corner = geometry.place((height, width), size, letterboxed)
    axes = list(zip((height, width), region, strict=True))
    fields = (*strides, height, width, *region, *corner, *[bin_width(*axis) for axis in axes])
    padding = (0,) * (COLUMNS.value - 1 - len(fields))
    extent = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    index64 = extent > MAX_INT32 or needs_int64([*axes, *zip((height, width), size, strict=True)], [])
    traits = Traits(channels, strides[0] == 1, _is_contiguous(shape, strides), index64)
    return array.array("q", fields + padding).tobytes(), traits


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements lie in the order of their indices, without gaps. The strides of axes of one element are never used."""
    expected = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n > 1 and stride != expected:
            return False
        expected *= n
    return True
