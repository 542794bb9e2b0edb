"""Helpers of all kernels: the pixels of a tile, the taps of a pixel, and the mean over its bin."""

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from .. import geometry
from .launch import INTERPRETED


def _device_function(function: Callable[..., Any]) -> Any:
    """The one definition of the geometry, for use in kernels; the interpreter runs it as it stands."""
    return function if INTERPRETED else triton.jit(function)


_first_tap = _device_function(geometry.first_tap)
_bin_first = _device_function(geometry.bin_first)
_bin_last = _device_function(geometry.bin_last)
distance_numerator = _device_function(geometry.distance_numerator)
windows_starting_by = _device_function(geometry.windows_starting_by)


@triton.jit
def unsigned(x):
    return x.to(tl.uint64) if x.dtype == tl.int64 else x.to(tl.uint32)


@triton.jit
def _signed(x):
    return x.to(tl.int64) if x.dtype == tl.uint64 else x.to(tl.int32)


@triton.jit
def first_tap(j, n_in, n_out, TAPS: tl.constexpr):
    """First source pixel that target pixel ``j`` reads. Its dividend is not negative, and unsigned division is cheaper."""
    return _signed(_first_tap(unsigned(j), unsigned(n_in), unsigned(n_out), TAPS))


@triton.jit
def bin_first(j, n_in, n_out):
    """First source pixel that overlaps bin ``j``."""
    return _signed(_bin_first(unsigned(j), unsigned(n_in), unsigned(n_out)))


@triton.jit
def bin_last(j, n_in, n_out):
    """Last source pixel that overlaps bin ``j``."""
    return _signed(_bin_last(unsigned(j), unsigned(n_in), unsigned(n_out)))


