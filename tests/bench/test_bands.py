"""What loops over bins do in lists of images, counted by hand."""

import pytest

# Bins of 5 rows in 3: rows 0 and 1, 1 to 3, 3 and 4. Bands are rows 0 and 1, 2 and 3, 4 and 5.
STEPS = {
    "in one strip": (3, False, [1, 1, 1]),
    "each in a strip of its own": (1, False, [1, 2, 2]),
    "in one strip, the last band waiting": (3, True, [0, 1, 1, 1]),
    "each in a strip of its own, the last band waiting": (1, True, [0, 1, 1, 1, 1, 1]),
}


@pytest.mark.parametrize("steps", STEPS)
def test_bands_of_each_step(steps):
    from bench.bands import bands
    from bench.workloads import Workload

    rows, completed, counts = STEPS[steps]
    found = bands(Workload("list", 1, (5, 4), (3, 2), sizes=((5, 4),)), False, rows, completed)
    assert sorted(found.elements()) == sorted((count, 2) for count in counts)


def test_rows_beside_a_letterbox_have_none():
    """4 x 4 pixels in 4 x 2 are 2 x 2 pixels with a row above and one below."""
    from bench.bands import bands
    from bench.workloads import Workload

    found = bands(Workload("list", 1, (4, 4), (4, 2), sizes=((4, 4),)), True, 4, False)
    assert sorted(found.elements()) == [(0, 2), (0, 2), (1, 2), (1, 2)]
