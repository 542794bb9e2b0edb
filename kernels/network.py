"""The sub-network that infers the coefficients, forward and backward, as functions of register tiles.

Tiles are [BLOCK, channels], channels padded to powers of two with zeros. Activations are kept in the input's dtype (OPERAND),
which is what the matrix units take; sums, distances and the softmax are in ACC: float32, or float64 for float64.

Successive distances differ by one pixel, d_k = d_0 + k. So Wd . [dy; dx] + bd is rank 2 in the pixel's position,
A_y * dy_0 + A_x * dx_0 + b with A_y = sum_k Wd[:, k], A_x = sum_k Wd[:, K + k], b = bd + sum_k k * (Wd[:, k] + Wd[:, K + k]):
a product with a tile of positions, columns dx_0, dy_0 and 1, whose own gradient in turn is one product over the pixels.
"""

import triton
import triton.language as tl

from .groups import Network
from .strength import load_strength
from .tile import distance_numerator, first_tap, forget_loads, rounded, sum_over_taps

POSITIONS = tl.constexpr(16)
"""Columns of :func:`position`: what a matrix product takes as its inner dimension; half of them are zero."""


@triton.jit
def relu(x):
    """max(x, 0) that keeps NaN, as PyTorch's does."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def relu_backward(grad, y):
    """Gradient through :func:`relu` from its result ``y``."""
    return tl.where(y <= 0, 0.0, grad)


@triton.jit
def first_distance(j, n_in, n_out, C: tl.constexpr):
    """Signed distance of the first tap from target pixel ``j``, in source pixels."""
    tap = first_tap(j, n_in, n_out, C.TAPS)
    # Rounded, or half precision's second number would be of a product that some kernels round and others do not.
    return rounded(distance_numerator(tap, j, n_in, n_out).to(C.ACC) * (0.5 / n_out.to(C.ACC)))


@triton.jit
def position(dy, dx, C: tl.constexpr):
    """What the distance encoding multiplies, columns [dx, dy, 1] and what half precision rounds off them: [BLOCK, POSITIONS].

    In half precision dx = high + low, and so dx * A = high * A_high + low * A_high + high * A_low but for 2^-16 of it.
    Columns lie along registers here, so that choosing among them costs nothing.
    """
    column = tl.arange(0, POSITIONS)[:, None]
    x_high = dx.to(C.OPERAND).to(C.ACC)
    y_high = dy.to(C.OPERAND).to(C.ACC)
    values = tl.where((column == 0) | (column == 1), x_high[None, :], 0.0)
    values = tl.where((column == 2) | (column == 3), y_high[None, :], values)
    values = tl.where(column == 4, (dx - x_high)[None, :], values)
    values = tl.where(column == 5, (dy - y_high)[None, :], values)
    values = tl.where((column == 6) | (column == 7), 1.0, values)
    return tl.trans(values.to(C.OPERAND))


@triton.jit
def load_encoding(weight_ptr, bias_ptr, C: tl.constexpr):
    """A_x, A_y and b of the folded encoding in rows that go with the columns of :func:`position`: [POSITIONS, channels]."""
    channel = tl.arange(0, C.DISTANCE_CHANNELS_PAD)
    mask = channel < C.DISTANCE_CHANNELS
    vertical = tl.zeros_like(channel).to(C.ACC)
    horizontal = vertical
    bias = tl.load(bias_ptr + channel, mask=mask, other=0.0).to(C.ACC)
    for k in tl.static_range(C.TAPS):
        w_y = tl.load(weight_ptr + channel * (2 * C.TAPS) + k, mask=mask, other=0.0).to(C.ACC)
        w_x = tl.load(weight_ptr + channel * (2 * C.TAPS) + C.TAPS + k, mask=mask, other=0.0).to(C.ACC)
        vertical += w_y
        horizontal += w_x
        bias += k * (w_y + w_x)
    row = tl.arange(0, POSITIONS)[:, None]
    values = tl.where((row == 0) | (row == 1) | (row == 4), horizontal[None, :], 0.0)
    values = tl.where((row == 2) | (row == 3) | (row == 5), vertical[None, :], values)
    values = tl.where((row == 6) | (row == 7), bias[None, :], values)
    rounded = values.to(C.OPERAND).to(C.ACC)
    low = (row == 1) | (row == 3) | (row == 7)
    return tl.where(low, values - rounded, rounded).to(C.OPERAND)


@triton.jit
def encoding_gradients(grad):
    """Gradients of A_x and A_y, each [channels], from position^T . grad [POSITIONS, channels]."""
    row = tl.arange(0, POSITIONS)[:, None]
    horizontal = tl.sum(tl.where((row == 0) | (row == 4), grad, 0.0), axis=0)
    vertical = tl.sum(tl.where((row == 2) | (row == 5), grad, 0.0), axis=0)
    return horizontal, vertical


@triton.jit
def fold_pixels(x, ROWS: tl.constexpr):
    """Sum of every ROWS-th row of ``x`` [BLOCK, CHANNELS]: [ROWS, CHANNELS]."""
    return tl.sum(tl.reshape(x, [x.shape[0] // ROWS, ROWS, x.shape[1]]), axis=0)


@triton.jit
def _exp(x):
    """exp(x), in float32 as a power of two: tl.exp takes three instructions more for results below 1e-38, which become 0."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    else:
        return tl.exp2(x * tl.full([1, 1], 1.4426950408889634, x.dtype))


