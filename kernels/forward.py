"""The fused forward kernel: distances, pooled texture, coefficients and weighted sum in one pass.

    e = relu(Wd . [dy; dx] + bd);  p = pooled texture;  z = [e; p];  z = relu(W . z + b) per hidden layer
    a = q . exp(Wo . z + bo) / sum;  y[c] = sum_k a_k . image[c, tap k]

Per output pixel the kernel reads the scale's product of F texture channels and C image channels (each from memory once, shared
edges again from cache) and writes C values.
"""

import triton
import triton.language as tl

from .batch import image_at, target_at
from .bins import bin_sum
from .convolution import convolved_bin_mean, load_texture_weights, start_walk, strip_columns
from .groups import Activations, Batch, Elements, Target
from .network import first_distance, layer, linear, load_network, position, relu, softmax
from .prior import convex, convex_and_signed
from .strength import strength
from .tile import channel_stride, existing_taps, gather, plane_at, tap_offsets, target_pixels, tile_column, walked_pixels

INTEGERS = [
    "image_stride_n", "image_stride_c", "image_stride_h", "image_stride_w",
    "texture_stride_n", "texture_stride_c", "texture_stride_h", "texture_stride_w",
    "output_stride_n", "output_stride_c", "output_stride_h", "output_stride_w",
    "image_h", "image_w", "texture_h", "texture_w", "out_h", "out_w", "bin_h", "bin_w", "rows",
]  # fmt: skip
ANYWHERE = ["grad_output_ptr", "image_ptr"]
"""Tensors that gain nothing from starting at a multiple of 16 bytes, which crops and parts of larger tensors may not do."""


@triton.jit
def load_weights(texture_weights, weights, C: tl.constexpr):
    """All weights as tiles, loaded once per program: the network's, and those of the texture's convolution, if it is fused."""
    network = load_network(weights, C)
    if C.FUSED_TEXTURE:
        return network, load_texture_weights(texture_weights, C)
    else:
        return network, ()


