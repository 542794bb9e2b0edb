"""The strength g of priors that sharpen: the output layer's last row, forward and backward.

It is a product of its own, of one column, since a row more would double the rows of padded logits. Its operands are what the
output layer reads: the last hidden layer's channels or, if there is none, those of the distance encoding and of the texture.
"""

import triton
import triton.language as tl

from .groups import Strength
from .tile import rounded


@triton.jit
def _load_row(row_ptr, CHANNELS: tl.constexpr, CHANNELS_PAD: tl.constexpr, ACC: tl.constexpr):
    channel = tl.arange(0, CHANNELS_PAD)
    return tl.load(row_ptr + channel, mask=channel < CHANNELS, other=0.0).to(ACC)


@triton.jit
def load_strength(weights, C: tl.constexpr):
    """The row's weights and bias. Absent ones are placeholders, never read."""
    INPUTS: tl.constexpr = C.HIDDEN_CHANNELS if C.HIDDEN_LAYERS > 0 else C.DISTANCE_CHANNELS + C.TEXTURE.CHANNELS
    row_ptr = weights.out_weight + C.TAPS * C.TAPS * INPUTS
    pooled = tl.zeros([C.TEXTURE.CHANNELS_PAD], C.ACC)
    if C.HIDDEN_LAYERS > 0:
        weight = _load_row(row_ptr, C.HIDDEN_CHANNELS, C.HIDDEN_CHANNELS_PAD, C.ACC)
    else:
        weight = _load_row(row_ptr, C.DISTANCE_CHANNELS, C.DISTANCE_CHANNELS_PAD, C.ACC)
        pooled = _load_row(row_ptr + C.DISTANCE_CHANNELS, C.TEXTURE.CHANNELS, C.TEXTURE.CHANNELS_PAD, C.ACC)
    return Strength(weight, pooled, tl.load(weights.out_bias + C.TAPS * C.TAPS).to(C.ACC))


@triton.jit
def strength(row, last, pooled, C: tl.constexpr):
    """g: [BLOCK]. ``last`` are the last hidden layer's channels, or the distance encoding's."""
    g = tl.sum(rounded(last.to(C.ACC) * row.weight[None, :]), axis=1) + row.bias
    if C.HIDDEN_LAYERS == 0 and C.TEXTURE.CHANNELS > 0:
        g += tl.sum(rounded(pooled.to(C.ACC) * row.pooled[None, :]), axis=1)
    return g


@triton.jit
def outer(grad, x, C: tl.constexpr):
    """``grad``, of g, [BLOCK], times ``x``, channels of each pixel or weights of all: [BLOCK, channels]."""
    return rounded(grad[:, None] * x.to(C.ACC))


@triton.jit
def store_strength(partial_ptr, grads, C: tl.constexpr):
    """Store the gradients to the row and its bias. ``partial_ptr`` is where those of the output layer begin."""
    INPUTS: tl.constexpr = C.HIDDEN_CHANNELS if C.HIDDEN_LAYERS > 0 else C.DISTANCE_CHANNELS + C.TEXTURE.CHANNELS
    CHANNELS: tl.constexpr = C.HIDDEN_CHANNELS if C.HIDDEN_LAYERS > 0 else C.DISTANCE_CHANNELS
    row_ptr = partial_ptr + C.TAPS * C.TAPS * INPUTS
    channel = tl.arange(0, grads.weight.shape[1])
    tl.store(row_ptr + channel, tl.sum(grads.weight, axis=0), mask=channel < CHANNELS)
    if C.HIDDEN_LAYERS == 0 and C.TEXTURE.CHANNELS > 0:
        channel = tl.arange(0, C.TEXTURE.CHANNELS_PAD)
        tl.store(row_ptr + CHANNELS + channel, tl.sum(grads.pooled, axis=0), mask=channel < C.TEXTURE.CHANNELS)
    tl.store(partial_ptr + C.LOGITS * INPUTS + C.TAPS * C.TAPS, tl.sum(grads.bias, axis=0))
