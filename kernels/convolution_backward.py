"""The gradients of the texture's convolution: to its weight and bias, and to the image by way of it."""

import triton
import triton.language as tl

from .batch import image_at, target_at
from .bins import bin_sum
from .convolution import (
    add_product,
    bin_edges,
    bin_share,
    load_texture_weights,
    mean_factor,
    most_rows,
    patch_column,
    product,
)
from .groups import Batch, Target
from .network import relu_backward
from .tile import plane_at, target_pixels, tile_column, tile_pixels

INTEGERS = [
    "image_stride_n", "image_stride_c", "image_stride_h", "image_stride_w",
    "image_h", "image_w", "out_h", "out_w", "bin_h", "bin_w", "rows",
]  # fmt: skip
ANYWHERE = ["image_ptr"]
"""Tensors that may start anywhere, as in :mod:`.forward`."""


@triton.jit
def _convolve(left, middle, right, tiles, SHIFT: tl.constexpr, C: tl.constexpr):
    """The texture before its ReLU: [BLOCK, texture channels]."""
    convolved = product(left, tiles[3 * SHIFT], C)
    convolved = add_product(middle, tiles[3 * SHIFT + 1], convolved, C)
    return add_product(right, tiles[3 * SHIFT + 2], convolved, C)


@triton.jit
def _add_weight_gradient(total, grad_texture, column, C: tl.constexpr):
    """``total`` plus grad_texture^T . column: [texture channels, PATCH_PAD]. The column lies as in the forward pass."""
    return tl.dot(tl.trans(grad_texture), column, total, input_precision=C.PRECISION, out_dtype=total.dtype)