@triton.jit
def softmax(logits, q, C: tl.constexpr):
    """q . exp(logits) over its sum across the taps: [TAPS_PAD, BLOCK], as ``logits``; zero past the last tap."""
    if C.PRIOR == "none":
        is_tap = (tl.arange(0, C.TAPS_PAD) < C.TAPS * C.TAPS)[:, None]
        weighted = tl.where(is_tap, logits, float("-inf"))
        exponentials = _exp(weighted - tl.max(weighted, axis=0)[None, :])
    else:
        weighted = tl.where(q > 0, logits, float("-inf"))
        exponentials = q * _exp(weighted - tl.max(weighted, axis=0)[None, :])
    return exponentials * (1.0 / sum_over_taps(exponentials, C))[None, :]


@triton.jit
def load_weight(
    weight_ptr, row_stride: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, OUT_PAD: tl.constexpr, IN_PAD: tl.constexpr
):
    """Weights (OUT, IN) in rows of ``row_stride`` elements: [OUT_PAD, IN_PAD], zero outside."""
    out_channel = tl.arange(0, OUT_PAD)[:, None]
    in_channel = tl.arange(0, IN_PAD)[None, :]
    mask = (out_channel < OUT) & (in_channel < IN)
    return tl.load(weight_ptr + out_channel * row_stride + in_channel, mask=mask, other=0.0)


@triton.jit
def load_bias(bias_ptr, OUT: tl.constexpr, OUT_PAD: tl.constexpr, ACC: tl.constexpr):
    """Bias (OUT,): [OUT_PAD], zero outside."""
    channel = tl.arange(0, OUT_PAD)
    return tl.load(bias_ptr + channel, mask=channel < OUT, other=0.0).to(ACC)


@triton.jit
def _load_hidden(weight_ptr, bias_ptr, C: tl.constexpr):
    """Weight and bias of a hidden layer behind another."""
    CHANNELS: tl.constexpr = C.HIDDEN_CHANNELS
    CHANNELS_PAD: tl.constexpr = C.HIDDEN_CHANNELS_PAD
    weight = load_weight(weight_ptr, CHANNELS, CHANNELS, CHANNELS, CHANNELS_PAD, CHANNELS_PAD)
    return weight, load_bias(bias_ptr, CHANNELS, CHANNELS_PAD, C.ACC)


