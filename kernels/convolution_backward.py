"""The gradients of the texture's convolution: to its weight and bias, and to the image by way of it."""

import triton
import triton.language as tl

from .batch import image_at, target_at
from .bins import bin_sum
from .convolution import (
    BAND,
    ROWS,
    add_product,
    as_operand,
    bin_span,
    convolve,
    first_walked_row,
    load_texture_weights,
    mean_factor,
    most,
    patch_column,
    place_in_patch,
    replaced,
    row_share,
    share_behind,
    spread,
    start_walk,
    strip_columns,
)
from .groups import Batch, BinColumns, Target
from .network import relu_backward
from .tile import bin_first, plane_at, target_pixels, tile_column, walked_pixels

INTEGERS = [
    "image_stride_n", "image_stride_c", "image_stride_h", "image_stride_w",
    "image_h", "image_w", "out_h", "out_w", "bin_h", "bin_w", "rows",
]  # fmt: skip
ANYWHERE = ["image_ptr"]
"""Tensors that may start anywhere, as in :mod:`.forward`."""


@triton.jit
def _add_weight_gradient(total, grad_texture, column, C: tl.constexpr):
    """``total`` plus grad_texture^T . column: [texture channels, ROWS * SLOTS]. The column lies as in the forward pass."""
    column = as_operand(column, C)
    return tl.dot(tl.trans(grad_texture), column, total, input_precision=C.PRECISION, out_dtype=total.dtype)


@triton.jit
def _add_column_gradients(grads, upper, lower, left, middle, tiles, place, row, image, columns, C: tl.constexpr):
    """The weights' gradients plus those from a band's texture at one column of each bin, whose own gradients, before the ReLU,
    are ``upper`` and ``lower``; then the next ``left`` and ``middle``.
    """
    right = patch_column(image, row - 1, columns, place + 1, False, C)
    left_0, middle_0, right_0, left_1, middle_1, right_1 = grads
    grad_texture = relu_backward(upper, convolve(left, middle, right, tiles, 0, C)).to(C.OPERAND)
    left_0 = _add_weight_gradient(left_0, grad_texture, left, C)
    middle_0 = _add_weight_gradient(middle_0, grad_texture, middle, C)
    right_0 = _add_weight_gradient(right_0, grad_texture, right, C)
    grad_texture = relu_backward(lower, convolve(left, middle, right, tiles, 1, C)).to(C.OPERAND)
    left_1 = _add_weight_gradient(left_1, grad_texture, left, C)
    middle_1 = _add_weight_gradient(middle_1, grad_texture, middle, C)
    right_1 = _add_weight_gradient(right_1, grad_texture, right, C)
    return (left_0, middle_0, right_0, left_1, middle_1, right_1), middle, right


@triton.jit
def _add_band_gradients(grads, upper, lower, tiles, row, image, columns, target, C: tl.constexpr):
    """The weights' gradients plus those from the rows ``row`` and ``row + 1``, given those to their sums over bins' columns."""
    left = patch_column(image, row - 1, columns, -1, True, C)
    middle = patch_column(image, row - 1, columns, 0, False, C)
    if C.TEXTURE.BIN_W > 0:
        for column in tl.static_range(C.TEXTURE.BIN_W):
            grads, left, middle = _add_column_gradients(
                grads, upper, lower, left, middle, tiles, column, row, image, columns, C
            )
    else:
        bin_w = target.bin_w
        share = columns.first_share[:, None]
        for column in range(bin_w):
            grads, left, middle = _add_column_gradients(
                grads, share * upper, share * lower, left, middle, tiles, column, row, image, columns, C
            )
            share = share_behind(column + 1, columns)[:, None]
    return grads


