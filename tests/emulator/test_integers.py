"""Instructions of integers and predicates, against Python's integers and NumPy."""

import fractions
import math
import struct

import numpy as np
import pytest

from emulator.launching import compute, integers, kind, predicate, wrapped

INTEGERS = [np.int32, np.uint32, np.int64, np.uint64, np.int16, np.uint16]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(
    ("name", "exact"),
    [("add", lambda a, b: a + b), ("sub", lambda a, b: a - b), ("mul.lo", lambda a, b: a * b), ("min", min), ("max", max)],
)
def test_integer_arithmetic(name, exact, dtype, rng):
    a, b = integers(rng, dtype), rng.permutation(integers(rng, dtype))
    expected = wrapped([exact(int(x), int(y)) for x, y in zip(a, b, strict=True)], dtype)
    assert (compute(f"{name}.{kind(dtype)}", dtype, a, b) == expected).all()


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int16, np.uint16])
def test_wide_and_high_products(dtype, rng):
    a, b = integers(rng, dtype), rng.permutation(integers(rng, dtype))
    bits = 8 * np.dtype(dtype).itemsize
    wide = np.dtype(f"{np.dtype(dtype).kind}{bits // 4}")
    products = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    assert (compute(f"mul.wide.{kind(dtype)}", wide, a, b) == wrapped(products, wide)).all()
    assert (compute(f"mul.hi.{kind(dtype)}", dtype, a, b) == wrapped([p >> bits for p in products], dtype)).all()
    if bits == 32:
        c = integers(rng, wide.type)
        sums = [p + int(z) for p, z in zip(products, c, strict=True)]
        assert (compute(f"mad.wide.{kind(dtype)}", wide, a, b, c) == wrapped(sums, wide)).all()
        c = integers(rng, dtype)
        sums = [p + int(z) for p, z in zip(products, c, strict=True)]
        assert (compute(f"mad.lo.{kind(dtype)}", dtype, a, b, c) == wrapped(sums, dtype)).all()


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
def test_division_truncates(dtype, rng):
    a, b = integers(rng, dtype), rng.permutation(integers(rng, dtype))
    b[b == 0] = 7
    pairs = [(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    quotients = [math.trunc(fractions.Fraction(x, y)) for x, y in pairs]
    assert (compute(f"div.{kind(dtype)}", dtype, a, b) == wrapped(quotients, dtype)).all()
    rest = [x - q * y for (x, y), q in zip(pairs, quotients, strict=True)]
    assert (compute(f"rem.{kind(dtype)}", dtype, a, b) == wrapped(rest, dtype)).all()


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint16])
def test_shifts_and_logic(dtype, rng):
    a = integers(rng, dtype)
    bits = 8 * np.dtype(dtype).itemsize
    places = rng.integers(0, bits + 5, len(a)).astype(np.uint32)
    unsigned = f"b{bits}"
    left = [int(x) << int(p) for x, p in zip(a, places, strict=True)]
    assert (compute(f"shl.{unsigned}", dtype, a, places) == wrapped(left, dtype)).all()
    right = [int(x) >> int(p) for x, p in zip(a, places, strict=True)]
    assert (compute(f"shr.{kind(dtype)}", dtype, a, places) == wrapped(right, dtype)).all()
    b = rng.permutation(a)
    for name, function in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor)):
        assert (compute(f"{name}.{unsigned}", dtype, a, b) == function(a, b)).all()
    assert (compute(f"not.{unsigned}", dtype, a) == ~a).all()


@pytest.mark.parametrize(("position", "length"), [(0, 1), (3, 1), (1, 4), (30, 5), (0, 32), (5, 0), (32, 3), (255, 1)])
def test_bit_fields(position, length, rng):
    x = integers(rng, np.uint32)
    digits = [f"{int(v):032b}"[::-1][position : position + length][::-1] for v in x]
    unsigned = np.array([int(d, 2) if d else 0 for d in digits], np.uint32)
    where = (str(position), str(length))
    assert (compute("bfe.u32", np.uint32, x, immediates=where) == unsigned).all()
    top = [f"{int(v):032b}"[::-1][min(position + length - 1, 31)] for v in x]
    filled = [(t * (32 - len(d)) + d) if length else "0" for d, t in zip(digits, top, strict=True)]
    assert (compute("bfe.s32", np.uint32, x, immediates=where) == np.array([int(f, 2) for f in filled], np.uint32)).all()


def test_negation_and_absolute_value(rng):
    n = integers(rng, np.int32)
    assert (compute("neg.s32", np.int32, n) == wrapped([-int(x) for x in n], np.int32)).all()
    assert (compute("abs.s32", np.int32, n) == wrapped([abs(int(x)) for x in n], np.int32)).all()


def test_minimum_that_is_no_less_than_zero(rng):
    n, m = integers(rng, np.int32), integers(rng, np.int32)
    assert (compute("min.relu.s32", np.int32, n, m) == np.maximum(np.minimum(n, m), 0)).all()


def test_permuted_bytes(rng):
    a, b = integers(rng, np.uint32), rng.permutation(integers(rng, np.uint32))
    for selector in (0x7701, 0x5410, 0x3210, 0xFB84, 0x0008):
        expected = []
        for x, y in zip(a, b, strict=True):
            pool = struct.pack("<II", x, y)
            chosen = [(selector >> (4 * i)) & 15 for i in range(4)]
            expected.append(bytes(pool[c & 7] if c < 8 else 0xFF * (pool[c & 7] >> 7) for c in chosen))
        got = compute("prmt.b32", np.uint32, a, b, immediates=(f"0x{selector:X}U",))
        assert [struct.pack("<I", g) for g in got] == expected


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint16])
def test_integer_comparisons(dtype, rng):
    a = integers(rng, dtype)
    b = rng.permutation(a)
    b[: len(b) // 3] = a[: len(b) // 3]
    for comparison, truth in {"lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b, "eq": a == b, "ne": a != b}.items():
        assert (predicate(f"setp.{comparison}.{kind(dtype)}", a, b) == truth).all(), comparison


def test_conversions_extend_by_sign_or_zeros_and_keep_the_lowest_bits(rng):
    n, small, wide = integers(rng, np.int32), integers(rng, np.uint16), integers(rng, np.uint64)
    assert (compute("cvt.s64.s32", np.int64, n) == n).all()
    assert (compute("cvt.u64.u32", np.int64, n) == n.view(np.uint32)).all()
    assert (compute("cvt.u32.u64", np.uint32, wide) == (wide & 0xFFFFFFFF)).all()
    assert (compute("cvt.u16.u32", np.uint16, n.view(np.uint32)) == (n.view(np.uint32) & 0xFFFF)).all()
    assert (compute("cvt.s64.s16", np.int64, small) == small.view(np.int16)).all()
    low = small.astype(np.uint8)  # of a register of 16 bits
    assert (compute("cvt.u16.u8", np.uint16, small) == low).all()
    assert (compute("cvt.s16.s8", np.int16, small) == low.view(np.int8)).all()
