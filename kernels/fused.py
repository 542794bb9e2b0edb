"""The fused operator: distances, pooled texture, coefficients and weighted sum in one pass, and its gradients.

    e = relu(Wd . [dy; dx] + bd);  p = pooled texture;  z = [e; p];  z = relu(W . z + b) per hidden layer
    a = q . exp(Wo . z + bo) / sum;  y[c] = sum_k a_k . image[c, tap k]

Per output pixel the forward kernel reads the scale's product of F texture channels and C image channels (each from memory
once, shared edges again from cache) and writes C values. The backward kernel recomputes the coefficients from the same reads.
It writes the gradient of the pooled texture (F values) and the coefficients (K*K values) per output pixel, and only those
that are needed: one gather each then gives the gradients to texture and image. Weight gradients are summed per program, then
once over the programs, so that the result never depends on the order in which programs end.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import batch
from .area_pool import area_pool2d_backward, bins, in_whole_bins
from .batch import picture
from .gather import grad_image_gather
from .launch import (
    Layout,
    accumulator,
    aligned_strides,
    all_registers,
    dot_precision,
    launch,
    launch_with,
    layout,
    needs_int64,
    next_power_of_2,
    padded,
    strips,
    tile_shape,
)
from .network import (
    POSITIONS,
    encoding_gradients,
    first_distance,
    fold_pixels,
    layer,
    linear,
    linear_grad_input,
    linear_grad_weight,
    load_network,
    pad_rows,
    position,
    relu,
    relu_backward,
    softmax,
)
from .texture import (
    convolved_bin_mean,
    load_filters,
    patch_shape,
    texture_grad_filter_kernel,
    texture_grad_image_kernel,
)
from .tile import (
    bin_sum,
    forget_loads,
    gather,
    gather_backward,
    is_narrower,
    region_pixels,
    store_bins,
    strip,
    tap_offsets,
    tile_pixels,
)

MAX_BACKWARD_PROGRAMS = 1056
"""Programs of the backward kernel, each with its own partial weight gradients: eight for each of an H200's 132 processors."""

INTEGERS = [
    "image_stride_n", "image_stride_c", "image_stride_h", "image_stride_w",
    "texture_stride_n", "texture_stride_c", "texture_stride_h", "texture_stride_w",
    "output_stride_n", "output_stride_c", "output_stride_h", "output_stride_w",
    "image_h", "image_w", "texture_h", "texture_w", "out_h", "out_w", "bin_h", "bin_w", "rows",
]  # fmt: skip
ANYWHERE = ["grad_output_ptr", "image_ptr"]
"""Tensors that gain nothing from starting at a multiple of 16 bytes, which crops and parts of larger tensors may not do."""


