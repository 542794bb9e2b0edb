"""Area pooling with fractional bins, and its gradient, in one kernel.

out[j] = sum_i overlap(i, j) / n_in * x[i] along each axis. The overlap of a source pixel with a target bin is the overlap of
that bin with the pixel, so the gradient is the same sum with the two grids exchanged, still divided by the source's size.

Per output pixel and channel: reads the scale's product of elements (each from memory once, edges again from cache), writes 1.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from tritonds import geometry

from .launch import accumulator, aligned_strides, cdiv, launch, needs_int64, next_power_of_2, tile_shape, tiles
from .tile import bin_sum, tile_pixels


@triton.jit(do_not_specialize=[
    "source_stride_n", "source_stride_c", "source_stride_h", "source_stride_w",
    "output_stride_n", "output_stride_c", "output_stride_h", "output_stride_w",
    "source_h", "source_w", "out_h", "out_w", "bin_h", "bin_w", "norm_h", "norm_w", "chunks",
])  # fmt: skip
def area_pool_kernel(
    source_ptr,
    source_stride_n,
    source_stride_c,
    source_stride_h,
    source_stride_w,
    output_ptr,
    output_stride_n,
    output_stride_c,
    output_stride_h,
    output_stride_w,
    source_h,
    source_w,
    out_h,
    out_w,
    bin_h,
    bin_w,
    norm_h,
    norm_w,
    chunks,
    CHANNELS: tl.constexpr,
    CHANNELS_PAD: tl.constexpr,
    SOURCE_CHANNELS_LAST: tl.constexpr,
    SOURCE_ALIGN: tl.constexpr,
    ACC: tl.constexpr,
    INDEX64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One program pools a chunk of CHANNELS_PAD channels at a tile of output pixels."""
    pid = tl.program_id(0)
    tile = pid // chunks
    channel = (pid - tile * chunks) * CHANNELS_PAD + tl.arange(0, CHANNELS_PAD)
    channel_mask = channel < CHANNELS
    if INDEX64:
        channel = channel.to(tl.int64)
    n, y, x, pixel_mask = tile_pixels(tile, out_h, out_w, BLOCK_H, BLOCK_W, INDEX64)
    total = bin_sum(
        source_ptr + n * source_stride_n * SOURCE_ALIGN, source_stride_c, source_stride_h, source_stride_w,
        channel, channel_mask, y, x, pixel_mask, source_h, source_w, out_h, out_w, bin_h, bin_w, norm_h, norm_w,
        ACC, SOURCE_CHANNELS_LAST, SOURCE_ALIGN, BLOCK_H * BLOCK_W, CHANNELS_PAD,
    )  # fmt: skip
    pixel = output_ptr + n * output_stride_n + y * output_stride_h + x * output_stride_w
    tl.store(pixel[:, None] + channel[None, :] * output_stride_c, total, mask=pixel_mask[:, None] & channel_mask[None, :])


def area_pool2d(x: Tensor, output: Tensor) -> None:
    """Pool ``x`` (N, C, H, W) into ``output`` (N, C, h, w)."""
    _launch(x, output, norm=(x.shape[2], x.shape[3]))


def area_pool2d_backward(grad_output: Tensor, grad_x: Tensor) -> None:
    """Write the gradient to the input of :func:`area_pool2d` into ``grad_x`` (N, C, H, W)."""
    _launch(grad_output, grad_x, norm=(grad_x.shape[2], grad_x.shape[3]))


def _launch(source: Tensor, output: Tensor, norm: tuple[int, int]) -> None:
    """Sum ``source`` over the bins of ``output``'s pixels and divide by ``norm``."""
    batch, channels, out_h, out_w = output.shape
    source_h, source_w = source.shape[2:]
    channels_pad = min(64, next_power_of_2(channels))
    tile = tile_shape(min(128, 2048 // channels_pad))
    chunks = cdiv(channels, channels_pad)
    stride_n, stride_c, stride_h, stride_w, channels_last, align = aligned_strides(source)
    launch(
        area_pool_kernel,
        tiles(batch, out_h, out_w, tile) * chunks,
        output.device,
        source_ptr=source,
        source_stride_n=stride_n,
        source_stride_c=stride_c,
        source_stride_h=stride_h,
        source_stride_w=stride_w,
        output_ptr=output,
        output_stride_n=output.stride(0),
        output_stride_c=output.stride(1),
        output_stride_h=output.stride(2),
        output_stride_w=output.stride(3),
        source_h=source_h,
        source_w=source_w,
        out_h=out_h,
        out_w=out_w,
        bin_h=bin_width(source_h, out_h),
        bin_w=bin_width(source_w, out_w),
        norm_h=norm[0],
        norm_w=norm[1],
        chunks=chunks,
        CHANNELS=channels,
        CHANNELS_PAD=channels_pad,
        SOURCE_CHANNELS_LAST=channels_last,
        SOURCE_ALIGN=align,
        ACC=accumulator(source.dtype),
        INDEX64=needs_int64([(source_h, out_h), (source_w, out_w)], [source, output]),
        BLOCK_H=tile[0],
        BLOCK_W=tile[1],
        num_warps=4,
    )


def bin_width(n_in: int, n_out: int) -> int:
    """Source pixels that the widest bin overlaps."""
    common = math.gcd(n_in, n_out)
    return geometry.bin_width(n_in // common, n_out // common)
