"""The integer geometry against fractions, exhaustively over small sizes."""

import itertools
import math
from fractions import Fraction

import oracle
import pytest

from tritonds import geometry

SIZES = list(itertools.product([*range(1, 12), 17, 23], repeat=2)) + [(513, 179), (768, 230), (1080, 540), (5, 4096)]


@pytest.mark.parametrize("taps", range(1, 9))
def test_taps(taps):
    for n_in, n_out in SIZES:
        for j in range(n_out):
            first = geometry.first_tap(j, n_in, n_out, taps)
            assert first == oracle.taps_of(j, n_in, n_out, taps)[0]
            distance = Fraction(geometry.distance_numerator(first, j, n_in, n_out), 2 * n_out)
            assert distance == first - oracle.source_coordinate(j, n_in, n_out)


@pytest.mark.parametrize("taps", range(1, 9))
def test_windows(taps):
    for n_in, n_out in SIZES:
        firsts = [oracle.taps_of(j, n_in, n_out, taps)[0] for j in range(n_out)]
        for i in [*range(-taps, min(n_in, 30)), n_in - 1]:
            assert min(n_out, geometry.windows_starting_by(i, n_in, n_out, taps)) == sum(f <= i for f in firsts)


def test_bins():
    for n_in, n_out in SIZES:
        widest = 0
        for j in range(n_out):
            low, high = Fraction(j * n_in, n_out), Fraction((j + 1) * n_in, n_out)
            first, last = geometry.bin_first(j, n_in, n_out), geometry.bin_last(j, n_in, n_out)
            assert (first, last) == (math.floor(low), math.ceil(high) - 1)
            widest = max(widest, last - first + 1)
        common = math.gcd(n_in, n_out)
        assert widest == geometry.bin_width(n_in // common, n_out // common) <= geometry.bin_width(n_in, n_out)


def test_every_window_holds_a_pixel_that_the_prior_allows():
    """What lets the softmax with a prior divide by its sum without a special case."""
    for n_in, n_out in SIZES:
        for taps, j in itertools.product(range(1, 9), range(n_out)):
            u = oracle.source_coordinate(j, n_in, n_out)
            assert any(abs(i - u) < 1 and 0 <= i < n_in for i in oracle.taps_of(j, n_in, n_out, taps))


def test_whole_numbers_stay_whole():
    """513 -> 179 hits source pixel 256 exactly at j = 89, where floating point lands on either side."""
    assert oracle.source_coordinate(89, 513, 179) == 256
    assert geometry.first_tap(89, 513, 179, 2) == 256
    assert geometry.distance_numerator(256, 89, 513, 179) == 0
