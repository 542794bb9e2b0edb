"""The operator written once more, from the formulas alone: fractions, Python loops, dense matrices; nothing of tritonds.

In float64 it is what everything is measured against. In float16 it is what a user gets who writes the operator in eager
PyTorch, every intermediate result rounded: the measure of what half precision may cost.
"""

import math
from fractions import Fraction

import torch


def source_coordinate(j, n_in, n_out):
    return Fraction((2 * j + 1) * n_in - n_out, 2 * n_out)


def taps_of(j, n_in, n_out, taps):
    """Source pixels before clamping."""
    u = source_coordinate(j, n_in, n_out)
    first = math.floor(u) - taps // 2 + 1 if taps % 2 == 0 else math.floor(u + Fraction(1, 2)) - (taps - 1) // 2
    return [first + k for k in range(taps)]


def pooling_matrix(n_in, n_out, like):
    """(n_out, n_in): the share of source pixel i in the mean over bin j."""
    matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
    for j in range(n_out):
        low, high = Fraction(j * n_in, n_out), Fraction((j + 1) * n_in, n_out)
        for i in range(n_in):
            overlap = min(Fraction(i + 1), high) - max(Fraction(i), low)
            if overlap > 0:
                matrix[j, i] = float(overlap * n_out / n_in)
    return matrix.to(like)


def distances(n_in, n_out, taps, like):
    """(taps, n_out)"""
    rows = [[float(i - source_coordinate(j, n_in, n_out)) for j in range(n_out)] for i in range(taps)]
    for j in range(n_out):
        for k, i in enumerate(taps_of(j, n_in, n_out, taps)):
            rows[k][j] = float(i - source_coordinate(j, n_in, n_out))
    return torch.tensor(rows, dtype=torch.float64).to(like)


def prior_axis(n_in, n_out, taps, prior, like):
    """(taps, n_out)"""
    q = torch.ones(taps, n_out, dtype=torch.float64)
    for j in range(n_out):
        for k, i in enumerate(taps_of(j, n_in, n_out, taps)):
            distance = abs(i - source_coordinate(j, n_in, n_out))
            if prior == "bilinear":
                q[k, j] = float(max(Fraction(0), 1 - distance))
            if prior in ("antialias", "bicubic", "lanczos"):
                inside = 0 <= i < n_in
                q[k, j] = float(max(Fraction(0), 1 - distance / max(Fraction(n_in, n_out), Fraction(1)))) if inside else 0
    return q.to(like)


def bicubic(t):
    """Keys's cubic convolution with a = -1/2."""
    a = Fraction(-1, 2)
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0


def lanczos(t):
    if t.denominator == 1:
        return t == 0
    angle = math.pi * t
    return math.sin(angle) / angle * math.sin(angle / 3) / (angle / 3) if t < 3 else 0


def signed_axis(n_in, n_out, taps, prior, like):
    """(taps, n_out), each column with a sum of 1."""
    kernel = {"bicubic": bicubic, "lanczos": lanczos}[prior]
    b = torch.zeros(taps, n_out, dtype=torch.float64)
    for j in range(n_out):
        for k, i in enumerate(taps_of(j, n_in, n_out, taps)):
            distance = abs(i - source_coordinate(j, n_in, n_out))
            if 0 <= i < n_in:
                b[k, j] = float(kernel(distance / max(Fraction(n_in, n_out), Fraction(1))))
    return (b / b.sum(dim=0)).to(like)


def window(axis, image, size, taps, prior):
    """(h, w, taps * taps)"""
    y, x = (axis(n_in, n_out, taps, prior, image) for n_in, n_out in zip(image.shape[2:], size, strict=True))
    return torch.einsum("kh,lw->hwkl", y, x).flatten(2)


def area_pool2d(x, size):
    rows = pooling_matrix(x.shape[2], size[0], x)
    columns = pooling_matrix(x.shape[3], size[1], x)
    return torch.einsum("yh,nchw,xw->ncyx", rows, x, columns)


def coefficients(image, texture, weights, size, taps=2, prior=None):
    n, (h, w) = image.shape[0], size
    parts = []
    if weights.distance_weight is not None:
        dy = distances(image.shape[2], h, taps, image)[:, :, None].expand(-1, -1, w)
        dx = distances(image.shape[3], w, taps, image)[:, None, :].expand(-1, h, -1)
        d = torch.cat([dy, dx]).movedim(0, -1)
        e = torch.relu(torch.nn.functional.linear(d, weights.distance_weight, weights.distance_bias))
        parts.append(e.expand(n, -1, -1, -1))
    if texture is not None:
        parts.append(area_pool2d(texture, size).movedim(1, -1))
    z = torch.cat(parts, dim=-1)
    for weight, bias in zip(weights.hidden_weights, weights.hidden_biases, strict=True):
        z = torch.relu(torch.nn.functional.linear(z, weight, bias))
    logits = torch.nn.functional.linear(z, weights.out_weight, weights.out_bias)
    q = window(prior_axis, image, size, taps, prior)
    strength = logits[..., taps * taps :]
    logits = logits[..., : taps * taps]
    exponentials = q * torch.exp(logits - logits.amax(dim=-1, keepdim=True).detach())
    a = exponentials / exponentials.sum(dim=-1, keepdim=True)
    if prior in ("bicubic", "lanczos"):
        a = a + strength * (window(signed_axis, image, size, taps, prior) - q / q.sum(dim=-1, keepdim=True))
    return a.movedim(-1, 1)


def weighted_gather2d(image, a, size, taps=2):
    rows = torch.tensor([taps_of(j, image.shape[2], size[0], taps) for j in range(size[0])], device=image.device)
    columns = torch.tensor([taps_of(j, image.shape[3], size[1], taps) for j in range(size[1])], device=image.device)
    rows = rows.clamp(0, image.shape[2] - 1)
    columns = columns.clamp(0, image.shape[3] - 1)
    windows = image[:, :, rows[:, None, :, None], columns[None, :, None, :]]  # (N, C, h, w, taps, taps)
    return torch.einsum("nchwk,nkhw->nchw", windows.flatten(-2), a)


def downsize(image, texture, weights, size, taps=2, prior=None):
    return weighted_gather2d(image, coefficients(image, texture, weights, size, taps, prior), size, taps)
