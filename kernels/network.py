"""The sub-network that infers the coefficients, forward and backward, as functions of register tiles.

Tiles are [BLOCK, channels], channels padded to powers of two with zeros. Activations are kept in the input's dtype (OPERAND),
which is what the matrix units take; sums, distances and the softmax are in ACC: float32, or float64 for float64.

Successive distances differ by one pixel, d_k = d_0 + k. So Wd . [dy; dx] + bd is rank 2 in the pixel's position,
A_y * dy_0 + A_x * dx_0 + b with A_y = sum_k Wd[:, k], A_x = sum_k Wd[:, K + k], b = bd + sum_k k * (Wd[:, k] + Wd[:, K + k]):
two multiplications per channel instead of 2K, and in the backward pass three sums instead of 2K + 1.
"""

import triton
import triton.language as tl

from .tile import distance_numerator, first_tap


@triton.jit
def relu(z):
    """max(z, 0) that keeps NaN, as PyTorch's does."""
    return tl.where(z < 0, 0.0, z)


@triton.jit
def relu_backward(grad, z):
    """Gradient through :func:`relu` from its result ``z``."""
    return tl.where(z <= 0, 0.0, grad)


@triton.jit
def first_distance(j, n_in, n_out, TAPS: tl.constexpr, ACC: tl.constexpr):
    """Signed distance of the first tap from target pixel ``j``, in source pixels."""
    tap = first_tap(j, n_in, n_out, TAPS)
    return distance_numerator(tap, j, n_in, n_out).to(ACC) / (2 * n_out).to(ACC)


@triton.jit
def fold_distance_weights(weight_ptr, bias_ptr, channel, mask, TAPS: tl.constexpr, ACC: tl.constexpr):
    """A_y, A_x and b of the folded encoding, each [CHANNELS_PAD]."""
    vertical = tl.zeros_like(channel).to(ACC)
    horizontal = tl.zeros_like(channel).to(ACC)
    bias = tl.load(bias_ptr + channel, mask=mask, other=0.0).to(ACC)
    for k in tl.static_range(TAPS):
        w_y = tl.load(weight_ptr + channel * (2 * TAPS) + k, mask=mask, other=0.0).to(ACC)
        w_x = tl.load(weight_ptr + channel * (2 * TAPS) + TAPS + k, mask=mask, other=0.0).to(ACC)
        vertical += w_y
        horizontal += w_x
        bias += k * (w_y + w_x)
    return vertical, horizontal, bias


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
    """q . exp(logits) over its sum across the taps: [BLOCK, TAPS_PAD], zero past the last tap."""
    k = tl.arange(0, TAPS_PAD)
    is_tap = (k < TAPS * TAPS)[None, :]
    if PRIOR == "none":
        weighted = tl.where(is_tap, logits, float("-inf"))
        exponentials = tl.exp(weighted - tl.max(weighted, axis=1)[:, None])
    else:
        row = first_tap(y, image_h, out_h, TAPS)[:, None] + (k // TAPS)[None, :]
        column = first_tap(x, image_w, out_w, TAPS)[:, None] + (k % TAPS)[None, :]
        q_y = prior(row, y[:, None], image_h, out_h, PRIOR, ACC)
        q_x = prior(column, x[:, None], image_w, out_w, PRIOR, ACC)
        q = tl.where(is_tap, q_y * q_x, 0.0)
        weighted = tl.where(q > 0, logits, float("-inf"))
        exponentials = q * tl.exp(weighted - tl.max(weighted, axis=1)[:, None])
    return exponentials / tl.sum(exponentials, axis=1)[:, None]


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
    vertical = tl.zeros([E_PAD], ACC)
    horizontal = vertical
    encoding_bias = vertical
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
        channel = tl.arange(0, E_PAD)
        vertical, horizontal, encoding_bias = fold_distance_weights(
            distance_weight_ptr, distance_bias_ptr, channel, channel < E, TAPS, ACC
        )
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
        vertical, horizontal, encoding_bias, first_e, first_p, first_bias,
        hidden_1, hidden_1_bias, hidden_2, hidden_2_bias, out, out_bias,
    )  # fmt: skip


@triton.jit
def encode_distances(dy, dx, vertical, horizontal, bias, OPERAND: tl.constexpr):
    """e = relu(Wd . [dy; dx] + bd) from the folded weights: [BLOCK, E_PAD]."""
    return relu(dy[:, None] * vertical[None, :] + dx[:, None] * horizontal[None, :] + bias[None, :]).to(OPERAND)


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
    """total plus the gradient of :func:`linear` to its weight: grad^T . z."""
    return tl.dot(tl.trans(grad.to(z.dtype)), z, total, input_precision=PRECISION, out_dtype=total.dtype)
