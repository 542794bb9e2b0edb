"""Images of different sizes and strides in one launch: a table with a row for each, and where in the result it goes."""

import array
import functools
from collections.abc import Sequence

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


def table(images: Sequence[Tensor], size: tuple[int, int], letterboxed: bool) -> tuple[Tensor, bool]:
    """(The table of ``images`` (C, H, W), on their device; whether any of them needs 64-bit geometry or offsets).

    Each image is resized to ``size``, or letterboxed within it.
    """
    fields, index64 = array.array("q"), False
    for image in images:
        channels, height, width = image.shape
        stride_c, stride_h, stride_w = strides = image.stride()
        place, large = _place(height, width, size, letterboxed)
        extent = (channels - 1) * stride_c + (height - 1) * stride_h + (width - 1) * stride_w
        index64 = index64 or large or extent > MAX_INT32
        fields.extend((image.data_ptr(), *strides, *place))
    host = torch.frombuffer(fields, dtype=torch.int64).view(len(images), COLUMNS.value)
    device = images[0].device
    if device.type != "cuda":
        return host.to(device), index64
    pinned = torch.empty(host.shape, dtype=torch.int64, device="cpu", pin_memory=True).copy_(host)
    if torch.cuda.is_current_stream_capturing():
        _captured.append(pinned)
    return pinned.to(device, non_blocking=True), index64


_captured: list[Tensor] = []
"""Tables that a CUDA graph copies again at every replay."""


@functools.lru_cache(maxsize=4096)
def _place(height: int, width: int, size: tuple[int, int], letterboxed: bool) -> tuple[tuple[int, ...], bool]:
    """(A row of the table without pointer and strides; whether its geometry needs 64 bits)."""
    image_size = height, width
    region, corner = geometry.place(image_size, size, letterboxed)
    axes = list(zip(image_size, region, strict=True))
    fields = (*image_size, *region, *corner, *[bin_width(*axis) for axis in axes])
    padding = (0,) * (COLUMNS.value - len(fields) - 4)
    return fields + padding, needs_int64([*axes, *zip(image_size, size, strict=True)], [])