@triton.jit
def strip(pid, height, width, rows, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """Image, first row of tiles and column of tiles of a program that takes ``rows`` tiles, one below the other."""
    tiles_w = tl.cdiv(width, BLOCK_W)
    strips = tl.cdiv(tl.cdiv(height, BLOCK_H), rows)
    tile_x = pid % tiles_w
    strip_y = pid // tiles_w
    n = strip_y // strips
    return n.to(tl.int64), (strip_y - n * strips) * rows, tile_x


@triton.jit
def tile_pixels(tile_y, tile_x, height, width, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, INDEX64: tl.constexpr):
    """Rows, columns and in-bounds mask, each [BLOCK], of a tile of a plane of ``height`` x ``width`` pixels.

    Out of bounds, rows and columns repeat the last, whose arithmetic is as safe as any pixel's.
    """
    offs = tl.arange(0, BLOCK_H * BLOCK_W)
    y = tile_y * BLOCK_H + offs // BLOCK_W
    x = tile_x * BLOCK_W + offs % BLOCK_W
    if INDEX64:
        y = y.to(tl.int64)
        x = x.to(tl.int64)
    mask = (y < height) & (x < width)
    return tl.minimum(y, height - 1), tl.minimum(x, width - 1), mask


@triton.jit
def region_pixels(y, x, top, left, height, width):
    """Where the pixels lie in a part of the plane, ``height`` x ``width`` from ``top`` and ``left``, and which lie inside.

    Those outside take the nearest one's row and column.
    """
    inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    return tl.minimum(tl.maximum(y - top, 0), height - 1), tl.minimum(tl.maximum(x - left, 0), width - 1), inside


@triton.jit
def tap_offsets(y, x, in_h, in_w, out_h, out_w, stride_h, stride_w, TAPS: tl.constexpr, TAPS_PAD: tl.constexpr):
    """Offsets in one image of every tap of the pixels: [TAPS_PAD, BLOCK], edge pixels repeating."""
    k = tl.arange(0, TAPS_PAD)
    row = first_tap(y, in_h, out_h, TAPS)[None, :] + (k // TAPS)[:, None]
    column = first_tap(x, in_w, out_w, TAPS)[None, :] + (k % TAPS)[:, None]
    row = tl.minimum(tl.maximum(row, 0), in_h - 1)
    column = tl.minimum(tl.maximum(column, 0), in_w - 1)
    return row * stride_h + column * stride_w


PIXELS_FIRST = tl.constexpr(tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 7))
"""Whether Triton puts the first axis of a load along threads where both are alike to it, instead of the last."""


@triton.jit
def load_along_pixels(pointers, mask):
    """Load a tile [n, BLOCK], or zeros where not ``mask`` if there is one, neighbouring pixels in neighbouring threads."""
    if mask is None:
        return tl.trans(tl.load(tl.trans(pointers))) if PIXELS_FIRST else tl.load(pointers)
    elif PIXELS_FIRST:
        return tl.trans(tl.load(tl.trans(pointers), mask=tl.trans(mask), other=0))
    else:
        return tl.load(pointers, mask=mask, other=0)


@triton.jit
def is_narrower(pointer, OPERAND: tl.constexpr):
    """Whether what ``pointer`` points to has fewer bits than operands of matrix products."""
    return pointer.dtype.element_ty.primitive_bitwidth < OPERAND.primitive_bitwidth


@triton.jit
def forget_loads(x):
    """``x`` [m, n] itself, for operands of matrix products that derive from narrower loads or, in half precision, from a join.

    Triton lays out operands for the fewest bits that anything they derive from was loaded in, however far back, and for half of
    those behind a join. That may be for more of the inner dimension than our 16: half-precision products then count some
    elements several times and others never, and float64 products do not compile. A sum over one element is where the search
    ends, and no instruction by itself; but Triton may move tiles to other layouts around it, so it stands only where needed.
    """
    return tl.sum(x[:, :, None], axis=2).to(x.dtype)


@triton.jit
def per_channel(values: tl.constexpr, channel, ACC: tl.constexpr):
    """``values`` of the image's channels, at ``channel``; a value for each that is known when compiling costs nothing."""
    result = tl.full(channel.shape, values[0], ACC)
    for c in tl.static_range(1, len(values)):
        result = tl.where(channel == c, tl.full(channel.shape, values[c], ACC), result)
    return result


@triton.jit
def gather(image_ptr, offsets, mask, stride_c, coefficients, output_ptr, output_offsets, output_mask, output_stride_c,
           CHANNELS: tl.constexpr, SCALE: tl.constexpr, OFFSET: tl.constexpr, inside=None,
           FILL: tl.constexpr = 0.0):  # fmt: skip
    """Store the sum of each pixel's taps, weighted by ``coefficients`` [TAPS_PAD, BLOCK], channel by channel.

    Normalised by SCALE and OFFSET, one a channel, if there are any. Pixels not ``inside``, if that is given, become FILL.
    """
    # Without a loop, all channels' loads are in flight together.
    if CHANNELS <= 4 or len(SCALE) > 0:
        for c in tl.static_range(CHANNELS):
            image = load_along_pixels(image_ptr + offsets, mask)
            total = tl.sum(coefficients * image.to(coefficients.dtype), axis=0)
            if len(SCALE) > 0:
                total = total * tl.full([1], SCALE[c], total.dtype) + tl.full([1], OFFSET[c], total.dtype)
            if inside is not None:
                total = tl.where(inside, total, tl.full([1], FILL, total.dtype))
            tl.store(output_ptr + output_offsets, total, mask=output_mask)
            image_ptr += stride_c
            output_ptr += output_stride_c
    else:
        for _ in range(CHANNELS):
            image = load_along_pixels(image_ptr + offsets, mask)
            total = tl.sum(coefficients * image.to(coefficients.dtype), axis=0)
            if inside is not None:
                total = tl.where(inside, total, tl.full([1], FILL, total.dtype))
            tl.store(output_ptr + output_offsets, total, mask=output_mask)
            image_ptr += stride_c
            output_ptr += output_stride_c


@triton.jit
def gather_backward(image_ptr, offsets, mask, stride_c, grad_output_ptr, grad_offsets, grad_mask, grad_stride_c,
                    zeros, CHANNELS: tl.constexpr, SCALE: tl.constexpr):  # fmt: skip
    """Gradient of :func:`gather` to its coefficients: the sum over channels of gradient times tap, shaped as ``zeros``.

    But for the channels' offsets, which add the same to all taps: a softmax's gradient does not depend on that.
    """
    grad = zeros
    if len(SCALE) > 0:
        for c in tl.static_range(CHANNELS):
            image = load_along_pixels(image_ptr + offsets, mask).to(zeros.dtype)
            grad_output = tl.load(grad_output_ptr + grad_offsets, mask=grad_mask, other=0.0).to(zeros.dtype)
            grad += (grad_output * tl.full([1], SCALE[c], zeros.dtype))[None, :] * image
            image_ptr += stride_c
            grad_output_ptr += grad_stride_c
    else:
        for _ in range(CHANNELS):
            image = load_along_pixels(image_ptr + offsets, mask).to(zeros.dtype)
            grad_output = tl.load(grad_output_ptr + grad_offsets, mask=grad_mask, other=0.0)
            grad += grad_output.to(zeros.dtype)[None, :] * image
            image_ptr += stride_c
            grad_output_ptr += grad_stride_c
    return grad


@triton.jit
def bin_overlap(i, j, n_in, n_out):
    """Overlap of source pixel ``i`` with bin ``j`` in units of 1 / n_out source pixels; symmetric in the two grids."""
    return tl.minimum((i + 1) * n_out, (j + 1) * n_in) - tl.maximum(i * n_out, j * n_in)


@triton.jit
def bin_pixel(
    source_ptr, stride_c, stride_h, stride_w, channel, i_y, i_x, y, x, source_h, source_w, out_h, out_w,
    ACC: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr,
    CHANNELS_PAD: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """One source pixel of every bin, times its overlap in source pixels unless all are WHOLE: a tile as ``bin_sum``'s."""
    offsets = (i_y * stride_h + i_x * stride_w) * ALIGN
    channel_mask = channel < CHANNELS
    if CHANNELS_LAST:
        pointers = source_ptr + (offsets[:, None] + channel[None, :])
    else:
        pointers = source_ptr + (offsets[None, :] + channel[:, None] * stride_c)
    if WHOLE and CHANNELS_LAST and CHANNELS == CHANNELS_PAD:
        return tl.load(pointers).to(ACC)
    elif WHOLE and CHANNELS_LAST:
        return tl.load(pointers, mask=channel_mask[None, :], other=0.0).to(ACC)
    elif WHOLE and CHANNELS == CHANNELS_PAD:
        return load_along_pixels(pointers, None).to(ACC)
    elif WHOLE:
        return load_along_pixels(pointers, tl.broadcast_to(channel_mask[:, None], pointers.shape)).to(ACC)
    else:
        overlap_y = bin_overlap(i_y, y, source_h, out_h)
        overlap_x = bin_overlap(i_x, x, source_w, out_w)
        inside = (overlap_y > 0) & (overlap_x > 0)
        # In source pixels, not in counts of 1 / (out_h * out_w) pixels, whose sums would leave float32's range early.
        weight = overlap_y.to(ACC) * (1.0 / out_h.to(ACC)) * (overlap_x.to(ACC) * (1.0 / out_w.to(ACC)))
        if CHANNELS_LAST:
            mask = inside[:, None] & channel_mask[None, :]
            return weight[:, None] * tl.load(pointers, mask=mask, other=0.0).to(ACC)
        else:
            mask = inside[None, :] & channel_mask[:, None]
            return weight[None, :] * load_along_pixels(pointers, mask).to(ACC)


@triton.jit
def bin_sum(
    source_ptr,  # of one image
    source_stride_c,
    source_stride_h,  # in units of ALIGN
    source_stride_w,  # in units of ALIGN
    channel,  # [CHANNELS_PAD]
    y,  # [BLOCK]
    x,
    source_h,
    source_w,
    out_h,
    out_w,
    bin_h,
    bin_w,
    norm_h,
    norm_w,
    ACC: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGN: tl.constexpr,
    DENSE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS_PAD: tl.constexpr,
    BIN_H: tl.constexpr,
    BIN_W: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Sum over each pixel's bin, weighted by overlap over ``norm_h * norm_w``: [BLOCK, CHANNELS_PAD].

    The tile lies with the axis that is contiguous in memory last, so that neighbouring threads read neighbouring bytes.
    BIN_H and BIN_W, where not 0, are at least ``bin_h`` and ``bin_w``: no loops then, and all loads in flight. WHOLE says that
    they are these, and that no bin's edge cuts a source pixel.
    """
    stride_w = source_stride_w
    if DENSE:
        stride_w = CHANNELS // ALIGN if CHANNELS_LAST else 1
    first_row = bin_first(y, source_h, out_h)
    first_column = bin_first(x, source_w, out_w)
    if CHANNELS_LAST:
        total = tl.zeros([BLOCK, CHANNELS_PAD], ACC)
    else:
        total = tl.zeros([CHANNELS_PAD, BLOCK], ACC)
    if BIN_H > 0:
        for row in tl.static_range(BIN_H):
            for column in tl.static_range(BIN_W):
                total += bin_pixel(
                    source_ptr, source_stride_c, source_stride_h, stride_w, channel, first_row + row, first_column + column,
                    y, x, source_h, source_w, out_h, out_w, ACC, CHANNELS, CHANNELS_LAST, ALIGN, CHANNELS_PAD, WHOLE,
                )  # fmt: skip
    else:
        for row in range(bin_h):
            if BIN_W > 0:
                for column in tl.static_range(BIN_W):
                    total += bin_pixel(
                        source_ptr, source_stride_c, source_stride_h, stride_w, channel, first_row + row,
                        first_column + column, y, x, source_h, source_w, out_h, out_w,
                        ACC, CHANNELS, CHANNELS_LAST, ALIGN, CHANNELS_PAD, WHOLE,
                    )  # fmt: skip
            else:
                # Of the first columns, the overlaps are computed once for all rows.
                for column in tl.static_range(3):
                    total += bin_pixel(
                        source_ptr, source_stride_c, source_stride_h, stride_w, channel, first_row + row,
                        first_column + column, y, x, source_h, source_w, out_h, out_w,
                        ACC, CHANNELS, CHANNELS_LAST, ALIGN, CHANNELS_PAD, WHOLE,
                    )  # fmt: skip
                for start in range(3, bin_w, 2):
                    for column in tl.static_range(2):
                        total += bin_pixel(
                            source_ptr, source_stride_c, source_stride_h, stride_w, channel, first_row + row,
                            first_column + (start + column), y, x, source_h, source_w, out_h, out_w,
                            ACC, CHANNELS, CHANNELS_LAST, ALIGN, CHANNELS_PAD, WHOLE,
                        )  # fmt: skip
    if not CHANNELS_LAST:
        total = tl.trans(total)
    scale_h = out_h
    scale_w = out_w
    if WHOLE:
        scale_h = tl.minimum(source_h, out_h)
        scale_w = tl.minimum(source_w, out_w)
    return total * (scale_h.to(ACC) / norm_h.to(ACC) * (scale_w.to(ACC) / norm_w.to(ACC)))


@triton.jit
def store_bins(
    pointer, stride_h, stride_w, channel, y, x, bin_h, bin_w, total, mask, ALIGN: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """Spread ``total`` [BLOCK, CHANNELS_PAD] evenly over each pixel's bin, where all bins are of ``bin_h`` x ``bin_w`` pixels.

    The channels lie last in memory; ``stride_h`` and ``stride_w`` are in units of ALIGN.
    """
    share = total * (1.0 / (bin_h * bin_w).to(ACC))
    for index in range(bin_h * bin_w):
        row = index // bin_w
        column = index - row * bin_w
        pixel = ((y * bin_h + row) * stride_h + (x * bin_w + column) * stride_w) * ALIGN
        tl.store(pointer + (pixel[:, None] + channel[None, :]), share, mask=mask)
