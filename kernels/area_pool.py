"""Area pooling with fractional bins, and its gradient, in one kernel.

out[j] = sum_i overlap(i, j) / n_in * x[i] along each axis. The overlap of a source pixel with a target bin is the overlap of
that bin with the pixel, so the gradient is the same sum with the two grids exchanged, still divided by the source's size.

Per output pixel and channel: reads the scale's product of elements (each from memory once, edges again from cache), writes 1.
"""

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import geometry
from .bins import bin_sum
from .constants import AreaPool, Pooling
from .groups import Batch, Target
from .launch import (
    Layout,
    Plan,
    accumulator,
    aligned_strides,
    cdiv,
    launch,
    layout_of,
    needs_int64,
    next_power_of_2,
    plan_of,
    stride_arguments,
    tile_columns,
    tile_shape,
)
from .tile import plane_at, tile_column, tile_pixels


@triton.jit(do_not_specialize=[
    "source_stride_n", "source_stride_c", "source_stride_h", "source_stride_w",
    "output_stride_n", "output_stride_c", "output_stride_h", "output_stride_w",
    "source_h", "source_w", "out_h", "out_w", "bin_h", "bin_w", "norm_h", "norm_w", "chunks", "rows",
])  # fmt: skip
def area_pool_kernel(
    source_ptr, source_stride_n, source_stride_c, source_stride_h, source_stride_w,  # n, h and w in units of SOURCE.ALIGN
    output_ptr, output_stride_n, output_stride_c, output_stride_h, output_stride_w,  # and of OUTPUT_ALIGN
    source_h, source_w, out_h, out_w, bin_h, bin_w, norm_h, norm_w, chunks, rows, C: tl.constexpr,
):  # fmt: skip
    """One program pools a chunk of CHANNELS_PAD channels at ``rows`` tiles of output pixels, one below the other."""
    sources = Batch(source_ptr, source_stride_n, source_stride_c, source_stride_h, source_stride_w, source_h, source_w)
    outputs = Batch(output_ptr, output_stride_n, output_stride_c, output_stride_h, output_stride_w, out_h, out_w)
    target = Target(out_h, out_w, 0, 0, bin_h, bin_w)
    pid = tl.program_id(0)
    column_index = pid // chunks
    channel = (pid - column_index * chunks) * C.SOURCE.CHANNELS_PAD + tl.arange(0, C.SOURCE.CHANNELS_PAD)
    channel_mask = channel < C.SOURCE.CHANNELS
    if C.INDEX64:
        channel = channel.to(tl.int64)
    n, tile_y, tile_x = tile_column(column_index, out_h, out_w, rows, C)
    source = plane_at(n, sources, C.SOURCE.ALIGN)
    output = plane_at(n, outputs, C.OUTPUT_ALIGN)
    for step in range(rows):
        pixels = tile_pixels(tile_y + step, tile_x, out_h, out_w, C)
        total = bin_sum(source, channel, pixels.y, pixels.x, target, norm_h, norm_w, C.SOURCE)
        offsets = (pixels.y * output.stride_h + pixels.x * output.stride_w) * C.OUTPUT_ALIGN
        # As in bin_sum, the axis that is contiguous in memory lies last.
        if C.OUTPUT_CHANNELS_LAST:
            pointers = output.ptr + (offsets[:, None] + channel[None, :])
            tl.store(pointers, total, mask=pixels.mask[:, None] & channel_mask[None, :])
        else:
            pointers = output.ptr + (offsets[None, :] + channel[:, None] * output.stride_c)
            tl.store(pointers, tl.trans(total), mask=pixels.mask[None, :] & channel_mask[:, None])


def area_pool2d(x: Tensor, output: Tensor) -> None:
    """Pool ``x`` (N, C, H, W) into ``output`` (N, C, h, w)."""
    _launch(x, output, norm=(x.shape[2], x.shape[3]))


def area_pool2d_backward(grad_output: Tensor, grad_x: Tensor) -> None:
    """Write the gradient to the input of :func:`area_pool2d` into ``grad_x`` (N, C, H, W)."""
    _launch(grad_output, grad_x, norm=(grad_x.shape[2], grad_x.shape[3]))


def _launch(source: Tensor, output: Tensor, norm: tuple[int, int]) -> None:
    """Sum ``source`` over the bins of ``output``'s pixels and divide by ``norm``."""
    pool = area_pool_plan(layout_of(source), layout_of(output), norm, source.dtype)
    launch(area_pool_kernel, pool, output.device, {"source_ptr": source, "output_ptr": output})


