"""Texture made where it is used: a 3x3 convolution (zero padding) and ReLU of the image, pooled over each bin.

No texture goes through memory. Under its bin, the patches of an output pixel are read as columns: a tile [BLOCK, ROWS * SLOTS]
holds ROWS image rows below one another at one column of every pixel's bin. Three neighbouring columns, times a tile of weights
each, sum to the texture at the middle one; the next position to the right needs one more column. The same columns, times other
tiles, give the texture one row below as well: BAND rows at once.

In each of a column's rows stand the image's channels, then a 1 if the pixel lies inside, then padding: SLOTS in all. A tile of
weights [ROWS * SLOTS, texture channels] has the weights in the same order; with those of the middle pixel stands the bias.
"""

import triton
import triton.language as tl

from .groups import BinColumns, BinSpan, Walk
from .launch import next_power_of_2
from .network import relu
from .tile import (
    bin_first,
    bin_last,
    is_finite,
    load_along_last,
    packed,
    per_channel,
    target_pixels,
    unpacked,
    unsigned,
    walked_pixels,
)

BAND = tl.constexpr(2)
"""Rows of texture that are made at once."""
ROWS = tl.constexpr(4)
"""Rows of the image that these are made of."""


def patch_slots(channels: int) -> int:
    """SLOTS for images of ``channels``: ROWS times as many are what a matrix product takes as its inner dimension."""
    return max(4, next_power_of_2(channels + 1))


@triton.jit
def place_in_patch(k):
    """(Row, slot) of element ``k`` of an operand: pairs of slots, then rows, then other pairs."""
    return k // 2 % ROWS, k // (2 * ROWS) * 2 + k % 2


@triton.jit
def _load_weight_tile(texture_weights, SHIFT: tl.constexpr, COLUMN: tl.constexpr, C: tl.constexpr):
    """Weights (F, C, 3, 3) of the convolution at column COLUMN of patches that start SHIFT rows down, as a tile."""
    k = tl.arange(0, ROWS * C.SLOTS)[:, None]
    texture_channel = tl.arange(0, C.TEXTURE.CHANNELS_PAD)[None, :]
    row, channel = place_in_patch(k)
    row -= SHIFT
    mask = (row >= 0) & (row < 3) & (channel < C.CHANNELS) & (texture_channel < C.TEXTURE.CHANNELS)
    offsets = texture_channel * C.TEXTURE_WEIGHT_STRIDES[0] + channel * C.TEXTURE_WEIGHT_STRIDES[1]
    offsets = offsets + row * C.TEXTURE_WEIGHT_STRIDES[2] + COLUMN * C.TEXTURE_WEIGHT_STRIDES[3]
    values = tl.load(texture_weights.weight + offsets, mask=mask, other=0.0)
    if COLUMN == 1:
        mask = (row == 1) & (channel == C.CHANNELS) & (texture_channel < C.TEXTURE.CHANNELS)
        values += tl.load(texture_weights.bias + texture_channel + 0 * k, mask=mask, other=0.0)
    return values


@triton.jit
def load_texture_weights(texture_weights, C: tl.constexpr):
    """The tiles of every column at no shift, then those at a shift of one row."""
    return (
        _load_weight_tile(texture_weights, 0, 0, C),
        _load_weight_tile(texture_weights, 0, 1, C),
        _load_weight_tile(texture_weights, 0, 2, C),
        _load_weight_tile(texture_weights, 1, 0, C),
        _load_weight_tile(texture_weights, 1, 1, C),
        _load_weight_tile(texture_weights, 1, 2, C),
    )


