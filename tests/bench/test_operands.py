"""What layouts hold of a product's inner dimension, read off representations written for the purpose."""

import pytest

from bench.operands import repeated_operands

PARENTS = """#loc = loc("kernel.py":1:0)
#blocked = #ttg.blocked<{sizePerThread = [1, 1], threadsPerWarp = [1, 32], warpsPerCTA = [1, 1], order = [1, 0]}>
#mma = #ttg.nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [1, 1], instrShape = [16, 8]}>
#mma1 = #ttg.nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [1, 1], instrShape = [8, 8]}>
#mma2 = #ttg.nvidia_mma<{versionMajor = 3, versionMinor = 0, warpsPerCTA = [4, 1], instrShape = [16, 16, 8]}>
#mma3 = #ttg.amd_mfma<{version = 3, warpsPerCTA = [1, 1], instrShape = [16, 16, 16], isTransposed = true}>
#mma4 = #ttg.amd_mfma<{version = 3, warpsPerCTA = [1, 1], instrShape = [64, 4, 4], isTransposed = true}>
#mma5 = #ttg.amd_wmma<{version = 2, warpsPerCTA = [1, 1], instrShape = [16, 16, 16]}>
"""


def product(a, b, op="tt.dot"):
    return f"{PARENTS}      %grad_504 = {op} %grad_502, %x_503, %cst_78 : {a} * {b} -> tensor<32x16xf32, #mma> loc(#loc)\n"


def operand(shape, index, parent, width=None):
    suffix = f", kWidth = {width}" if width else ""
    return f"tensor<{shape}, #ttg.dot_op<{{opIdx = {index}, parent = #{parent}{suffix}}}>>"


@pytest.mark.parametrize(
    ("m", "inner", "n", "dtype", "parent", "width", "held"),
    [
        (32, 16, 16, "bf16", "mma", 2, 16),
        (32, 16, 16, "bf16", "mma", 4, 32),
        (32, 16, 16, "bf16", "mma", 8, 64),
        (16, 32, 16, "bf16", "mma", 4, 32),  # more of the inner dimension than of either other
        (64, 16, 64, "bf16", "mma", 4, 32),  # and less
        (16, 16, 4, "f32", "mma", 1, 8),
        (16, 16, 4, "f32", "mma", 4, 32),
        (16, 16, 16, "f64", "mma1", 1, 8),
        (16, 16, 16, "f64", "mma1", 4, 32),
        (64, 16, 16, "f32", "mma2", 1, 8),
        (32, 16, 16, "f16", "mma3", 4, 16),
        (32, 16, 16, "f16", "mma3", 8, 32),
        (64, 16, 16, "f32", "mma4", 1, 16),
        (64, 16, 16, "f32", "mma4", 2, 32),
        (32, 16, 16, "f32", "blocked", None, 0),
    ],
)
def test_each_operand_that_is_held_more_than_once_is_named(m, inner, n, dtype, parent, width, held):
    a = operand(f"{m}x{inner}x{dtype}", 0, parent, width)
    b = operand(f"{inner}x{n}x{dtype}", 1, parent, width)
    found = repeated_operands(product(a, b))
    assert len(found) == (2 if held > inner else 0)
    for text, layout in zip(found, (a, b), strict=False):
        assert text.startswith(f"%grad_504: {layout} holds {held} of {inner}")


def test_an_operand_in_shared_memory_is_held_once():
    a = operand("64x16xf16", 0, "mma2", 4)
    b = "!ttg.memdesc<16x16xf16, #shared, #smem>"
    (text,) = repeated_operands(product(a, b, "ttng.warp_group_dot"))
    assert "holds 32 of 16" in text


def test_what_is_not_understood_is_an_error():
    a, b = operand("16x16xf16", 0, "mma5", 8), operand("16x16xf16", 1, "mma5", 8)
    with pytest.raises(ValueError, match="amd_wmma"):
        repeated_operands(product(a, b))
    with pytest.raises(ValueError, match="no product"):
        repeated_operands(product(a, b, "tt.dot_of_another_name"))
    with pytest.raises(ValueError, match="not understood: %grad_504"):
        repeated_operands(product(a, b.replace("opIdx", "index")))
