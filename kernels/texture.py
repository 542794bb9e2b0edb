"""Texture features made where they are used: a 3x3 convolution (zero padding) and ReLU of the image, pooled over each bin.

No feature map goes through memory. Under its bin, the patches of an output pixel are read as columns: a tile [BLOCK, PATCH_PAD]
holds BAND + 2 image rows below one another, all channels, at one column of every pixel's bin. Three neighbouring columns, times
a tile of weights each, sum to the features at the middle one; the next position to the right needs one more column. With
BAND = 2 the same columns, times other weights, give the features one row below as well.

A tile of weights [PATCH_PAD, F_PAD] has element (row * CHANNELS + channel, feature). Behind the pixels of every column stands a
1, and behind the weights of the middle column the bias.
"""

import triton
import triton.language as tl

from .batch import picture
from .launch import padded
from .network import relu, relu_backward
from .tile import (
    bin_first,
    bin_last,
    bin_sum,
    forget_loads,
    load_along_pixels,
    per_channel,
    region_pixels,
    strip,
    tile_pixels,
    unsigned,
)

INTEGERS = [
    "image_stride_n", "image_stride_c", "image_stride_h", "image_stride_w",
    "image_h", "image_w", "out_h", "out_w", "bin_h", "bin_w",
]  # fmt: skip
ANYWHERE = ["image_ptr"]
"""Tensors that gain nothing from starting at a multiple of 16 bytes, which crops and parts of larger tensors may not do."""


def patch_shape(channels: int) -> tuple[int, int]:
    """(BAND, PATCH_PAD) for images of ``channels``: two rows at once where their columns are no larger for it."""
    patch_pad = padded(3 * channels + 1)
    return 2 if 4 * channels + 1 <= patch_pad else 1, patch_pad


@triton.jit
def load_filter(
    weight_ptr, bias_ptr, SHIFT: tl.constexpr, COLUMN: tl.constexpr, CHANNELS: tl.constexpr, F: tl.constexpr,
    F_PAD: tl.constexpr, BAND: tl.constexpr, PATCH_PAD: tl.constexpr, STRIDES: tl.constexpr,
):  # fmt: skip
    """Weights (F, C, 3, 3) of the convolution at column COLUMN of patches that start SHIFT rows down: [PATCH_PAD, F_PAD]."""
    k = tl.arange(0, PATCH_PAD)[:, None]
    feature = tl.arange(0, F_PAD)[None, :]
    row = k // CHANNELS - SHIFT
    channel = k % CHANNELS
    mask = (row >= 0) & (row < 3) & (feature < F)
    offsets = feature * STRIDES[0] + channel * STRIDES[1] + row * STRIDES[2] + COLUMN * STRIDES[3]
    values = tl.load(weight_ptr + offsets, mask=mask, other=0.0)
    if COLUMN == 1:
        mask = (k == (BAND + 2) * CHANNELS) & (feature < F)
        values += tl.load(bias_ptr + feature + 0 * k, mask=mask, other=0.0)
    return values


@triton.jit
def load_filters(
    weight_ptr, bias_ptr, CHANNELS: tl.constexpr, F: tl.constexpr, F_PAD: tl.constexpr, BAND: tl.constexpr,
    PATCH_PAD: tl.constexpr, STRIDES: tl.constexpr,
):  # fmt: skip
    """The filters of every column at no shift, then, if BAND is 2, those at a shift of one row."""
    filters = (
        load_filter(weight_ptr, bias_ptr, 0, 0, CHANNELS, F, F_PAD, BAND, PATCH_PAD, STRIDES),
        load_filter(weight_ptr, bias_ptr, 0, 1, CHANNELS, F, F_PAD, BAND, PATCH_PAD, STRIDES),
        load_filter(weight_ptr, bias_ptr, 0, 2, CHANNELS, F, F_PAD, BAND, PATCH_PAD, STRIDES),
    )
    if BAND == 1:
        return filters
    else:
        return filters + (
            load_filter(weight_ptr, bias_ptr, 1, 0, CHANNELS, F, F_PAD, BAND, PATCH_PAD, STRIDES),
            load_filter(weight_ptr, bias_ptr, 1, 1, CHANNELS, F, F_PAD, BAND, PATCH_PAD, STRIDES),
            load_filter(weight_ptr, bias_ptr, 1, 2, CHANNELS, F, F_PAD, BAND, PATCH_PAD, STRIDES),
        )


