"""Every family of instructions against NumPy or exact arithmetic, so that a wrong emulator is not taken for a wrong kernel."""

import fractions
import math
import struct

import numpy as np
import pytest

from emulator.machine import Launch
from emulator.memory import Allocation, FaultError
from emulator.ptx import UnsupportedError

HEADER = """.version 8.7
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 kernel_param_0,
	.param .u32 kernel_param_1
)
.reqntid {threads}
{{
	.reg .pred %p<20>;
	.reg .b16 %rs<20>;
	.reg .b32 %r<60>;
	.reg .b64 %rd<60>;
	ld.param.b64 %rd1, [kernel_param_0];
	mov.u32 %r1, %tid.x;
	mov.u32 %r2, %ctaid.x;
	mad.lo.s32 %r3, %r2, {threads}, %r1;
"""


def launch(body, memory, threads=32, blocks=1, shared=4096, number=0):
    """Run ``body`` with the address of ``memory`` in %rd1, the thread in %r1, its block in %r2, and among all in %r3."""
    text = HEADER.format(threads=threads) + body + "\nret;\n}\n"
    address = memory.ctypes.data
    allocations = [Allocation("memory", address, address + memory.nbytes)]
    Launch(text, (blocks, 1, 1), (threads, 1, 1), shared, struct.pack("<QI", address, number), allocations).run()
    return memory


REGISTER = {1: "p", 2: "rs", 4: "r", 8: "rd"}