@triton.jit
def load_network(weights, C: tl.constexpr):
    """All weights as tiles, loaded once per program.

    Absent layers (no distance or texture channels, fewer hidden layers) are placeholders, never read.
    """
    TAPS2: tl.constexpr = C.TAPS * C.TAPS
    FIRST: tl.constexpr = C.HIDDEN_CHANNELS if C.HIDDEN_LAYERS > 0 else TAPS2
    FIRST_PAD: tl.constexpr = C.HIDDEN_CHANNELS_PAD if C.HIDDEN_LAYERS > 0 else C.TAPS_PAD
    FIRST_INPUTS: tl.constexpr = C.DISTANCE_CHANNELS + C.TEXTURE.CHANNELS
    first_weight_ptr = weights.hidden_0_weight if C.HIDDEN_LAYERS > 0 else weights.out_weight
    first_bias_ptr = weights.hidden_0_bias if C.HIDDEN_LAYERS > 0 else weights.out_bias
    encoding = tl.zeros([POSITIONS, C.DISTANCE_CHANNELS_PAD], C.OPERAND)
    first_encoding = tl.zeros([C.DISTANCE_CHANNELS_PAD, C.DISTANCE_CHANNELS_PAD], C.OPERAND)
    first_pooled = tl.zeros([C.TEXTURE.CHANNELS_PAD, C.TEXTURE.CHANNELS_PAD], C.OPERAND)
    hidden_1 = tl.zeros([C.HIDDEN_CHANNELS_PAD, C.HIDDEN_CHANNELS_PAD], C.OPERAND)
    hidden_1_bias = tl.zeros([C.HIDDEN_CHANNELS_PAD], C.ACC)
    hidden_2 = hidden_1
    hidden_2_bias = hidden_1_bias
    out = hidden_1
    out_bias = hidden_1_bias
    first_bias = load_bias(first_bias_ptr, FIRST, FIRST_PAD, C.ACC)
    if C.HIDDEN_LAYERS > 0:
        out = load_weight(weights.out_weight, C.HIDDEN_CHANNELS, TAPS2, C.HIDDEN_CHANNELS, C.TAPS_PAD, C.HIDDEN_CHANNELS_PAD)
        out_bias = load_bias(weights.out_bias, TAPS2, C.TAPS_PAD, C.ACC)
    if C.DISTANCE_CHANNELS > 0:
        encoding = load_encoding(weights.distance_weight, weights.distance_bias, C)
        first_encoding = load_weight(
            first_weight_ptr, FIRST_INPUTS, FIRST, C.DISTANCE_CHANNELS, FIRST_PAD, C.DISTANCE_CHANNELS_PAD
        )  # fmt: skip
    if C.TEXTURE.CHANNELS > 0:
        first_pooled = load_weight(
            first_weight_ptr + C.DISTANCE_CHANNELS, FIRST_INPUTS, FIRST, C.TEXTURE.CHANNELS, FIRST_PAD, C.TEXTURE.CHANNELS_PAD
        )  # fmt: skip
    if C.HIDDEN_LAYERS > 1:
        hidden_1, hidden_1_bias = _load_hidden(weights.hidden_1_weight, weights.hidden_1_bias, C)
    if C.HIDDEN_LAYERS > 2:
        hidden_2, hidden_2_bias = _load_hidden(weights.hidden_2_weight, weights.hidden_2_bias, C)
    strength = ()
    if C.LOGITS > TAPS2:
        strength = load_strength(weights, C)
    return Network(
        encoding, first_encoding, first_pooled, first_bias, hidden_1, hidden_1_bias, hidden_2, hidden_2_bias, out, out_bias,
        strength,
    )  # fmt: skip


@triton.jit
def layer(x, weight, bias, PRECISION: tl.constexpr):
    """weight . x + bias: [BLOCK, OUT_PAD]."""
    return linear(x, weight, tl.broadcast_to(bias[None, :], [x.shape[0], bias.shape[0]]), PRECISION)


@triton.jit
def linear(x, weight, total, PRECISION: tl.constexpr):
    """total + x . weight^T."""
    return tl.dot(x, tl.trans(weight), total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def linear_grad_input(grad, weight, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Gradient of :func:`linear` to ``x``: grad . weight."""
    return tl.dot(grad.to(weight.dtype), weight, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def linear_grad_weight(grad, x, total, PRECISION: tl.constexpr):
    """total plus the gradient of :func:`linear` to its weight, transposed: x^T . grad, [IN_PAD, OUT_PAD]."""
    return tl.dot(tl.trans(x), grad.to(x.dtype), total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def pad_rows(x):
    """``x`` with rows of zeros below, to at least 16: what a matrix product takes as its inner dimension."""
    ROWS: tl.constexpr = x.shape[0]
    for _ in tl.static_range(4):
        if x.shape[0] < 16:
            x = tl.reshape(tl.permute(tl.join(x, tl.zeros_like(x)), (2, 0, 1)), [2 * x.shape[0], x.shape[1]])
    if ROWS < 16 and x.dtype.primitive_bitwidth == 16:
        x = forget_loads(x)
    return x
