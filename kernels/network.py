"""The sub-network that infers the coefficients, forward and backward, as functions of register tiles.

Tiles are [BLOCK, channels], channels padded to powers of two with zeros. Activations are kept in the input's dtype (OPERAND),
which is what the matrix units take; sums, distances and the softmax are in ACC: float32, or float64 for float64.

Successive distances differ by one pixel, d_k = d_0 + k. So Wd . [dy; dx] + bd is rank 2 in the pixel's position,
A_y * dy_0 + A_x * dx_0 + b with A_y = sum_k Wd[:, k], A_x = sum_k Wd[:, K + k], b = bd + sum_k k * (Wd[:, k] + Wd[:, K + k]):
a product with a tile of positions, columns dx_0, dy_0 and 1, whose own gradient in turn is one product over the pixels.
"""

import triton
import triton.language as tl

from .tile import distance_numerator, first_tap, forget_loads

POSITIONS = tl.constexpr(16)
"""Columns of :func:`position`: what a matrix product takes as its inner dimension; half of them are zero."""


@triton.jit
def relu(z):
    """max(z, 0) that keeps NaN, as PyTorch's does."""
    return tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def relu_backward(grad, z):
    """Gradient through :func:`relu` from its result ``z``."""
    return tl.where(z <= 0, 0.0, grad)


@triton.jit
def first_distance(j, n_in, n_out, TAPS: tl.constexpr, ACC: tl.constexpr):
    """Signed distance of the first tap from target pixel ``j``, in source pixels."""
    tap = first_tap(j, n_in, n_out, TAPS)
    return distance_numerator(tap, j, n_in, n_out).to(ACC) * (0.5 / n_out.to(ACC))


@triton.jit
def position(dy, dx, OPERAND: tl.constexpr, ACC: tl.constexpr):
    """What the distance encoding multiplies, columns [dx, dy, 1] and what half precision rounds off them: [BLOCK, POSITIONS].

    In half precision dx = high + low, and so dx * A = high * A_high + low * A_high + high * A_low but for 2^-16 of it.
    Columns lie along registers here, so that choosing among them costs nothing.
    """
    column = tl.arange(0, POSITIONS)[:, None]
    x_high = dx.to(OPERAND).to(ACC)
    y_high = dy.to(OPERAND).to(ACC)
    values = tl.where((column == 0) | (column == 1), x_high[None, :], 0.0)
    values = tl.where((column == 2) | (column == 3), y_high[None, :], values)
    values = tl.where(column == 4, (dx - x_high)[None, :], values)
    values = tl.where(column == 5, (dy - y_high)[None, :], values)
    values = tl.where((column == 6) | (column == 7), 1.0, values)
    return tl.trans(values.to(OPERAND))


@triton.jit
def load_encoding(weight_ptr, bias_ptr, E: tl.constexpr, E_PAD: tl.constexpr, TAPS: tl.constexpr, OPERAND: tl.constexpr,
                  ACC: tl.constexpr):  # fmt: skip
    """A_x, A_y and b of the folded encoding in rows that go with the columns of :func:`position`: [POSITIONS, E_PAD]."""
    channel = tl.arange(0, E_PAD)
    mask = channel < E
    vertical = tl.zeros_like(channel).to(ACC)
    horizontal = vertical
    bias = tl.load(bias_ptr + channel, mask=mask, other=0.0).to(ACC)
    for k in tl.static_range(TAPS):
        w_y = tl.load(weight_ptr + channel * (2 * TAPS) + k, mask=mask, other=0.0).to(ACC)
        w_x = tl.load(weight_ptr + channel * (2 * TAPS) + TAPS + k, mask=mask, other=0.0).to(ACC)
        vertical += w_y
        horizontal += w_x
        bias += k * (w_y + w_x)
    row = tl.arange(0, POSITIONS)[:, None]
    values = tl.where((row == 0) | (row == 1) | (row == 4), horizontal[None, :], 0.0)
    values = tl.where((row == 2) | (row == 3) | (row == 5), vertical[None, :], values)
    values = tl.where((row == 6) | (row == 7), bias[None, :], values)
    rounded = values.to(OPERAND).to(ACC)
    low = (row == 1) | (row == 3) | (row == 7)
    return tl.where(low, values - rounded, rounded).to(OPERAND)


@triton.jit
def encoding_gradients(grad):
    """Gradients of A_x and A_y, each [E_PAD], from position^T . grad [POSITIONS, E_PAD]."""
    row = tl.arange(0, POSITIONS)[:, None]
    horizontal = tl.sum(tl.where((row == 0) | (row == 4), grad, 0.0), axis=0)
    vertical = tl.sum(tl.where((row == 2) | (row == 5), grad, 0.0), axis=0)
    return horizontal, vertical


