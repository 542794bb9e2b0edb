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

from .groups import BinEdges
from .launch import padded
from .network import relu
from .tile import bin_first, bin_last, forget_loads, load_along_pixels, per_channel, unsigned


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
def patch_column(image, first_row, last_row, column, last_column, USED: tl.constexpr, C: tl.constexpr):
    """Rows ``first_row`` to ``first_row + BAND + 1`` of the image at one column each, [BLOCK, PATCH_PAD]; then a 1.

    Zero outside the image, past ``last_row`` and ``last_column``, and past the patches of the first USED rows: what a bin does
    not cover must not reach it, not even times a weight of zero. FACTORS and SUMMANDS, one a channel, normalise the pixels.
    """
    k = tl.arange(0, C.PATCH_PAD)[:, None]
    channel = k % C.CHANNELS
    row = first_row[None, :] + k // C.CHANNELS
    # As unsigned numbers, those before the first are past the last.
    rows = tl.where(unsigned(column) <= unsigned(last_column), last_row + 1, 0)
    inside = (unsigned(row) < unsigned(rows)[None, :]) & (k < (USED + 2) * C.CHANNELS)
    # Loads without a mask, of the nearest pixel: what lies outside is replaced once, after it was normalised.
    row = tl.minimum(tl.maximum(row, 0), last_row[None, :])
    column = tl.minimum(tl.maximum(column, 0), last_column)
    pointers = image.ptr + (row * image.stride_h + (column * image.stride_w)[None, :])
    if C.CHANNELS_LAST:
        pointers += channel
    else:
        pointers += channel.to(row.dtype) * image.stride_c
    x = load_along_pixels(pointers, None).to(C.ACC)
    if len(C.FACTORS) > 0:
        x = x * per_channel(C.FACTORS, channel, C.ACC) + per_channel(C.SUMMANDS, channel, C.ACC)
    x = tl.where(inside, x, tl.where(k == (C.BAND + 2) * C.CHANNELS, 1.0, 0.0))
    return tl.trans(forget_loads(x).to(C.OPERAND))


@triton.jit
def product(column, tile, C: tl.constexpr):
    return tl.dot(column, tile, input_precision=C.PRECISION, out_dtype=C.ACC)


@triton.jit
def add_product(column, tile, total, C: tl.constexpr):
    return tl.dot(column, tile, total, input_precision=C.PRECISION, out_dtype=total.dtype)


@triton.jit
def bin_share(i, j, n_in, n_out, ACC: tl.constexpr):
    """Overlap of source pixel ``i`` with bin ``j``, over the largest overlap of any pixel: exactly 1 for a whole pixel."""
    start = i * n_out - j * n_in  # of the pixel, from the bin's start on, in units of 1 / n_out source pixels
    overlap = tl.minimum(start + n_out, n_in) - tl.maximum(start, 0)
    most = tl.minimum(n_in, n_out)
    return tl.where(overlap == most, 1.0, tl.maximum(overlap, 0).to(ACC) * (1.0 / most.to(ACC)))


@triton.jit
def mean_factor(image, target, ACC: tl.constexpr):
    """What a bin's sum of shares is to be multiplied by to become a mean."""
    factor_h = tl.minimum(image.h, target.h).to(ACC) / image.h.to(ACC)
    return factor_h * (tl.minimum(image.w, target.w).to(ACC) / image.w.to(ACC))


@triton.jit
def bin_edges(pixels, image, target, CUT: tl.constexpr):
    """Where the pixels' bins lie. If no bin is CUT, patches may read up to the image's edge."""
    last_row = tl.zeros_like(pixels.y) + image.h - 1
    last_column = tl.zeros_like(pixels.x) + image.w - 1
    if CUT:
        last_row = tl.minimum(bin_last(pixels.y, image.h, target.h) + 1, last_row)
        last_column = tl.minimum(bin_last(pixels.x, image.w, target.w) + 1, last_column)
    return BinEdges(bin_first(pixels.y, image.h, target.h), last_row, bin_first(pixels.x, image.w, target.w), last_column)


@triton.jit
def most_rows(y, n_in, n_out):
    """The most rows of the image that a bin of this tile overlaps, often one less than the most of all tiles."""
    rows = bin_last(y, n_in, n_out) - bin_first(y, n_in, n_out) + 1
    return tl.max(rows.to(tl.int32), axis=0)


