"""Jumps and barriers; and what the emulator refuses."""

import numpy as np
import pytest

from emulator.launching import launch
from emulator.memory import FaultError


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


def test_a_loop_without_an_end_is_an_error(monkeypatch):
    monkeypatch.setattr("emulator.machine.MAX_STEPS", 1000)
    body = "setp.lt.u32 %p1, %r1, 32; @%p1 bra $L__spin; bar.sync 0;\n$L__spin:\n@%p1 bra $L__spin;"
    with pytest.raises(FaultError, match="did not end"):
        launch(body, np.zeros(1, np.int32), threads=64)