@triton.jit
def fold_pixels(x, ROWS: tl.constexpr):
    """Sum of every ROWS-th row of ``x`` [BLOCK, CHANNELS]: [ROWS, CHANNELS]."""
    return tl.sum(tl.reshape(x, [x.shape[0] // ROWS, ROWS, x.shape[1]]), axis=0)


@triton.jit
def prior(i, j, n_in, n_out, PRIOR: tl.constexpr, ACC: tl.constexpr):
    """max(0, 1 - |d| / support) of source pixel ``i``, the support being a source pixel or, antialiased, a target pixel."""
    distance = tl.abs(distance_numerator(i, j, n_in, n_out))
    if PRIOR == "antialias":
        support = 2 * tl.maximum(n_in, n_out)
        q = tl.where((i >= 0) & (i < n_in), tl.maximum(support - distance, 0), 0)
    else:
        support = 2 * n_out
        q = tl.maximum(support - distance, 0)
    return q.to(ACC) / support.to(ACC)


@triton.jit
def softmax(
    logits, y, x, image_h, image_w, out_h, out_w,
    PRIOR: tl.constexpr, TAPS: tl.constexpr, TAPS_PAD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """q . exp(logits) over its sum across the taps: [TAPS_PAD, BLOCK], as ``logits``; zero past the last tap."""
    k = tl.arange(0, TAPS_PAD)
    is_tap = (k < TAPS * TAPS)[:, None]
    if PRIOR == "none":
        weighted = tl.where(is_tap, logits, float("-inf"))
        exponentials = tl.exp(weighted - tl.max(weighted, axis=0)[None, :])
    else:
        row = first_tap(y, image_h, out_h, TAPS)[None, :] + (k // TAPS)[:, None]
        column = first_tap(x, image_w, out_w, TAPS)[None, :] + (k % TAPS)[:, None]
        q_y = prior(row, y[None, :], image_h, out_h, PRIOR, ACC)
        q_x = prior(column, x[None, :], image_w, out_w, PRIOR, ACC)
        q = tl.where(is_tap, q_y * q_x, 0.0)
        weighted = tl.where(q > 0, logits, float("-inf"))
        exponentials = q * tl.exp(weighted - tl.max(weighted, axis=0)[None, :])
    return exponentials * (1.0 / tl.sum(exponentials, axis=0))[None, :]


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
def load_network(
    distance_weight_ptr, distance_bias_ptr, hidden_weight_0_ptr, hidden_bias_0_ptr, hidden_weight_1_ptr,
    hidden_bias_1_ptr, hidden_weight_2_ptr, hidden_bias_2_ptr, out_weight_ptr, out_bias_ptr,
    E: tl.constexpr, F: tl.constexpr, M: tl.constexpr, HIDDEN_LAYERS: tl.constexpr,
    E_PAD: tl.constexpr, F_PAD: tl.constexpr, M_PAD: tl.constexpr, TAPS: tl.constexpr, TAPS_PAD: tl.constexpr,
    ACC: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """All weights as tiles, loaded once per program; the first layer in two parts, for distances and for texture.

    What does not exist (E = 0, F = 0, fewer hidden layers) is some tensor that nobody reads.
    """
    TAPS2: tl.constexpr = TAPS * TAPS
    encoding = tl.zeros([POSITIONS, E_PAD], OPERAND)
    first_e = tl.zeros([E_PAD, E_PAD], OPERAND)
    first_p = tl.zeros([F_PAD, F_PAD], OPERAND)
    hidden_1 = tl.zeros([M_PAD, M_PAD], OPERAND)
    hidden_1_bias = tl.zeros([M_PAD], ACC)
    hidden_2 = hidden_1
    hidden_2_bias = hidden_1_bias
    out = hidden_1
    out_bias = hidden_1_bias
    if HIDDEN_LAYERS > 0:
        first_bias = load_bias(hidden_bias_0_ptr, M, M_PAD, ACC)
        out = load_weight(out_weight_ptr, M, TAPS2, M, TAPS_PAD, M_PAD)
        out_bias = load_bias(out_bias_ptr, TAPS2, TAPS_PAD, ACC)
    else:
        first_bias = load_bias(out_bias_ptr, TAPS2, TAPS_PAD, ACC)
    if E > 0:
        encoding = load_encoding(distance_weight_ptr, distance_bias_ptr, E, E_PAD, TAPS, OPERAND, ACC)
        if HIDDEN_LAYERS > 0:
            first_e = load_weight(hidden_weight_0_ptr, E + F, M, E, M_PAD, E_PAD)
        else:
            first_e = load_weight(out_weight_ptr, E + F, TAPS2, E, TAPS_PAD, E_PAD)
    if F > 0:
        if HIDDEN_LAYERS > 0:
            first_p = load_weight(hidden_weight_0_ptr + E, E + F, M, F, M_PAD, F_PAD)
        else:
            first_p = load_weight(out_weight_ptr + E, E + F, TAPS2, F, TAPS_PAD, F_PAD)
    if HIDDEN_LAYERS > 1:
        hidden_1 = load_weight(hidden_weight_1_ptr, M, M, M, M_PAD, M_PAD)
        hidden_1_bias = load_bias(hidden_bias_1_ptr, M, M_PAD, ACC)
    if HIDDEN_LAYERS > 2:
        hidden_2 = load_weight(hidden_weight_2_ptr, M, M, M, M_PAD, M_PAD)
        hidden_2_bias = load_bias(hidden_bias_2_ptr, M, M_PAD, ACC)
    return (
        encoding, first_e, first_p, first_bias,
        hidden_1, hidden_1_bias, hidden_2, hidden_2_bias, out, out_bias,
    )  # fmt: skip


@triton.jit
def layer(z, weight, bias, BLOCK: tl.constexpr, OUT_PAD: tl.constexpr, PRECISION: tl.constexpr):
    """weight . z + bias: [BLOCK, OUT_PAD]."""
    return linear(z, weight, tl.broadcast_to(bias[None, :], [BLOCK, OUT_PAD]), PRECISION)


@triton.jit
def linear(z, weight, total, PRECISION: tl.constexpr):
    """total + z . weight^T."""
    return tl.dot(z, tl.trans(weight), total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def linear_grad_input(grad, weight, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Gradient of :func:`linear` to ``z``: grad . weight."""
    return tl.dot(grad.to(weight.dtype), weight, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def linear_grad_weight(grad, z, total, PRECISION: tl.constexpr):
    """total plus the gradient of :func:`linear` to its weight, transposed: z^T . grad, [IN_PAD, OUT_PAD]."""
    return tl.dot(tl.trans(z), grad.to(z.dtype), total, input_precision=PRECISION, out_dtype=total.dtype)


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