@triton.jit
def _add_column(sums, tiles, column, row, image, edges, pixels, target, USED: tl.constexpr, C: tl.constexpr):
    """One step of :func:`_add_band`: ``here`` lacks the last of its three columns, ``next`` two, each for up to two rows."""
    total, here_0, next_0, here_1, next_1 = sums
    patch = patch_column(image, row - 1, edges.last_row, edges.first_column + (column + 1), edges.last_column, USED, C)
    texture = relu(add_product(patch, tiles[2], here_0, C))
    share = tl.full([1], 1.0, C.ACC)
    if not C.TEXTURE.BINS_WHOLE:
        share = bin_share(edges.first_column + column, pixels.x, image.w, target.w, C.ACC)
        texture *= (share * bin_share(row, pixels.y, image.h, target.h, C.ACC))[:, None]
    total += texture
    here_0 = add_product(patch, tiles[1], next_0, C)
    next_0 = product(patch, tiles[0], C)
    if USED == 2:
        texture = relu(add_product(patch, tiles[5], here_1, C))
        if not C.TEXTURE.BINS_WHOLE:
            texture *= (share * bin_share(row + 1, pixels.y, image.h, target.h, C.ACC))[:, None]
        total += texture
        here_1 = add_product(patch, tiles[4], next_1, C)
        next_1 = product(patch, tiles[3], C)
    else:
        here_1 = here_0
        next_1 = next_0
    return total, here_0, next_0, here_1, next_1


@triton.jit
def _add_band(total, tiles, row, image, edges, pixels, target, USED: tl.constexpr, C: tl.constexpr):
    """``total`` plus the texture of the first USED of BAND rows from ``row`` on, over the bin's columns.

    A column of pixels takes part in the texture of three columns, and is multiplied by all their weights at once, so that
    sums go from one column to the next, and no operand does: a sum stays where the matrix units put it.
    """
    patch = patch_column(image, row - 1, edges.last_row, edges.first_column - 1, edges.last_column, USED, C)
    here_0 = product(patch, tiles[0], C)
    here_1 = here_0
    if USED == 2:
        here_1 = product(patch, tiles[3], C)
    patch = patch_column(image, row - 1, edges.last_row, edges.first_column, edges.last_column, USED, C)
    here_0 = add_product(patch, tiles[1], here_0, C)
    next_0 = product(patch, tiles[0], C)
    next_1 = next_0
    if USED == 2:
        here_1 = add_product(patch, tiles[4], here_1, C)
        next_1 = product(patch, tiles[3], C)
    sums = (total, here_0, next_0, here_1, next_1)
    if C.TEXTURE.BIN_W > 0:
        for column in tl.static_range(C.TEXTURE.BIN_W):
            sums = _add_column(sums, tiles, column, row, image, edges, pixels, target, USED, C)
    else:
        bin_w = target.bin_w
        for column in range(bin_w):
            sums = _add_column(sums, tiles, column, row, image, edges, pixels, target, USED, C)
    return sums[0]


@triton.jit
def convolved_bin_mean(image, tiles, pixels, target, C: tl.constexpr):
    """Mean of the texture over each pixel's bin: [BLOCK, texture channels].

    The bits are the same whether bins are known when compiling or not, whole or cut: sums have the same order, and the share of
    a whole pixel is exactly 1.
    """
    edges = bin_edges(pixels, image, target, not C.TEXTURE.BINS_WHOLE)
    total = tl.zeros([pixels.y.shape[0], C.TEXTURE.CHANNELS_PAD], C.ACC)
    if C.TEXTURE.BIN_H > 0:
        for row in tl.static_range(0, C.TEXTURE.BIN_H, C.BAND):
            total = _add_band(
                total, tiles, edges.first_row + row, image, edges, pixels, target,
                C.BAND if row + C.BAND <= C.TEXTURE.BIN_H else 1, C,
            )  # fmt: skip
    else:
        bin_h = tl.minimum(target.bin_h, most_rows(pixels.y, image.h, target.h))
        for row in range(0, bin_h, C.BAND):
            total = _add_band(total, tiles, edges.first_row + row, image, edges, pixels, target, C.BAND, C)
    return total * mean_factor(image, target, C.ACC)
