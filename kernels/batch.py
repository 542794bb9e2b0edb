"""Images of different sizes and strides in one launch: a table with a row for each, and where in the result it goes."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import geometry
from .area_pool import bin_width
from .launch import Layout, needs_int64

COLUMNS = tl.constexpr(16)
"""Of the table, which kernels read by position: a pointer and :class:`Picture`'s fields in order, then padding."""


@triton.jit
def picture(
    n, table_ptr, image_ptr, stride_n, stride_c, stride_h, stride_w, image_h, image_w, out_h, out_w, bin_h, bin_w,
    INDEX64: tl.constexpr,
):  # fmt: skip
    """Pointer, strides and size of image ``n``; size, top and left of its place in the result; rows and columns of its bins.

    From the table if there is one. Else all images are alike, one behind the other, and each fills its result.
    """
    if table_ptr is None:
        source_ptr = n  # no pointer, but None cannot be returned, and without an image nobody reads it
        if image_ptr is not None:
            source_ptr = image_ptr + n * stride_n
        return source_ptr, stride_c, stride_h, stride_w, image_h, image_w, out_h, out_w, 0, 0, bin_h, bin_w
    else:
        table_ptr += n * COLUMNS
        image_ptr = tl.load(table_ptr).to(image_ptr.dtype)
        return (
            image_ptr, _field(table_ptr, 1, INDEX64), _field(table_ptr, 2, INDEX64), _field(table_ptr, 3, INDEX64),
            _field(table_ptr, 4, INDEX64), _field(table_ptr, 5, INDEX64), _field(table_ptr, 6, INDEX64),
            _field(table_ptr, 7, INDEX64), _field(table_ptr, 8, INDEX64), _field(table_ptr, 9, INDEX64),
            _field(table_ptr, 10, INDEX64), _field(table_ptr, 11, INDEX64),
        )  # fmt: skip


@triton.jit
def _field(row_ptr, COLUMN: tl.constexpr, INDEX64: tl.constexpr):
    value = tl.load(row_ptr + COLUMN)
    return value if INDEX64 else value.to(tl.int32)


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
