"""The fused backward kernel: gradients to the pooled texture and to all weights, and the coefficients, in one pass.

It recomputes the coefficients from what the forward kernel reads, and writes per output pixel the gradient of the pooled
texture (F values) and the coefficients (K*K values), only those that are needed: one gather each then gives the gradients to
texture and image. Weight gradients are summed per program, then once over the programs, so that the result never depends on
the order in which programs end.
"""

import triton
import triton.language as tl

from .batch import image_at, target_at
from .bins import store_bins
from .convolution import start_walk, strip_columns
from .forward import ANYWHERE, INTEGERS, infer, load_weights
from .groups import Batch, Elements, Gradients, Strength, Target
from .network import (
    POSITIONS,
    encoding_gradients,
    fold_pixels,
    linear_grad_input,
    linear_grad_weight,
    pad_rows,
    relu_backward,
)
from .strength import outer, store_strength
from .tile import (
    channel_stride,
    existing_taps,
    forget_loads,
    gather_backward,
    is_narrower,
    plane_at,
    sum_over_taps,
    tap_offsets,
    target_pixels,
    tile_column,
    walked_pixels,
)  # fmt: skip


@triton.jit
def _store_partial(partial_ptr, values, row_stride: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr):
    """Store a weight gradient, transposed and padded, as (OUT, IN) in rows of ``row_stride``."""
    row = tl.arange(0, values.shape[1])[None, :]
    column = tl.arange(0, values.shape[0])[:, None]
    tl.store(partial_ptr + row * row_stride + column, values, mask=(row < OUT) & (column < IN))


@triton.jit
def _store_partial_bias(partial_ptr, values, OUT: tl.constexpr):
    channel = tl.arange(0, values.shape[0])
    tl.store(partial_ptr + channel, values, mask=channel < OUT)


@triton.jit
def _store_hidden(partial_ptr, weight, bias, C: tl.constexpr):
    """Store the gradients to weight and, behind it, bias of a hidden layer behind another. Return their end."""
    CHANNELS: tl.constexpr = C.HIDDEN_CHANNELS
    _store_partial(partial_ptr, weight, CHANNELS, CHANNELS, CHANNELS)
    _store_partial_bias(partial_ptr + CHANNELS * CHANNELS, tl.sum(bias, axis=0), CHANNELS)
    return partial_ptr + CHANNELS * (CHANNELS + 1)


@triton.jit
def _store_partial_distance(partial_ptr, grad_encoding, bias, C: tl.constexpr):
    """Unfold the gradients of A_x and A_y, and that of b, into those of Wd (E, 2 * TAPS) and, behind it, bd (E,)."""
    horizontal, vertical = encoding_gradients(grad_encoding)
    channel = tl.arange(0, C.DISTANCE_CHANNELS_PAD)
    mask = channel < C.DISTANCE_CHANNELS
    for k in tl.static_range(C.TAPS):
        tl.store(partial_ptr + channel * (2 * C.TAPS) + k, vertical + k * bias, mask=mask)
        tl.store(partial_ptr + channel * (2 * C.TAPS) + C.TAPS + k, horizontal + k * bias, mask=mask)
    tl.store(partial_ptr + C.DISTANCE_CHANNELS * 2 * C.TAPS + channel, bias, mask=mask)


@triton.jit
def _store_gradients(partial_ptr, grads, C: tl.constexpr):
    """Store a program's gradients to all weights, one behind the other."""
    FIRST: tl.constexpr = C.HIDDEN_CHANNELS if C.HIDDEN_LAYERS > 0 else C.TAPS * C.TAPS
    FIRST_ROWS: tl.constexpr = C.HIDDEN_CHANNELS if C.HIDDEN_LAYERS > 0 else C.LOGITS
    FIRST_INPUTS: tl.constexpr = C.DISTANCE_CHANNELS + C.TEXTURE.CHANNELS
    if C.DISTANCE_CHANNELS > 0:
        _store_partial_distance(partial_ptr, grads.encoding, tl.sum(grads.encoding_bias, axis=0), C)
        partial_ptr += C.DISTANCE_CHANNELS * (2 * C.TAPS + 1)
    _store_partial(partial_ptr, grads.first_encoding, FIRST_INPUTS, FIRST, C.DISTANCE_CHANNELS)
    _store_partial(partial_ptr + C.DISTANCE_CHANNELS, grads.first_pooled, FIRST_INPUTS, FIRST, C.TEXTURE.CHANNELS)
    _store_partial_bias(partial_ptr + FIRST_ROWS * FIRST_INPUTS, tl.sum(grads.first_bias, axis=0), FIRST)
    if C.HIDDEN_LAYERS > 0:
        partial_ptr += FIRST * (FIRST_INPUTS + 1)
    if C.HIDDEN_LAYERS > 1:
        partial_ptr = _store_hidden(partial_ptr, grads.hidden_1, grads.hidden_1_bias, C)
    if C.HIDDEN_LAYERS > 2:
        partial_ptr = _store_hidden(partial_ptr, grads.hidden_2, grads.hidden_2_bias, C)
    if C.HIDDEN_LAYERS > 0:
        _store_partial(partial_ptr, grads.out, C.HIDDEN_CHANNELS, C.TAPS * C.TAPS, C.HIDDEN_CHANNELS)
        _store_partial_bias(partial_ptr + C.LOGITS * C.HIDDEN_CHANNELS, tl.sum(grads.out_bias, axis=1), C.TAPS * C.TAPS)
    if C.LOGITS > C.TAPS * C.TAPS:
        store_strength(partial_ptr, grads.strength, C)


