"""What the threads of a warp do together. Arrays are [..., 32], one element a lane; registers of a matrix come as a list.

Fragments' layouts are those of the PTX ISA's tables for each shape. Products are summed in float64, and rounded once.
"""

import numpy as np

from .arithmetic import from_half, halves, joined

LANE = np.arange(32)
GROUP, IN_GROUP = LANE // 4, LANE % 4


def shuffle(mode, x, b, c):
    """(the value that each lane gets, whether it came from another lane in range)."""
    lane_mask, clamp = (c >> 8) & 31, c & 31
    lane = np.broadcast_to(LANE, x.shape)
    highest = (lane & lane_mask) | (clamp & ~lane_mask)
    source = {
        "up": lambda: lane - (b & 31),
        "down": lambda: lane + (b & 31),
        "bfly": lambda: lane ^ (b & 31),
        "idx": lambda: (lane & lane_mask) | (b & 31 & ~lane_mask),
    }[mode]()
    valid = source >= highest if mode == "up" else source <= highest
    source = np.where(valid, source, lane).astype(np.int64) % 32
    return np.take_along_axis(x, source, axis=-1), valid


def reduce(operation, x):
    """The same for all lanes: min, max, sum, and, or, xor."""
    function = {
        "min": np.minimum, "max": np.maximum, "add": np.add,
        "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    }[operation]  # fmt: skip
    return np.broadcast_to(function.reduce(x, axis=-1, keepdims=True), x.shape).astype(x.dtype)


def _fragment(positions, shape):
    """Where each register's element of each lane lies, as flat indices [registers, 32]."""
    return np.stack([np.broadcast_to(row * shape[1] + column, 32) for row, column in positions])


def _half_fragments():
    """m16n8k16 of half precision: (a, b, c), elements of a register's low half before those of its high half."""
    pair = 2 * IN_GROUP
    a = [(GROUP + 8 * (i % 2), pair + 8 * (i // 2) + half) for i in range(4) for half in (0, 1)]
    b = [(pair + 8 * i + half, GROUP) for i in range(2) for half in (0, 1)]
    return _fragment(a, (16, 16)), _fragment(b, (16, 8)), _accumulator()


def _accumulator(rows=16):
    c = [(GROUP + 8 * (i // 2), 2 * IN_GROUP + i % 2) for i in range(4 if rows == 16 else 2)]
    return _fragment(c, (rows, 8))


def _tf32_fragments():
    a = [(GROUP + 8 * (i % 2), IN_GROUP + 4 * (i // 2)) for i in range(4)]
    b = [(IN_GROUP + 4 * i, GROUP) for i in range(2)]
    return _fragment(a, (16, 8)), _fragment(b, (8, 8)), _accumulator()


def _double_fragments_16():
    a = [(GROUP + 8 * (i % 2), IN_GROUP + 4 * (i // 2)) for i in range(8)]
    b = [(IN_GROUP + 4 * i, GROUP) for i in range(4)]
    return _fragment(a, (16, 16)), _fragment(b, (16, 8)), _accumulator()


def _double_fragments_4():
    return _fragment([(GROUP, IN_GROUP)], (8, 4)), _fragment([(IN_GROUP, GROUP)], (4, 8)), _accumulator(8)


FRAGMENTS = {
    ("m16n8k16", "bf16"): ((16, 16, 8), _half_fragments()),
    ("m16n8k16", "f16"): ((16, 16, 8), _half_fragments()),
    ("m16n8k8", "tf32"): ((16, 8, 8), _tf32_fragments()),
    ("m16n8k16", "f64"): ((16, 16, 8), _double_fragments_16()),
    ("m8n8k4", "f64"): ((8, 4, 8), _double_fragments_4()),
}
"""By shape and dtype of the operands: ((m, k, n), where elements of a, b and c lie)."""


def multiply_matrices(shape, kind, a, b, c):
    """d = a . b + c of each warp: lists of registers' bits in, of registers' values out."""
    (m, k, n), (where_a, where_b, where_c) = FRAGMENTS[shape, kind]
    left = _gathered(_elements(kind, a), where_a, (m, k))
    right = _gathered(_elements(kind, b), where_b, (k, n))
    accumulator = np.float64 if kind == "f64" else np.float32
    total = left @ right + _gathered([x.view(accumulator).astype(np.float64) for x in c], where_c, (m, n))
    flat = total.reshape(*total.shape[:-2], m * n).astype(accumulator)
    return [flat[..., where] for where in where_c]


def _elements(kind, registers):
    """Operands as float64 arrays, in the order of the fragment's elements."""
    if kind == "f64":
        return [x.view(np.float64) for x in registers]
    if kind == "tf32":  # the last 13 bits are not read
        return [(x & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64) for x in registers]
    view = (lambda x: x) if kind == "bf16" else (lambda x: x.view(np.float16))
    return [from_half(kind, view(half)).astype(np.float64) for x in registers for half in halves(x)]


def _gathered(elements, where, shape):
    """Matrices [..., rows, columns] of the fragments that the lanes hold."""
    stacked = np.stack(elements, axis=-2)
    matrix = np.empty((*stacked.shape[:-2], shape[0] * shape[1]), stacked.dtype)
    matrix[..., where] = stacked
    return matrix.reshape(*stacked.shape[:-2], *shape)


def rows_to_fragments(rows, transposed):
    """Of 8x8 matrices of 16 bits, [..., matrices, 8, 8]: the register of each matrix in each lane."""
    if transposed:
        rows = np.swapaxes(rows, -1, -2)
    low, high = rows[..., GROUP, 2 * IN_GROUP], rows[..., GROUP, 2 * IN_GROUP + 1]
    return [joined(low[..., i, :], high[..., i, :]) for i in range(rows.shape[-3])]


def fragments_to_rows(registers, transposed):
    """The inverse."""
    rows = np.empty((*registers[0].shape[:-1], len(registers), 8, 8), np.uint16)
    for i, register in enumerate(registers):
        low, high = halves(register)
        rows[..., i, GROUP, 2 * IN_GROUP] = low
        rows[..., i, GROUP, 2 * IN_GROUP + 1] = high
    return np.swapaxes(rows, -1, -2) if transposed else rows