@triton.jit
def spread(x, C: tl.constexpr):
    """A number of each pixel, [BLOCK], beside all ROWS of its patches: [1, BLOCK / (8 * WARPS), 32 * WARPS].

    Columns of patches are loaded such that each thread has what the matrix units want from it: rows along four threads, eight
    pixels along the others of a warp; SLOTS and the next eight pixels along registers, which are the first two axes.
    """
    BLOCK: tl.constexpr = C.BLOCK_H * C.BLOCK_W
    x = tl.permute(tl.reshape(x, [BLOCK // (16 * C.WARPS), C.WARPS, 2, 8]), (0, 2, 1, 3))
    x = tl.reshape(x, [BLOCK // (8 * C.WARPS), 1, 8 * C.WARPS, 1])
    x = tl.broadcast_to(x, [BLOCK // (8 * C.WARPS), 1, 8 * C.WARPS, ROWS])
    return tl.reshape(x, [1, BLOCK // (8 * C.WARPS), 8 * ROWS * C.WARPS])


@triton.jit
def _patch_row(C: tl.constexpr):
    """Which of the ROWS: [1, 1, 32 * WARPS]."""
    return (tl.arange(0, 8 * ROWS * C.WARPS) % ROWS)[None, None, :]


@triton.jit
def _safe(i, n):
    """``i`` if it is one of ``n`` pixels, else the last of them."""
    return tl.minimum(unsigned(i), unsigned(n - 1)).to(i.dtype)


@triton.jit
def _slots(pointers, image, FIRST: tl.constexpr, STEP: tl.constexpr, C: tl.constexpr):
    """Every STEP-th slot from FIRST on of the pixels at ``pointers``, normalised by FACTORS and SUMMANDS, one a channel."""
    slot = FIRST + STEP * tl.arange(0, C.SLOTS // STEP)[:, None, None]
    channel = tl.minimum(slot, C.CHANNELS - 1)
    if C.CHANNELS_LAST:
        pointers += channel
    else:
        pointers += channel.to(image.stride_c.dtype) * image.stride_c
    x = load_along_last(pointers)
    operand: tl.constexpr = C.OPERAND
    if len(C.FACTORS) > 0 or operand != x.dtype:
        x = x.to(C.ACC)
    if len(C.FACTORS) > 0:
        x = tl.fma(x, per_channel(C.FACTORS, channel, C.ACC), per_channel(C.SUMMANDS, channel, C.ACC))
    return tl.where(slot < C.CHANNELS, x, tl.where(slot == C.CHANNELS, 1.0, 0.0).to(x.dtype))


@triton.jit
def _patch_pixels(image, first_row, columns, place, BEFORE: tl.constexpr, C: tl.constexpr):
    """Rows ``first_row`` to ``first_row + 3`` of the image at one column each, ``place`` columns behind that of ``columns``: as
    :func:`spread` lays them out, with SLOTS, or in half precision with pairs of these; and which of them lie inside.

    With BEFORE, they may lie before the image's first column.
    """
    row = (first_row if C.BLOCK_H == 1 else spread(first_row, C)) + _patch_row(C)
    inside = columns.first <= tl.where(unsigned(row) < unsigned(image.h), columns.last, -1) - place
    if BEFORE:
        inside = inside & (columns.first >= -place)
    # Loads without a mask, of some pixel: what lies outside is replaced once, after it was rounded.
    offset = tl.minimum(unsigned(columns.offset + place * image.stride_w), unsigned((image.w - 1) * image.stride_w))
    pointers = image.ptr + _safe(row, image.h) * image.stride_h + offset.to(columns.offset.dtype)
    if C.OPERAND.primitive_bitwidth == 16:
        return packed(_slots(pointers, image, 0, 2, C), _slots(pointers, image, 1, 2, C), C.OPERAND), inside
    else:
        return _slots(pointers, image, 0, 1, C).to(C.OPERAND), inside


@triton.jit
def as_operand(column, C: tl.constexpr):
    """A column of patches as an operand: [BLOCK, ROWS * SLOTS]. Loops carry columns as they were loaded, or they are moved."""
    BLOCK: tl.constexpr = C.BLOCK_H * C.BLOCK_W
    if C.OPERAND.primitive_bitwidth == 16:
        column = unpacked(column, C.OPERAND)
    # As in :func:`.tile.forget_loads`, a sum ends Triton's search for what was loaded.
    column = tl.sum(column[:, :, :, None], axis=3).to(C.OPERAND)
    column = tl.reshape(column, [C.SLOTS // 2, 2, BLOCK // (16 * C.WARPS), 2, C.WARPS, 8, ROWS])
    return tl.reshape(tl.permute(column, (2, 4, 3, 5, 0, 6, 1)), [BLOCK, ROWS * C.SLOTS])


@triton.jit
def patch_column(image, first_row, columns, place, BEFORE: tl.constexpr, C: tl.constexpr):
    """:func:`_patch_pixels`, the same for all rows of the band. Zero outside of the image and past ``columns.last``: what a bin
    does not cover must not reach it, not even times a weight of zero.
    """
    column, inside = _patch_pixels(image, first_row, columns, place, BEFORE, C)
    return tl.where(inside, column, 0)


@triton.jit
def _patch_columns(image, first_row, columns, place, BEFORE: tl.constexpr, C: tl.constexpr):
    """The column for each row of the band. They differ where a pixel could reach the row that it is no neighbour of.

    Times a weight of zero, NaN or infinity would. Bytes are finite, and whole bins end where bands do.
    """
    column, inside = _patch_pixels(image, first_row, columns, place, BEFORE, C)
    if C.TEXTURE.BINS_WHOLE or is_finite(image.ptr):
        both = tl.where(inside, column, 0)
        return both, both
    else:
        row = _patch_row(C)
        return tl.where(inside & (row != 3), column, 0), tl.where(inside & (row != 0), column, 0)


@triton.jit
def product(x, tile, C: tl.constexpr):
    return tl.dot(x, tile, input_precision=C.PRECISION, out_dtype=C.ACC)


@triton.jit
def add_product(x, tile, total, C: tl.constexpr):
    return tl.dot(x, tile, total, input_precision=C.PRECISION, out_dtype=total.dtype)


@triton.jit
def _bin_share(i, j, n_in, n_out, ACC: tl.constexpr):
    """Overlap of source pixel ``i`` with bin ``j``, over the largest overlap of any pixel: exactly 1 for a whole pixel."""
    start = i * n_out - j * n_in  # of the pixel, from the bin's start on, in units of 1 / n_out source pixels
    overlap = tl.minimum(start + n_out, n_in) - tl.maximum(start, 0)
    most = tl.minimum(n_in, n_out)
    return tl.where(overlap == most, 1.0, tl.maximum(overlap, 0).to(ACC) * (1.0 / most.to(ACC)))


@triton.jit
def bin_span(j, n_in, n_out, ACC: tl.constexpr):
    """Where along an axis of ``n_in`` pixels the bins ``j`` lie, and what is needed for their pixels' shares."""
    first = bin_first(j, n_in, n_out)
    last = bin_last(j, n_in, n_out)
    end = (last - first).to(ACC) + _bin_share(last, j, n_in, n_out, ACC)
    return BinSpan(first, last, _bin_share(first, j, n_in, n_out, ACC), end)


@triton.jit
def share_behind(place, span):
    """Share of the pixel ``place`` pixels behind a bin's first one: 1 if it is whole, 0 past the bin's end."""
    return tl.minimum(tl.maximum(span.end - place, 0.0), 1.0)


@triton.jit
def mean_factor(image, target, ACC: tl.constexpr):
    """What a bin's sum of shares is to be multiplied by to become a mean."""
    factor_h = tl.minimum(image.h, target.h).to(ACC) / image.h.to(ACC)
    return factor_h * (tl.minimum(image.w, target.w).to(ACC) / image.w.to(ACC))


@triton.jit
def strip_columns(tile_y, rows, tile_x, out_h, out_w, image, target, C: tl.constexpr):
    """Columns of the bins of all pixels of a strip. Divisions are not moved out of loops, so this belongs in front of them."""
    pixels = walked_pixels(tile_y, 0, rows, tile_x, out_h, out_w, C)
    if C.LETTERBOX:
        pixels = target_pixels(pixels, target)
    span = bin_span(pixels.x, image.w, target.w, C.ACC)
    first = spread(span.first, C)
    last = tl.zeros_like(first) + (image.w - 1)
    if not (C.TEXTURE.BINS_WHOLE or is_finite(image.ptr)):  # bytes are finite: past a bin's end, shares of zero are enough
        last = tl.minimum(spread(span.last + 1, C), last)
    return BinColumns(first, first * image.stride_w, last, span.first_share, span.end)


@triton.jit
def convolve(left, middle, right, tiles, SHIFT: tl.constexpr, C: tl.constexpr):
    """The texture before its ReLU: [BLOCK, texture channels]."""
    convolved = product(as_operand(left, C), tiles[3 * SHIFT], C)
    convolved = add_product(as_operand(middle, C), tiles[3 * SHIFT + 1], convolved, C)
    return add_product(as_operand(right, C), tiles[3 * SHIFT + 2], convolved, C)


@triton.jit
def _next_column(left, middle, tiles, place, row, image, columns, C: tl.constexpr):
    """Two rows of texture, ``place`` pixels behind each bin's first column; then the next ``left`` and ``middle``."""
    right = _patch_columns(image, row - 1, columns, place + 1, False, C)
    upper = relu(convolve(left[0], middle[0], right[0], tiles, 0, C))
    lower = relu(convolve(left[1], middle[1], right[1], tiles, 1, C))
    return upper, lower, middle, right


@triton.jit
def _band_sums(tiles, row, image, columns, target, C: tl.constexpr):
    """The texture of the rows ``row`` and ``row + 1``, each summed over the columns of bins, weighted by shares."""
    left = _patch_columns(image, row - 1, columns, -1, True, C)
    middle = _patch_columns(image, row - 1, columns, 0, False, C)
    upper, lower, left, middle = _next_column(left, middle, tiles, 0, row, image, columns, C)
    if C.TEXTURE.BIN_W > 0:
        for column in tl.static_range(1, C.TEXTURE.BIN_W):
            texture_0, texture_1, left, middle = _next_column(left, middle, tiles, column, row, image, columns, C)
            upper += texture_0
            lower += texture_1
    else:
        upper *= columns.first_share[:, None]
        lower *= columns.first_share[:, None]
        bin_w = target.bin_w
        for column in range(1, bin_w):
            texture_0, texture_1, left, middle = _next_column(left, middle, tiles, column, row, image, columns, C)
            share = share_behind(column, columns)[:, None]
            upper = tl.fma(share, texture_0, upper)
            lower = tl.fma(share, texture_1, lower)
    return upper, lower


@triton.jit
def row_share(row, span, C: tl.constexpr):
    """Share of a row in a bin, 0 outside of it: a number if a tile has one row, else [BLOCK, 1]."""
    place = row - span.first
    share = tl.where(place > 0, share_behind(place.to(C.ACC), span), tl.where(place == 0, span.first_share, 0.0))
    return share if C.BLOCK_H == 1 else share[:, None]


@triton.jit
def _add_row(total, sums, row, span, image, C: tl.constexpr):
    """``total`` plus a row's sums by their share in the bins; outside of a bin they count for nothing, even if not finite."""
    share = row_share(row, span, C)
    if is_finite(image.ptr):
        return tl.fma(share, sums, total)
    else:
        return total + tl.where(share > 0, share * sums, 0.0)


@triton.jit
def _add_band(total, upper, lower, row, span, image, C: tl.constexpr):
    """``total`` plus the sums of the rows ``row`` and ``row + 1``."""
    return _add_row(_add_row(total, upper, row, span, image, C), lower, row + 1, span, image, C)


@triton.jit
def most(x, C: tl.constexpr):
    """The largest ``x`` of any row of a tile."""
    return x if C.BLOCK_H == 1 else tl.max(x, axis=0)


@triton.jit
def replaced(ahead, by, x, C: tl.constexpr):
    """``by`` where ``ahead``, [BLOCK]: everywhere, if a tile has one row, which goes on only as far as it needs to."""
    if C.BLOCK_H == 1:
        return by
    else:
        return tl.where(ahead if len(by.shape) == 1 else ahead[:, None], by, x)


@triton.jit
def start_walk(pixels_row, image, C: tl.constexpr):
    """Before the first bin: further down than any bin leads."""
    nothing = tl.zeros([C.BLOCK_H * C.BLOCK_W, C.TEXTURE.CHANNELS_PAD], C.ACC)
    return Walk(pixels_row * 0 + image.h + 2 * BAND, nothing, nothing)


@triton.jit
def first_walked_row(row, row_mask, span, image):
    """``row`` of a walk; if it has not started yet, that of the band where the first bin inside starts."""
    return tl.where(row_mask & (row == image.h + 2 * BAND), span.first // BAND * BAND, row)


@triton.jit
def convolved_bin_mean(walk, columns, image, tiles, pixels, target, C: tl.constexpr):
    """Mean of the texture over each pixel's bin, [BLOCK, texture channels]; and the walk up to the last band of these bins.

    Rows of the source are convolved in bands, of which the first starts at the image's first row. A row that two bins share is
    convolved once, because the sums of the last band go on to the bins below. The bits are the same wherever a walk starts, and
    whether bins are known when compiling or not, whole or cut: sums have the same order, and the share of a whole pixel is
    exactly 1.
    """
    if C.TEXTURE.BIN_H > 0:
        tl.static_assert(C.TEXTURE.BIN_H == BAND)
        upper, lower = _band_sums(tiles, bin_first(pixels.row, image.h, target.h), image, columns, target, C)
        return (upper + lower) * mean_factor(image, target, C.ACC), walk
    else:
        row, upper, lower = walk
        span = bin_span(pixels.row, image.h, target.h, C.ACC)
        row = first_walked_row(row, pixels.row_mask, span, image)
        total = tl.zeros_like(upper)
        total = _add_band(total, upper, lower, row - BAND, span, image, C)
        left = tl.where(pixels.row_mask, (span.last - row + BAND) // BAND, 0)
        bands = most(left, C)
        for _ in range(bands):
            next_upper, next_lower = _band_sums(tiles, row, image, columns, target, C)
            total = _add_band(total, next_upper, next_lower, row, span, image, C)
            upper = replaced(left > 0, next_upper, upper, C)
            lower = replaced(left > 0, next_lower, lower, C)
            row = replaced(left > 0, row + BAND, row, C)
            left -= 1
        return total * mean_factor(image, target, C.ACC), Walk(row, upper, lower)