@triton.jit
def infer(network, tiles, columns, walk, n, pixels, image, textures, target, C: tl.constexpr):
    """Coefficients, what leads to them, and the walk so far. ``tiles`` are the convolution's; if not fused, texture is read."""
    BLOCK: tl.constexpr = C.BLOCK_H * C.BLOCK_W
    if C.FUSED_TEXTURE:  # first, while there is little else to hold in registers
        mean, walk = convolved_bin_mean(walk, columns, image, tiles, pixels, target, C)
    dy = first_distance(pixels.y, image.h, target.h, C)
    dx = first_distance(pixels.x, image.w, target.w, C)
    where = position(dy, dx, C)
    encoding = tl.zeros([BLOCK, C.DISTANCE_CHANNELS_PAD], C.OPERAND)
    total = tl.broadcast_to(network.first_bias[None, :], [BLOCK, network.first_bias.shape[0]])
    if C.DISTANCE_CHANNELS > 0:
        encoding = relu(tl.dot(where, network.encoding, input_precision="ieee", out_dtype=C.ACC)).to(C.OPERAND)
        total = linear(encoding, network.first_encoding, total, C.PRECISION)
    pooled = encoding
    if C.TEXTURE.CHANNELS > 0:
        if C.FUSED_TEXTURE:
            pooled = mean.to(C.OPERAND)
        else:
            channel = tl.arange(0, C.TEXTURE.CHANNELS_PAD)
            if C.INDEX64:
                channel = channel.to(tl.int64)
            texture = plane_at(n, textures, C.TEXTURE.ALIGN)
            pooled = bin_sum(texture, channel, pixels.y, pixels.x, target, texture.h, texture.w, C.TEXTURE).to(C.OPERAND)
        total = linear(pooled, network.first_pooled, total, C.PRECISION)
    hidden_0 = encoding
    hidden_1 = encoding
    hidden_2 = encoding
    logits = total
    last = encoding
    if C.HIDDEN_LAYERS > 0:
        hidden_0 = relu(total).to(C.OPERAND)
        last = hidden_0
        if C.HIDDEN_LAYERS > 1:
            hidden_1 = relu(layer(last, network.hidden_1, network.hidden_1_bias, C.PRECISION)).to(C.OPERAND)
            last = hidden_1
        if C.HIDDEN_LAYERS > 2:
            hidden_2 = relu(layer(last, network.hidden_2, network.hidden_2_bias, C.PRECISION)).to(C.OPERAND)
            last = hidden_2
        logits = layer(last, network.out, network.out_bias, C.PRECISION)
    g = 0.0
    if C.LOGITS > C.TAPS * C.TAPS:  # before the taps' values fill the registers
        g = strength(network.strength, last, pooled, C)[None, :]
    logits = tl.trans(logits)
    q = logits
    signed = logits
    if C.LOGITS > C.TAPS * C.TAPS:
        q, signed = convex_and_signed(pixels, image, target, C)
    elif C.PRIOR != "none":
        q = convex(pixels, image, target, C)
    softmaxed = softmax(logits, q, C)
    coefficients = softmaxed
    if C.LOGITS > C.TAPS * C.TAPS:
        coefficients += g * signed
    return Activations(where, encoding, pooled, hidden_0, hidden_1, hidden_2, softmaxed, signed, coefficients), walk


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=ANYWHERE)
def downsize_kernel(
    image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w,
    texture_ptr, texture_stride_n, texture_stride_c, texture_stride_h, texture_stride_w,  # n, h and w in units of TEXTURE.ALIGN
    table_ptr,  # of images of different sizes, or None
    texture_weights, weights,
    output_ptr, output_stride_n, output_stride_c, output_stride_h, output_stride_w,
    image_h, image_w, texture_h, texture_w, out_h, out_w, bin_h, bin_w, rows, C: tl.constexpr,
):  # fmt: skip
    """One program computes a tile column of output pixels, all channels; the coefficients themselves if CHANNELS is 0."""
    images = Batch(image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w, image_h, image_w)
    textures = Batch(
        texture_ptr, texture_stride_n, texture_stride_c, texture_stride_h, texture_stride_w, texture_h, texture_w
    )  # fmt: skip
    network, tiles = load_weights(texture_weights, weights, C)
    n, tile_y, tile_x = tile_column(tl.program_id(0), out_h, out_w, rows, C)
    image = image_at(n, table_ptr, images, C)
    target = target_at(n, table_ptr, Target(out_h, out_w, 0, 0, bin_h, bin_w), C)
    output_ptr += n * output_stride_n
    columns = strip_columns(tile_y, rows, tile_x, out_h, out_w, image, target, C) if C.FUSED_TEXTURE else None
    walk = start_walk(walked_pixels(tile_y, 0, rows, tile_x, out_h, out_w, C).row, image, C)
    for step in range(rows):
        pixels = walked_pixels(tile_y, step, rows, tile_x, out_h, out_w, C)
        output = Elements(output_ptr, pixels.y * output_stride_h + pixels.x * output_stride_w, pixels.mask, output_stride_c)
        inside = None
        if C.LETTERBOX:
            pixels = target_pixels(pixels, target)
            inside = pixels.mask
        activations, walk = infer(network, tiles, columns, walk, n, pixels, image, textures, target, C)
        coefficients = activations.coefficients
        if C.CHANNELS == 0:
            k = tl.arange(0, C.TAPS_PAD)[:, None]
            tap_mask = output.mask[None, :] & (k < C.TAPS * C.TAPS)
            if C.INDEX64:
                k = k.to(tl.int64)
            tl.store(output_ptr + output.offsets[None, :] + k * output_stride_c, coefficients, mask=tap_mask)
        else:
            taps = Elements(image.ptr, tap_offsets(pixels, image, target, C), existing_taps(C), channel_stride(image, C))
            gather(taps, coefficients, output, inside, C)
