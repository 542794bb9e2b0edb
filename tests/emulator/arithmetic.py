"""What instructions compute from registers alone, by opcode: functions of NumPy arrays, one element a thread.

Each entry of :data:`OPERATIONS` gives, from an instruction's modifiers, the dtype of its result, the dtypes of its operands,
and the function. Half precision is rounded once; fused products of float32 and float64 are rounded twice, in float64 first.
"""

import numpy as np

from .ptx import UnsupportedError

DTYPES = {
    "pred": np.bool_,
    "b8": np.uint8,
    "u8": np.uint8,
    "s8": np.int8,
    "b16": np.uint16,
    "u16": np.uint16,
    "s16": np.int16,
    "b32": np.uint32,
    "u32": np.uint32,
    "s32": np.int32,
    "b64": np.uint64,
    "u64": np.uint64,
    "s64": np.int64,
    "f16": np.float16,
    "bf16": np.uint16,  # NumPy has none: its bits
    "f16x2": np.uint32,
    "bf16x2": np.uint32,
    "f32": np.float32,
    "f64": np.float64,
}
WIDER = {np.int16: np.int32, np.uint16: np.uint32, np.int32: np.int64, np.uint32: np.uint64}
FLOATS = ("f16", "bf16", "f32", "f64")

TYPES_OF = {
    "rn": (*FLOATS, "f16x2", "bf16x2"),
    "ftz": ("f32", "f16", "f16x2"),
    "full": ("f32",),
    "approx": ("f32",),
    "NaN": ("f32",),
    "relu": ("s32",),
}
"""The types that PTX allows, or that the emulator knows, with a modifier."""

OPERATIONS = {}


def operation(*opcodes):
    """Register a function of (opcode, modifiers) for some opcodes."""

    def register(function):
        OPERATIONS.update({opcode: lambda modifiers, opcode=opcode: function(opcode, modifiers) for opcode in opcodes})
        return function

    return register


def resolve(instruction):
    """(dtype of the result, dtypes of the operands, function) of an instruction, or an error that names it."""
    try:
        return OPERATIONS[instruction.opcode](instruction.modifiers)
    except (KeyError, IndexError, ValueError):
        raise UnsupportedError(f"the emulator does not know {instruction}") from None


def only(modifiers, *known):
    """The last modifier, a type; those before it have to be among ``known``."""
    *others, kind = modifiers
    if any(modifier not in known or kind not in TYPES_OF[modifier] for modifier in others):
        raise KeyError(modifiers)
    return kind


# Half precision


def from_bf16(bits):
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(x):
    """Rounded to nearest, ties to even, once: from float64 as well."""
    single = x.astype(np.float32)
    bits = single.view(np.uint32)
    if x.dtype == np.float64:  # a tie that only rounding to float32 made is none
        tie = (bits & 0xFFFF) == 0x8000
        bits = np.where(
            tie & (np.abs(single) < np.abs(x)), bits + 1, np.where(tie & (np.abs(single) > np.abs(x)), bits - 1, bits)
        )
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(single), 0x7FFF, rounded).astype(np.uint16)


def from_half(kind, bits):
    return from_bf16(bits) if kind == "bf16" else bits.astype(np.float32)


def to_half(kind, x):
    return to_bf16(x) if kind == "bf16" else x.astype(np.float16)


def halves(x):
    """(low, high) 16 bits of each 32."""
    return (x & 0xFFFF).astype(np.uint16), (x >> 16).astype(np.uint16)


def joined(low, high):
    return low.view(np.uint16).astype(np.uint32) | (high.view(np.uint16).astype(np.uint32) << np.uint32(16))


def rounded(kind, function):
    """``function`` of float64 arrays, for arrays of ``kind``, with one rounding; two at once for x2."""
    if kind in ("f16x2", "bf16x2"):
        single = rounded(kind[:-2], function)
        view = (lambda x: x) if kind == "bf16x2" else (lambda x: x.view(np.float16))
        return lambda *xs: joined(*(single(*(view(halves(x)[i]) for x in xs)) for i in (0, 1)))
    if kind == "bf16":
        return lambda *xs: to_bf16(function(*(from_bf16(x).astype(np.float64) for x in xs)))
    dtype = DTYPES[kind]
    return lambda *xs: function(*(x.astype(np.float64) for x in xs)).astype(dtype)


# Arithmetic


BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


