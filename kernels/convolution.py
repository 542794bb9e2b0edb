"""Texture made where it is used: a 3x3 convolution (zero padding) and ReLU of the image, pooled over each bin.

No texture goes through memory. Under its bin, the patches of an output pixel are read as columns: a tile [BLOCK, PATCH_PAD]
holds BAND + 2 image rows below one another, all channels, at one column of every pixel's bin. Three neighbouring columns, times
a tile of weights each, sum to the texture at the middle one; the next position to the right needs one more column. With
BAND = 2 the same columns, times other tiles, give the texture one row below as well.

A tile of weights [PATCH_PAD, texture channels] has element (row * CHANNELS + channel, texture channel). Behind the pixels of
every column stands a 1, and behind the weights of the middle column the bias.
"""

import triton
import triton.language as tl

from .groups import BinSpan, Walk
from .launch import padded
from .network import relu
from .tile import bin_first, bin_last, forget_loads, is_finite, load_along_pixels, per_channel, unsigned


def patch_shape(channels: int) -> tuple[int, int]:
    """(BAND, PATCH_PAD) for images of ``channels``: two rows at once where their columns are no larger for it."""
    patch_pad = padded(3 * channels + 1)
    return 2 if 4 * channels + 1 <= patch_pad else 1, patch_pad


@triton.jit
def _load_weight_tile(texture_weights, SHIFT: tl.constexpr, COLUMN: tl.constexpr, C: tl.constexpr):
    """Weights (F, C, 3, 3) of the convolution at column COLUMN of patches that start SHIFT rows down, as a tile."""
    k = tl.arange(0, C.PATCH_PAD)[:, None]
    texture_channel = tl.arange(0, C.TEXTURE.CHANNELS_PAD)[None, :]
    row = k // C.CHANNELS - SHIFT
    channel = k % C.CHANNELS
    mask = (row >= 0) & (row < 3) & (texture_channel < C.TEXTURE.CHANNELS)
    offsets = texture_channel * C.TEXTURE_WEIGHT_STRIDES[0] + channel * C.TEXTURE_WEIGHT_STRIDES[1]
    offsets = offsets + row * C.TEXTURE_WEIGHT_STRIDES[2] + COLUMN * C.TEXTURE_WEIGHT_STRIDES[3]
    values = tl.load(texture_weights.weight + offsets, mask=mask, other=0.0)
    if COLUMN == 1:
        mask = (k == (C.BAND + 2) * C.CHANNELS) & (texture_channel < C.TEXTURE.CHANNELS)
        values += tl.load(texture_weights.bias + texture_channel + 0 * k, mask=mask, other=0.0)
    return values


@triton.jit
def load_texture_weights(texture_weights, C: tl.constexpr):
    """The tiles of every column at no shift, then, if BAND is 2, those at a shift of one row."""
    tiles = (
        _load_weight_tile(texture_weights, 0, 0, C),
        _load_weight_tile(texture_weights, 0, 1, C),
        _load_weight_tile(texture_weights, 0, 2, C),
    )
    if C.BAND == 1:
        return tiles
    else:
        return tiles + (
            _load_weight_tile(texture_weights, 1, 0, C),
            _load_weight_tile(texture_weights, 1, 1, C),
            _load_weight_tile(texture_weights, 1, 2, C),
        )


@triton.jit
def _patch_pixels(image, first_row, column, last_column, C: tl.constexpr):
    """Rows ``first_row`` to ``first_row + BAND + 1`` of the image at one column each, [PATCH_PAD, BLOCK]; then a 1.

    Zero outside the image and past ``last_column``: what a bin does not cover must not reach it, not even times a weight of
    zero. FACTORS and SUMMANDS, one a channel, normalise the pixels.
    """
    k = tl.arange(0, C.PATCH_PAD)[:, None]
    channel = k % C.CHANNELS
    row = first_row[None, :] + k // C.CHANNELS
    # As unsigned numbers, those before the first are past the last.
    rows = tl.where(unsigned(column) <= unsigned(last_column), image.h, 0)
    inside = (unsigned(row) < unsigned(rows)[None, :]) & (k < (C.BAND + 2) * C.CHANNELS)
    # Loads without a mask, of the nearest pixel: what lies outside is replaced once, after it was normalised.
    row = tl.minimum(tl.maximum(row, 0), image.h - 1)
    column = tl.minimum(tl.maximum(column, 0), last_column)
    pointers = image.ptr + (row * image.stride_h + (column * image.stride_w)[None, :])
    if C.CHANNELS_LAST:
        pointers += channel
    else:
        pointers += channel.to(row.dtype) * image.stride_c
    x = load_along_pixels(pointers, None).to(C.ACC)
    if len(C.FACTORS) > 0:
        x = x * per_channel(C.FACTORS, channel, C.ACC) + per_channel(C.SUMMANDS, channel, C.ACC)
    return tl.where(inside, x, tl.where(k == (C.BAND + 2) * C.CHANNELS, 1.0, 0.0))


