"""Instructions that the emulator does not know are errors, not guesses."""

import numpy as np
import pytest

from emulator.launching import launch
from emulator.ptx import UnsupportedError


@pytest.mark.parametrize(
    "instruction", ["add.rn.s32", "mul.ftz.f64", "div.full.f64", "div.approx.u32", "min.NaN.s32", "max.relu.u32", "abs.ftz.s32"]
)
def test_modifiers_that_a_type_does_not_have_are_errors(instruction):
    register = "%rd" if instruction.endswith("64") else "%r"
    operands = f"{register}1" if instruction.startswith("abs") else f"{register}1, {register}1"
    with pytest.raises(UnsupportedError, match=instruction):
        launch(f"{instruction} {register}10, {operands};", np.zeros(4, np.uint32))


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
def test_unknown_instructions_are_errors(instruction):
    with pytest.raises(UnsupportedError, match="does not know"):
        launch(instruction, np.zeros(1, np.int32))