@triton.jit
def _add_column_gradients(
    grads, grad, left, middle, tiles, column, row, image, edges, pixels, target, USED: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    """The weights' gradients plus those from one column of each bin in USED rows; then the next ``left`` and ``middle``."""
    right = patch_column(image, row - 1, edges.last_row, edges.first_column + (column + 1), edges.last_column, USED, C)
    left_0, middle_0, right_0, left_1, middle_1, right_1 = grads
    share = tl.full([1], 1.0, C.ACC)
    grad_texture = grad
    if not C.TEXTURE.BINS_WHOLE:
        share = bin_share(edges.first_column + column, pixels.x, image.w, target.w, C.ACC)
        grad_texture = grad * (share * bin_share(row, pixels.y, image.h, target.h, C.ACC))[:, None]
    convolved = _convolve(left, middle, right, tiles, 0, C)
    grad_texture = relu_backward(grad_texture, convolved).to(C.OPERAND)
    left_0 = _add_weight_gradient(left_0, grad_texture, left, C)
    middle_0 = _add_weight_gradient(middle_0, grad_texture, middle, C)
    right_0 = _add_weight_gradient(right_0, grad_texture, right, C)
    if USED == 2:
        grad_texture = grad
        if not C.TEXTURE.BINS_WHOLE:
            grad_texture = grad * (share * bin_share(row + 1, pixels.y, image.h, target.h, C.ACC))[:, None]
        convolved = _convolve(left, middle, right, tiles, 1, C)
        grad_texture = relu_backward(grad_texture, convolved).to(C.OPERAND)
        left_1 = _add_weight_gradient(left_1, grad_texture, left, C)
        middle_1 = _add_weight_gradient(middle_1, grad_texture, middle, C)
        right_1 = _add_weight_gradient(right_1, grad_texture, right, C)
    return (left_0, middle_0, right_0, left_1, middle_1, right_1), middle, right


@triton.jit
def _add_band_gradients(grads, grad, tiles, row, image, edges, pixels, target, USED: tl.constexpr, C: tl.constexpr):
    """The weights' gradients plus those from the first USED of BAND rows from ``row`` on, over the bin's columns."""
    left = patch_column(image, row - 1, edges.last_row, edges.first_column - 1, edges.last_column, USED, C)
    middle = patch_column(image, row - 1, edges.last_row, edges.first_column, edges.last_column, USED, C)
    if C.TEXTURE.BIN_W > 0:
        for column in tl.static_range(C.TEXTURE.BIN_W):
            grads, left, middle = _add_column_gradients(
                grads, grad, left, middle, tiles, column, row, image, edges, pixels, target, USED, C
            )
    else:
        bin_w = target.bin_w
        for column in range(bin_w):
            grads, left, middle = _add_column_gradients(
                grads, grad, left, middle, tiles, column, row, image, edges, pixels, target, USED, C
            )
    return grads


@triton.jit
def _add_bin_gradients(grads, grad, tiles, image, pixels, target, C: tl.constexpr):
    """The weights' gradients plus those from every pixel's bin, given that to its mean, ``grad`` [BLOCK, channels]."""
    edges = bin_edges(pixels, image, target, not C.TEXTURE.BINS_WHOLE)
    grad *= mean_factor(image, target, C.ACC)
    if C.TEXTURE.BIN_H > 0:
        for row in tl.static_range(0, C.TEXTURE.BIN_H, C.BAND):
            grads = _add_band_gradients(
                grads, grad, tiles, edges.first_row + row, image, edges, pixels, target,
                C.BAND if row + C.BAND <= C.TEXTURE.BIN_H else 1, C,
            )  # fmt: skip
    else:
        bin_h = tl.minimum(target.bin_h, most_rows(pixels.y, image.h, target.h))
        for row in range(0, bin_h, C.BAND):
            grads = _add_band_gradients(grads, grad, tiles, edges.first_row + row, image, edges, pixels, target, C.BAND, C)
    return grads


@triton.jit
def _store_weight_gradient(partial_ptr, values, SHIFT: tl.constexpr, COLUMN: tl.constexpr, C: tl.constexpr):
    """Store a tile's gradient [channels, PATCH_PAD] into (F, C, 3, 3), and behind that, from a middle column, the bias's."""
    texture_channel = tl.arange(0, values.shape[0])[:, None]
    k = tl.arange(0, values.shape[1])[None, :]
    row = k // C.CHANNELS - SHIFT
    offsets = texture_channel * (9 * C.CHANNELS) + (k % C.CHANNELS) * 9 + row * 3 + COLUMN
    tl.store(partial_ptr + offsets, values, mask=(row >= 0) & (row < 3) & (texture_channel < C.TEXTURE.CHANNELS))
    if COLUMN == 1:
        mask = (k == (C.BAND + 2) * C.CHANNELS) & (texture_channel < C.TEXTURE.CHANNELS)
        tl.store(partial_ptr + C.TEXTURE.CHANNELS * 9 * C.CHANNELS + texture_channel + 0 * k, values, mask=mask)


@triton.jit(do_not_specialize=[*INTEGERS, "total_columns"], do_not_specialize_on_alignment=ANYWHERE)
def texture_grad_weights_kernel(
    image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w,
    table_ptr,  # of images of different sizes, or None
    texture_weights,
    grad_pooled_ptr,  # (N, h, w, F), dense
    partial_ptr,  # (programs, BAND, F * C * 9 + F)
    total_columns, image_h, image_w, out_h, out_w, bin_h, bin_w, rows, C: tl.constexpr,
):  # fmt: skip
    """Program p takes the tile columns p, p + programs, ... and sums the gradients of the convolution's weights."""
    images = Batch(image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w, image_h, image_w)
    everywhere = Target(out_h, out_w, 0, 0, bin_h, bin_w)
    tiles = load_texture_weights(texture_weights, C)
    zeros = tl.zeros([C.TEXTURE.CHANNELS_PAD, C.PATCH_PAD], C.ACC)
    grads = (zeros, zeros, zeros, zeros, zeros, zeros)
    texture_channel = tl.arange(0, C.TEXTURE.CHANNELS_PAD)
    pid = tl.program_id(0)
    for column_index in range(pid, total_columns, tl.num_programs(0)):
        n, tile_y, tile_x = tile_column(column_index, out_h, out_w, rows, C)
        image = image_at(n, table_ptr, images, C)
        target = target_at(n, table_ptr, everywhere, C)
        for step in range(rows):
            pixels = tile_pixels(tile_y + step, tile_x, out_h, out_w, C)
            mask = pixels.mask
            offsets = (pixels.y * out_w + pixels.x)[:, None] * C.TEXTURE.CHANNELS + texture_channel[None, :]
            if C.LETTERBOX:
                pixels = target_pixels(pixels, target)
                mask = mask & pixels.mask
            grad_ptrs = grad_pooled_ptr + n * out_h * out_w * C.TEXTURE.CHANNELS + offsets
            grad = tl.load(grad_ptrs, mask=mask[:, None] & (texture_channel < C.TEXTURE.CHANNELS)[None, :], other=0.0).to(C.ACC)
            grads = _add_bin_gradients(grads, grad, tiles, image, pixels, target, C)
    partial_ptr += pid.to(tl.int64) * (C.BAND * C.TEXTURE.CHANNELS * (9 * C.CHANNELS + 1))
    for shift in tl.static_range(C.BAND):
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
    first_row = tile_y * C.BLOCK_H + (offs // C.BLOCK_W) * rows
    x = tile_x * C.BLOCK_W + offs % C.BLOCK_W
    if C.INDEX64:
        first_row = first_row.to(tl.int64)
        x = x.to(tl.int64)
    in_width = x < image_w
    x = tl.minimum(x, image_w - 1)
    last_row = tl.zeros_like(first_row) + image_h - 1
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
        y = first_row + (step - 1)
        safe_y = tl.minimum(tl.maximum(y, 0), last_row)
        below = tl.zeros([BLOCK, C.CHANNELS_PAD], C.ACC)
        left = patch_column(image, y - 1, last_row, x - 2, last_column, 1, C)
        middle = patch_column(image, y - 1, last_row, x - 1, last_column, 1, C)
        for i in tl.static_range(3):
            i_x = x + (i - 1)
            right = patch_column(image, y - 1, last_row, i_x + 1, last_column, 1, C)
            convolved = _convolve(left, middle, right, tiles, 0, C)
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