@operation("add", "sub")
def add(opcode, modifiers):
    kind = only(modifiers, "rn", "ftz")
    dtype = DTYPES[kind]
    exact = kind in FLOATS[:2] or kind.endswith("x2")
    function = rounded(kind, BINARY[opcode]) if exact else BINARY[opcode]
    return dtype, (dtype, dtype), ftz(modifiers, function)


@operation("mul")
def multiply(opcode, modifiers):
    if modifiers[0] in ("lo", "hi", "wide"):
        return integer_product(modifiers, addend=False)
    kind = only(modifiers, "rn", "ftz")
    dtype = DTYPES[kind]
    exact = kind in FLOATS[:2] or kind.endswith("x2")
    return dtype, (dtype, dtype), ftz(modifiers, rounded(kind, np.multiply) if exact else np.multiply)


@operation("mad")
def multiply_add(opcode, modifiers):
    return integer_product(modifiers, addend=True)


def integer_product(modifiers, addend):
    part, kind = modifiers
    dtype = DTYPES[kind]
    bits = 8 * np.dtype(dtype).itemsize
    result = WIDER[dtype] if part == "wide" else dtype

    def product(a, b):
        if part == "lo":
            return a * b
        wide = a.astype(WIDER[dtype]) * b.astype(WIDER[dtype])
        return wide if part == "wide" else (wide >> bits).astype(dtype)

    if addend:
        return result, (dtype, dtype, result), lambda a, b, c: product(a, b) + c
    return result, (dtype, dtype), product


@operation("fma")
def fused_multiply_add(opcode, modifiers):
    kind = only(modifiers, "rn", "ftz")
    dtype = DTYPES[kind]
    return dtype, (dtype,) * 3, ftz(modifiers, rounded(kind, lambda a, b, c: a * b + c))


@operation("div")
def divide(opcode, modifiers):
    kind = only(modifiers, "rn", "full", "approx", "ftz")
    dtype = DTYPES[kind]
    if kind in FLOATS:
        return dtype, (dtype, dtype), ftz(modifiers, np.divide)
    return dtype, (dtype, dtype), truncated_quotient


def truncated_quotient(a, b):
    """Towards zero, as in C; whatever for a divisor of zero."""
    b = np.where(b == 0, np.ones_like(b), b)
    if a.dtype.kind == "u":
        return a // b
    return a // b + ((a % b != 0) & ((a < 0) != (b < 0)))


@operation("rem")
def remainder(opcode, modifiers):
    (kind,) = modifiers
    dtype = DTYPES[kind]
    return dtype, (dtype, dtype), lambda a, b: a - truncated_quotient(a, b) * b


@operation("min", "max")
def extremum(opcode, modifiers):
    kind = only(modifiers, "NaN", "relu", "ftz")
    dtype = DTYPES[kind]
    if kind in FLOATS:
        if kind in FLOATS[:2]:
            raise KeyError(kind)
        keeps_nan = {"min": np.minimum, "max": np.maximum}
        drops_nan = {"min": np.fmin, "max": np.fmax}
        function = (keeps_nan if "NaN" in modifiers else drops_nan)[opcode]
    else:
        function = {"min": np.minimum, "max": np.maximum}[opcode]
    if "relu" in modifiers:
        return dtype, (dtype, dtype), lambda a, b: np.maximum(function(a, b), dtype(0))
    return dtype, (dtype, dtype), ftz(modifiers, function)


@operation("abs", "neg")
def unary(opcode, modifiers):
    kind = only(modifiers, "ftz")
    dtype = DTYPES[kind]
    if kind in FLOATS[:2]:
        raise KeyError(kind)
    return dtype, (dtype,), ftz(modifiers, {"abs": np.abs, "neg": np.negative}[opcode])


@operation("ex2")
def exponential(opcode, modifiers):
    kind = only(modifiers, "approx", "ftz")
    if kind != "f32":
        raise KeyError(kind)
    return np.float32, (np.float32,), ftz(modifiers, rounded(kind, np.exp2))


def ftz(modifiers, function):
    """``function`` that takes and gives zero for numbers below the normal ones, if the modifiers say so."""
    if "ftz" not in modifiers:
        return function

    def flush(x):
        return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(x.dtype.type(0), x), x)

    return lambda *xs: flush(function(*map(flush, xs)))


# Bits


LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}


@operation("and", "or", "xor", "not")
def logic(opcode, modifiers):
    (kind,) = modifiers
    dtype = DTYPES[kind]
    return dtype, (dtype,) * (1 if opcode == "not" else 2), LOGIC[opcode]