@triton.jit
def _operand(x, C: tl.constexpr):
    return tl.trans(forget_loads(x).to(C.OPERAND))


@triton.jit
def patch_column(image, first_row, column, last_column, C: tl.constexpr):
    """:func:`_patch_pixels` as an operand [BLOCK, PATCH_PAD], the same for all rows of the band."""
    return _operand(_patch_pixels(image, first_row, column, last_column, C), C)


@triton.jit
def _patch_columns(image, first_row, column, last_column, C: tl.constexpr):
    """The operand for each row of the band. They differ where a pixel could reach the row that it is no neighbour of.

    Times a weight of zero, NaN or infinity would. Bytes are finite, and whole bins end where bands do.
    """
    x = _patch_pixels(image, first_row, column, last_column, C)
    if C.BAND == 1 or C.TEXTURE.BINS_WHOLE or is_finite(image.ptr):
        both = _operand(x, C)
        return both, both
    else:
        row = tl.arange(0, C.PATCH_PAD)[:, None] // C.CHANNELS
        return _operand(tl.where(row == 3, 0.0, x), C), _operand(tl.where(row == 0, 0.0, x), C)


@triton.jit
def product(column, tile, C: tl.constexpr):
    return tl.dot(column, tile, input_precision=C.PRECISION, out_dtype=C.ACC)


@triton.jit
def add_product(column, tile, total, C: tl.constexpr):
    return tl.dot(column, tile, total, input_precision=C.PRECISION, out_dtype=total.dtype)


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
def row_share(row, span, ACC: tl.constexpr):
    """Share of a row in a bin, 0 outside of it."""
    place = row - span.first
    return tl.where(place > 0, share_behind(place.to(ACC), span), tl.where(place == 0, span.first_share, 0.0))


@triton.jit
def mean_factor(image, target, ACC: tl.constexpr):
    """What a bin's sum of shares is to be multiplied by to become a mean."""
    factor_h = tl.minimum(image.h, target.h).to(ACC) / image.h.to(ACC)
    return factor_h * (tl.minimum(image.w, target.w).to(ACC) / image.w.to(ACC))


@triton.jit
def last_patch_column(columns, image, C: tl.constexpr):
    """The last column that patches may read. Where bins are whole, they may read up to the image's edge."""
    if C.TEXTURE.BINS_WHOLE:
        return tl.zeros_like(columns.last) + image.w - 1
    else:
        return tl.minimum(columns.last + 1, image.w - 1)


@triton.jit
def _add_column(sums, share, tiles, place, row, image, columns, last_column, C: tl.constexpr):
    """One step of :func:`_band_sums`: ``here`` lacks the last of its three columns, ``next`` two, each for up to two rows."""
    upper, lower, here_0, next_0, here_1, next_1 = sums
    patch_0, patch_1 = _patch_columns(image, row - 1, columns.first + (place + 1), last_column, C)
    upper += share[:, None] * relu(add_product(patch_0, tiles[2], here_0, C))
    here_0 = add_product(patch_0, tiles[1], next_0, C)
    next_0 = product(patch_0, tiles[0], C)
    if C.BAND == 2:
        lower += share[:, None] * relu(add_product(patch_1, tiles[5], here_1, C))
        here_1 = add_product(patch_1, tiles[4], next_1, C)
        next_1 = product(patch_1, tiles[3], C)
    else:
        here_1 = here_0
        next_1 = next_0
    return upper, lower, here_0, next_0, here_1, next_1


@triton.jit
def _band_sums(tiles, row, image, columns, target, C: tl.constexpr):
    """The texture of the BAND rows from ``row`` on, each summed over the columns of every pixel's bin, weighted by shares.

    A column of pixels takes part in the texture of three columns, and is multiplied by all their weights at once, so that
    sums go from one column to the next, and no operand does: a sum stays where the matrix units put it.
    """
    last_column = last_patch_column(columns, image, C)
    left_0, left_1 = _patch_columns(image, row - 1, columns.first - 1, last_column, C)
    middle_0, middle_1 = _patch_columns(image, row - 1, columns.first, last_column, C)
    here_0 = add_product(middle_0, tiles[1], product(left_0, tiles[0], C), C)
    next_0 = product(middle_0, tiles[0], C)
    here_1 = here_0
    next_1 = next_0
    if C.BAND == 2:
        here_1 = add_product(middle_1, tiles[4], product(left_1, tiles[3], C), C)
        next_1 = product(middle_1, tiles[3], C)
    nothing = tl.zeros([columns.first.shape[0], C.TEXTURE.CHANNELS_PAD], C.ACC)
    sums = (nothing, nothing, here_0, next_0, here_1, next_1)
    if C.TEXTURE.BIN_W > 0:
        whole = tl.full([columns.first.shape[0]], 1.0, C.ACC)
        for column in tl.static_range(C.TEXTURE.BIN_W):
            sums = _add_column(sums, whole, tiles, column, row, image, columns, last_column, C)
    else:
        bin_w = target.bin_w
        share = columns.first_share
        for column in range(bin_w):
            sums = _add_column(sums, share, tiles, column, row, image, columns, last_column, C)
            share = share_behind(column + 1.0, columns)
    return sums[0], sums[1]


