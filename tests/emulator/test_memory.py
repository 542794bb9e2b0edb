"""Loads and stores; accesses out of bounds, unaligned, or in a race are errors."""

import numpy as np
import pytest

from emulator.launching import REGISTER, aligned, launch
from emulator.memory import FaultError


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


def test_threads_that_write_different_values_to_one_address_are_an_error():
    memory = np.zeros(1, np.int32)
    with pytest.raises(FaultError, match="writes global memory that another thread writes otherwise at once"):
        launch("st.global.b32 [%rd1], %r1;", memory)
    launch("st.global.b32 [%rd1], 7;", memory)
    assert memory.tolist() == [7]


def test_a_launch_that_was_given_no_memory_may_touch_none():
    with pytest.raises(FaultError, match="0 bytes into memory, which has 0"):
        launch("ld.global.b32 %r9, [%rd1];", np.zeros(0, np.int32))


def test_registers_that_nothing_wrote_hold_nan():
    memory = np.zeros(32, np.float32)
    launch("mad.wide.u32 %rd2, %r3, 4, %rd1; add.f32 %r9, %r50, %r50; st.global.b32 [%rd2], %r9;", memory)
    assert np.isnan(memory).all()
    body = "setp.eq.s32 %p1, %r1, 5; @%p1 mov.b32 %r9, 0; mad.wide.u32 %rd2, %r3, 4, %rd1; st.global.b32 [%rd2], %r9;"
    launch(body, memory)
    assert np.isnan(memory).tolist() == [thread != 5 for thread in range(32)]
    with pytest.raises(FaultError, match="reads 1 bytes"):
        launch("ld.global.b8 %rs1, [%rd50];", memory)
