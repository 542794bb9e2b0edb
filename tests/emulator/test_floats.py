"""Instructions of floating point, against NumPy and exact fractions."""

import fractions

import numpy as np
import pytest

from emulator.launching import bf16, compute, floats, integers, predicate, same

FLOATS = {"f32": np.float32, "f64": np.float64}


@pytest.mark.parametrize("name", FLOATS)
def test_float_arithmetic(name, rng):
    dtype = FLOATS[name]
    a, b, c = floats(rng, dtype), rng.permutation(floats(rng, dtype)), rng.permutation(floats(rng, dtype))
    with np.errstate(all="ignore"):
        for instruction, function in (
            ("add", np.add),
            ("sub", np.subtract),
            ("mul", np.multiply),
            ("max", np.fmax),
            ("min", np.fmin),
        ):
            assert same(compute(f"{instruction}.{name}", dtype, a, b), function(a, b))
        divide = "div.full.f32" if name == "f32" else "div.rn.f64"
        assert same(compute(divide, dtype, a, b), a / b)
        assert same(compute(f"neg.{name}", dtype, a), -a)
        assert same(compute(f"abs.{name}", dtype, a), np.abs(a))
        got = compute(f"fma.rn.{name}", dtype, a, b, c)
        finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
        for x, y, z, g in zip(a[finite], b[finite], c[finite], got[finite], strict=True):
            exact = fractions.Fraction(float(x)) * fractions.Fraction(float(y)) + fractions.Fraction(float(z))
            assert abs(float(g) - float(exact)) <= 2 * np.finfo(dtype).eps * (abs(float(x) * float(y)) + abs(float(z)))
        if name == "f32":
            assert same(compute("max.NaN.f32", dtype, a, b), np.maximum(a, b))
            np.testing.assert_allclose(compute("ex2.approx.f32", dtype, a), np.exp2(a.astype(np.float64)).astype(dtype))


@pytest.mark.parametrize("name", FLOATS)
def test_comparisons(name, rng):
    dtype = FLOATS[name]
    a = floats(rng, dtype)
    b = rng.permutation(a)
    b[: len(b) // 3] = a[: len(b) // 3]
    nan = np.isnan(a) | np.isnan(b)
    expected = {
        "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b, "eq": a == b, "ne": (a != b) & ~nan,
        "ltu": (a < b) | nan, "geu": (a >= b) | nan, "gtu": (a > b) | nan, "neu": (a != b) | nan, "nan": nan, "num": ~nan,
    }  # fmt: skip
    for comparison, truth in expected.items():
        assert (predicate(f"setp.{comparison}.{name}", a, b) == truth).all(), comparison


def test_bfloat16_is_rounded_to_nearest_even_and_read_back(rng):
    x = floats(rng, np.float32)
    x[:4] = np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x3F808001], np.uint32).view(np.float32)  # ties, the largest
    expected = np.array([bf16(v) for v in x], np.uint16)
    assert (compute("cvt.rn.bf16.f32", np.uint16, x) == expected).all()
    finite = ~np.isnan(x)
    back = compute("cvt.f32.bf16", np.float32, expected)
    assert (back[finite] == (expected.astype(np.uint32) << 16).view(np.float32)[finite]).all()
    y = rng.permutation(x)
    packed = compute("cvt.rn.bf16x2.f32", np.uint32, x, y)
    assert (packed >> 16 == expected).all()
    assert (packed & 0xFFFF == np.array([bf16(v) for v in y])).all()


def test_float16_is_rounded_and_read_back(rng):
    x, y = floats(rng, np.float32), floats(rng, np.float32)
    with np.errstate(all="ignore"):
        half = x.astype(np.float16)
        assert same(compute("cvt.rn.f16.f32", np.float16, x), half)
        assert same(compute("cvt.f32.f16", np.float32, half), half.astype(np.float32))
        packed = compute("cvt.rn.f16x2.f32", np.uint32, x, y)
        assert same((packed >> 16).astype(np.uint16).view(np.float16), half)
        assert same((packed & 0xFFFF).astype(np.uint16).view(np.float16), y.astype(np.float16))


def test_integers_become_the_nearest_floats(rng):
    n, small, wide = integers(rng, np.int32), integers(rng, np.uint16), integers(rng, np.int64)
    assert (compute("cvt.rn.f32.s32", np.float32, n) == n.astype(np.float32)).all()
    assert (compute("cvt.rn.f32.u32", np.float32, n.view(np.uint32)) == n.view(np.uint32).astype(np.float32)).all()
    assert (compute("cvt.rn.f64.s32", np.float64, n) == n).all()
    assert (compute("cvt.rn.f32.u16", np.float32, small) == small).all()
    assert (compute("cvt.rn.f32.u8", np.float32, small) == small.astype(np.uint8)).all()  # of a register of 16 bits
    assert (compute("cvt.rn.f32.s64", np.float32, wide) == wide.astype(np.float32)).all()
    assert (compute("cvt.rn.f32.u64", np.float32, wide.view(np.uint64)) == wide.view(np.uint64).astype(np.float32)).all()


def test_numbers_below_the_normal_ones_are_flushed_to_zero():
    tiny = np.array([1e-40, -1e-40, 1e-37, -2.0], np.float32).repeat(16)
    expected = np.array([0.0, 0.0, 1e-37, 2.0], np.float32).repeat(16)
    assert (compute("abs.ftz.f32", np.float32, tiny) == expected).all()


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_half_precision_rounds_once(name, rng):
    a, b, c = (rng.standard_normal(64).astype(np.float16) for _ in range(3))
    if name == "bf16":
        a, b, c = (np.array([bf16(v) for v in x], np.uint16) for x in (a, b, c))

    def exact(x):
        return x.astype(np.float64) if name == "f16" else (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)

    def rounded(x):
        return x.astype(np.float16).view(np.uint16) if name == "f16" else np.array([bf16(v) for v in x], np.uint16)

    total, product, fused = rounded(exact(a) + exact(b)), rounded(exact(a) * exact(b)), rounded(exact(a) * exact(b) + exact(c))
    a, b, c = (x.view(np.uint16) for x in (a, b, c))
    assert (compute(f"add.{name}", np.uint16, a, b) == total).all()
    assert (compute(f"mul.{name}", np.uint16, a, b) == product).all()
    assert (compute(f"fma.rn.{name}", np.uint16, a, b, c) == fused).all()
    pairs = [x[::2].astype(np.uint32) | (x[1::2].astype(np.uint32) << 16) for x in (a, b, c)]
    got = compute(f"fma.rn.{name}x2", np.uint32, *pairs)
    assert (got & 0xFFFF == fused[::2]).all()
    assert (got >> 16 == fused[1::2]).all()