@triton.jit
def _load_gradient(grad_pooled_ptr, tile_y, step, rows, tile_x, out_h, out_w, image, target, C: tl.constexpr):
    """Pixels of one step of a strip; and the gradient to their bins' sums, [BLOCK, texture channels], zero behind the strip."""
    texture_channel = tl.arange(0, C.TEXTURE.CHANNELS_PAD)
    pixels = walked_pixels(tile_y, step, rows, tile_x, out_h, out_w, C)
    offsets = (pixels.y * out_w + pixels.x)[:, None] * C.TEXTURE.CHANNELS + texture_channel[None, :]
    mask = pixels.mask & (step < rows)
    if C.LETTERBOX:
        pixels = target_pixels(pixels, target)
        mask = mask & pixels.mask
    mask = mask[:, None] & (texture_channel < C.TEXTURE.CHANNELS)[None, :]
    grad = tl.load(grad_pooled_ptr + offsets, mask=mask, other=0.0).to(C.ACC)
    return pixels, grad * mean_factor(image, target, C.ACC)


@triton.jit
def _add_whole_bins(grads, tiles, grad_pooled_ptr, tile_y, rows, tile_x, out_h, out_w, image, target, C: tl.constexpr):
    """The weights' gradients plus those from a strip of bins of BAND rows."""
    columns = strip_columns(tile_y, rows, tile_x, out_h, out_w, image, target, C)
    for step in range(rows):
        pixels, grad = _load_gradient(grad_pooled_ptr, tile_y, step, rows, tile_x, out_h, out_w, image, target, C)
        first_row = bin_first(pixels.row, image.h, target.h)
        grads = _add_band_gradients(grads, grad, grad, tiles, first_row, image, columns, target, C)
    return grads


