"""The mean over a pixel's bin, and how its gradient spreads over the bin, as functions of register tiles."""

import triton
import triton.language as tl

from .groups import Plane
from .tile import bin_first, load_along_pixels


@triton.jit
def bin_overlap(i, j, n_in, n_out):
    """Overlap of source pixel ``i`` with bin ``j`` in units of 1 / n_out source pixels; symmetric in the two grids."""
    return tl.minimum((i + 1) * n_out, (j + 1) * n_in) - tl.maximum(i * n_out, j * n_in)


@triton.jit
def _bin_pixel(source, channel, i_y, i_x, y, x, target, P: tl.constexpr):
    """One source pixel of every bin, times its overlap in source pixels unless BINS_WHOLE: a tile as :func:`bin_sum`'s."""
    offsets = (i_y * source.stride_h + i_x * source.stride_w) * P.ALIGN
    channel_mask = channel < P.CHANNELS
    if P.CHANNELS_LAST:
        pointers = source.ptr + (offsets[:, None] + channel[None, :])
    else:
        pointers = source.ptr + (offsets[None, :] + channel[:, None] * source.stride_c)
    if P.BINS_WHOLE and P.CHANNELS_LAST and P.CHANNELS == P.CHANNELS_PAD:
        return tl.load(pointers).to(P.ACC)
    elif P.BINS_WHOLE and P.CHANNELS_LAST:
        return tl.load(pointers, mask=channel_mask[None, :], other=0.0).to(P.ACC)
    elif P.BINS_WHOLE and P.CHANNELS == P.CHANNELS_PAD:
        return load_along_pixels(pointers, None).to(P.ACC)
    elif P.BINS_WHOLE:
        return load_along_pixels(pointers, tl.broadcast_to(channel_mask[:, None], pointers.shape)).to(P.ACC)
    else:
        overlap_y = bin_overlap(i_y, y, source.h, target.h)
        overlap_x = bin_overlap(i_x, x, source.w, target.w)
        inside = (overlap_y > 0) & (overlap_x > 0)
        # In source pixels, not in counts of 1 / (out_h * out_w) pixels, whose sums would leave float32's range early.
        weight = overlap_y.to(P.ACC) * (1.0 / target.h.to(P.ACC)) * (overlap_x.to(P.ACC) * (1.0 / target.w.to(P.ACC)))
        if P.CHANNELS_LAST:
            mask = inside[:, None] & channel_mask[None, :]
            return weight[:, None] * tl.load(pointers, mask=mask, other=0.0).to(P.ACC)
        else:
            mask = inside[None, :] & channel_mask[:, None]
            return weight[None, :] * load_along_pixels(pointers, mask).to(P.ACC)


@triton.jit
def bin_sum(source, channel, y, x, target, norm_h, norm_w, P: tl.constexpr):
    """Sum over each pixel's bin, weighted by overlap over ``norm_h * norm_w``: [BLOCK, CHANNELS_PAD].

    ``source`` is one image, its ``stride_h`` and ``stride_w`` in units of ALIGN; ``channel`` is [CHANNELS_PAD], ``y`` and ``x``
    are [BLOCK]. The tile lies with the axis that is contiguous in memory last, so that neighbouring threads read neighbouring
    bytes. With BIN_H and BIN_W there are no loops, so that all loads can be in flight.
    """
    stride_w = source.stride_w
    if P.DENSE:
        stride_w = P.CHANNELS // P.ALIGN if P.CHANNELS_LAST else 1
    source = Plane(source.ptr, source.stride_c, source.stride_h, stride_w, source.h, source.w)
    bin_h = target.bin_h
    bin_w = target.bin_w
    first_row = bin_first(y, source.h, target.h)
    first_column = bin_first(x, source.w, target.w)
    if P.CHANNELS_LAST:
        total = tl.zeros([y.shape[0], P.CHANNELS_PAD], P.ACC)
    else:
        total = tl.zeros([P.CHANNELS_PAD, y.shape[0]], P.ACC)
    if P.BIN_H > 0:
        for row in tl.static_range(P.BIN_H):
            for column in tl.static_range(P.BIN_W):
                total += _bin_pixel(source, channel, first_row + row, first_column + column, y, x, target, P)
    else:
        for row in range(bin_h):
            if P.BIN_W > 0:
                for column in tl.static_range(P.BIN_W):
                    total += _bin_pixel(source, channel, first_row + row, first_column + column, y, x, target, P)
            else:
                # Of the first columns, the overlaps are computed once for all rows.
                for column in tl.static_range(3):
                    total += _bin_pixel(source, channel, first_row + row, first_column + column, y, x, target, P)
                for start in range(3, bin_w, 2):
                    for column in tl.static_range(2):
                        total += _bin_pixel(source, channel, first_row + row, first_column + (start + column), y, x, target, P)
    if not P.CHANNELS_LAST:
        total = tl.trans(total)
    factor_h = target.h
    factor_w = target.w
    if P.BINS_WHOLE:
        factor_h = tl.minimum(source.h, target.h)
        factor_w = tl.minimum(source.w, target.w)
    return total * (factor_h.to(P.ACC) / norm_h.to(P.ACC) * (factor_w.to(P.ACC) / norm_w.to(P.ACC)))


@triton.jit
def store_bins(output, channel, pixels, target, total, mask, ALIGN: tl.constexpr, SIDE: tl.constexpr):
    """Spread ``total`` [BLOCK, channels] evenly over each pixel's bin, where all bins are of ``bin_h`` x ``bin_w`` pixels.

    The channels of ``output``, one image, lie last in memory; its strides are in units of ALIGN. If SIDE > 0, bins are of
    SIDE x SIDE pixels, and there is no loop.
    """
    bin_h = target.bin_h
    bin_w = target.bin_w
    share = total * (1.0 / (bin_h * bin_w).to(total.dtype))
    if SIDE > 0:
        first = (pixels.y * (SIDE * output.stride_h) + pixels.x * (SIDE * output.stride_w)) * ALIGN
        pointers = output.ptr + (first[:, None] + channel[None, :])
        for row in tl.static_range(SIDE):
            for column in tl.static_range(SIDE):
                tl.store(pointers + (row * output.stride_h + column * output.stride_w) * ALIGN, share, mask=mask)
    else:
        for index in range(bin_h * bin_w):
            row = index // bin_w
            column = index - row * bin_w
            pixel = ((pixels.y * bin_h + row) * output.stride_h + (pixels.x * bin_w + column) * output.stride_w) * ALIGN
            tl.store(output.ptr + (pixel[:, None] + channel[None, :]), share, mask=mask)
