"""Priors: what coefficients are made of before the network changes them, as functions of the taps' integer distances.

Along an axis, with t the distance over the larger of a source and a target pixel:

    q   convex: max(0, 1 - t) inside the image and 0 outside (or "bilinear", which knows source pixels alone)
    b   signed: antialiased bicubic or Lanczos interpolation inside the image and 0 outside

Where both are used, each is divided by its sum over the window's taps.
"""

from typing import Any

import triton
import triton.language as tl

from .launch import INTERPRETED
from .tile import distance_numerator, first_tap


def _constant(*values: float) -> Any:
    return values if INTERPRETED else tl.constexpr(values)


LANCZOS = _constant(
    4.01859396e-10, -1.31351773e-8, 3.38536231e-7, -7.30201112e-6, 1.23286056e-4,
    -1.5536184e-3, 1.36432438e-2, -7.37692015e-2, 0.182790624,
)  # fmt: skip
"""3 sin(pi t) sin(pi t/3) / (pi t)^2 over (1 - t^2) (1 - t^2/4) (1 - t^2/9)^2, as powers of t^2 - 4.5, the highest first.

Interpolated at Chebyshev's nodes of t^2 from 0 to 9. The kernel then is wrong by at most 3.5e-8, half a rounding of float32.
"""
LANCZOS64 = _constant(
    1.4641018368974016e-20, -1.1085108741686023e-18, 7.3614412778536227e-17, -4.3674154391283204e-15,
    2.2671938907072924e-13, -1.0188079545372623e-11, 3.9142709626407338e-10, -1.2664899360436512e-8,
    3.3869516265412724e-7, -7.309182644248475e-6, 1.2328516078713623e-4, -1.5535779887358428e-3,
    1.3643245132204395e-2, -7.3769262911312767e-2, 0.18279062353141398,
)  # fmt: skip
"""The same for float64."""


@triton.jit
def _support(n_in, n_out, C: tl.constexpr):
    n = n_out if C.PRIOR == "bilinear" else tl.maximum(n_in, n_out)
    return 2 * n.to(tl.int64) if C.INDEX64 else 2 * n


@triton.jit
def prior(i, j, n_in, n_out, C: tl.constexpr):
    """max(0, support - |d|) of source pixel ``i``, an integer. The support: a source pixel or, antialiased, a target pixel."""
    q = tl.maximum(_support(n_in, n_out, C) - tl.abs(distance_numerator(i, j, n_in, n_out)), 0)
    return q if C.PRIOR == "bilinear" else tl.where((i >= 0) & (i < n_in), q, 0)


@triton.jit
def signed_kernel(i, j, n_in, n_out, C: tl.constexpr):
    """The bicubic or the Lanczos kernel at source pixel ``i``, up to a factor that depends on the sizes. Zeros are exact.

    Bicubic: (1 - t) (1 + t - 3/2 t^2) for t < 1, 1/2 (1 - t) (2 - t)^2 for 1 <= t < 2. Lanczos: its zeros at 1, 2 and 3 as
    factors, and a polynomial for the rest, which has none.
    """
    distance = tl.abs(distance_numerator(i, j, n_in, n_out))
    unit = _support(n_in, n_out, C)
    d = distance.to(C.ACC)
    to_one = (unit - distance).to(C.ACC)
    to_two = (2 * unit - distance).to(C.ACC)
    if C.PRIOR == "bicubic":
        one = unit.to(C.ACC)
        b = to_one * tl.where(distance < unit, one * one + d * (one - 1.5 * d), 0.5 * to_two * to_two)
        reach = 2 * unit
    else:
        inverse = 1.0 / unit.to(C.ACC)  # without it, the fourth power of long axes would be infinite in float32
        t = d * inverse
        ends = (3 * unit - distance).to(C.ACC) * inverse * (3.0 + t)
        zeros = (to_one * (1.0 + t)) * (to_two * (2.0 + t)) * (ends * ends)
        POWERS: tl.constexpr = LANCZOS64 if tl.float64 == C.ACC else LANCZOS
        b = zeros * _polynomial(t * t - 4.5, POWERS)
        reach = 3 * unit
    return tl.where((i >= 0) & (i < n_in) & (distance < reach), b, 0.0)


@triton.jit
def _polynomial(x, COEFFICIENTS: tl.constexpr):
    total = tl.full([1, 1], COEFFICIENTS[0], x.dtype)
    for index in tl.static_range(1, len(COEFFICIENTS)):
        total = total * x + tl.full([1, 1], COEFFICIENTS[index], x.dtype)
    return total


@triton.jit
def convex(pixels, image, target, C: tl.constexpr):
    """q, up to a factor for each pixel: [TAPS_PAD, BLOCK]; zero past the last tap."""
    k = tl.arange(0, C.TAPS_PAD)
    row = first_tap(pixels.y, image.h, target.h, C.TAPS)[None, :] + (k // C.TAPS)[:, None]
    column = first_tap(pixels.x, image.w, target.w, C.TAPS)[None, :] + (k % C.TAPS)[:, None]
    # In units of the support. Without that the compiler computes columns anew at every row of a tile.
    q_y = prior(row, pixels.y[None, :], image.h, target.h, C).to(C.ACC) / _support(image.h, target.h, C).to(C.ACC)
    q_x = prior(column, pixels.x[None, :], image.w, target.w, C).to(C.ACC) / _support(image.w, target.w, C).to(C.ACC)
    return tl.where((k < C.TAPS * C.TAPS)[:, None], q_y * q_x, 0.0)


@triton.jit
def convex_and_signed(pixels, image, target, C: tl.constexpr):
    """q and b - q, which sum to 1 and 0 across the taps: each [TAPS_PAD, BLOCK]; zero past the last tap."""
    k = tl.arange(0, C.TAPS_PAD)
    is_tap = (k < C.TAPS * C.TAPS)[:, None]
    q_y, b_y = _axis(k // C.TAPS, pixels.y, image.h, target.h, C)
    q_x, b_x = _axis(k % C.TAPS, pixels.x, image.w, target.w, C)
    q = q_y * q_x
    return tl.where(is_tap, q, 0.0), tl.where(is_tap, b_y * b_x - q, 0.0)


@triton.jit
def _axis(k, j, n_in, n_out, C: tl.constexpr):
    """q and b of the taps ``k`` of target pixels ``j``, each over its sum across an axis's taps: [TAPS_PAD, BLOCK]."""
    first = first_tap(j, n_in, n_out, C.TAPS)[None, :]
    j = j[None, :]
    i = first + k[:, None]
    q = prior(i, j, n_in, n_out, C).to(C.ACC)
    q_sum = prior(first, j, n_in, n_out, C).to(C.ACC)
    b_sum = signed_kernel(first, j, n_in, n_out, C)
    for tap in tl.static_range(1, C.TAPS):
        q_sum += prior(first + tap, j, n_in, n_out, C).to(C.ACC)
        b_sum += signed_kernel(first + tap, j, n_in, n_out, C)
    return q * (1.0 / q_sum), signed_kernel(i, j, n_in, n_out, C) * (1.0 / b_sum)