@triton.jit
def _add_walked_bins(grads, tiles, grad_pooled_ptr, tile_y, rows, tile_x, out_h, out_w, image, target, C: tl.constexpr):
    """The weights' gradients plus those from a strip of bins, going down the image's rows in bands as the forward pass does.

    A band has its gradient when all bins are past that share it. So the last of a bin waits for the next bin, and one step more
    than there are rows finishes the last.
    """
    nothing = tl.zeros([C.BLOCK_H * C.BLOCK_W, C.TEXTURE.CHANNELS_PAD], C.ACC)
    columns = strip_columns(tile_y, rows, tile_x, out_h, out_w, image, target, C)
    row, upper, lower = start_walk(walked_pixels(tile_y, 0, rows, tile_x, out_h, out_w, C).row, image, C)
    for step in range(rows + 1):
        pixels, grad = _load_gradient(grad_pooled_ptr, tile_y, step, rows, tile_x, out_h, out_w, image, target, C)
        span = bin_span(pixels.row, image.h, target.h, C.ACC)
        inside = pixels.row_mask & (step < rows)
        row = first_walked_row(row, inside, span, image)
        upper = tl.fma(row_share(row, span, C), grad, upper)
        lower = tl.fma(row_share(row + 1, span, C), grad, lower)
        complete = tl.where(inside, (span.last // BAND * BAND - row) // BAND, 0)
        complete = tl.where(step < rows, complete, 1)
        bands = most(complete, C)
        for _ in range(bands):
            ahead = complete > 0
            grads = _add_band_gradients(
                grads, replaced(ahead, upper, nothing, C), replaced(ahead, lower, nothing, C),
                tiles, row, image, columns, target, C,
            )  # fmt: skip
            row = replaced(ahead, row + BAND, row, C)
            upper = replaced(ahead, row_share(row, span, C) * grad, upper, C)
            lower = replaced(ahead, row_share(row + 1, span, C) * grad, lower, C)
            complete -= 1
    return grads


@triton.jit
def _store_weight_gradient(partial_ptr, values, SHIFT: tl.constexpr, COLUMN: tl.constexpr, C: tl.constexpr):
    """Store a tile's gradient [channels, ROWS * SLOTS] into (F, C, 3, 3); behind that, from a middle column, the bias's."""
    texture_channel = tl.arange(0, values.shape[0])[:, None]
    k = tl.arange(0, values.shape[1])[None, :]
    row, channel = place_in_patch(k)
    row -= SHIFT
    offsets = texture_channel * (9 * C.CHANNELS) + channel * 9 + row * 3 + COLUMN
    mask = (row >= 0) & (row < 3) & (channel < C.CHANNELS) & (texture_channel < C.TEXTURE.CHANNELS)
    tl.store(partial_ptr + offsets, values, mask=mask)
    if COLUMN == 1:
        mask = (row == 1) & (channel == C.CHANNELS) & (texture_channel < C.TEXTURE.CHANNELS)
        tl.store(partial_ptr + C.TEXTURE.CHANNELS * 9 * C.CHANNELS + texture_channel + 0 * k, values, mask=mask)


@triton.jit(do_not_specialize=[*INTEGERS, "total_columns"], do_not_specialize_on_alignment=ANYWHERE)
def texture_grad_weights_kernel(
    image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w,
    table_ptr,  # of images of different sizes, or None
    texture_weights,
    grad_pooled_ptr,  # (N, h, w, F), dense
    partial_ptr,  # (programs, 2, F * C * 9 + F)
    total_columns, image_h, image_w, out_h, out_w, bin_h, bin_w, rows, C: tl.constexpr,
):  # fmt: skip
    """Program p takes the tile columns p, p + programs, ... and sums the gradients of the convolution's weights."""
    images = Batch(image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w, image_h, image_w)
    everywhere = Target(out_h, out_w, 0, 0, bin_h, bin_w)
    tiles = load_texture_weights(texture_weights, C)
    zeros = tl.zeros([C.TEXTURE.CHANNELS_PAD, ROWS * C.SLOTS], C.ACC)
    grads = (zeros, zeros, zeros, zeros, zeros, zeros)
    pid = tl.program_id(0)
    for column_index in range(pid, total_columns, tl.num_programs(0)):
        n, tile_y, tile_x = tile_column(column_index, out_h, out_w, rows, C)
        image = image_at(n, table_ptr, images, C)
        target = target_at(n, table_ptr, everywhere, C)
        grad_ptr = grad_pooled_ptr + n * out_h * out_w * C.TEXTURE.CHANNELS
        if C.TEXTURE.BIN_H > 0:
            grads = _add_whole_bins(grads, tiles, grad_ptr, tile_y, rows, tile_x, out_h, out_w, image, target, C)
        else:
            grads = _add_walked_bins(grads, tiles, grad_ptr, tile_y, rows, tile_x, out_h, out_w, image, target, C)
    partial_ptr += pid.to(tl.int64) * (BAND * C.TEXTURE.CHANNELS * (9 * C.CHANNELS + 1))
    for shift in tl.static_range(BAND):
        for column in tl.static_range(3):
            _store_weight_gradient(partial_ptr, grads[3 * shift + column], shift, column, C)
        partial_ptr += C.TEXTURE.CHANNELS * (9 * C.CHANNELS + 1)


@triton.jit
def _load_weight(weight_ptr, ROW: tl.constexpr, COLUMN: tl.constexpr, C: tl.constexpr):
    """The convolution's weights at one place of its 3 x 3: [texture channels, CHANNELS_PAD]."""
    texture_channel = tl.arange(0, C.TEXTURE.CHANNELS_PAD)[:, None]
    channel = tl.arange(0, C.CHANNELS_PAD)[None, :]
    offsets = texture_channel * C.TEXTURE_WEIGHT_STRIDES[0] + channel * C.TEXTURE_WEIGHT_STRIDES[1]
    offsets = offsets + ROW * C.TEXTURE_WEIGHT_STRIDES[2] + COLUMN * C.TEXTURE_WEIGHT_STRIDES[3]
    return tl.load(weight_ptr + offsets, mask=(texture_channel < C.TEXTURE.CHANNELS) & (channel < C.CHANNELS), other=0.0)


@triton.jit(
    do_not_specialize=[
        *INTEGERS, "grad_pooled_stride_n", "grad_pooled_stride_h", "grad_pooled_stride_w",
        "grad_image_stride_n", "grad_image_stride_c", "grad_image_stride_h", "grad_image_stride_w",
    ],
    do_not_specialize_on_alignment=ANYWHERE,
)  # fmt: skip
def texture_grad_image_kernel(
    image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w,
    texture_weights,
    grad_pooled_ptr, grad_pooled_stride_n, grad_pooled_stride_h, grad_pooled_stride_w,  # in units of TEXTURE.ALIGN
    grad_image_ptr, grad_image_stride_n, grad_image_stride_c, grad_image_stride_h, grad_image_stride_w,
    image_h, image_w, out_h, out_w, bin_h, bin_w, rows, C: tl.constexpr,
):  # fmt: skip
    """One program adds, at BLOCK_H times ``rows`` rows of the image, what reaches them by way of the texture around them.

    A row of texture reaches three rows of the image: sums for the two that lack some go from one row to the next. Gradients
    are those to the normalised image. The bins here are those of the output's pixels that hold an image pixel.
    """
    BLOCK: tl.constexpr = C.BLOCK_H * C.BLOCK_W
    images = Batch(image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w, image_h, image_w)
    grads_pooled = Batch(grad_pooled_ptr, grad_pooled_stride_n, 1, grad_pooled_stride_h, grad_pooled_stride_w, out_h, out_w)
    target = Target(image_h, image_w, 0, 0, bin_h, bin_w)
    tiles = load_texture_weights(texture_weights, C)
    n, tile_y, tile_x = tile_column(tl.program_id(0), image_h, image_w, rows, C)
    offs = tl.arange(0, BLOCK)
    row = tile_y * C.BLOCK_H
    if C.BLOCK_H > 1:
        row += (offs // C.BLOCK_W) * rows
    x = tile_x * C.BLOCK_W + offs % C.BLOCK_W
    if C.INDEX64:
        row = row.to(tl.int64)
        x = x.to(tl.int64)
    in_width = x < image_w
    x = tl.minimum(x, image_w - 1)
    column = spread(x, C)
    columns = BinColumns(column, column * image_stride_w, image_w - 1, None, None)
    last_row = image_h - 1
    last_column = tl.zeros_like(x) + image_w - 1
    image = plane_at(n, images, 1)
    grad_pooled = plane_at(n, grads_pooled, C.TEXTURE.ALIGN)
    grad_image_ptr += n * grad_image_stride_n
    texture_channel = tl.arange(0, C.TEXTURE.CHANNELS_PAD)
    channel = tl.arange(0, C.CHANNELS_PAD)
    if C.INDEX64:
        texture_channel = texture_channel.to(tl.int64)
        channel = channel.to(tl.int64)
    above = tl.zeros([BLOCK, C.CHANNELS_PAD], C.ACC)
    here = above
    for step in range(rows + 2):
        y = row + (step - 1) + tl.zeros_like(x)
        safe_y = tl.minimum(tl.maximum(y, 0), last_row)
        below = tl.zeros([BLOCK, C.CHANNELS_PAD], C.ACC)
        left = patch_column(image, row + (step - 2), columns, -2, True, C)
        middle = patch_column(image, row + (step - 2), columns, -1, True, C)
        for i in tl.static_range(3):
            i_x = x + (i - 1)
            right = patch_column(image, row + (step - 2), columns, i, False, C)
            convolved = convolve(left, middle, right, tiles, 0, C)
            left = middle
            middle = right
            safe_x = tl.minimum(tl.maximum(i_x, 0), last_column)
            grad = bin_sum(grad_pooled, texture_channel, safe_y, safe_x, target, image_h, image_w, C.TEXTURE)
            inside = (y == safe_y) & (i_x == safe_x)
            grad = tl.where(inside[:, None], relu_backward(grad, convolved), 0.0).to(C.OPERAND)
            above = add_product(grad, _load_weight(texture_weights.weight, 0, 2 - i, C), above, C)
            here = add_product(grad, _load_weight(texture_weights.weight, 1, 2 - i, C), here, C)
            below = add_product(grad, _load_weight(texture_weights.weight, 2, 2 - i, C), below, C)
        offsets = ((y - 1) * grad_image_stride_h + x * grad_image_stride_w)[:, None]
        pointers = grad_image_ptr + (offsets + channel[None, :] * grad_image_stride_c)
        mask = (in_width & (y <= image_h) & (step >= 2))[:, None] & (channel < C.CHANNELS)[None, :]
        tl.store(pointers, above + tl.load(pointers, mask=mask, other=0.0).to(C.ACC), mask=mask)
        above = here
        here = below
