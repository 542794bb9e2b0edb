"""What kernels are compiled for, as Triton takes it: as a key of its own caches, of the one on disk, and of its hooks."""

import json

import pytest

pytest.importorskip("triton")

import triton.language as tl

from tritonds.kernels.constants import Gather

VALUES = {
    "BLOCK_H": 1,
    "BLOCK_W": 32,
    "INDEX64": False,
    "ACC": tl.float32,
    "CHANNELS": 3,
    "TAPS": 2,
    "TAPS_PAD": 4,
    "BACKWARD": False,
}
OTHERS = {name: 2 * value for name, value in VALUES.items() if type(value) is int}
OTHERS |= {"INDEX64": True, "BACKWARD": True, "ACC": tl.float64, "FACTORS": (0.5,), "SUMMANDS": (0.1,), "FILL": 0.5}


def test_they_are_equal_if_all_values_are():
    one, other = Gather(**VALUES), Gather(**dict(reversed(VALUES.items())), FACTORS=())
    assert one == other
    assert hash(one) == hash(other)
    assert str(one) == str(other)


@pytest.mark.parametrize("name", OTHERS)
def test_every_value_makes_a_difference(name):
    one, other = Gather(**VALUES), Gather(**VALUES | {name: OTHERS[name]})
    assert one != other
    assert repr(one) != repr(other)
    assert other.values[name] == OTHERS[name]


def test_hooks_can_write_them_down():
    """They are given the constants as JSON."""
    assert "TAPS=2" in json.loads(json.dumps(Gather(**VALUES)))
