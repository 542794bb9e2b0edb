"""Images of different sizes and strides in one launch: a table with a row for each, and where in the result it goes."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import geometry
from .area_pool import bin_width
from .groups import Plane, Target
from .launch import Layout, needs_int64

COLUMNS = tl.constexpr(16)
"""Of the table, which kernels read by position: a :class:`Plane`'s fields, a :class:`Target`'s, and padding."""


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


def table(images: Sequence[Tensor], size: tuple[int, int], letterboxed: bool) -> Tensor:
    """The table of ``images`` (C, H, W), resized to ``size`` or to where they lie in it, on their device."""
    rows = [_row(image, size, letterboxed) for image in images]
    device = images[0].device
    if device.type != "cuda":
        return torch.tensor(rows, dtype=torch.int64, device=device)
    host = torch.tensor(rows, dtype=torch.int64, device="cpu", pin_memory=True)
    if torch.cuda.is_current_stream_capturing():
        _captured.append(host)
    return host.to(device, non_blocking=True)


_captured: list[Tensor] = []
"""Tables that a CUDA graph copies again at every replay."""


def _row(image: Tensor, size: tuple[int, int], letterboxed: bool) -> list[int]:
    """A row of the table, padded to its columns."""
    image_size = (image.shape[1], image.shape[2])
    region, offset = geometry.letterbox(image_size, size) if letterboxed else (size, (0, 0))
    bins = [bin_width(*axis) for axis in zip(image_size, region, strict=True)]
    row = [image.data_ptr(), *image.stride(), *image_size, *region, *offset, *bins]
    return row + [0] * (COLUMNS.value - len(row))


def tables_need_int64(images: Sequence[Tensor], size: tuple[int, int]) -> bool:
    """Whether any of ``images`` (C, H, W) needs 64-bit geometry or offsets."""
    for image in images:
        channels, height, width = image.shape
        if needs_int64([(height, size[0]), (width, size[1])], [Layout((1, channels, height, width), (0, *image.stride()))]):
            return True
    return False