@functools.lru_cache(maxsize=1024)
def area_pool_plan(source: Layout, output: Layout, norm: tuple[int, int], dtype: torch.dtype) -> Plan:
    batch, channels, out_h, out_w = output.shape
    source_h, source_w = source.shape[2:]
    channels_pad = min(64, next_power_of_2(channels))
    chunks = cdiv(channels, channels_pad)
    bin_h, bin_w, static, whole, _ = bins((source_h, source_w), (out_h, out_w))
    tile = tile_shape(32)
    columns, rows = tile_columns(batch, out_h, out_w, tile)
    source_strides = aligned_strides(source)
    output_strides = aligned_strides(output)
    source_constants = Pooling(
        CHANNELS=channels,
        CHANNELS_PAD=channels_pad,
        CHANNELS_LAST=source_strides.channels_last,
        ALIGN=source_strides.align,
        DENSE=source_strides.dense,
        BIN_H=static,
        BIN_W=static,
        BINS_WHOLE=whole,
        ACC=accumulator(dtype),
    )
    constants = AreaPool(
        BLOCK_H=tile[0],
        BLOCK_W=tile[1],
        INDEX64=needs_int64([(source_h, out_h), (source_w, out_w)], [source, output]),
        ACC=accumulator(dtype),
        SOURCE=source_constants,
        OUTPUT_CHANNELS_LAST=output_strides.channels_last,
        OUTPUT_ALIGN=output_strides.align,
    )
    return plan_of(
        columns * chunks,
        **stride_arguments("source", source_strides[:4]),
        **stride_arguments("output", output_strides[:4]),
        source_h=source_h,
        source_w=source_w,
        out_h=out_h,
        out_w=out_w,
        bin_h=bin_h,
        bin_w=bin_w,
        norm_h=norm[0],
        norm_w=norm[1],
        chunks=chunks,
        rows=rows,
        C=constants,
        num_warps=1,
    )


def bins(n_in: tuple[int, int], n_out: tuple[int, int]) -> tuple[int, int, int, bool, bool]:
    """(bin_h, bin_w, BIN_H and BIN_W, BINS_WHOLE) as :func:`bin_sum` takes them, and whether bins overlap at most 3 columns.

    Each combination is one more kernel to compile, so there are few. Bins of exactly 2 x 2 or 1 x 1 pixels are written out
    without weights. Bins that overlap at most 2 x 2 pixels are written out with weights. All others are loops.
    """
    bin_h, bin_w = (bin_width(*axis) for axis in zip(n_in, n_out, strict=True))
    class_h, class_w = (size_class(*axis) for axis in zip(n_in, n_out, strict=True))
    both = class_h & class_w
    whole = bool(both & (DOUBLE | DIVISOR))
    static = 1 if both & DIVISOR else 2 if both & UP_TO_2 else 0
    return bin_h, bin_w, static, whole, bool(class_w & UP_TO_3)


def in_whole_bins(n_in: tuple[int, int], n_out: tuple[int, int]) -> bool:
    """Whether every source pixel lies in one bin, of several pixels along both axes."""
    class_h, class_w = (size_class(*axis) for axis in zip(n_in, n_out, strict=True))
    return bool(class_h & class_w & MULTIPLE)


def size_decisions(n_in: tuple[int, int], n_out: tuple[int, int]) -> tuple[Any, ...]:
    """All that launchers decide by the ratio of two sizes. Where it is the same, sizes run the same kernels.

    Two decisions are not in it: 64-bit integers, which large sizes need, and axes of one pixel, which have no stride.
    """
    return *bins(n_in, n_out)[2:], *bins(n_out, n_in)[2:], in_whole_bins(n_in, n_out)


def size_class(n_in, n_out):
    """The class of an axis, as bits: what decides which kernel is compiled. Elementwise, if given torch tensors.

    DOUBLE: every bin is 2 whole pixels. MULTIPLE: every bin is a whole number of pixels above 1. DIVISOR: every pixel is
    several whole bins. UP_TO_2 and UP_TO_3: bins overlap at most so many pixels, though not all such ratios are found.
    """
    double = n_in == 2 * n_out
    multiple = (n_in % n_out == 0) & (n_in > n_out)
    divisor = (n_out % n_in == 0) & (n_out > n_in)
    up_to_2 = (n_in <= n_out + 1) | double
    up_to_3 = (n_in <= 2 * n_out + 1) | (n_in == 3 * n_out)
    return double * DOUBLE + multiple * MULTIPLE + divisor * DIVISOR + up_to_2 * UP_TO_2 + up_to_3 * UP_TO_3


DOUBLE, MULTIPLE, DIVISOR, UP_TO_2, UP_TO_3 = 1, 2, 4, 8, 16


def bin_width(n_in: int, n_out: int) -> int:
    """Source pixels that the widest bin overlaps."""
    common = math.gcd(n_in, n_out)
    return geometry.bin_width(n_in // common, n_out // common)
