"""Integer geometry shared by every backend: which source pixels a target pixel reads, and where a letterboxed image lies.

Along one axis with ``n_in`` source and ``n_out`` target pixels, half-pixel centres put target pixel ``j`` at the source
coordinate ``u = ((2j + 1) * n_in - n_out) / (2 * n_out)``. What is read is computed from that fraction, in exact integers. In
floating point ``floor(u)`` flips where ``u`` is a whole number (513 -> 179 at ``j = 89``), and two backends would read
different pixels.

The functions of integers, :func:`first_tap` to :func:`windows_starting_by`, use operators alone, so the same source serves
Python integers, torch tensors and, compiled by ``triton.jit``, the kernels. Every dividend is kept non-negative: ``//`` floors
in Python and truncates in a Triton kernel.

Source: half-pixel centres and the fractional bins are our reading of the method's poster, which fixes neither.
"""

import operator
from math import gcd
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

# Annotations have it in quotes, since Triton compiles these functions, and looks up every name in them.
Index = TypeVar("Index", int, Tensor)


def first_tap(j: "Index", n_in: int, n_out: int, taps: int) -> "Index":
    """First source pixel of the ``taps`` read by target pixel ``j``, before clamping (it may be negative).

    >>> [first_tap(j, 4, 2, 2) for j in range(2)]
    [0, 2]
    """
    return ((2 * j + 1) * n_in + (1 - taps % 2) * n_out) // (2 * n_out) - taps // 2


def distance_numerator(i: "Index", j: "Index", n_in: int, n_out: int) -> "Index":
    """Signed distance from target ``j`` to source pixel ``i``, in units of ``1 / (2 * n_out)`` source pixels.

    >>> distance_numerator(1, 0, 4, 2) / (2 * 2)
    0.5
    """
    return (2 * i + 1) * n_out - (2 * j + 1) * n_in


def bin_first(j: "Index", n_in: int, n_out: int) -> "Index":
    """First source pixel that overlaps the bin ``[j * n_in / n_out, (j + 1) * n_in / n_out)``.

    >>> [bin_first(j, 5, 2) for j in range(2)]
    [0, 2]
    """
    return j * n_in // n_out


def bin_last(j: "Index", n_in: int, n_out: int) -> "Index":
    """Last source pixel that overlaps bin ``j``.

    >>> [bin_last(j, 5, 2) for j in range(2)]
    [2, 4]
    """
    return ((j + 1) * n_in - 1) // n_out


def bin_width(n_in: int, n_out: int) -> int:
    """Upper bound on the source pixels that one bin overlaps; exact when ``n_in`` and ``n_out`` share no divisor.

    >>> bin_width(4, 2), bin_width(5, 2), bin_width(2, 5)
    (2, 3, 2)
    """
    return n_in // n_out if n_in % n_out == 0 else (n_in - 2) // n_out + 2


def windows_starting_by(i: "Index", n_in: int, n_out: int, taps: int) -> "Index":
    """How many target pixels ``j >= 0`` have ``first_tap(j) <= i``, were the target endless: clamp to ``n_out``.

    Those are ``0 .. count - 1``, since first taps never decrease.

    >>> [windows_starting_by(i, 4, 2, 2) for i in (-1, 0, 1, 2)]
    [0, 1, 1, 2]
    """
    # first_tap(j) <= i  <=>  (2j + 1) * n_in < n_out * (2i + taps + 1)
    excess = n_out * (2 * i + taps + 1) - n_in
    return (excess * (excess > 0) + 2 * n_in - 1) // (2 * n_in)


class Phases(NamedTuple):
    """Where an axis's target pixels lie alike between their taps, so that these are at equal distances."""

    low: int
    """The first target pixel whose taps all lie inside the image. Each one before it lies like no other."""
    high: int
    """The first one behind them, likewise."""
    period: int
    """From ``low`` on, every so many target pixels."""
    step: int
    """The source pixels that a period takes."""

    @property
    def inside(self) -> int:
        return self.high - self.low

    def count(self, n_out: int) -> int:
        """How many target pixels there are of which no two lie alike, if ``inside`` is at least a period."""
        return n_out - self.inside + self.period


def phases(n_in: int, n_out: int, taps: int) -> Phases:
    """How the target pixels of an axis repeat.

    >>> phases(75, 40, 4)
    Phases(low=1, high=39, period=8, step=15)
    """
    shared = gcd(n_in, n_out)
    low = min(windows_starting_by(-1, n_in, n_out, taps), n_out)
    high = max(min(windows_starting_by(n_in - taps, n_in, n_out, taps), n_out), low)
    return Phases(low, high, n_out // shared, n_in // shared)


def letterbox(size_in: tuple[int, int], size_out: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where an image lies that is resized to fit within ``size_out``, its aspect kept, and centred.

    One axis is filled. The other is its length times the same ratio, rounded to the nearest pixel, half a pixel upwards, and
    at least 1.

    Args:
        size_in: (H, W) of the image, in pixels, each at least 1.
        size_out: (h, w) of what it has to fit in, likewise. A small image is enlarged.

    Returns:
        region: (height, width) to resize the image to, in pixels; never larger than ``size_out``.
        corner: (top, left), the region's first pixel. Where an odd number of pixels is left over, the bottom or the right side
            has one more.

    Raises:
        TypeError: a size that is no pair of integers.
        ValueError: a size below 1.

    Source: the letterbox of object detectors; rounding, and computing it in integers, are our choice.

    >>> letterbox((480, 640), (224, 224))
    ((168, 224), (28, 0))
    """
    in_h, in_w = check_size("size_in", size_in)
    out_h, out_w = check_size("size_out", size_out)
    if out_h * in_w <= out_w * in_h:  # height fills: in_w * out_h / in_h is at most out_w, and so is what it rounds to
        region_h, region_w = out_h, max(1, (2 * in_w * out_h + in_h) // (2 * in_h))
    else:
        region_h, region_w = max(1, (2 * in_h * out_w + in_w) // (2 * in_w)), out_w
    return (region_h, region_w), ((out_h - region_h) // 2, (out_w - region_w) // 2)


def place(size_in: tuple[int, int], size_out: tuple[int, int], keep_aspect: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """Region and corner of a resized image, as :func:`letterbox` gives them, or those of an image that is stretched."""
    return letterbox(size_in, size_out) if keep_aspect else (size_out, (0, 0))


def check_size(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """``size`` as two integers, each at least 1; one number stands for both. NumPy's and tensors' integers are converted."""
    expected = "a pair of integers (height, width), or one for both"
    pair = size if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise TypeError(f"{name}: expected {expected}, got {size!r}")
    h, w = (integer(name, value, expected, size) for value in pair)
    if h < 1 or w < 1:
        raise ValueError(f"{name}: expected height and width of at least 1, got {size!r}")
    return h, w


def integer(name: str, value: Any, expected: str, given: object = None) -> int:
    """``value`` as an integer, whichever library it is from. Raise TypeError unless it is one: no bool, no float."""
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return cast(int, value)
    # Python makes integers of True, and of tensors' and some NumPys' bool.
    is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    try:
        index = None if is_bool else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        index = None
    if index is None:
        raise TypeError(f"{name}: expected {expected}, got {(value if given is None else given)!r}")
    return index