@triton.jit
def _infer(
    network, filters, n, y, x, image_ptr, image_stride_c, image_stride_h, image_stride_w,
    texture_ptr, texture_stride_n, texture_stride_c, texture_stride_h, texture_stride_w,
    image_h, image_w, texture_h, texture_w, out_h, out_w, bin_h, bin_w,
    CHANNELS: tl.constexpr, E: tl.constexpr, F: tl.constexpr, HIDDEN_LAYERS: tl.constexpr,
    E_PAD: tl.constexpr, F_PAD: tl.constexpr, M_PAD: tl.constexpr, TAPS: tl.constexpr, TAPS_PAD: tl.constexpr,
    PRIOR: tl.constexpr, TEXTURE_CHANNELS_LAST: tl.constexpr, TEXTURE_ALIGN: tl.constexpr,
    TEXTURE_DENSE: tl.constexpr, BIN_H: tl.constexpr, BIN_W: tl.constexpr, WHOLE: tl.constexpr,
    CONVOLVED: tl.constexpr, BAND: tl.constexpr, PATCH_PAD: tl.constexpr, IMAGE_CHANNELS_LAST: tl.constexpr,
    SCALE: tl.constexpr, OFFSET: tl.constexpr,
    ACC: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, INDEX64: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Up to the coefficients: the position's tile, e, p, the results of three hidden layers, and a [TAPS_PAD, BLOCK].

    What does not exist (E = 0, F = 0, fewer hidden layers) is some tensor that nobody reads.
    """
    (
        encoding, first_e, first_p, first_bias,
        hidden_1, hidden_1_bias, hidden_2, hidden_2_bias, out, out_bias,
    ) = network  # fmt: skip
    FIRST_PAD: tl.constexpr = M_PAD if HIDDEN_LAYERS > 0 else TAPS_PAD
    dy = first_distance(y, image_h, out_h, TAPS, ACC)
    dx = first_distance(x, image_w, out_w, TAPS, ACC)
    where = position(dy, dx, OPERAND, ACC)
    e = tl.zeros([BLOCK, E_PAD], OPERAND)
    z = tl.broadcast_to(first_bias[None, :], [BLOCK, FIRST_PAD])
    if E > 0:
        e = relu(tl.dot(where, encoding, input_precision="ieee", out_dtype=ACC)).to(OPERAND)
        z = linear(e, first_e, z, PRECISION)
    p = e
    if F > 0:
        if CONVOLVED:
            pooled = convolved_bin_mean(
                image_ptr, image_stride_c, image_stride_h, image_stride_w, filters, y, x, image_h, image_w, out_h, out_w,
                bin_h, bin_w, CHANNELS, IMAGE_CHANNELS_LAST, SCALE, OFFSET, BAND, PATCH_PAD, F_PAD, BIN_H, BIN_W, WHOLE,
                ACC, OPERAND, PRECISION,
            )  # fmt: skip
        else:
            channel = tl.arange(0, F_PAD)
            if INDEX64:
                channel = channel.to(tl.int64)
            pooled = bin_sum(
                texture_ptr + n * texture_stride_n * TEXTURE_ALIGN, texture_stride_c, texture_stride_h, texture_stride_w,
                channel, y, x, texture_h, texture_w, out_h, out_w, bin_h, bin_w, texture_h, texture_w,
                ACC, F, TEXTURE_CHANNELS_LAST, TEXTURE_ALIGN, TEXTURE_DENSE, BLOCK, F_PAD, BIN_H, BIN_W, WHOLE,
            )  # fmt: skip
        p = pooled.to(OPERAND)
        z = linear(p, first_p, z, PRECISION)
    z_0 = e
    z_1 = e
    z_2 = e
    if HIDDEN_LAYERS > 0:
        z_0 = relu(z).to(OPERAND)
        last = z_0
        if HIDDEN_LAYERS > 1:
            z_1 = relu(layer(last, hidden_1, hidden_1_bias, BLOCK, M_PAD, PRECISION)).to(OPERAND)
            last = z_1
        if HIDDEN_LAYERS > 2:
            z_2 = relu(layer(last, hidden_2, hidden_2_bias, BLOCK, M_PAD, PRECISION)).to(OPERAND)
            last = z_2
        z = layer(last, out, out_bias, BLOCK, TAPS_PAD, PRECISION)
    a = softmax(tl.trans(z), y, x, image_h, image_w, out_h, out_w, PRIOR, TAPS, TAPS_PAD, ACC)
    return where, e, p, z_0, z_1, z_2, a


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=ANYWHERE)
def downsize_kernel(
    image_ptr,
    image_stride_n,
    image_stride_c,
    image_stride_h,
    image_stride_w,
    texture_ptr,
    texture_stride_n,  # in units of TEXTURE_ALIGN, as are h and w
    texture_stride_c,
    texture_stride_h,
    texture_stride_w,
    table_ptr,  # of images of different sizes, or None
    texture_weight_ptr,
    texture_bias_ptr,
    distance_weight_ptr,
    distance_bias_ptr,
    hidden_weight_0_ptr,
    hidden_bias_0_ptr,
    hidden_weight_1_ptr,
    hidden_bias_1_ptr,
    hidden_weight_2_ptr,
    hidden_bias_2_ptr,
    out_weight_ptr,
    out_bias_ptr,
    output_ptr,
    output_stride_n,
    output_stride_c,
    output_stride_h,
    output_stride_w,
    image_h,
    image_w,
    texture_h,
    texture_w,
    out_h,
    out_w,
    bin_h,
    bin_w,
    rows,
    CHANNELS: tl.constexpr,
    E: tl.constexpr,
    F: tl.constexpr,
    M: tl.constexpr,
    HIDDEN_LAYERS: tl.constexpr,
    E_PAD: tl.constexpr,
    F_PAD: tl.constexpr,
    M_PAD: tl.constexpr,
    TAPS: tl.constexpr,
    TAPS_PAD: tl.constexpr,
    PRIOR: tl.constexpr,
    TEXTURE_CHANNELS_LAST: tl.constexpr,
    TEXTURE_ALIGN: tl.constexpr,
    TEXTURE_DENSE: tl.constexpr,
    BIN_H: tl.constexpr,
    BIN_W: tl.constexpr,
    WHOLE: tl.constexpr,
    CONVOLVED: tl.constexpr,
    BAND: tl.constexpr,
    PATCH_PAD: tl.constexpr,
    FILTER_STRIDES: tl.constexpr,
    IMAGE_CHANNELS_LAST: tl.constexpr,
    SCALE: tl.constexpr,
    OFFSET: tl.constexpr,
    LETTERBOX: tl.constexpr,
    FILL: tl.constexpr,
    ACC: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One program computes a tile of output pixels, all channels; the coefficients themselves if CHANNELS is 0."""
    network = load_network(
        distance_weight_ptr, distance_bias_ptr, hidden_weight_0_ptr, hidden_bias_0_ptr, hidden_weight_1_ptr,
        hidden_bias_1_ptr, hidden_weight_2_ptr, hidden_bias_2_ptr, out_weight_ptr, out_bias_ptr,
        E, F, M, HIDDEN_LAYERS, E_PAD, F_PAD, M_PAD, TAPS, TAPS_PAD, ACC, OPERAND,
    )  # fmt: skip
    filters = network
    if CONVOLVED:
        filters = load_filters(texture_weight_ptr, texture_bias_ptr, CHANNELS, F, F_PAD, BAND, PATCH_PAD, FILTER_STRIDES)
    n, tile_y, tile_x = strip(tl.program_id(0), out_h, out_w, rows, BLOCK_H, BLOCK_W)
    (
        image_ptr, image_stride_c, image_stride_h, image_stride_w, image_h, image_w,
        region_h, region_w, top, left, bin_h, bin_w,
    ) = picture(
        n, table_ptr, image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w, image_h, image_w,
        out_h, out_w, bin_h, bin_w, INDEX64,
    )  # fmt: skip
    output_ptr += n * output_stride_n
    for step in range(rows):
        y, x, pixel_mask = tile_pixels(tile_y + step, tile_x, out_h, out_w, BLOCK_H, BLOCK_W, INDEX64)
        output_offsets = y * output_stride_h + x * output_stride_w
        inside = None
        if LETTERBOX:
            y, x, inside = region_pixels(y, x, top, left, region_h, region_w)
        where, e, p, z_0, z_1, z_2, a = _infer(
            network, filters, n, y, x, image_ptr, image_stride_c, image_stride_h, image_stride_w,
            texture_ptr, texture_stride_n, texture_stride_c, texture_stride_h, texture_stride_w,
            image_h, image_w, texture_h, texture_w, region_h, region_w, bin_h, bin_w,
            CHANNELS, E, F, HIDDEN_LAYERS, E_PAD, F_PAD, M_PAD, TAPS, TAPS_PAD, PRIOR, TEXTURE_CHANNELS_LAST, TEXTURE_ALIGN,
            TEXTURE_DENSE, BIN_H, BIN_W, WHOLE, CONVOLVED, BAND, PATCH_PAD, IMAGE_CHANNELS_LAST, SCALE, OFFSET,
            ACC, OPERAND, PRECISION, INDEX64, BLOCK_H * BLOCK_W,
        )  # fmt: skip
        k = tl.arange(0, TAPS_PAD)
        tap_mask = pixel_mask[None, :] & (k < TAPS * TAPS)[:, None]
        if CHANNELS == 0:
            if INDEX64:
                k = k.to(tl.int64)
            tl.store(output_ptr + output_offsets[None, :] + k[:, None] * output_stride_c, a, mask=tap_mask)
        else:
            taps = tap_offsets(y, x, image_h, image_w, region_h, region_w, image_stride_h, image_stride_w, TAPS, TAPS_PAD)
            gather(
                image_ptr, taps, tap_mask, image_stride_c, a, output_ptr, output_offsets, pixel_mask, output_stride_c, CHANNELS,
                SCALE, OFFSET, inside, FILL,
            )  # fmt: skip


@triton.jit
def _store_partial(
    partial_ptr, values, row_stride: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr,
    OUT_PAD: tl.constexpr, IN_PAD: tl.constexpr,
):  # fmt: skip
    """Store a transposed weight gradient [IN_PAD, OUT_PAD] as (OUT, IN) in rows of ``row_stride``."""
    row = tl.arange(0, OUT_PAD)[None, :]
    column = tl.arange(0, IN_PAD)[:, None]
    tl.store(partial_ptr + row * row_stride + column, values, mask=(row < OUT) & (column < IN))


@triton.jit
def _store_partial_bias(partial_ptr, values, OUT: tl.constexpr, OUT_PAD: tl.constexpr):
    channel = tl.arange(0, OUT_PAD)
    tl.store(partial_ptr + channel, values, mask=channel < OUT)


@triton.jit
def _store_partial_distance(partial_ptr, grad_encoding, bias, E: tl.constexpr, E_PAD: tl.constexpr, TAPS: tl.constexpr):
    """Unfold the gradients of A_x and A_y, and that of b, into those of Wd (E, 2 * TAPS) and, behind it, bd (E,)."""
    horizontal, vertical = encoding_gradients(grad_encoding)
    channel = tl.arange(0, E_PAD)
    mask = channel < E
    for k in tl.static_range(TAPS):
        tl.store(partial_ptr + channel * (2 * TAPS) + k, vertical + k * bias, mask=mask)
        tl.store(partial_ptr + channel * (2 * TAPS) + TAPS + k, horizontal + k * bias, mask=mask)
    tl.store(partial_ptr + E * 2 * TAPS + channel, bias, mask=mask)


@triton.jit(
    do_not_specialize=[
        *INTEGERS, "total_strips", "grad_texture_stride_n", "grad_texture_stride_h", "grad_texture_stride_w",
    ],
    do_not_specialize_on_alignment=ANYWHERE,
)  # fmt: skip
def downsize_backward_kernel(
    grad_output_ptr,
    output_stride_n,
    output_stride_c,
    output_stride_h,
    output_stride_w,
    image_ptr,
    image_stride_n,
    image_stride_c,
    image_stride_h,
    image_stride_w,
    texture_ptr,
    texture_stride_n,
    texture_stride_c,
    texture_stride_h,
    texture_stride_w,
    table_ptr,  # of images of different sizes, or None
    texture_weight_ptr,
    texture_bias_ptr,
    distance_weight_ptr,
    distance_bias_ptr,
    hidden_weight_0_ptr,
    hidden_bias_0_ptr,
    hidden_weight_1_ptr,
    hidden_bias_1_ptr,
    hidden_weight_2_ptr,
    hidden_bias_2_ptr,
    out_weight_ptr,
    out_bias_ptr,
    grad_pooled_ptr,  # (N, h, w, F), dense, or None
    grad_texture_ptr,  # channels-last, or None
    grad_texture_stride_n,  # in units of GRAD_TEXTURE_ALIGN, as are h and w
    grad_texture_stride_h,
    grad_texture_stride_w,
    coefficients_ptr,  # (N, h, w, K * K), dense, or None
    partial_ptr,  # (programs, WEIGHTS) or None
    total_strips,
    image_h,
    image_w,
    texture_h,
    texture_w,
    out_h,
    out_w,
    bin_h,
    bin_w,
    rows,
    CHANNELS: tl.constexpr,
    E: tl.constexpr,
    F: tl.constexpr,
    M: tl.constexpr,
    HIDDEN_LAYERS: tl.constexpr,
    E_PAD: tl.constexpr,
    F_PAD: tl.constexpr,
    M_PAD: tl.constexpr,
    TAPS: tl.constexpr,
    TAPS_PAD: tl.constexpr,
    PRIOR: tl.constexpr,
    TEXTURE_CHANNELS_LAST: tl.constexpr,
    TEXTURE_ALIGN: tl.constexpr,
    TEXTURE_DENSE: tl.constexpr,
    BIN_H: tl.constexpr,
    BIN_W: tl.constexpr,
    WHOLE: tl.constexpr,
    CONVOLVED: tl.constexpr,
    BAND: tl.constexpr,
    PATCH_PAD: tl.constexpr,
    FILTER_STRIDES: tl.constexpr,
    IMAGE_CHANNELS_LAST: tl.constexpr,
    SCALE: tl.constexpr,
    OFFSET: tl.constexpr,
    LETTERBOX: tl.constexpr,
    FILL: tl.constexpr,
    ACC: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    WEIGHTS: tl.constexpr,
    GRAD_POOLED: tl.constexpr,
    GRAD_TEXTURE: tl.constexpr,
    GRAD_TEXTURE_ALIGN: tl.constexpr,
    COEFFICIENTS: tl.constexpr,
    GRAD_WEIGHTS: tl.constexpr,
):
    """One program takes every so-manieth strip of output pixels and sums its weight gradients in registers."""
    BLOCK: tl.constexpr = BLOCK_H * BLOCK_W
    FIRST: tl.constexpr = M if HIDDEN_LAYERS > 0 else TAPS * TAPS
    FIRST_PAD: tl.constexpr = M_PAD if HIDDEN_LAYERS > 0 else TAPS_PAD
    # A warp's threads hold every eighth pixel of a product's result each: those are summed at once.
    BIAS_ROWS: tl.constexpr = 8
    # Transposed, (in, out), as matrix products over the pixels give them; biases' are summed over the pixels at the end.
    grad_encoding = tl.zeros([POSITIONS, E_PAD], ACC)
    grad_encoding_bias = tl.zeros([BIAS_ROWS, E_PAD], ACC)
    grad_first_e = tl.zeros([E_PAD, FIRST_PAD], ACC)
    grad_first_p = tl.zeros([F_PAD, FIRST_PAD], ACC)
    grad_first_bias = tl.zeros([BIAS_ROWS, FIRST_PAD], ACC)
    grad_hidden_1 = tl.zeros([M_PAD, M_PAD], ACC)
    grad_hidden_1_bias = tl.zeros([BIAS_ROWS, M_PAD], ACC)
    grad_hidden_2 = tl.zeros([M_PAD, M_PAD], ACC)
    grad_hidden_2_bias = tl.zeros([BIAS_ROWS, M_PAD], ACC)
    grad_out = tl.zeros([M_PAD, TAPS_PAD], ACC)
    grad_out_bias = tl.zeros([TAPS_PAD, BLOCK], ACC)
    network = load_network(
        distance_weight_ptr, distance_bias_ptr, hidden_weight_0_ptr, hidden_bias_0_ptr, hidden_weight_1_ptr,
        hidden_bias_1_ptr, hidden_weight_2_ptr, hidden_bias_2_ptr, out_weight_ptr, out_bias_ptr,
        E, F, M, HIDDEN_LAYERS, E_PAD, F_PAD, M_PAD, TAPS, TAPS_PAD, ACC, OPERAND,
    )  # fmt: skip
    filters = network
    if CONVOLVED:
        filters = load_filters(texture_weight_ptr, texture_bias_ptr, CHANNELS, F, F_PAD, BAND, PATCH_PAD, FILTER_STRIDES)
    first_e = pad_rows(network[1])
    first_p = pad_rows(network[2])
    hidden_1 = network[4]
    hidden_2 = network[6]
    out = pad_rows(network[8])
    k = tl.arange(0, TAPS_PAD)[:, None]
    if INDEX64:
        k = k.to(tl.int64)
    pid = tl.program_id(0)
    for strip_index in range(pid, total_strips, tl.num_programs(0)):
        n, tile_y, tile_x = strip(strip_index, out_h, out_w, rows, BLOCK_H, BLOCK_W)
        plane = n * out_h * out_w
        source_ptr, stride_c, stride_h, stride_w, source_h, source_w, region_h, region_w, top, left, span_h, span_w = picture(
            n, table_ptr, image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w, image_h, image_w,
            out_h, out_w, bin_h, bin_w, INDEX64,
        )  # fmt: skip
        for step in range(rows):
            y, x, pixel_mask = tile_pixels(tile_y + step, tile_x, out_h, out_w, BLOCK_H, BLOCK_W, INDEX64)
            pixel = y * out_w + x
            grad_output_offsets = y * output_stride_h + x * output_stride_w
            if LETTERBOX:
                y, x, inside = region_pixels(y, x, top, left, region_h, region_w)
                pixel_mask = pixel_mask & inside
            where, e, p, z_0, z_1, z_2, a = _infer(
                network, filters, n, y, x, source_ptr, stride_c, stride_h, stride_w,
                texture_ptr, texture_stride_n, texture_stride_c, texture_stride_h, texture_stride_w,
                source_h, source_w, texture_h, texture_w, region_h, region_w, span_h, span_w,
                CHANNELS, E, F, HIDDEN_LAYERS, E_PAD, F_PAD, M_PAD, TAPS, TAPS_PAD, PRIOR, TEXTURE_CHANNELS_LAST, TEXTURE_ALIGN,
                TEXTURE_DENSE, BIN_H, BIN_W, WHOLE, CONVOLVED, BAND, PATCH_PAD, IMAGE_CHANNELS_LAST, SCALE, OFFSET,
                ACC, OPERAND, PRECISION, INDEX64, BLOCK,
            )  # fmt: skip
            tap_mask = pixel_mask[None, :] & (k < TAPS * TAPS)
            if COEFFICIENTS:
                offsets = pixel[None, :] * (TAPS * TAPS) + k
                tl.store(coefficients_ptr + plane * (TAPS * TAPS) + offsets, a, mask=tap_mask)

            if GRAD_POOLED or GRAD_TEXTURE or GRAD_WEIGHTS:
                if CHANNELS == 0:
                    offsets = grad_output_offsets[None, :] + k * output_stride_c
                    grad_a = tl.load(grad_output_ptr + n * output_stride_n + offsets, mask=tap_mask, other=0.0).to(ACC)
                else:
                    taps = tap_offsets(y, x, source_h, source_w, region_h, region_w, stride_h, stride_w, TAPS, TAPS_PAD)
                    grad_a = gather_backward(
                        source_ptr, taps, tap_mask, stride_c, grad_output_ptr + n * output_stride_n, grad_output_offsets,
                        pixel_mask, output_stride_c, tl.zeros([TAPS_PAD, BLOCK], ACC), CHANNELS, SCALE,
                    )  # fmt: skip
                grad = a * (grad_a - tl.sum(a * grad_a, axis=0)[None, :])
                # Pixels past the image's end hold no gradient, whatever the weights make of them.
                grad = tl.where(tap_mask, grad, 0.0)
                if is_narrower(grad_output_ptr, OPERAND) or (CHANNELS > 0 and is_narrower(image_ptr, OPERAND)):
                    grad = forget_loads(grad)
                # Rounded before it is padded, there is half as much to move.
                wide = tl.trans(pad_rows(grad.to(OPERAND) if TAPS_PAD < 16 else grad))
                if HIDDEN_LAYERS > 0:
                    last = z_0
                    if HIDDEN_LAYERS == 2:
                        last = z_1
                    if HIDDEN_LAYERS == 3:
                        last = z_2
                    grad_out = linear_grad_weight(tl.trans(grad), last, grad_out, PRECISION)
                    grad_out_bias += grad
                    grad = relu_backward(linear_grad_input(wide, out, PRECISION, ACC), last)
                    if HIDDEN_LAYERS > 2:
                        grad_hidden_2 = linear_grad_weight(grad, z_1, grad_hidden_2, PRECISION)
                        grad_hidden_2_bias += fold_pixels(grad, BIAS_ROWS)
                        grad = relu_backward(linear_grad_input(grad, hidden_2, PRECISION, ACC), z_1)
                    if HIDDEN_LAYERS > 1:
                        grad_hidden_1 = linear_grad_weight(grad, z_0, grad_hidden_1, PRECISION)
                        grad_hidden_1_bias += fold_pixels(grad, BIAS_ROWS)
                        grad = relu_backward(linear_grad_input(grad, hidden_1, PRECISION, ACC), z_0)
                    wide = grad
                else:
                    grad = tl.trans(grad)
                grad_first_bias += fold_pixels(grad, BIAS_ROWS)
                if F > 0:
                    grad_first_p = linear_grad_weight(grad, p, grad_first_p, PRECISION)
                    if GRAD_POOLED or GRAD_TEXTURE:
                        channel = tl.arange(0, F_PAD)
                        grad_p = linear_grad_input(wide, first_p, PRECISION, ACC)
                        mask = pixel_mask[:, None] & (channel < F)[None, :]
                        if GRAD_POOLED:
                            offsets = pixel[:, None] * F + channel[None, :]
                            tl.store(grad_pooled_ptr + plane * F + offsets, grad_p, mask=mask)
                        else:
                            store_bins(
                                grad_texture_ptr + n * grad_texture_stride_n * GRAD_TEXTURE_ALIGN, grad_texture_stride_h,
                                grad_texture_stride_w, channel, y, x, bin_h, bin_w, grad_p, mask, GRAD_TEXTURE_ALIGN, ACC,
                            )  # fmt: skip
                if E > 0:
                    grad_first_e = linear_grad_weight(grad, e, grad_first_e, PRECISION)
                    grad_e = relu_backward(linear_grad_input(wide, first_e, PRECISION, ACC), e)
                    grad_encoding = linear_grad_weight(grad_e, where, grad_encoding, PRECISION)
                    grad_encoding_bias += fold_pixels(grad_e, BIAS_ROWS)

    if GRAD_WEIGHTS:
        partial_ptr += pid.to(tl.int64) * WEIGHTS
        if E > 0:
            _store_partial_distance(partial_ptr, grad_encoding, tl.sum(grad_encoding_bias, axis=0), E, E_PAD, TAPS)
            partial_ptr += E * (2 * TAPS + 1)
        _store_partial(partial_ptr, grad_first_e, E + F, FIRST, E, FIRST_PAD, E_PAD)
        _store_partial(partial_ptr + E, grad_first_p, E + F, FIRST, F, FIRST_PAD, F_PAD)
        _store_partial_bias(partial_ptr + FIRST * (E + F), tl.sum(grad_first_bias, axis=0), FIRST, FIRST_PAD)
        partial_ptr += FIRST * (E + F + 1)
        if HIDDEN_LAYERS > 1:
            _store_partial(partial_ptr, grad_hidden_1, M, M, M, M_PAD, M_PAD)
            _store_partial_bias(partial_ptr + M * M, tl.sum(grad_hidden_1_bias, axis=0), M, M_PAD)
            partial_ptr += M * (M + 1)
        if HIDDEN_LAYERS > 2:
            _store_partial(partial_ptr, grad_hidden_2, M, M, M, M_PAD, M_PAD)
            _store_partial_bias(partial_ptr + M * M, tl.sum(grad_hidden_2_bias, axis=0), M, M_PAD)
            partial_ptr += M * (M + 1)
        if HIDDEN_LAYERS > 0:
            _store_partial(partial_ptr, grad_out, M, TAPS * TAPS, M, TAPS_PAD, M_PAD)
            _store_partial_bias(partial_ptr + TAPS * TAPS * M, tl.sum(grad_out_bias, axis=1), TAPS * TAPS, TAPS_PAD)


class Call(NamedTuple):
    """What forward and backward launches of all operators here are given, beside the result or its gradient."""

    image: Tensor | None
    """(N, C, H, W); any of those in the table; or None if coefficients alone are wanted."""
    image_size: tuple[int, int]
    texture: Tensor | None
    weights: Sequence[Tensor]
    """Flat: weight and bias of the distance encoding if ``distance``, of each hidden layer, of the output layer."""
    distance: bool
    taps: int
    prior: str
    filters: Sequence[Tensor] = ()
    """Weight and bias of the texture's convolution of the image, in place of ``texture``."""
    table: Tensor | None = None
    """Of images of different sizes."""
    index64: bool = False
    """Whether they need it."""
    channels_last: bool = False
    """Whether the images are."""
    scale: tuple[float, ...] = ()
    """What the pixels of each channel are multiplied by to be normalised, if they are."""
    offset: tuple[float, ...] = ()
    """And what is added then."""
    fill: float | None = None
    """With which images that keep their aspect are surrounded; None lets every image fill its result."""


def downsize(
    image: Tensor, texture: Tensor | None, weights: Sequence[Tensor], distance: bool, output: Tensor, taps: int, prior: str
) -> None:
    """Write the downsized ``image`` (N, C, H, W) into ``output`` (N, C, h, w).

    ``weights`` is flat: weight and bias of the distance encoding if ``distance``, of each hidden layer, of the output layer.
    """
    _forward(Call(image, (image.shape[2], image.shape[3]), texture, weights, distance, taps, prior), output)


def coefficients(
    image_size: tuple[int, int],
    texture: Tensor | None,
    weights: Sequence[Tensor],
    distance: bool,
    output: Tensor,
    taps: int,
    prior: str,
) -> None:
    """Write the coefficients for an image of ``image_size`` (H, W) into ``output`` (N, K*K, h, w)."""
    _forward(Call(None, image_size, texture, weights, distance, taps, prior), output)


def downsize_image(
    images: Sequence[Tensor],
    filters: Sequence[Tensor],
    weights: Sequence[Tensor],
    distance: bool,
    output: Tensor,
    taps: int,
    prior: str,
    scale: tuple[float, ...],
    offset: tuple[float, ...],
    fill: float | None,
) -> None:
    """Write into ``output`` (N, C, h, w) one batch (N, C, H, W), or N images (C, H, W), of a float dtype or uint8.

    Texture is their convolution by ``filters``, weight and bias, if there are any. Pixels are normalised by ``scale`` and
    ``offset``, a number for each channel or none. Images (C, H, W) keep their aspect if there is a ``fill``.
    """
    call = _image_call(images, filters, weights, distance, output, taps, prior, scale, offset, fill)
    _forward(call, output)


def downsize_backward(
    grad_output: Tensor,
    image: Tensor,
    texture: Tensor | None,
    weights: Sequence[Tensor],
    distance: bool,
    grad_image: Tensor | None,
    grad_texture: Tensor | None,
    grad_weights: Tensor | None,
    taps: int,
    prior: str,
) -> None:
    """Write those gradients of :func:`downsize` that are given a tensor; that of the weights is one flat tensor."""
    call = Call(image, (image.shape[2], image.shape[3]), texture, weights, distance, taps, prior)
    _backward(call, grad_output, grad_image, grad_texture, grad_weights)


def coefficients_backward(
    grad_output: Tensor,
    image_size: tuple[int, int],
    texture: Tensor | None,
    weights: Sequence[Tensor],
    distance: bool,
    grad_texture: Tensor | None,
    grad_weights: Tensor | None,
    taps: int,
    prior: str,
) -> None:
    """Write those gradients of :func:`coefficients` that are given a tensor; that of the weights is one flat tensor."""
    call = Call(None, image_size, texture, weights, distance, taps, prior)
    _backward(call, grad_output, None, grad_texture, grad_weights)


def downsize_image_backward(
    grad_output: Tensor,
    images: Sequence[Tensor],
    filters: Sequence[Tensor],
    weights: Sequence[Tensor],
    distance: bool,
    grad_image: Tensor | None,
    grad_weights: Tensor | None,
    taps: int,
    prior: str,
    scale: tuple[float, ...],
    offset: tuple[float, ...],
    fill: float | None,
) -> None:
    """Write those gradients of :func:`downsize_image` that are given a tensor; that to an image of one batch alone.

    That of the weights is one flat tensor, the filters' first.
    """
    call = _image_call(images, filters, weights, distance, grad_output, taps, prior, scale, offset, fill)
    _backward(call, grad_output, grad_image, None, grad_weights)


def _image_call(
    images: Sequence[Tensor],
    filters: Sequence[Tensor],
    weights: Sequence[Tensor],
    distance: bool,
    output: Tensor,
    taps: int,
    prior: str,
    scale: tuple[float, ...],
    offset: tuple[float, ...],
    fill: float | None,
) -> Call:
    call = Call(images[0], (1, 1), None, weights, distance, taps, prior, filters, scale=scale, offset=offset, fill=fill)
    if images[0].ndim == 4:
        image = images[0]
        size, channels_last = (image.shape[2], image.shape[3]), image.stride(1) == 1 or image.shape[1] == 1
        return call._replace(image_size=size, channels_last=channels_last)
    size = (output.shape[2], output.shape[3])
    channels_last = all(image.stride(0) == 1 or image.shape[0] == 1 for image in images)
    index64 = batch.tables_need_int64(images, size)
    return call._replace(table=batch.table(images, size, fill is not None), index64=index64, channels_last=channels_last)


def _pointers(call: Call) -> dict[str, Tensor | None]:
    """The tensors that forward and backward kernels read, by argument."""
    weights = [t.contiguous() for t in call.weights]
    hidden = [*weights[2 if call.distance else 0 : -2], *[None] * 6]
    weight, bias = call.filters or (None, None)
    bias = None if bias is None else bias.contiguous()
    return dict(
        image_ptr=call.image,
        texture_ptr=call.texture,
        table_ptr=call.table,
        texture_weight_ptr=weight,
        texture_bias_ptr=bias,
        distance_weight_ptr=weights[0] if call.distance else None,
        distance_bias_ptr=weights[1] if call.distance else None,
        hidden_weight_0_ptr=hidden[0],
        hidden_bias_0_ptr=hidden[1],
        hidden_weight_1_ptr=hidden[2],
        hidden_bias_1_ptr=hidden[3],
        hidden_weight_2_ptr=hidden[4],
        hidden_bias_2_ptr=hidden[5],
        out_weight_ptr=weights[-2],
        out_bias_ptr=weights[-1],
    )


class _Problem(NamedTuple):
    """All that the other arguments of a launch follow from. ``output`` may be its gradient."""

    image: Layout | None
    """None also if there is a table."""
    channels: int
    image_size: tuple[int, int]
    texture: Layout | None
    filters: Layout | None
    weights: tuple[tuple[int, ...], ...]
    distance: bool
    output: Layout
    dtype: torch.dtype
    taps: int
    prior: str
    precision: str
    table: bool
    index64: bool
    channels_last: bool
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    fill: float | None


def _problem(call: Call, output: Tensor) -> _Problem:
    image, ragged, weights, filters = call.image, call.table is not None, call.weights, call.filters
    dtype = weights[-1].dtype
    shapes = tuple([t.shape for t in weights])  # faster than from a generator
    return _Problem(
        None if ragged else layout(image), 0 if image is None else image.shape[-3], call.image_size, layout(call.texture),
        layout(filters[0]) if filters else None, shapes, call.distance, Layout(output.shape, output.stride()), dtype,
        call.taps, call.prior, dot_precision(dtype), ragged, call.index64, call.channels_last, call.scale, call.offset,
        call.fill,
    )  # fmt: skip


def _network_arguments(problem: _Problem) -> dict[str, Any]:
    """What forward and backward kernels share, beside the tensors."""
    image, texture, weights, output = problem.image, problem.texture, problem.weights, problem.output
    dtype, taps, filters = problem.dtype, problem.taps, problem.filters
    hidden_layers = (len(weights) - 2 - 2 * problem.distance) // 2
    hidden_channels = weights[-2][1] if hidden_layers else 0
    distance_channels = weights[0][0] if problem.distance else 0
    texture_channels = filters.shape[0] if filters else texture.shape[1] if texture else 0
    texture_h, texture_w = texture.shape[2:] if texture else problem.image_size
    out_h, out_w = output.shape[2:]
    axes = [(problem.image_size[0], out_h), (problem.image_size[1], out_w), (texture_h, out_h), (texture_w, out_w)]
    strides = aligned_strides(texture)
    # In a table every image has bins of its own.
    binned = (texture or filters) and not problem.table
    bin_h, bin_w, static, whole, narrow = bins((texture_h, texture_w), (out_h, out_w)) if binned else (0, 0, 0, False, False)
    if not (whole and static == 2):  # all other scales share a kernel, or two
        static, whole = 0, False
    image_strides = image.stride if image else (0, 0, 0, 0)
    band, patch_pad = patch_shape(problem.channels)
    return dict(
        image_stride_n=image_strides[0],
        image_stride_c=image_strides[1],
        image_stride_h=image_strides[2],
        image_stride_w=image_strides[3],
        texture_stride_n=strides.n,
        texture_stride_c=strides.c,
        texture_stride_h=strides.h,
        texture_stride_w=strides.w,
        output_stride_n=output.stride[0],
        output_stride_c=output.stride[1],
        output_stride_h=output.stride[2],
        output_stride_w=output.stride[3],
        image_h=problem.image_size[0],
        image_w=problem.image_size[1],
        texture_h=texture_h,
        texture_w=texture_w,
        out_h=out_h,
        out_w=out_w,
        bin_h=bin_h,
        bin_w=bin_w,
        CHANNELS=problem.channels,
        E=distance_channels,
        F=texture_channels,
        M=hidden_channels,
        HIDDEN_LAYERS=hidden_layers,
        E_PAD=padded(distance_channels),
        F_PAD=padded(texture_channels),
        M_PAD=padded(hidden_channels),
        TAPS=taps,
        TAPS_PAD=next_power_of_2(taps * taps),
        PRIOR=problem.prior,
        TEXTURE_CHANNELS_LAST=strides.channels_last,
        TEXTURE_ALIGN=strides.align,
        TEXTURE_DENSE=strides.dense,
        BIN_H=static,
        BIN_W=static or (3 if texture and narrow else 0),
        WHOLE=whole,
        CONVOLVED=filters is not None,
        BAND=band,
        PATCH_PAD=patch_pad,
        FILTER_STRIDES=filters.stride if filters else (),
        IMAGE_CHANNELS_LAST=problem.channels_last,
        SCALE=problem.scale,
        OFFSET=problem.offset,
        LETTERBOX=problem.fill is not None,
        FILL=problem.fill or 0.0,
        ACC=accumulator(dtype),
        OPERAND=OPERANDS[dtype],
        PRECISION=problem.precision,
        INDEX64=problem.index64 or needs_int64(axes, [image, texture, output]),
    )


OPERANDS = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def _widest(arguments: dict[str, Any]) -> int:
    """Channels of the widest tile that a program holds."""
    return int(max(16, *(arguments[name] for name in ("E_PAD", "F_PAD", "M_PAD", "TAPS_PAD"))))


def _forward_shape(arguments: dict[str, Any], dtype: torch.dtype) -> tuple[int, int]:
    """(pixels, warps) of a forward program: as many pixels as fit the registers of an sm_90 without spilling."""
    if dtype.itemsize == 2:
        return 32, 1
    widest = _widest(arguments)
    if arguments["CONVOLVED"]:
        return (64 if widest == 16 and dtype == torch.float32 else 32), 4
    return (128 if widest == 16 and dtype == torch.float32 else 1024 // widest), 4


def _backward_shape(arguments: dict[str, Any], dtype: torch.dtype) -> tuple[int, int]:
    """(pixels, warps) of a backward program: few warps, since every warp computes all of a program's weight gradients."""
    half = dtype.itemsize == 2
    convolved = arguments["CONVOLVED"]
    if _widest(arguments) == 16 and (half or (dtype == torch.float32 and not convolved)):
        return 32, 1 if half and not (convolved and arguments["BIN_H"] == 0) else 2
    return 32 if half else 16, 4  # wider tiles do not fit the registers of fewer warps


def _filter_shape(arguments: dict[str, Any], dtype: torch.dtype) -> tuple[int, int]:
    """(pixels, warps) of a program that sums the gradients of the convolution's weights."""
    if dtype.itemsize > 2:
        return 16, 4
    return 32, 4 if arguments["F_PAD"] > 16 else 1 if arguments["BIN_H"] > 0 else 2


def _forward(call: Call, output: Tensor) -> None:
    programs, arguments = _forward_plan(_problem(call, output))
    launch_with(downsize_kernel, programs, output.device, arguments | _pointers(call) | {"output_ptr": output})


@functools.lru_cache(maxsize=1024)  # it takes longer than the launch itself
def _forward_plan(problem: _Problem) -> tuple[int, dict[str, Any]]:
    """How many programs, and their arguments but the tensors."""
    arguments = _network_arguments(problem)
    pixels, warps = _forward_shape(arguments, problem.dtype)
    tile = tile_shape(pixels)
    batch, _, out_h, out_w = problem.output.shape
    programs, rows = strips(batch, out_h, out_w, tile)
    return programs, arguments | dict(rows=rows, BLOCK_H=tile[0], BLOCK_W=tile[1], num_warps=warps)


def _backward(
    call: Call,
    grad_output: Tensor,
    grad_image: Tensor | None,
    grad_texture: Tensor | None,
    grad_weights: Tensor | None,
) -> None:
    """Launch the backward kernel, then the gathers to the gradients of texture and image."""
    batch, _, out_h, out_w = grad_output.shape
    weight, filters, taps = call.weights[-1], call.filters, call.taps
    arguments = _network_arguments(_problem(call, grad_output))
    arguments["BIN_W"] = arguments["BIN_H"]  # known columns alone are worth a kernel of their own in the forward pass only
    pixels, warps = _backward_shape(arguments, weight.dtype)
    tile = tile_shape(pixels)
    total_strips, rows = strips(batch, out_h, out_w, tile)
    programs = min(total_strips, MAX_BACKWARD_PROGRAMS)
    acc = torch.float64 if weight.dtype == torch.float64 else torch.float32
    strides = aligned_strides(layout(grad_texture))
    # Where every source pixel lies in one bin, its gradient is that of the bin over the bin's size: it is written at once.
    source_size = (arguments["texture_h"], arguments["texture_w"])
    direct = grad_texture is not None and strides.channels_last and in_whole_bins(source_size, (out_h, out_w))
    pooled = (grad_texture is not None and not direct) or len(filters) > 0
    grad_pooled = weight.new_empty(batch, out_h, out_w, arguments["F"]) if pooled else None
    a = None if grad_image is None else weight.new_empty(batch, out_h, out_w, taps * taps)
    grad_filters, grad_others = _split(grad_weights, sum(t.numel() for t in filters))
    partial = None if grad_others is None else weight.new_empty(programs, grad_others.numel(), dtype=acc)
    arguments["INDEX64"] |= needs_int64([], [layout(grad_pooled), layout(a), layout(grad_texture)])
    launch(
        downsize_backward_kernel,
        programs,
        grad_output.device,
        grad_output_ptr=grad_output,
        grad_pooled_ptr=grad_pooled,
        grad_texture_ptr=grad_texture if direct else None,
        grad_texture_stride_n=strides.n,
        grad_texture_stride_h=strides.h,
        grad_texture_stride_w=strides.w,
        coefficients_ptr=a,
        partial_ptr=partial,
        total_strips=total_strips,
        rows=rows,
        BLOCK_H=tile[0],
        BLOCK_W=tile[1],
        WEIGHTS=0 if partial is None else partial.shape[1],
        GRAD_POOLED=grad_pooled is not None,
        GRAD_TEXTURE=direct,
        GRAD_TEXTURE_ALIGN=strides.align if direct else 1,
        COEFFICIENTS=a is not None,
        GRAD_WEIGHTS=partial is not None,
        num_warps=warps,
        **all_registers(),
        **_pointers(call),
        **arguments,
    )
    if grad_others is not None:
        assert partial is not None
        grad_others.copy_(partial.sum(dim=0))
    if grad_texture is not None and grad_pooled is not None:
        area_pool2d_backward(grad_pooled.permute(0, 3, 1, 2), grad_texture)
    if grad_image is not None:
        assert a is not None
        grad_image_gather(grad_output, a.permute(0, 3, 1, 2), grad_image, taps)
    if filters:
        assert grad_pooled is not None
        _backward_of_convolution(call, grad_pooled, arguments, grad_image, grad_filters)
    if grad_image is not None and call.scale:
        grad_image.mul_(grad_image.new_tensor(call.scale).view(1, -1, 1, 1))


def _split(flat: Tensor | None, first: int) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if flat is None else (flat[:first], flat[first:])


def _backward_of_convolution(
    call: Call, grad_pooled: Tensor, arguments: dict[str, Any], grad_image: Tensor | None, grad_filters: Tensor | None
) -> None:
    """Launch the kernels for the gradients to the convolution's weights, and to the image by way of it, which is added."""
    pointers = _pointers(call)
    shared = {name: arguments[name] for name in arguments if name in texture_grad_filter_kernel.arg_names}
    shared |= {name: pointers[name] for name in ("image_ptr", "texture_weight_ptr", "texture_bias_ptr")}
    batch, out_h, out_w, _ = grad_pooled.shape
    if grad_filters is not None:
        pixels, warps = _filter_shape(arguments, grad_pooled.dtype)
        tile = tile_shape(pixels)
        total_strips, rows = strips(batch, out_h, out_w, tile)
        programs = min(total_strips, MAX_BACKWARD_PROGRAMS)
        acc = torch.float64 if grad_pooled.dtype == torch.float64 else torch.float32
        partial = grad_pooled.new_empty(programs * arguments["BAND"], grad_filters.numel(), dtype=acc)
        launch(
            texture_grad_filter_kernel,
            programs,
            grad_pooled.device,
            table_ptr=call.table,
            grad_pooled_ptr=grad_pooled,
            partial_ptr=partial,
            total_strips=total_strips,
            rows=rows,
            BLOCK_H=tile[0],
            BLOCK_W=tile[1],
            num_warps=warps,
            **shared,
        )
        grad_filters.copy_(partial.sum(dim=0))
    if grad_image is not None:
        image_h, image_w = call.image_size
        tile = tile_shape(32)
        programs, rows = strips(batch, image_h, image_w, tile)
        strides, grad_strides = grad_image.stride(), aligned_strides(layout(grad_pooled.permute(0, 3, 1, 2)))
        shared = {name: shared[name] for name in shared if name in texture_grad_image_kernel.arg_names}
        bin_h, bin_w, static, whole, _ = bins((out_h, out_w), (image_h, image_w))
        shared |= {"bin_h": bin_h, "bin_w": bin_w, "BIN_H": static, "BIN_W": static, "WHOLE": whole}
        shared["INDEX64"] |= needs_int64([], [layout(grad_image)])
        launch(
            texture_grad_image_kernel,
            programs,
            grad_pooled.device,
            grad_pooled_ptr=grad_pooled,
            grad_pooled_stride_n=grad_strides.n,
            grad_pooled_stride_h=grad_strides.h,
            grad_pooled_stride_w=grad_strides.w,
            grad_image_ptr=grad_image,
            grad_image_stride_n=strides[0],
            grad_image_stride_c=strides[1],
            grad_image_stride_h=strides[2],
            grad_image_stride_w=strides[3],
            rows=rows,
            CHANNELS_PAD=next_power_of_2(arguments["CHANNELS"]),
            GRAD_POOLED_ALIGN=grad_strides.align,
            BLOCK_H=tile[0],
            BLOCK_W=tile[1],
            num_warps=1 if grad_pooled.dtype.itemsize == 2 else 4,
            **shared,
        )