@triton.jit
def _add_row(total, sums, row, span, image, C: tl.constexpr):
    """``total`` plus a row's sums by their share in the bins; outside of a bin they count for nothing, even if not finite."""
    share = row_share(row, span, C.ACC)[:, None]
    weighted = share * sums
    if not is_finite(image.ptr):
        weighted = tl.where(share > 0, weighted, 0.0)
    return total + weighted


@triton.jit
def _add_band(total, upper, lower, row, span, image, C: tl.constexpr):
    """``total`` plus the sums of the band from ``row`` on."""
    total = _add_row(total, upper, row, span, image, C)
    return _add_row(total, lower, row + 1, span, image, C) if C.BAND == 2 else total


@triton.jit
def replaced(ahead, by, x, C: tl.constexpr):
    """``by`` where ``ahead``: everywhere, if a tile has one row, which asks for a band only if it needs one."""
    return by if C.BLOCK_H == 1 else tl.where(ahead, by, x)


@triton.jit
def start_walk(image, C: tl.constexpr):
    """Before the first bin: further down than any bin leads."""
    row = tl.zeros([C.BLOCK_H * C.BLOCK_W], tl.int64 if C.INDEX64 else tl.int32) + (image.h + 2 * C.BAND)
    nothing = tl.zeros([C.BLOCK_H * C.BLOCK_W, C.TEXTURE.CHANNELS_PAD], C.ACC)
    return Walk(row, nothing, nothing)


@triton.jit
def first_walked_row(row, row_mask, span, image, C: tl.constexpr):
    """``row`` of a walk; if it has not started yet, that of the band where the first bin inside starts."""
    return tl.where(row_mask & (row == image.h + 2 * C.BAND), span.first // C.BAND * C.BAND, row)


@triton.jit
def convolved_bin_mean(walk, image, tiles, pixels, target, C: tl.constexpr):
    """Mean of the texture over each pixel's bin, [BLOCK, texture channels]; and the walk up to the last band of these bins.

    Rows of the source are convolved in bands, of which the first starts at the image's first row. A row that two bins share is
    convolved once, because the sums of the last band go on to the bins below. The bits are the same wherever a walk starts, and
    whether bins are known when compiling or not, whole or cut: sums have the same order, and the share of a whole pixel is
    exactly 1.
    """
    columns = bin_span(pixels.x, image.w, target.w, C.ACC)
    total = tl.zeros([pixels.y.shape[0], C.TEXTURE.CHANNELS_PAD], C.ACC)
    row, upper, lower = walk
    if C.TEXTURE.BIN_H > 0:
        first_row = bin_first(pixels.y, image.h, target.h)
        for place in tl.static_range(0, C.TEXTURE.BIN_H, C.BAND):
            upper, lower = _band_sums(tiles, first_row + place, image, columns, target, C)
            total += upper
            if C.BAND == 2:
                total += lower
        return total * mean_factor(image, target, C.ACC), walk
    else:
        rows = bin_span(pixels.y, image.h, target.h, C.ACC)
        row = first_walked_row(row, pixels.row_mask, rows, image, C)
        total = _add_band(total, upper, lower, row - C.BAND, rows, image, C)
        left = tl.where(pixels.row_mask, (rows.last - row + C.BAND) // C.BAND, 0)
        bands = tl.max(left.to(tl.int32), axis=0)
        for _ in range(bands):
            next_upper, next_lower = _band_sums(tiles, row, image, columns, target, C)
            total = _add_band(total, next_upper, next_lower, row, rows, image, C)
            ahead = left > 0
            upper = replaced(ahead[:, None], next_upper, upper, C)
            lower = replaced(ahead[:, None], next_lower, lower, C)
            row = replaced(ahead, row + C.BAND, row, C)
            left -= 1
        return total * mean_factor(image, target, C.ACC), Walk(row, upper, lower)