def compute(instruction, result, *operands, immediates=()):
    """``instruction`` of one element of each operand a thread; the results, as ``result``."""
    threads = -(-len(operands[0]) // 32) * 32
    columns = [*operands, np.zeros(len(operands[0]), result)]
    size = [column.dtype.itemsize for column in columns]
    starts = np.cumsum([0, *[8 * threads] * len(columns)])
    memory = np.zeros(starts[-1], np.uint8)
    body = ""
    for i, column in enumerate(columns):
        memory[starts[i] : starts[i] + column.nbytes] = np.ascontiguousarray(column).view(np.uint8)
        body += f"mad.wide.u32 %rd{20 + i}, %r3, {size[i]}, %rd1; add.s64 %rd{20 + i}, %rd{20 + i}, {starts[i]};\n"
        if i < len(operands):
            body += f"ld.global.b{8 * size[i]} %{REGISTER[size[i]]}{10 + i}, [%rd{20 + i}];\n"
    names = [f"%{REGISTER[size[i]]}{10 + i}" for i in range(len(operands))]
    target = f"%{REGISTER[size[-1]]}{10 + len(operands)}"
    body += f"{instruction} {', '.join([target, *names, *immediates])};\n"
    body += f"st.global.b{8 * size[-1]} [%rd{20 + len(operands)}], {target};"
    launch(body, memory, threads=threads)
    return memory[starts[-2] : starts[-2] + columns[-1].nbytes].view(result)[: len(operands[0])]


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def integers(rng, dtype, n=64):
    """Small, large, and of either sign."""
    info = np.iinfo(dtype)
    near = rng.integers(-5 if info.min < 0 else 0, 6, n // 2).astype(dtype)
    anywhere = rng.integers(info.min, info.max, n - n // 2 - 2, dtype=dtype, endpoint=True)
    return np.concatenate([near, anywhere, np.array([info.min, info.max], dtype)])


def floats(rng, dtype, n=64):
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0]
    scales = 10.0 ** rng.integers(-3, 4, n - len(special))
    return np.concatenate([rng.standard_normal(n - len(special)) * scales, special]).astype(dtype)


def wrapped(values, dtype):
    """Python integers modulo the dtype's range."""
    bits = 8 * np.dtype(dtype).itemsize
    return np.array([int(v) % 2**bits for v in values], f"u{bits // 8}").view(dtype)


INTEGERS = [np.int32, np.uint32, np.int64, np.uint64, np.int16, np.uint16]


def kind(dtype):
    return f"{'s' if np.dtype(dtype).kind == 'i' else 'u'}{8 * np.dtype(dtype).itemsize}"


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


def test_what_is_rare(rng):
    """Negation and absolute values of integers, minima that are no less than zero, and numbers below the normal ones."""
    n, m = integers(rng, np.int32), integers(rng, np.int32)
    assert (compute("neg.s32", np.int32, n) == wrapped([-int(x) for x in n], np.int32)).all()
    assert (compute("abs.s32", np.int32, n) == wrapped([abs(int(x)) for x in n], np.int32)).all()
    assert (compute("min.relu.s32", np.int32, n, m) == np.maximum(np.minimum(n, m), 0)).all()
    wide = integers(rng, np.int64)
    assert (compute("cvt.rn.f32.s64", np.float32, wide) == wide.astype(np.float32)).all()
    assert (compute("cvt.rn.f32.u64", np.float32, wide.view(np.uint64)) == wide.view(np.uint64).astype(np.float32)).all()
    tiny = np.array([1e-40, -1e-40, 1e-37, -2.0], np.float32).repeat(16)
    expected = np.array([0.0, 0.0, 1e-37, 2.0], np.float32).repeat(16)
    assert (compute("abs.ftz.f32", np.float32, tiny) == expected).all()


@pytest.mark.parametrize(
    "instruction", ["add.rn.s32", "mul.ftz.f64", "div.full.f64", "div.approx.u32", "min.NaN.s32", "max.relu.u32", "abs.ftz.s32"]
)
def test_modifiers_of_other_types_are_errors(instruction):
    register = "%rd" if instruction.endswith("64") else "%r"
    operands = f"{register}1" if instruction.startswith("abs") else f"{register}1, {register}1"
    with pytest.raises(UnsupportedError, match=instruction):
        launch(f"{instruction} {register}10, {operands};", np.zeros(4, np.uint32))


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


FLOATS = {"f32": np.float32, "f64": np.float64}


def same(x, y):
    return ((x == y) | (np.isnan(x) & np.isnan(y))).all()


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
        assert (chosen(f"setp.{comparison}.{name}", a, b) == truth).all(), comparison


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint16])
def test_integer_comparisons(dtype, rng):
    a = integers(rng, dtype)
    b = rng.permutation(a)
    b[: len(b) // 3] = a[: len(b) // 3]
    for comparison, truth in {"lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b, "eq": a == b, "ne": a != b}.items():
        assert (chosen(f"setp.{comparison}.{kind(dtype)}", a, b) == truth).all(), comparison


def chosen(comparison, a, b):
    """What a predicate is, by selp, guards and logic of predicates alike."""
    n, register = len(a), REGISTER[a.dtype.itemsize]
    size = a.dtype.itemsize
    memory = np.concatenate([a.view(np.uint8), b.view(np.uint8), np.zeros(12 * n, np.uint8)])
    out = 2 * a.nbytes
    body = f"""
    mad.wide.u32 %rd20, %r3, {size}, %rd1;
    mad.wide.u32 %rd21, %r3, 4, %rd1;
    ld.global.b{8 * size} %{register}10, [%rd20];
    ld.global.b{8 * size} %{register}11, [%rd20+{a.nbytes}];
    {comparison} %p1, %{register}10, %{register}11;
    selp.b32 %r20, 1, 0, %p1;
    mov.b32 %r21, 0;
    @%p1 mov.b32 %r21, 1;
    mov.pred %p2, -1;
    not.pred %p3, %p1;
    and.pred %p4, %p2, %p3;
    mov.b32 %r22, 1;
    @%p4 mov.b32 %r22, 0;
    st.global.b32 [%rd21+{out}], %r20;
    st.global.b32 [%rd21+{out + 4 * n}], %r21;
    st.global.b32 [%rd21+{out + 8 * n}], %r22;
    """
    launch(body, memory, threads=n)
    by_select, by_guard, by_logic = memory[out:].view(np.uint32).reshape(3, n)
    assert (by_select == by_guard).all()
    assert (by_select == by_logic).all()
    return by_select == 1


def bf16(x):
    """The nearest bfloat16's bits by exact arithmetic: ties to even."""
    x = np.float64(x)
    if np.isnan(x):
        return 0x7FFF
    bits = int(np.abs(x).astype(np.float32).view(np.uint32)) >> 16
    candidates = [c for c in (bits - 1, bits, bits + 1) if c >= 0]

    def value(c):
        number = float(np.uint32(c << 16).view(np.float32))
        return fractions.Fraction(number) if math.isfinite(number) else fractions.Fraction(2) ** 128

    sign = 0x8000 if np.signbit(x) else 0
    if np.isinf(x):
        return 0x7F80 | sign
    return min(candidates, key=lambda c: (abs(value(c) - fractions.Fraction(abs(float(x)))), c % 2)) | sign


def test_conversions(rng):
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
    with np.errstate(all="ignore"):
        assert same(compute("cvt.rn.f16.f32", np.float16, x), x.astype(np.float16))
        assert same(compute("cvt.f32.f16", np.float32, x.astype(np.float16)), x.astype(np.float16).astype(np.float32))
        packed = compute("cvt.rn.f16x2.f32", np.uint32, x, y)
        assert same((packed >> 16).astype(np.uint16).view(np.float16), x.astype(np.float16))
    n = integers(rng, np.int32)
    assert (compute("cvt.rn.f32.s32", np.float32, n) == n.astype(np.float32)).all()
    assert (compute("cvt.rn.f32.u32", np.float32, n.view(np.uint32)) == n.view(np.uint32).astype(np.float32)).all()
    assert (compute("cvt.rn.f64.s32", np.float64, n) == n).all()
    assert (compute("cvt.s64.s32", np.int64, n) == n).all()
    assert (compute("cvt.u64.u32", np.int64, n) == n.view(np.uint32)).all()
    wide = integers(rng, np.uint64)
    assert (compute("cvt.u32.u64", np.uint32, wide) == (wide & 0xFFFFFFFF)).all()
    small = integers(rng, np.uint16)
    assert (compute("cvt.rn.f32.u16", np.float32, small) == small).all()
    assert (compute("cvt.s64.s16", np.int64, small) == small.view(np.int16)).all()
    low = n.view(np.uint32).astype(np.uint8)  # of a register of 16 bits
    assert (compute("cvt.rn.f32.u8", np.float32, n.view(np.uint32).astype(np.uint16)) == low).all()
    assert (compute("cvt.u16.u8", np.uint16, n.view(np.uint32).astype(np.uint16)) == low).all()
    assert (compute("cvt.s16.s8", np.int16, n.view(np.uint32).astype(np.uint16)) == low.view(np.int8)).all()
    assert (compute("cvt.u16.u32", np.uint16, n.view(np.uint32)) == (n.view(np.uint32) & 0xFFFF)).all()


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_half_precision_rounds_once(name, rng):
    a, b, c = (rng.standard_normal(64).astype(np.float16) for _ in range(3))
    if name == "bf16":
        a, b, c = (np.array([bf16(v) for v in x], np.uint16) for x in (a, b, c))
    values = [
        x.astype(np.float64) if name == "f16" else (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        for x in (a, b, c)
    ]

    def rounded(x):
        return x.astype(np.float16).view(np.uint16) if name == "f16" else np.array([bf16(v) for v in x], np.uint16)

    a, b, c = (x.view(np.uint16) for x in (a, b, c))
    assert (compute(f"add.{name}", np.uint16, a, b) == rounded(values[0] + values[1])).all()
    assert (compute(f"mul.{name}", np.uint16, a, b) == rounded(values[0] * values[1])).all()
    assert (compute(f"fma.rn.{name}", np.uint16, a, b, c) == rounded(values[0] * values[1] + values[2])).all()
    pairs = [x[::2].astype(np.uint32) | (x[1::2].astype(np.uint32) << 16) for x in (a, b, c)]
    got = compute(f"fma.rn.{name}x2", np.uint32, *pairs)
    expected = rounded(values[0] * values[1] + values[2])
    assert (got & 0xFFFF == expected[::2]).all()
    assert (got >> 16 == expected[1::2]).all()


def test_moves_pack_and_unpack(rng):
    x = integers(rng, np.uint32, 32)
    memory = np.concatenate([x, np.zeros(64, np.uint32)])
    body = """
    mad.wide.u32 %rd2, %r3, 4, %rd1;
    mad.wide.u32 %rd3, %r3, 8, %rd1;
    ld.global.b32 %r10, [%rd2+0];
    mov.b32 {%rs1, %rs2}, %r10;
    mov.b32 %r11, {%rs2, %rs1};
    mov.b64 %rd4, {%r10, %r11};
    { .reg .b32 tmp; mov.b64 {tmp, %r12}, %rd4; }
    mov.b64 {%r13, _}, %rd4;
    st.global.v2.b32 [%rd3+128], {%r12, %r13};
    """
    got = launch(body, memory)[32:].reshape(32, 2)
    assert (got[:, 0] == (x << 16 | x >> 16)).all()
    assert (got[:, 1] == x).all()


def test_shuffles(rng):
    x = integers(rng, np.uint32, 64)
    memory = np.concatenate([x, np.zeros(64 * 5, np.uint32)])
    body = "mad.wide.u32 %rd2, %r3, 4, %rd1; ld.global.b32 %r10, [%rd2];\n"
    modes = [("bfly", "5", "31"), ("idx", "9", "31"), ("up", "3", "0"), ("down", "3", "31"), ("idx", "%r10", "31")]
    for i, (mode, b, c) in enumerate(modes):
        body += f"shfl.sync.{mode}.b32 %r{20 + i}, %r10, {b}, {c}, -1; st.global.b32 [%rd2+{256 * (i + 1)}], %r{20 + i};\n"
    launch(body, memory, threads=64)
    got = memory[64:].reshape(5, 2, 32)
    lane, warps = np.arange(32), x.reshape(2, 32)
    sources = [lane ^ 5, np.full(32, 9), np.where(lane >= 3, lane - 3, lane), np.where(lane < 29, lane + 3, lane)]
    for result, source in zip(got, sources, strict=False):
        assert (result == warps[:, source]).all()
    assert (got[4] == np.take_along_axis(warps, (warps & 31).astype(int), 1)).all()


def test_reductions_of_a_warp(rng):
    x = integers(rng, np.int32, 64)
    memory = np.concatenate([x, np.zeros(64, np.int32)])
    body = """mad.wide.u32 %rd2, %r3, 4, %rd1; ld.global.b32 %r10, [%rd2]; mov.b32 %r11, -1;
    redux.sync.max.s32 %r12, %r10, %r11; st.global.b32 [%rd2+256], %r12;"""
    got = launch(body, memory, threads=64)[64:].reshape(2, 32)
    assert (got == x.reshape(2, 32).max(axis=1, keepdims=True)).all()


# Matrices: fragments written out here once more, element by element, as the ISA's tables give them


def fragments(shape, matrix, operand):
    """Elements of ``matrix`` in the order of each lane's registers: [32, elements]."""
    rows = []
    for lane in range(32):
        g, t = lane >> 2, lane & 3
        if operand == "c":
            places = [(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1)][: 4 if shape != "m8n8k4" else 2]
        elif shape == "half":
            places = {
                "a": [(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1),
                      (g, 2 * t + 8), (g, 2 * t + 9), (g + 8, 2 * t + 8), (g + 8, 2 * t + 9)],
                "b": [(2 * t, g), (2 * t + 1, g), (2 * t + 8, g), (2 * t + 9, g)],
            }[operand]  # fmt: skip
        elif shape == "tf32":
            places = {"a": [(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)], "b": [(t, g), (t + 4, g)]}[operand]
        elif shape == "m16n8k16":
            a = [(g + 8 * (i & 1), t + 4 * (i >> 1)) for i in range(8)]
            places = {"a": a, "b": [(t + 4 * i, g) for i in range(4)]}[operand]
        else:
            places = {"a": [(g, t)], "b": [(t, g)]}[operand]
        rows.append([matrix[place] for place in places])
    return np.array(rows, matrix.dtype)


PRODUCTS = [
    ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "half", (16, 16, 8)),
    ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "half", (16, 16, 8)),
    ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "tf32", (16, 8, 8)),
    ("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64", "m16n8k16", (16, 16, 8)),
    ("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64", "m8n8k4", (8, 4, 8)),
]