@triton.jit
def patch_column(
    image_ptr, stride_c, stride_h, stride_w, first_row, last_row, column, last_column,
    CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, SCALE: tl.constexpr, OFFSET: tl.constexpr,
    BAND: tl.constexpr, USED: tl.constexpr, PATCH_PAD: tl.constexpr, ACC: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """Rows ``first_row`` to ``first_row + BAND + 1`` of the image at one column each, [BLOCK, PATCH_PAD]; then a 1.

    Zero outside the image, past ``last_row`` and ``last_column``, and past the patches of the first USED rows: what a bin does
    not cover must not reach it, not even times a weight of zero. SCALE and OFFSET, one a channel, normalise the pixels.
    """
    k = tl.arange(0, PATCH_PAD)[:, None]
    channel = k % CHANNELS
    row = first_row[None, :] + k // CHANNELS
    # As unsigned numbers, those before the first are past the last.
    rows = tl.where(unsigned(column) <= unsigned(last_column), last_row + 1, 0)
    inside = (unsigned(row) < unsigned(rows)[None, :]) & (k < (USED + 2) * CHANNELS)
    # Loads without a mask, of the nearest pixel: what lies outside is replaced once, after it was normalised.
    row = tl.minimum(tl.maximum(row, 0), last_row[None, :])
    column = tl.minimum(tl.maximum(column, 0), last_column)
    pointers = image_ptr + (row * stride_h + (column * stride_w)[None, :])
    if CHANNELS_LAST:
        pointers += channel
    else:
        pointers += channel.to(row.dtype) * stride_c
    x = load_along_pixels(pointers, None).to(ACC)
    if len(SCALE) > 0:
        x = x * per_channel(SCALE, channel, ACC) + per_channel(OFFSET, channel, ACC)
    x = tl.where(inside, x, tl.where(k == (BAND + 2) * CHANNELS, 1.0, 0.0))
    return tl.trans(forget_loads(x).to(OPERAND))


@triton.jit
def _product(column, filter, PRECISION: tl.constexpr, ACC: tl.constexpr):
    return tl.dot(column, filter, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def _add_product(column, filter, total, PRECISION: tl.constexpr):
    return tl.dot(column, filter, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def convolve(left, middle, right, filters, SHIFT: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Features before ReLU: [BLOCK, F_PAD]."""
    z = _product(left, filters[3 * SHIFT], PRECISION, ACC)
    z = _add_product(middle, filters[3 * SHIFT + 1], z, PRECISION)
    return _add_product(right, filters[3 * SHIFT + 2], z, PRECISION)


@triton.jit
def bin_share(i, j, n_in, n_out, ACC: tl.constexpr):
    """Share of source pixel ``i`` that lies in bin ``j``, of the most that any has: exactly 1 for a whole pixel."""
    start = i * n_out - j * n_in  # of the pixel, from the bin's start on, in units of 1 / n_out source pixels
    overlap = tl.minimum(start + n_out, n_in) - tl.maximum(start, 0)
    most = tl.minimum(n_in, n_out)
    return tl.where(overlap == most, 1.0, tl.maximum(overlap, 0).to(ACC) * (1.0 / most.to(ACC)))


@triton.jit
def mean_scale(image_h, image_w, out_h, out_w, ACC: tl.constexpr):
    """What a bin's sum of shares is to be multiplied by to become a mean."""
    scale_h = tl.minimum(image_h, out_h).to(ACC) / image_h.to(ACC)
    return scale_h * (tl.minimum(image_w, out_w).to(ACC) / image_w.to(ACC))


@triton.jit
def bin_range(y, x, image_h, image_w, out_h, out_w, CUT: tl.constexpr):
    """First row of the bins, last row that their patches may read, and the same of columns; if no bin is CUT, to the edge."""
    last_row = tl.zeros_like(y) + image_h - 1
    last_column = tl.zeros_like(x) + image_w - 1
    if CUT:
        last_row = tl.minimum(bin_last(y, image_h, out_h) + 1, last_row)
        last_column = tl.minimum(bin_last(x, image_w, out_w) + 1, last_column)
    return bin_first(y, image_h, out_h), last_row, bin_first(x, image_w, out_w), last_column


@triton.jit
def most_rows(y, image_h, out_h):
    """Rows of the image that the bins of one tile overlap at most: of one row of pixels, often one less than of any."""
    rows = bin_last(y, image_h, out_h) - bin_first(y, image_h, out_h) + 1
    return tl.max(rows.to(tl.int32), axis=0)


@triton.jit
def _add_band(
    total, image_ptr, stride_c, stride_h, stride_w, filters, row, last_row, first_column, last_column, y, x,
    image_h, image_w, out_h, out_w, bin_w,
    CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, SCALE: tl.constexpr, OFFSET: tl.constexpr,
    BAND: tl.constexpr, USED: tl.constexpr, PATCH_PAD: tl.constexpr, BIN_W: tl.constexpr, CUT: tl.constexpr,
    ACC: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``total`` plus the features of the first USED of BAND rows from ``row`` on, over the bin's columns.

    A column of pixels takes part in the features of three columns, and is multiplied by all their filters at once, so that
    sums go from one column to the next, and no operand does: a sum stays where the matrix units put it.
    """
    column = patch_column(
        image_ptr, stride_c, stride_h, stride_w, row - 1, last_row, first_column - 1, last_column,
        CHANNELS, CHANNELS_LAST, SCALE, OFFSET, BAND, USED, PATCH_PAD, ACC, OPERAND,
    )  # fmt: skip
    here_0 = _product(column, filters[0], PRECISION, ACC)
    here_1 = here_0
    if USED == 2:
        here_1 = _product(column, filters[3], PRECISION, ACC)
    column = patch_column(
        image_ptr, stride_c, stride_h, stride_w, row - 1, last_row, first_column, last_column,
        CHANNELS, CHANNELS_LAST, SCALE, OFFSET, BAND, USED, PATCH_PAD, ACC, OPERAND,
    )  # fmt: skip
    here_0 = _add_product(column, filters[1], here_0, PRECISION)
    next_0 = _product(column, filters[0], PRECISION, ACC)
    next_1 = next_0
    if USED == 2:
        here_1 = _add_product(column, filters[4], here_1, PRECISION)
        next_1 = _product(column, filters[3], PRECISION, ACC)
    if BIN_W > 0:
        for i in tl.static_range(BIN_W):
            total, here_0, next_0, here_1, next_1 = _add_column(
                total, here_0, next_0, here_1, next_1, i, image_ptr, stride_c, stride_h, stride_w, filters, row, last_row,
                first_column, last_column, y, x, image_h, image_w, out_h, out_w, CHANNELS, CHANNELS_LAST, SCALE, OFFSET,
                BAND, USED, PATCH_PAD, CUT, ACC, OPERAND, PRECISION,
            )  # fmt: skip
    else:
        for i in range(bin_w):
            total, here_0, next_0, here_1, next_1 = _add_column(
                total, here_0, next_0, here_1, next_1, i, image_ptr, stride_c, stride_h, stride_w, filters, row, last_row,
                first_column, last_column, y, x, image_h, image_w, out_h, out_w, CHANNELS, CHANNELS_LAST, SCALE, OFFSET,
                BAND, USED, PATCH_PAD, CUT, ACC, OPERAND, PRECISION,
            )  # fmt: skip
    return total


@triton.jit
def _add_column(
    total, here_0, next_0, here_1, next_1, i, image_ptr, stride_c, stride_h, stride_w, filters, row, last_row,
    first_column, last_column, y, x, image_h, image_w, out_h, out_w,
    CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, SCALE: tl.constexpr, OFFSET: tl.constexpr,
    BAND: tl.constexpr, USED: tl.constexpr, PATCH_PAD: tl.constexpr, CUT: tl.constexpr,
    ACC: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One step of :func:`_add_band`: ``here`` lacks the last of its three columns, ``next`` two, each for up to two rows."""
    column = patch_column(
        image_ptr, stride_c, stride_h, stride_w, row - 1, last_row, first_column + (i + 1), last_column,
        CHANNELS, CHANNELS_LAST, SCALE, OFFSET, BAND, USED, PATCH_PAD, ACC, OPERAND,
    )  # fmt: skip
    features = relu(_add_product(column, filters[2], here_0, PRECISION))
    share = tl.full([1], 1.0, ACC)
    if CUT:
        share = bin_share(first_column + i, x, image_w, out_w, ACC)
        features *= (share * bin_share(row, y, image_h, out_h, ACC))[:, None]
    total += features
    here_0 = _add_product(column, filters[1], next_0, PRECISION)
    next_0 = _product(column, filters[0], PRECISION, ACC)
    if USED == 2:
        features = relu(_add_product(column, filters[5], here_1, PRECISION))
        if CUT:
            features *= (share * bin_share(row + 1, y, image_h, out_h, ACC))[:, None]
        total += features
        here_1 = _add_product(column, filters[4], next_1, PRECISION)
        next_1 = _product(column, filters[3], PRECISION, ACC)
    else:
        here_1 = here_0
        next_1 = next_0
    return total, here_0, next_0, here_1, next_1


@triton.jit
def convolved_bin_mean(
    image_ptr,  # of one image
    stride_c,
    stride_h,
    stride_w,
    filters,
    y,  # [BLOCK]
    x,
    image_h,
    image_w,
    out_h,
    out_w,
    bin_h,
    bin_w,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    SCALE: tl.constexpr,
    OFFSET: tl.constexpr,
    BAND: tl.constexpr,
    PATCH_PAD: tl.constexpr,
    F_PAD: tl.constexpr,
    BIN_H: tl.constexpr,
    BIN_W: tl.constexpr,
    WHOLE: tl.constexpr,
    ACC: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Mean of the convolution's features over each pixel's bin: [BLOCK, F_PAD].

    BIN_H and BIN_W, where not 0, are ``bin_h`` and ``bin_w`` known when compiling. WHOLE says that then no bin's edge cuts a
    source pixel. All ways give the same bits: they sum in the same order, and the share of a whole pixel is exactly 1.
    """
    CUT: tl.constexpr = BIN_H == 0 or not WHOLE
    first_row, last_row, first_column, last_column = bin_range(y, x, image_h, image_w, out_h, out_w, CUT)
    total = tl.zeros([y.shape[0], F_PAD], ACC)
    if BIN_H > 0:
        for row in tl.static_range(0, BIN_H, BAND):
            total = _add_band(
                total, image_ptr, stride_c, stride_h, stride_w, filters, first_row + row, last_row, first_column, last_column,
                y, x, image_h, image_w, out_h, out_w, bin_w, CHANNELS, CHANNELS_LAST, SCALE, OFFSET, BAND,
                BAND if row + BAND <= BIN_H else 1, PATCH_PAD, BIN_W, CUT, ACC, OPERAND, PRECISION,
            )  # fmt: skip
    else:
        bin_h = tl.minimum(bin_h, most_rows(y, image_h, out_h))
        for row in range(0, bin_h, BAND):
            total = _add_band(
                total, image_ptr, stride_c, stride_h, stride_w, filters, first_row + row, last_row, first_column, last_column,
                y, x, image_h, image_w, out_h, out_w, bin_w, CHANNELS, CHANNELS_LAST, SCALE, OFFSET, BAND,
                BAND, PATCH_PAD, 0, CUT, ACC, OPERAND, PRECISION,
            )  # fmt: skip
    return total * mean_scale(image_h, image_w, out_h, out_w, ACC)


@triton.jit
def _store_filter(
    partial_ptr, values, SHIFT: tl.constexpr, COLUMN: tl.constexpr, CHANNELS: tl.constexpr, F: tl.constexpr, BAND: tl.constexpr
):  # fmt: skip
    """Store a filter's gradient [F_PAD, PATCH_PAD] into (F, C, 3, 3), and behind that, from a middle column, the bias's."""
    feature = tl.arange(0, values.shape[0])[:, None]
    k = tl.arange(0, values.shape[1])[None, :]
    row = k // CHANNELS - SHIFT
    offsets = feature * (9 * CHANNELS) + (k % CHANNELS) * 9 + row * 3 + COLUMN
    tl.store(partial_ptr + offsets, values, mask=(row >= 0) & (row < 3) & (feature < F))
    if COLUMN == 1:
        mask = (k == (BAND + 2) * CHANNELS) & (feature < F)
        tl.store(partial_ptr + F * 9 * CHANNELS + feature + 0 * k, values, mask=mask)


@triton.jit
def _add_filter_gradient(total, grad_features, column, PRECISION: tl.constexpr):
    """``total`` plus grad_features^T . column: [F_PAD, PATCH_PAD]. The column lies as it does for the features themselves."""
    return tl.dot(tl.trans(grad_features), column, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def _add_column_gradients(
    grads, grad, left, middle, i, image_ptr, stride_c, stride_h, stride_w, filters, row, last_row, first_column, last_column,
    y, x, image_h, image_w, out_h, out_w,
    CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, SCALE: tl.constexpr, OFFSET: tl.constexpr,
    BAND: tl.constexpr, USED: tl.constexpr, PATCH_PAD: tl.constexpr, CUT: tl.constexpr,
    ACC: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The filters' gradients plus those from one column of each bin in USED rows; then the next ``left`` and ``middle``."""
    right = patch_column(
        image_ptr, stride_c, stride_h, stride_w, row - 1, last_row, first_column + (i + 1), last_column,
        CHANNELS, CHANNELS_LAST, SCALE, OFFSET, BAND, USED, PATCH_PAD, ACC, OPERAND,
    )  # fmt: skip
    left_0, middle_0, right_0, left_1, middle_1, right_1 = grads
    share = tl.full([1], 1.0, ACC)
    grad_features = grad
    if CUT:
        share = bin_share(first_column + i, x, image_w, out_w, ACC)
        grad_features = grad * (share * bin_share(row, y, image_h, out_h, ACC))[:, None]
    z = convolve(left, middle, right, filters, 0, PRECISION, ACC)
    grad_features = relu_backward(grad_features, z).to(OPERAND)
    left_0 = _add_filter_gradient(left_0, grad_features, left, PRECISION)
    middle_0 = _add_filter_gradient(middle_0, grad_features, middle, PRECISION)
    right_0 = _add_filter_gradient(right_0, grad_features, right, PRECISION)
    if USED == 2:
        grad_features = grad
        if CUT:
            grad_features = grad * (share * bin_share(row + 1, y, image_h, out_h, ACC))[:, None]
        z = convolve(left, middle, right, filters, 1, PRECISION, ACC)
        grad_features = relu_backward(grad_features, z).to(OPERAND)
        left_1 = _add_filter_gradient(left_1, grad_features, left, PRECISION)
        middle_1 = _add_filter_gradient(middle_1, grad_features, middle, PRECISION)
        right_1 = _add_filter_gradient(right_1, grad_features, right, PRECISION)
    return (left_0, middle_0, right_0, left_1, middle_1, right_1), middle, right


@triton.jit
def _add_band_gradients(
    grads, grad, image_ptr, stride_c, stride_h, stride_w, filters, row, last_row, first_column, last_column, y, x,
    image_h, image_w, out_h, out_w, bin_w,
    CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, SCALE: tl.constexpr, OFFSET: tl.constexpr,
    BAND: tl.constexpr, USED: tl.constexpr, PATCH_PAD: tl.constexpr, BIN_W: tl.constexpr, CUT: tl.constexpr,
    ACC: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The filters' gradients plus those from the first USED of BAND rows from ``row`` on, over the bin's columns."""
    left = patch_column(
        image_ptr, stride_c, stride_h, stride_w, row - 1, last_row, first_column - 1, last_column,
        CHANNELS, CHANNELS_LAST, SCALE, OFFSET, BAND, USED, PATCH_PAD, ACC, OPERAND,
    )  # fmt: skip
    middle = patch_column(
        image_ptr, stride_c, stride_h, stride_w, row - 1, last_row, first_column, last_column,
        CHANNELS, CHANNELS_LAST, SCALE, OFFSET, BAND, USED, PATCH_PAD, ACC, OPERAND,
    )  # fmt: skip
    if BIN_W > 0:
        for i in tl.static_range(BIN_W):
            grads, left, middle = _add_column_gradients(
                grads, grad, left, middle, i, image_ptr, stride_c, stride_h, stride_w, filters, row, last_row,
                first_column, last_column, y, x, image_h, image_w, out_h, out_w, CHANNELS, CHANNELS_LAST, SCALE, OFFSET,
                BAND, USED, PATCH_PAD, CUT, ACC, OPERAND, PRECISION,
            )  # fmt: skip
    else:
        for i in range(bin_w):
            grads, left, middle = _add_column_gradients(
                grads, grad, left, middle, i, image_ptr, stride_c, stride_h, stride_w, filters, row, last_row,
                first_column, last_column, y, x, image_h, image_w, out_h, out_w, CHANNELS, CHANNELS_LAST, SCALE, OFFSET,
                BAND, USED, PATCH_PAD, CUT, ACC, OPERAND, PRECISION,
            )  # fmt: skip
    return grads


@triton.jit
def _add_bin_gradients(
    grads, grad, image_ptr, stride_c, stride_h, stride_w, filters, y, x, image_h, image_w, out_h, out_w, bin_h, bin_w,
    CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, SCALE: tl.constexpr, OFFSET: tl.constexpr,
    BAND: tl.constexpr, PATCH_PAD: tl.constexpr, BIN_H: tl.constexpr, BIN_W: tl.constexpr, WHOLE: tl.constexpr,
    ACC: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The filters' gradients plus those from every pixel's bin, given that to its mean, ``grad`` [BLOCK, F_PAD]."""
    CUT: tl.constexpr = BIN_H == 0 or not WHOLE
    first_row, last_row, first_column, last_column = bin_range(y, x, image_h, image_w, out_h, out_w, CUT)
    grad *= mean_scale(image_h, image_w, out_h, out_w, ACC)
    if BIN_H > 0:
        for row in tl.static_range(0, BIN_H, BAND):
            grads = _add_band_gradients(
                grads, grad, image_ptr, stride_c, stride_h, stride_w, filters, first_row + row, last_row, first_column,
                last_column, y, x, image_h, image_w, out_h, out_w, bin_w, CHANNELS, CHANNELS_LAST, SCALE, OFFSET, BAND,
                BAND if row + BAND <= BIN_H else 1, PATCH_PAD, BIN_W, CUT, ACC, OPERAND, PRECISION,
            )  # fmt: skip
    else:
        bin_h = tl.minimum(bin_h, most_rows(y, image_h, out_h))
        for row in range(0, bin_h, BAND):
            grads = _add_band_gradients(
                grads, grad, image_ptr, stride_c, stride_h, stride_w, filters, first_row + row, last_row, first_column,
                last_column, y, x, image_h, image_w, out_h, out_w, bin_w, CHANNELS, CHANNELS_LAST, SCALE, OFFSET, BAND,
                BAND, PATCH_PAD, 0, CUT, ACC, OPERAND, PRECISION,
            )  # fmt: skip
    return grads


@triton.jit(do_not_specialize=[*INTEGERS, "total_strips", "rows"], do_not_specialize_on_alignment=ANYWHERE)
def texture_grad_filter_kernel(
    image_ptr,
    image_stride_n,
    image_stride_c,
    image_stride_h,
    image_stride_w,
    table_ptr,
    texture_weight_ptr,
    texture_bias_ptr,
    grad_pooled_ptr,  # (N, h, w, F), dense
    partial_ptr,  # (programs, BAND, F * C * 9 + F)
    total_strips,
    image_h,
    image_w,
    out_h,
    out_w,
    bin_h,
    bin_w,
    rows,
    CHANNELS: tl.constexpr,
    F: tl.constexpr,
    F_PAD: tl.constexpr,
    BAND: tl.constexpr,
    PATCH_PAD: tl.constexpr,
    BIN_H: tl.constexpr,
    BIN_W: tl.constexpr,
    WHOLE: tl.constexpr,
    FILTER_STRIDES: tl.constexpr,
    IMAGE_CHANNELS_LAST: tl.constexpr,
    SCALE: tl.constexpr,
    OFFSET: tl.constexpr,
    LETTERBOX: tl.constexpr,
    ACC: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One program takes every so-manieth strip of output pixels and sums the gradients of the convolution's weights."""
    filters = load_filters(texture_weight_ptr, texture_bias_ptr, CHANNELS, F, F_PAD, BAND, PATCH_PAD, FILTER_STRIDES)
    zeros = tl.zeros([F_PAD, PATCH_PAD], ACC)
    grads = (zeros, zeros, zeros, zeros, zeros, zeros)
    feature = tl.arange(0, F_PAD)
    pid = tl.program_id(0)
    for strip_index in range(pid, total_strips, tl.num_programs(0)):
        n, tile_y, tile_x = strip(strip_index, out_h, out_w, rows, BLOCK_H, BLOCK_W)
        source_ptr, stride_c, stride_h, stride_w, source_h, source_w, region_h, region_w, top, left, span_h, span_w = picture(
            n, table_ptr, image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w, image_h, image_w,
            out_h, out_w, bin_h, bin_w, INDEX64,
        )  # fmt: skip
        for step in range(rows):
            y, x, mask = tile_pixels(tile_y + step, tile_x, out_h, out_w, BLOCK_H, BLOCK_W, INDEX64)
            offsets = (y * out_w + x)[:, None] * F + feature[None, :]
            if LETTERBOX:
                y, x, inside = region_pixels(y, x, top, left, region_h, region_w)
                mask = mask & inside
            grad_ptrs = grad_pooled_ptr + n * out_h * out_w * F + offsets
            grad = tl.load(grad_ptrs, mask=mask[:, None] & (feature < F)[None, :], other=0.0).to(ACC)
            grads = _add_bin_gradients(
                grads, grad, source_ptr, stride_c, stride_h, stride_w, filters, y, x, source_h, source_w, region_h, region_w,
                span_h, span_w, CHANNELS, IMAGE_CHANNELS_LAST, SCALE, OFFSET, BAND, PATCH_PAD, BIN_H, BIN_W, WHOLE,
                ACC, OPERAND, PRECISION,
            )  # fmt: skip
    partial_ptr += pid.to(tl.int64) * (BAND * F * (9 * CHANNELS + 1))
    for shift in tl.static_range(BAND):
        for column in tl.static_range(3):
            _store_filter(partial_ptr, grads[3 * shift + column], shift, column, CHANNELS, F, BAND)
        partial_ptr += F * (9 * CHANNELS + 1)


@triton.jit
def _load_weight(weight_ptr, ROW: tl.constexpr, COLUMN: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_PAD: tl.constexpr,
                 F: tl.constexpr, F_PAD: tl.constexpr, STRIDES: tl.constexpr):  # fmt: skip
    """The convolution's weights at one place of its 3 x 3: [F_PAD, CHANNELS_PAD]."""
    feature = tl.arange(0, F_PAD)[:, None]
    channel = tl.arange(0, CHANNELS_PAD)[None, :]
    offsets = feature * STRIDES[0] + channel * STRIDES[1] + ROW * STRIDES[2] + COLUMN * STRIDES[3]
    return tl.load(weight_ptr + offsets, mask=(feature < F) & (channel < CHANNELS), other=0.0)


@triton.jit(
    do_not_specialize=[
        *INTEGERS, "grad_pooled_stride_n", "grad_pooled_stride_h", "grad_pooled_stride_w",
        "grad_image_stride_n", "grad_image_stride_c", "grad_image_stride_h", "grad_image_stride_w", "rows",
    ],
    do_not_specialize_on_alignment=ANYWHERE,
)  # fmt: skip
def texture_grad_image_kernel(
    image_ptr,
    image_stride_n,
    image_stride_c,
    image_stride_h,
    image_stride_w,
    texture_weight_ptr,
    texture_bias_ptr,
    grad_pooled_ptr,  # (N, F, h, w), channels-last
    grad_pooled_stride_n,  # in units of GRAD_POOLED_ALIGN, as are h and w
    grad_pooled_stride_h,
    grad_pooled_stride_w,
    grad_image_ptr,
    grad_image_stride_n,
    grad_image_stride_c,
    grad_image_stride_h,
    grad_image_stride_w,
    image_h,
    image_w,
    out_h,
    out_w,
    bin_h,
    bin_w,
    rows,
    CHANNELS: tl.constexpr,
    CHANNELS_PAD: tl.constexpr,
    F: tl.constexpr,
    F_PAD: tl.constexpr,
    PATCH_PAD: tl.constexpr,
    FILTER_STRIDES: tl.constexpr,
    IMAGE_CHANNELS_LAST: tl.constexpr,
    SCALE: tl.constexpr,
    OFFSET: tl.constexpr,
    GRAD_POOLED_ALIGN: tl.constexpr,
    BIN_H: tl.constexpr,
    BIN_W: tl.constexpr,
    WHOLE: tl.constexpr,
    ACC: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One program adds, at BLOCK_H times ``rows`` rows of the image, what reaches them by way of the features around them.

    A row of features reaches three rows of the image: sums for the two that lack some go from one row to the next. Gradients
    are those to the normalised image. The bins here are those of the output's pixels that hold an image pixel.
    """
    BLOCK: tl.constexpr = BLOCK_H * BLOCK_W
    filters = load_filters(texture_weight_ptr, texture_bias_ptr, CHANNELS, F, F_PAD, 1, PATCH_PAD, FILTER_STRIDES)
    n, tile_y, tile_x = strip(tl.program_id(0), image_h, image_w, rows, BLOCK_H, BLOCK_W)
    offs = tl.arange(0, BLOCK)
    first_row = tile_y * BLOCK_H + (offs // BLOCK_W) * rows
    x = tile_x * BLOCK_W + offs % BLOCK_W
    if INDEX64:
        first_row = first_row.to(tl.int64)
        x = x.to(tl.int64)
    in_width = x < image_w
    x = tl.minimum(x, image_w - 1)
    last_row = tl.zeros_like(first_row) + image_h - 1
    last_column = tl.zeros_like(x) + image_w - 1
    image_ptr += n * image_stride_n
    grad_pooled_ptr += n * grad_pooled_stride_n * GRAD_POOLED_ALIGN
    grad_image_ptr += n * grad_image_stride_n
    feature = tl.arange(0, F_PAD)
    channel = tl.arange(0, CHANNELS_PAD)
    if INDEX64:
        feature = feature.to(tl.int64)
        channel = channel.to(tl.int64)
    above = tl.zeros([BLOCK, CHANNELS_PAD], ACC)
    here = above
    for step in range(rows + 2):
        y = first_row + (step - 1)
        safe_y = tl.minimum(tl.maximum(y, 0), last_row)
        below = tl.zeros([BLOCK, CHANNELS_PAD], ACC)
        left = patch_column(
            image_ptr, image_stride_c, image_stride_h, image_stride_w, y - 1, last_row, x - 2, last_column,
            CHANNELS, IMAGE_CHANNELS_LAST, SCALE, OFFSET, 1, 1, PATCH_PAD, ACC, OPERAND,
        )  # fmt: skip
        middle = patch_column(
            image_ptr, image_stride_c, image_stride_h, image_stride_w, y - 1, last_row, x - 1, last_column,
            CHANNELS, IMAGE_CHANNELS_LAST, SCALE, OFFSET, 1, 1, PATCH_PAD, ACC, OPERAND,
        )  # fmt: skip
        for i in tl.static_range(3):
            i_x = x + (i - 1)
            right = patch_column(
                image_ptr, image_stride_c, image_stride_h, image_stride_w, y - 1, last_row, i_x + 1, last_column,
                CHANNELS, IMAGE_CHANNELS_LAST, SCALE, OFFSET, 1, 1, PATCH_PAD, ACC, OPERAND,
            )  # fmt: skip
            z = convolve(left, middle, right, filters, 0, PRECISION, ACC)
            left = middle
            middle = right
            safe_x = tl.minimum(tl.maximum(i_x, 0), last_column)
            grad = bin_sum(
                grad_pooled_ptr, 1, grad_pooled_stride_h, grad_pooled_stride_w, feature, safe_y, safe_x, out_h, out_w,
                image_h, image_w, bin_h, bin_w, image_h, image_w, ACC, F, True, GRAD_POOLED_ALIGN, True, BLOCK, F_PAD,
                BIN_H, BIN_W, WHOLE,
            )  # fmt: skip
            inside = (y == safe_y) & (i_x == safe_x)
            grad = tl.where(inside[:, None], relu_backward(grad, z), 0.0).to(OPERAND)
            weight = _load_weight(texture_weight_ptr, 0, 2 - i, CHANNELS, CHANNELS_PAD, F, F_PAD, FILTER_STRIDES)
            above = _add_product(grad, weight, above, PRECISION)
            weight = _load_weight(texture_weight_ptr, 1, 2 - i, CHANNELS, CHANNELS_PAD, F, F_PAD, FILTER_STRIDES)
            here = _add_product(grad, weight, here, PRECISION)
            weight = _load_weight(texture_weight_ptr, 2, 2 - i, CHANNELS, CHANNELS_PAD, F, F_PAD, FILTER_STRIDES)
            below = _add_product(grad, weight, below, PRECISION)
        offsets = ((y - 1) * grad_image_stride_h + x * grad_image_stride_w)[:, None]
        pointers = grad_image_ptr + (offsets + channel[None, :] * grad_image_stride_c)
        mask = (in_width & (y <= image_h) & (step >= 2))[:, None] & (channel < CHANNELS)[None, :]
        tl.store(pointers, above + tl.load(pointers, mask=mask, other=0.0).to(ACC), mask=mask)
        above = here
        here = below
