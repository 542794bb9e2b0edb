"""Helpers of all kernels: the pixels of a tile, the taps of a pixel, and the mean over its bin."""

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from tritonds import geometry

from .launch import INTERPRETED


def _device_function(function: Callable[..., Any]) -> Any:
    """The one definition of the geometry, for use in kernels; the interpreter runs it as it stands."""
    return function if INTERPRETED else triton.jit(function)


first_tap = _device_function(geometry.first_tap)
distance_numerator = _device_function(geometry.distance_numerator)
bin_first = _device_function(geometry.bin_first)
windows_starting_by = _device_function(geometry.windows_starting_by)


@triton.jit
def tile_pixels(tile, height, width, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, INDEX64: tl.constexpr):
    """Image, rows, columns and in-bounds mask, each [BLOCK], of a tile of a batch of ``height`` x ``width`` planes.

    Out of bounds, rows and columns repeat the last, whose arithmetic is as safe as any pixel's.
    """
    tiles_w = tl.cdiv(width, BLOCK_W)
    tiles_image = tiles_w * tl.cdiv(height, BLOCK_H)
    n = tile // tiles_image
    tile_in_image = tile - n * tiles_image
    tile_y = tile_in_image // tiles_w
    tile_x = tile_in_image - tile_y * tiles_w
    offs = tl.arange(0, BLOCK_H * BLOCK_W)
    y = tile_y * BLOCK_H + offs // BLOCK_W
    x = tile_x * BLOCK_W + offs % BLOCK_W
    if INDEX64:
        y = y.to(tl.int64)
        x = x.to(tl.int64)
    mask = (y < height) & (x < width)
    return n.to(tl.int64), tl.minimum(y, height - 1), tl.minimum(x, width - 1), mask


@triton.jit
def tap_offsets(y, x, in_h, in_w, out_h, out_w, stride_h, stride_w, TAPS: tl.constexpr, TAPS_PAD: tl.constexpr):
    """Offsets in one image of every tap of the pixels: [BLOCK, TAPS_PAD], edge pixels repeating."""
    k = tl.arange(0, TAPS_PAD)
    row = first_tap(y, in_h, out_h, TAPS)[:, None] + (k // TAPS)[None, :]
    column = first_tap(x, in_w, out_w, TAPS)[:, None] + (k % TAPS)[None, :]
    row = tl.minimum(tl.maximum(row, 0), in_h - 1)
    column = tl.minimum(tl.maximum(column, 0), in_w - 1)
    return row * stride_h + column * stride_w


@triton.jit
def gather(image_ptr, offsets, mask, stride_c, coefficients, output_ptr, output_offsets, output_mask, output_stride_c,
           CHANNELS: tl.constexpr):  # fmt: skip
    """Store the sum of each pixel's taps, weighted by ``coefficients`` [BLOCK, TAPS_PAD], channel by channel."""
    for _ in range(CHANNELS):
        image = tl.load(image_ptr + offsets, mask=mask, other=0.0)
        total = tl.sum(coefficients * image.to(coefficients.dtype), axis=1)
        tl.store(output_ptr + output_offsets, total, mask=output_mask)
        image_ptr += stride_c
        output_ptr += output_stride_c


@triton.jit
def gather_backward(image_ptr, offsets, mask, stride_c, grad_output_ptr, grad_offsets, grad_mask, grad_stride_c,
                    zeros, CHANNELS: tl.constexpr):  # fmt: skip
    """Gradient of :func:`gather` to its coefficients: the sum over channels of gradient times tap, shaped as ``zeros``."""
    grad = zeros
    for _ in range(CHANNELS):
        image = tl.load(image_ptr + offsets, mask=mask, other=0.0).to(zeros.dtype)
        grad_output = tl.load(grad_output_ptr + grad_offsets, mask=grad_mask, other=0.0)
        grad += grad_output.to(zeros.dtype)[:, None] * image
        image_ptr += stride_c
        grad_output_ptr += grad_stride_c
    return grad


@triton.jit
def bin_overlap(i, j, n_in, n_out):
    """Overlap of source pixel ``i`` with bin ``j`` in units of 1 / n_out source pixels; symmetric in the two grids."""
    return tl.minimum((i + 1) * n_out, (j + 1) * n_in) - tl.maximum(i * n_out, j * n_in)


@triton.jit
def bin_sum(
    source_ptr,  # of one image
    source_stride_c,
    source_stride_h,  # in units of ALIGN
    source_stride_w,  # in units of ALIGN
    channel,  # [CHANNELS_PAD]
    channel_mask,
    y,  # [BLOCK]
    x,
    pixel_mask,
    source_h,
    source_w,
    out_h,
    out_w,
    bin_h,
    bin_w,
    norm_h,
    norm_w,
    ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS_PAD: tl.constexpr,
):
    """Sum over each pixel's bin, weighted by overlap over ``norm_h * norm_w``: [BLOCK, CHANNELS_PAD].

    The tile lies with the axis that is contiguous in memory last, so that neighbouring threads read neighbouring bytes.
    """
    first_row = bin_first(y, source_h, out_h)
    first_column = bin_first(x, source_w, out_w)
    if CHANNELS_LAST:
        total = tl.zeros([BLOCK, CHANNELS_PAD], ACC)
    else:
        total = tl.zeros([CHANNELS_PAD, BLOCK], ACC)
    # Summed in source pixels, then divided: sums of counts of 1 / (out_h * out_w) pixels would leave float32's range early.
    unit = 1.0 / out_h.to(ACC) * (1.0 / out_w.to(ACC))
    bins_per_norm = out_h.to(ACC) / norm_h.to(ACC) * (out_w.to(ACC) / norm_w.to(ACC))
    for row in range(bin_h):
        i_y = first_row + row
        overlap_y = tl.where(pixel_mask, bin_overlap(i_y, y, source_h, out_h), 0)
        weight_y = unit * overlap_y.to(ACC)
        for column in range(bin_w):
            i_x = first_column + column
            overlap_x = bin_overlap(i_x, x, source_w, out_w)
            mask = (overlap_y > 0) & (overlap_x > 0)
            weight = weight_y * overlap_x.to(ACC)
            pixel = (i_y * source_stride_h + i_x * source_stride_w) * ALIGN
            if CHANNELS_LAST:
                value = tl.load(
                    source_ptr + pixel[:, None] + channel[None, :], mask=mask[:, None] & channel_mask[None, :], other=0.0
                )
                total += weight[:, None] * value.to(ACC)
            else:
                offsets = channel[:, None] * source_stride_c + pixel[None, :]
                value = tl.load(source_ptr + offsets, mask=mask[None, :] & channel_mask[:, None], other=0.0)
                total += weight[None, :] * value.to(ACC)
    if not CHANNELS_LAST:
        total = tl.trans(total)
    return total * bins_per_norm