@pytest.mark.parametrize(("instruction", "shape", "sizes"), PRODUCTS)
def test_matrix_products(instruction, shape, sizes, rng):
    m, k, n = sizes
    a, b, c = rng.integers(-8, 9, (m, k)), rng.integers(-8, 9, (k, n)), rng.integers(-99, 99, (m, n))
    if "bf16" in instruction:
        view = lambda x: np.vectorize(bf16)(x.astype(np.float64)).astype(np.uint16)  # noqa: E731
    else:
        view = lambda x: x.astype(np.float16 if shape == "half" else np.float32 if shape == "tf32" else np.float64)  # noqa: E731
    result = np.float64 if "f64" in instruction else np.float32
    word = np.uint64 if "f64" in instruction else np.uint32
    columns = [fragments(shape, view(a), "a"), fragments(shape, view(b), "b"), fragments(shape, c.astype(result), "c")]
    columns = [np.ascontiguousarray(column).view(word) for column in columns]
    counts = [column.shape[1] for column in columns]
    memory = np.concatenate([*[column.reshape(-1) for column in columns], np.zeros(32 * counts[2], word)])
    size, register = memory.itemsize, "r" if memory.itemsize == 4 else "rd"
    names, body, start, index = [], "", 0, 10
    for count in counts:
        body += f"mad.wide.u32 %rd5, %r3, {size * count}, %rd1;\n"
        names.append([f"%{register}{index + i}" for i in range(count)])
        for i, name in enumerate(names[-1]):
            body += f"ld.global.b{8 * size} {name}, [%rd5+{size * (start + i)}];\n"
        start, index = start + 32 * count, index + count
    d = [f"%{register}{index + i}" for i in range(counts[2])]
    groups = ["{ " + ", ".join(group) + " }" for group in (d, *names)]
    body += f"{instruction} {', '.join(groups)};\n"
    for i, name in enumerate(d):
        body += f"st.global.b{8 * size} [%rd5+{size * (start + i)}], {name};\n"
    launch(body, memory)
    got = memory[-32 * counts[2] :].view(result).reshape(32, counts[2])
    assert (got == fragments(shape, (a @ b + c).astype(result), "c")).all()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_to_and_from_shared_memory(count, transposed, rng):
    """A matrix's rows lie in any order; what ldmatrix reads, stmatrix writes back elsewhere."""
    matrices = rng.integers(0, 2**16, (count, 8, 8)).astype(np.uint16)
    order = rng.permutation(8 * count)
    places = np.zeros(32, np.uint32)
    places[: 8 * count] = 16 * order
    memory = np.concatenate([matrices.reshape(-1).view(np.uint32), places, np.zeros(32 * count * 2, np.uint32)])
    rows, trans = 32 * count, ".trans" if transposed else ""
    registers = [f"%r{20 + i}" for i in range(count)]
    group = "{" + ", ".join(registers) + "}"
    body = f"""
    mad.wide.u32 %rd2, %r3, 4, %rd1;
    mad.wide.u32 %rd3, %r3, 16, %rd1;
    ld.global.b32 %r10, [%rd2+{4 * rows}];
    setp.lt.u32 %p1, %r1, {8 * count};
    @%p1 ld.global.v4.b32 {{ %r11, %r12, %r13, %r14 }}, [%rd3+0];
    @%p1 st.shared.v4.b32 [%r10], {{ %r11, %r12, %r13, %r14 }};
    bar.warp.sync -1;
    ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {group}, [%r10];
    bar.warp.sync -1;
    stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r10+2048], {group};
    bar.warp.sync -1;
    shl.b32 %r40, %r1, 4;
    @%p1 ld.shared.v4.b32 {{ %r11, %r12, %r13, %r14 }}, [%r10+2048];
    @%p1 st.global.v4.b32 [%rd3+{4 * rows + 128 + 128 * count}], {{ %r11, %r12, %r13, %r14 }};
    """
    for i, register in enumerate(registers):
        body += f"st.global.b32 [%rd2+{4 * rows + 128 + 128 * i}], {register};\n"
    launch(body, memory)
    fragment = memory[rows + 32 : rows + 32 + 32 * count].reshape(count, 32)
    for matrix, registers in zip(matrices, fragment, strict=True):
        for lane, register in enumerate(registers):
            row, column = lane // 4, 2 * (lane % 4)
            pair = matrix[[column, column + 1], row] if transposed else matrix[row, [column, column + 1]]
            assert (register & 0xFFFF, register >> 16) == tuple(pair)
    assert (memory[rows + 32 + 32 * count :].view(np.uint16).reshape(matrices.shape) == matrices).all()