@operation("shl", "shr")
def shift(opcode, modifiers):
    """Shift by any number of places, also beyond the width."""
    (kind,) = modifiers
    dtype = DTYPES[kind]
    bits = 8 * np.dtype(dtype).itemsize

    def function(x, places):
        inside = np.minimum(places, bits - 1).astype(dtype)
        if opcode == "shr":
            past = x >> dtype(bits - 1) if x.dtype.kind == "i" else np.zeros_like(x)
            return np.where(places < bits, x >> inside, past)
        return np.where(places < bits, x << inside, np.zeros_like(x))

    return dtype, (dtype, np.uint32), function


@operation("bfe")
def bit_field_extract(opcode, modifiers):
    (kind,) = modifiers
    dtype = DTYPES[kind]
    bits = 8 * np.dtype(dtype).itemsize

    def function(x, position, length):
        """Up against the highest bit, and back down: bits that a field has beyond the highest repeat it if signed."""
        past = (position & 0xFF) >= bits
        position = np.minimum(position & 0xFF, bits - 1)
        length = np.minimum(length & 0xFF, bits - position)
        up, down = bits - position - length, np.minimum(bits - length, bits - 1)
        field = (x.view(f"u{bits // 8}") << np.minimum(up, bits - 1).astype(f"u{bits // 8}")).view(dtype) >> down.astype(dtype)
        if field.dtype.kind == "u":
            field = np.where(past, dtype(0), field)
        return np.where(length == 0, dtype(0), field)

    return dtype, (dtype, np.uint32, np.uint32), function


@operation("prmt")
def permute_bytes(opcode, modifiers):
    if modifiers != ("b32",):
        raise KeyError(modifiers)

    def function(a, b, selector):
        both = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32))
        result = np.zeros(np.broadcast(a, b, selector).shape, np.uint32)
        for i in range(4):
            choice = (selector >> np.uint32(4 * i)).astype(np.uint64)
            byte = (both >> (8 * (choice & np.uint64(7)))) & np.uint64(0xFF)
            byte = np.where(choice & np.uint64(8), 0xFF * (byte >> np.uint64(7)), byte)
            result |= (byte << np.uint64(8 * i)).astype(np.uint32)
        return result

    return np.uint32, (np.uint32,) * 3, function


# Choice and conversion


COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}


@operation("setp")
def compare(opcode, modifiers):
    comparison, kind = modifiers
    dtype = DTYPES[kind]
    if kind in FLOATS[:2]:
        raise KeyError(kind)
    if kind not in FLOATS:
        return np.bool_, (dtype, dtype), COMPARISONS[comparison]
    if comparison in ("nan", "num"):
        unordered = comparison == "nan"
        return np.bool_, (dtype, dtype), lambda a, b: (np.isnan(a) | np.isnan(b)) == unordered
    if comparison.endswith("u") and comparison[:-1] in COMPARISONS:  # true also of NaN
        base = COMPARISONS[comparison[:-1]]
        return np.bool_, (dtype, dtype), lambda a, b: base(a, b) | np.isnan(a) | np.isnan(b)
    base = COMPARISONS[comparison]
    if comparison == "ne":
        return np.bool_, (dtype, dtype), lambda a, b: base(a, b) & ~(np.isnan(a) | np.isnan(b))
    return np.bool_, (dtype, dtype), base


@operation("selp")
def select(opcode, modifiers):
    (kind,) = modifiers
    dtype = DTYPES[kind]
    return dtype, (dtype, dtype, np.bool_), lambda a, b, p: np.where(p, a, b)


@operation("cvt")
def convert(opcode, modifiers):
    *how, to, of = modifiers
    if to in ("f16x2", "bf16x2"):
        if how != ["rn"] or of != "f32":
            raise KeyError(modifiers)
        kind = to[:-2]
        return np.uint32, (np.float32, np.float32), lambda high, low: joined(to_half(kind, low), to_half(kind, high))
    if any(modifier != "rn" for modifier in how) or (of in FLOATS and to not in FLOATS):
        raise KeyError(modifiers)
    if of in FLOATS[:2]:
        return DTYPES[to], (DTYPES[of],), lambda x: narrowed(to, from_half(of, x))
    return DTYPES[to], (DTYPES[of],), lambda x: narrowed(to, x)


def narrowed(kind, x):
    """Rounded to nearest, or modulo a power of two, to ``kind``."""
    if kind == "bf16":
        return to_bf16(x if x.dtype.kind == "f" else x.astype(np.float64))
    return x.astype(DTYPES[kind])
