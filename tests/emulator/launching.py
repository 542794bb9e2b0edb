"""PTX written by hand, launched in the emulator, and operands for it."""

import fractions
import math
import struct

import numpy as np

from .machine import Launch
from .memory import Allocation

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


def kind(dtype):
    return f"{'s' if np.dtype(dtype).kind == 'i' else 'u'}{8 * np.dtype(dtype).itemsize}"


def predicate(comparison, a, b):
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


def same(x, y):
    return ((x == y) | (np.isnan(x) & np.isnan(y))).all()


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


def aligned(size):
    """Bytes that start at a multiple of 16."""
    memory = np.zeros(size + 16, np.uint8)
    start = -memory.ctypes.data % 16
    return memory[start : start + size]