# Memory and control


def aligned(size):
    """Bytes that start at a multiple of 16."""
    memory = np.zeros(size + 16, np.uint8)
    start = -memory.ctypes.data % 16
    return memory[start : start + size]


@pytest.mark.parametrize(("vector", "word"), [(1, 8), (1, 16), (1, 32), (1, 64), (2, 32), (4, 32), (2, 64)])
@pytest.mark.parametrize("space", ["global", "shared", "shared::cta"])
def test_loads_and_stores(vector, word, space, rng):
    size = vector * word // 8
    source = rng.integers(0, 256, 32 * size).astype(np.uint8)
    memory = aligned(64 * size)
    memory[: 32 * size] = source
    register = REGISTER[max(2, word // 8)]
    names = [f"%{register}{30 + i}" for i in range(vector)]
    group = names[0] if vector == 1 else "{ " + ", ".join(names) + " }"
    mode = f"{'' if vector == 1 else f'.v{vector}'}.b{word}"
    body = f"mad.wide.u32 %rd2, %r3, {size}, %rd1; mul.lo.s32 %r10, %r1, {size};\nld.global{mode} {group}, [%rd2];\n"
    if space.startswith("shared"):
        body += f"st.{space}{mode} [%r10+64], {group};\nld.{space}{mode} {group}, [%r10+64];\n"
    body += f"st.global{mode} [%rd2+{32 * size}], {group};"
    launch(body, memory)
    assert (memory[32 * size :] == source).all()


def test_threads_that_went_different_ways_meet_again():
    memory = np.zeros(64, np.int32)
    body = """
    mov.b32 %r10, 0; mov.b32 %r11, 0;
    $L__loop:
    setp.ge.s32 %p1, %r11, %r3;
    @%p1 bra $L__done;
    and.b32 %r12, %r11, 1;
    setp.eq.b32 %p2, %r12, 0;
    @%p2 bra $L__even;
    add.s32 %r10, %r10, 100;
    bra.uni $L__next;
    $L__even:
    add.s32 %r10, %r10, 1;
    $L__next:
    add.s32 %r11, %r11, 1;
    bra.uni $L__loop;
    $L__done:
    mad.wide.u32 %rd2, %r3, 4, %rd1;
    st.global.b32 [%rd2], %r10;
    """
    launch(body, memory, blocks=2)
    assert memory.tolist() == [sum(100 if i % 2 else 1 for i in range(thread)) for thread in range(64)]


def test_threads_meet_before_a_shuffle_though_a_way_lies_behind_it():
    """In a loop within a loop, as compilers place what they take for rare."""
    memory = np.zeros(32, np.int32)
    body = """
    mov.b32 %r10, 0; mov.b32 %r11, 0;
    $L__outer:
    mov.b32 %r12, 0;
    $L__inner:
    and.b32 %r13, %r1, 1;
    setp.eq.b32 %p1, %r13, 0;
    @%p1 bra $L__rare;
    add.s32 %r10, %r10, 1;
    $L__join:
    shfl.sync.bfly.b32 %r14, %r10, 1, 31, -1;
    add.s32 %r12, %r12, 1;
    setp.lt.s32 %p2, %r12, 3;
    @%p2 bra $L__inner;
    add.s32 %r11, %r11, 1;
    setp.lt.s32 %p3, %r11, 2;
    @%p3 bra $L__outer;
    mad.wide.u32 %rd2, %r3, 4, %rd1;
    st.global.b32 [%rd2], %r14;
    ret;
    $L__rare:
    add.s32 %r10, %r10, 100;
    bra.uni $L__join;
    """
    launch(body, memory)
    assert memory.tolist() == [600 if thread % 2 else 6 for thread in range(32)]


def test_barriers_order_what_warps_share():
    """Every thread reads what one of another warp wrote."""
    memory = np.zeros(256, np.int32)
    body = """
    shl.b32 %r10, %r1, 2;
    mov.b32 %r12, 508;
    sub.s32 %r11, %r12, %r10;
    st.shared.b32 [%r10], %r3;
    bar.sync 0;
    ld.shared.b32 %r13, [%r11];
    mad.wide.u32 %rd2, %r3, 4, %rd1;
    st.global.b32 [%rd2], %r13;
    """
    launch(body, memory, threads=128, blocks=2)
    assert memory.tolist() == [*range(127, -1, -1), *range(255, 127, -1)]


RACES = {
    "read after write": "st.shared.b32 [%r10], %r1; ld.shared.b32 %r13, [%r11];",
    "write after read": "st.shared.b32 [%r10], %r1; bar.sync 0; ld.shared.b32 %r13, [%r11]; st.shared.b32 [%r10], %r1;",
    "write after a read by all": "st.shared.b32 [%r10], %r1; bar.sync 0; ld.shared.b32 %r13, [0]; st.shared.b32 [%r10], %r1;",
    "write after write": "st.shared.b32 [%r10], %r1; st.shared.b32 [%r11], %r1;",
    "two values at once": "st.shared.b32 [0], %r1;",
    "rows read for others": "st.shared.b32 [%r10], %r1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r13}, [%r13];",
    "rows written for others": "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r14], {%r1}; ld.shared.b32 %r15, [%r14];",
    "a warp's barrier for two warps": "st.shared.b32 [%r10], %r1; bar.warp.sync -1; ld.shared.b32 %r13, [%r12];",
}
NO_RACES = {
    "a block's barrier": "st.shared.b32 [%r10], %r1; bar.sync 0; ld.shared.b32 %r13, [%r12];",
    "a warp's barrier": "st.shared.b32 [%r10], %r1; bar.warp.sync -1; ld.shared.b32 %r13, [%r11]; "
    "bar.warp.sync -1; st.shared.b32 [%r10], %r2;",
    "one's own": "st.shared.b32 [%r10], %r1; ld.shared.b32 %r13, [%r10]; st.shared.b32 [%r10], %r13;",
    "the same value at once": "st.shared.b32 [0], %r2;",
    "reads by all": "ld.shared.b32 %r13, [0]; ld.shared.b32 %r14, [%r11]; ld.shared.b32 %r15, [%r10];",
}
PLACES = """shl.b32 %r10, %r1, 2; xor.b32 %r11, %r10, 4; xor.b32 %r12, %r10, 128;
and.b32 %r13, %r1, 32; shl.b32 %r13, %r13, 2; shl.b32 %r14, %r1, 4;
"""


@pytest.mark.parametrize("body", RACES.values(), ids=RACES)
def test_races_are_found(body):
    with pytest.raises(FaultError, match=r"shared memory.*(no barrier between|writes otherwise at once)"):
        launch(PLACES + body, np.zeros(1, np.int32), threads=64)


@pytest.mark.parametrize("body", NO_RACES.values(), ids=NO_RACES)
def test_what_is_in_order_is_no_race(body):
    launch(PLACES + body, np.zeros(1, np.int32), threads=64)


def test_accesses_out_of_bounds_name_instruction_line_and_thread():
    memory = np.zeros(32, np.int32)
    body = "mad.wide.u32 %rd2, %r3, 4, %rd1;\n.loc 1 7 3 // tile.py:7:3\nst.global.b32 [%rd2+4], %r1;"
    with pytest.raises(
        FaultError, match=r"st\.global\.b32 \(line \d+ .*from tile\.py:7:3\): thread 31 of program 0 .*128 bytes"
    ):
        launch(body, memory)
    with pytest.raises(FaultError, match="4 bytes before memory"):
        launch("mad.wide.u32 %rd2, %r3, 4, %rd1; ld.global.b32 %r9, [%rd2+-4];", memory)
    with pytest.raises(FaultError, match="past the block's 64"):
        launch("shl.b32 %r10, %r1, 2; st.shared.b32 [%r10], %r1;", memory, shared=64)


@pytest.mark.parametrize(
    "access", ["ld.global.b32 %r9, [%rd1+2];", "ld.global.v4.b32 {%r5, %r6, %r7, %r8}, [%rd1+8];", "ld.shared.b64 %rd9, [4];"]
)
def test_accesses_are_aligned(access):
    with pytest.raises(FaultError, match="no multiple of"):
        launch(access, aligned(256))


def test_half_a_warp_at_a_shuffle_is_an_error():
    body = "setp.lt.u32 %p1, %r1, 5; @%p1 bra $L__over; shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1;\n$L__over:\nmov.b32 %r9, 0;"
    with pytest.raises(FaultError, match="only some threads of a warp"):
        launch(body, np.zeros(1, np.int32))


def test_a_barrier_for_half_a_warp_is_an_error():
    body = """setp.lt.u32 %p1, %r1, 5; @%p1 bra $L__other; bar.sync 0;
    bra.uni $L__end;
    $L__other:
    bar.sync 0;
    $L__end:
    mov.b32 %r9, 0;"""
    with pytest.raises(FaultError, match="only some threads of a warp"):
        launch(body, np.zeros(1, np.int32))


def test_threads_that_write_different_values_to_one_address_are_an_error():
    memory = np.zeros(1, np.int32)
    with pytest.raises(FaultError, match="writes global memory that another thread writes otherwise at once"):
        launch("st.global.b32 [%rd1], %r1;", memory)
    launch("st.global.b32 [%rd1], 7;", memory)
    assert memory.tolist() == [7]


def test_a_launch_that_was_given_no_memory():
    with pytest.raises(FaultError, match="0 bytes into memory, which has 0"):
        launch("ld.global.b32 %r9, [%rd1];", np.zeros(0, np.int32))


def test_a_loop_without_an_end_is_an_error(monkeypatch):
    monkeypatch.setattr("emulator.machine.MAX_STEPS", 1000)
    body = "setp.lt.u32 %p1, %r1, 32; @%p1 bra $L__spin; bar.sync 0;\n$L__spin:\n@%p1 bra $L__spin;"
    with pytest.raises(FaultError, match="did not end"):
        launch(body, np.zeros(1, np.int32), threads=64)


@pytest.mark.parametrize(
    "instruction",
    [
        "frobnicate.b32 %r9, %r1;",
        "add.sat.s32 %r9, %r1, %r1;",
        "cvt.rz.f16.f32 %rs1, %r1;",
        "bar.sync 1;",
        "ld.local.b32 %r9, [%r1];",
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%r1}, {%r1}, {%r1}, {%r1};",
        "atom.global.add.u32 %r9, [%rd1], 1;",
        "shfl.sync.bfly.b32 %r9, %r1, 1, 31, 65535;",
        "shfl.sync.sideways.b32 %r9, %r1, 1, 31, -1;",
        "bar.warp.sync 3;",
        "redux.async.max.s32 %r9, %r1, -1;",
        "setp.lt.ftz.f32 %p1, %r1, %r1;",
        "ld.global.L1.b32 %r9, [%rd1];",
        "cvt.rzi.s32.f32 %r9, %r1;",
        "ld.global.b128 %r9, [%rd1];",
    ],
)
def test_what_it_does_not_know_is_an_error(instruction):
    with pytest.raises(UnsupportedError, match="does not know"):
        launch(instruction, np.zeros(1, np.int32))


def test_registers_that_nothing_wrote_hold_nan():
    memory = np.zeros(32, np.float32)
    launch("mad.wide.u32 %rd2, %r3, 4, %rd1; add.f32 %r9, %r50, %r50; st.global.b32 [%rd2], %r9;", memory)
    assert np.isnan(memory).all()
    body = "setp.eq.s32 %p1, %r1, 5; @%p1 mov.b32 %r9, 0; mad.wide.u32 %rd2, %r3, 4, %rd1; st.global.b32 [%rd2], %r9;"
    launch(body, memory)
    assert np.isnan(memory).tolist() == [thread != 5 for thread in range(32)]
    with pytest.raises(FaultError, match="reads 1 bytes"):
        launch("ld.global.b8 %rs1, [%rd50];", memory)
