"""Integer geometry shared by every backend: which source pixels a target pixel reads.

Along one axis with ``n_in`` source and ``n_out`` target pixels, half-pixel centres put target pixel ``j`` at the source
coordinate ``u = ((2j + 1) * n_in - n_out) / (2 * n_out)``. Everything below is that rational number in exact integers. In
floating point ``floor(u)`` flips where ``u`` is a whole number (513 -> 179 at ``j = 89``), and two backends would read
different pixels.

The functions use operators alone, so the same source serves Python integers, torch tensors and, compiled by ``triton.jit``,
the kernels. Every dividend is kept non-negative: ``//`` floors in Python and truncates in a Triton kernel.

Source: half-pixel centres and the fractional bins are our reading of the method's poster, which fixes neither.
"""


def first_tap(j, n_in, n_out, taps):
    """First source pixel of the ``taps`` read by target pixel ``j``, before clamping (it may be negative).

    >>> [first_tap(j, 4, 2, 2) for j in range(2)]
    [0, 2]
    """
    return ((2 * j + 1) * n_in + (1 - taps % 2) * n_out) // (2 * n_out) - taps // 2


def distance_numerator(i, j, n_in, n_out):
    """Signed distance from target ``j`` to source pixel ``i``, in units of ``1 / (2 * n_out)`` source pixels.

    >>> distance_numerator(1, 0, 4, 2) / (2 * 2)
    0.5
    """
    return (2 * i + 1) * n_out - (2 * j + 1) * n_in


def bin_first(j, n_in, n_out):
    """First source pixel that overlaps the bin ``[j * n_in / n_out, (j + 1) * n_in / n_out)``.

    >>> [bin_first(j, 5, 2) for j in range(2)]
    [0, 2]
    """
    return j * n_in // n_out


def bin_last(j, n_in, n_out):
    """Last source pixel that overlaps bin ``j``.

    >>> [bin_last(j, 5, 2) for j in range(2)]
    [2, 4]
    """
    return ((j + 1) * n_in - 1) // n_out


def bin_width(n_in, n_out):
    """Upper bound on the source pixels that one bin overlaps; exact when ``n_in`` and ``n_out`` share no divisor.

    >>> bin_width(4, 2), bin_width(5, 2), bin_width(2, 5)
    (2, 3, 2)
    """
    return n_in // n_out if n_in % n_out == 0 else (n_in - 2) // n_out + 2


def windows_starting_by(i, n_in, n_out, taps):
    """How many target pixels ``j >= 0`` have ``first_tap(j) <= i``, were the target endless: clamp to ``n_out``.

    Those are ``0 .. count - 1``, since first taps never decrease.

    >>> [windows_starting_by(i, 4, 2, 2) for i in (-1, 0, 1, 2)]
    [0, 1, 1, 2]
    """
    # first_tap(j) <= i  <=>  (2j + 1) * n_in < n_out * (2i + taps + 1)
    excess = n_out * (2 * i + taps + 1) - n_in
    return (excess * (excess > 0) + 2 * n_in - 1) // (2 * n_in)