@triton.jit(
    do_not_specialize=[
        *INTEGERS, "total_columns", "grad_texture_stride_n", "grad_texture_stride_h", "grad_texture_stride_w",
    ],
    do_not_specialize_on_alignment=ANYWHERE,
)  # fmt: skip
def downsize_backward_kernel(
    grad_output_ptr, output_stride_n, output_stride_c, output_stride_h, output_stride_w,
    image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w,
    texture_ptr, texture_stride_n, texture_stride_c, texture_stride_h, texture_stride_w,  # n, h and w in units of TEXTURE.ALIGN
    table_ptr,  # of images of different sizes, or None
    texture_weights, weights,
    grad_pooled_ptr,  # (N, h, w, F), dense, or None
    grad_texture_ptr,  # channels-last, or None
    grad_texture_stride_n, grad_texture_stride_h, grad_texture_stride_w,  # in units of GRAD_TEXTURE_ALIGN
    coefficients_ptr,  # (N, h, w, K * K), dense, or None
    partial_ptr,  # (programs, WEIGHTS) or None
    total_columns, image_h, image_w, texture_h, texture_w, out_h, out_w, bin_h, bin_w, rows, C: tl.constexpr,
):  # fmt: skip
    """Program p takes the tile columns p, p + programs, ... and sums its weight gradients in registers."""
    images = Batch(image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w, image_h, image_w)
    textures = Batch(
        texture_ptr, texture_stride_n, texture_stride_c, texture_stride_h, texture_stride_w, texture_h, texture_w
    )  # fmt: skip
    grad_textures = Batch(
        grad_texture_ptr, grad_texture_stride_n, 1, grad_texture_stride_h, grad_texture_stride_w, texture_h, texture_w
    )  # fmt: skip
    everywhere = Target(out_h, out_w, 0, 0, bin_h, bin_w)
    BLOCK: tl.constexpr = C.BLOCK_H * C.BLOCK_W
    FIRST_PAD: tl.constexpr = C.HIDDEN_CHANNELS_PAD if C.HIDDEN_LAYERS > 0 else C.TAPS_PAD
    # A warp's threads hold every eighth pixel of a product's result each: those are summed at once.
    BIAS_ROWS: tl.constexpr = 8
    HALF: tl.constexpr = C.OPERAND.primitive_bitwidth == 16
    # No loops over bins where registers suffice.
    SIDE: tl.constexpr = C.TEXTURE.BIN_H if C.CHANNELS > 0 and (HALF or C.TAPS <= 2) else 0
    # Transposed, (in, out), as matrix products over the pixels give them; biases' are summed over the pixels at the end.
    grad_encoding = tl.zeros([POSITIONS, C.DISTANCE_CHANNELS_PAD], C.ACC)
    grad_encoding_bias = tl.zeros([BIAS_ROWS, C.DISTANCE_CHANNELS_PAD], C.ACC)
    grad_first_encoding = tl.zeros([C.DISTANCE_CHANNELS_PAD, FIRST_PAD], C.ACC)
    grad_first_pooled = tl.zeros([C.TEXTURE.CHANNELS_PAD, FIRST_PAD], C.ACC)
    grad_first_bias = tl.zeros([BIAS_ROWS, FIRST_PAD], C.ACC)
    grad_hidden_1 = tl.zeros([C.HIDDEN_CHANNELS_PAD, C.HIDDEN_CHANNELS_PAD], C.ACC)
    grad_hidden_1_bias = tl.zeros([BIAS_ROWS, C.HIDDEN_CHANNELS_PAD], C.ACC)
    grad_hidden_2 = tl.zeros([C.HIDDEN_CHANNELS_PAD, C.HIDDEN_CHANNELS_PAD], C.ACC)
    grad_hidden_2_bias = tl.zeros([BIAS_ROWS, C.HIDDEN_CHANNELS_PAD], C.ACC)
    grad_out = tl.zeros([C.HIDDEN_CHANNELS_PAD, C.TAPS_PAD], C.ACC)
    grad_out_bias = tl.zeros([C.TAPS_PAD, BLOCK], C.ACC)
    LAST_PAD: tl.constexpr = C.HIDDEN_CHANNELS_PAD if C.HIDDEN_LAYERS > 0 else C.DISTANCE_CHANNELS_PAD
    grad_strength = tl.zeros([BIAS_ROWS, LAST_PAD], C.ACC)
    grad_strength_pooled = tl.zeros([BIAS_ROWS, C.TEXTURE.CHANNELS_PAD], C.ACC)
    grad_strength_bias = tl.zeros([BLOCK], C.ACC)
    network, tiles = load_weights(texture_weights, weights, C)
    first_encoding = pad_rows(network.first_encoding)
    first_pooled = pad_rows(network.first_pooled)
    out = pad_rows(network.out)
    k = tl.arange(0, C.TAPS_PAD)[:, None]
    if C.INDEX64:
        k = k.to(tl.int64)
    pid = tl.program_id(0)
    for column_index in range(pid, total_columns, tl.num_programs(0)):
        n, tile_y, tile_x = tile_column(column_index, out_h, out_w, rows, C)
        plane = n * out_h * out_w
        image = image_at(n, table_ptr, images, C)
        target = target_at(n, table_ptr, everywhere, C)
        columns = strip_columns(tile_y, rows, tile_x, out_h, out_w, image, target, C) if C.FUSED_TEXTURE else None
        walk = start_walk(walked_pixels(tile_y, 0, rows, tile_x, out_h, out_w, C).row, image, C)
        for step in range(rows):
            pixels = walked_pixels(tile_y, step, rows, tile_x, out_h, out_w, C)
            pixel_mask = pixels.mask
            pixel = pixels.y * out_w + pixels.x
            grad_output_offsets = pixels.y * output_stride_h + pixels.x * output_stride_w
            if C.LETTERBOX:
                pixels = target_pixels(pixels, target)
                pixel_mask = pixel_mask & pixels.mask
            activations, walk = infer(network, tiles, columns, walk, n, pixels, image, textures, target, C)
            position, encoding, pooled, hidden_0, hidden_1, hidden_2, softmaxed, signed, coefficients = activations
            tap_mask = pixel_mask[None, :] & (k < C.TAPS * C.TAPS)
            if C.COEFFICIENTS:
                offsets = pixel[None, :] * (C.TAPS * C.TAPS) + k
                tl.store(coefficients_ptr + plane * (C.TAPS * C.TAPS) + offsets, coefficients, mask=tap_mask)

            if C.GRAD_POOLED or C.GRAD_TEXTURE or C.GRAD_WEIGHTS:
                if C.CHANNELS == 0:
                    offsets = grad_output_offsets[None, :] + k * output_stride_c
                    pointers = grad_output_ptr + n * output_stride_n + offsets
                    grad_coefficients = tl.load(pointers, mask=tap_mask, other=0.0).to(C.ACC)
                else:
                    mask = existing_taps(C) if HALF else tap_mask  # in float32, registers do not suffice without masks
                    taps = Elements(image.ptr, tap_offsets(pixels, image, target, C), mask, channel_stride(image, C))
                    grad_output = Elements(
                        grad_output_ptr + n * output_stride_n, grad_output_offsets, pixel_mask, output_stride_c
                    )
                    grad_coefficients = gather_backward(taps, grad_output, tl.zeros([C.TAPS_PAD, BLOCK], C.ACC), C)
                grad = softmaxed * (grad_coefficients - sum_over_taps(softmaxed * grad_coefficients, C)[None, :])
                # Pixels past the image's end hold no gradient, whatever the weights make of them.
                grad = tl.where(tap_mask, grad, 0.0)
                if is_narrower(grad_output_ptr, C.OPERAND) or (C.CHANNELS > 0 and is_narrower(image_ptr, C.OPERAND)):
                    grad = forget_loads(grad)
                if C.LOGITS > C.TAPS * C.TAPS:
                    # Masked first, so that no product and sum are fused: threads that repeat a sum would round it differently.
                    grad_g = tl.sum(tl.where(tap_mask, grad_coefficients * signed, 0.0), axis=0)
                    grad_strength_bias += grad_g
                    if C.HIDDEN_LAYERS == 0:
                        grad_strength += fold_pixels(outer(grad_g, encoding, C), BIAS_ROWS)
                        if C.TEXTURE.CHANNELS > 0:
                            grad_strength_pooled += fold_pixels(outer(grad_g, pooled, C), BIAS_ROWS)
                # Rounded before it is padded, there is half as much to move.
                wide = tl.trans(pad_rows(grad.to(C.OPERAND) if C.TAPS_PAD < 16 else grad))
                if C.HIDDEN_LAYERS > 0:
                    last = hidden_0
                    if C.HIDDEN_LAYERS == 2:
                        last = hidden_1
                    if C.HIDDEN_LAYERS == 3:
                        last = hidden_2
                    grad_out = linear_grad_weight(tl.trans(grad), last, grad_out, C.PRECISION)
                    grad_out_bias += grad
                    grad = linear_grad_input(wide, out, C.PRECISION, C.ACC)
                    if C.LOGITS > C.TAPS * C.TAPS:
                        grad_strength += fold_pixels(outer(grad_g, last, C), BIAS_ROWS)
                        grad += outer(grad_g, network.strength.weight[None, :], C)
                    grad = relu_backward(grad, last)
                    if C.HIDDEN_LAYERS > 2:
                        grad_hidden_2 = linear_grad_weight(grad, hidden_1, grad_hidden_2, C.PRECISION)
                        grad_hidden_2_bias += fold_pixels(grad, BIAS_ROWS)
                        grad = relu_backward(linear_grad_input(grad, network.hidden_2, C.PRECISION, C.ACC), hidden_1)
                    if C.HIDDEN_LAYERS > 1:
                        grad_hidden_1 = linear_grad_weight(grad, hidden_0, grad_hidden_1, C.PRECISION)
                        grad_hidden_1_bias += fold_pixels(grad, BIAS_ROWS)
                        grad = relu_backward(linear_grad_input(grad, network.hidden_1, C.PRECISION, C.ACC), hidden_0)
                    wide = grad
                else:
                    grad = tl.trans(grad)
                grad_first_bias += fold_pixels(grad, BIAS_ROWS)
                if C.TEXTURE.CHANNELS > 0:
                    grad_first_pooled = linear_grad_weight(grad, pooled, grad_first_pooled, C.PRECISION)
                    if C.GRAD_POOLED or C.GRAD_TEXTURE:
                        channel = tl.arange(0, C.TEXTURE.CHANNELS_PAD)
                        grad_pooled = linear_grad_input(wide, first_pooled, C.PRECISION, C.ACC)
                        if C.HIDDEN_LAYERS == 0 and C.LOGITS > C.TAPS * C.TAPS:
                            grad_pooled += outer(grad_g, network.strength.pooled[None, :], C)
                        mask = pixel_mask[:, None] & (channel < C.TEXTURE.CHANNELS)[None, :]
                        if C.GRAD_POOLED:
                            offsets = pixel[:, None] * C.TEXTURE.CHANNELS + channel[None, :]
                            tl.store(grad_pooled_ptr + plane * C.TEXTURE.CHANNELS + offsets, grad_pooled, mask=mask)
                        else:
                            grad_texture = plane_at(n, grad_textures, C.GRAD_TEXTURE_ALIGN)
                            store_bins(grad_texture, channel, pixels, target, grad_pooled, mask, C.GRAD_TEXTURE_ALIGN, SIDE)
                if C.DISTANCE_CHANNELS > 0:
                    grad_first_encoding = linear_grad_weight(grad, encoding, grad_first_encoding, C.PRECISION)
                    grad = linear_grad_input(wide, first_encoding, C.PRECISION, C.ACC)
                    if C.HIDDEN_LAYERS == 0 and C.LOGITS > C.TAPS * C.TAPS:
                        grad += outer(grad_g, network.strength.weight[None, :], C)
                    grad = relu_backward(grad, encoding)
                    grad_encoding = linear_grad_weight(grad, position, grad_encoding, C.PRECISION)
                    grad_encoding_bias += fold_pixels(grad, BIAS_ROWS)

    if C.GRAD_WEIGHTS:
        grads = Gradients(
            grad_encoding, grad_encoding_bias, grad_first_encoding, grad_first_pooled, grad_first_bias,
            grad_hidden_1, grad_hidden_1_bias, grad_hidden_2, grad_hidden_2_bias, grad_out, grad_out_bias,
            Strength(grad_strength, grad_strength_pooled, grad_strength_bias),
        )  # fmt: skip
        _store_gradients(partial_ptr + pid.to(tl.int64) * C.WEIGHTS, grads, C)
