"""One warp's time on instructions written for the purpose, where every wait is counted by hand."""

import pytest

from bench import latency
from bench.sass import Control, Instruction, Loop, parse

TIMES = {"memory": 800.0, "L1": 40.0, "shared": 33.0, "special": 24.0, "operands": 12.0}
ROW = "for row in range(rows):"
COLUMN = "for column in range(bin_w):"


def load(counter, line=1, opcode="LDG.E.U16", **control):
    return Instruction(opcode, "", "R2, [R4.64]", ("kernel.py", line), Control(result=counter, **control))


def add(*waits, stall=1):
    return Instruction("FADD", "", "R4, R8, R9", None, Control(stall, waits=waits))


def time(instructions, loops=(), channels_last=True):
    """In cycles, and what of it is issue."""
    way = latency.one_warp(instructions, loops, channels_last, TIMES)
    return latency.cycles(way, TIMES), way["issue"]


def in_rows(*body, trips=1):
    return body, [Loop(0, len(body) - 1, trips, ROW)]


def test_the_control_bits_of_machine_code():
    sass = """
        /*0000*/                   LDG.E.128 R4, desc[UR10][R14.64] ;          /* 0x0000000a0e047981 */
                                                                                /* 0x000f68000c1e1d00 */
        /*0010*/                   STS.U16 [R5], R6 ;                           /* 0x0000000605007388 */
                                                                                /* 0x0043f20000000000 */
        /*0020*/                   FADD R4, R8, R9 ;                            /* 0x0000000908047221 */
                                                                                /* 0x004fc40000000000 */
"""
    controls = [instruction.control for instruction in parse(sass)[0]]
    assert controls == [Control(stall=4, result=5), Control(stall=9, operands=1, waits=(2,)), Control(stall=2, waits=(2,))]


def test_arithmetic_takes_as_long_as_the_compiler_waits():
    assert time([add(stall=4), add(stall=2), add(), add(stall=0)]) == (8, 8)


def test_loads_at_once_are_one_latency_and_after_one_another_two():
    at_once, separate = [load(0), load(1), add(0, 1)], [load(0), add(0), load(1), add(1)]
    assert time(*in_rows(*at_once)) == (1 + 800 + 1, 2)  # the second load is issued a cycle later
    assert time(*in_rows(*separate), channels_last=False) == (1602, 2)
    assert latency.one_warp(*in_rows(*at_once), True, TIMES)["memory"] == 1


def test_a_counter_is_released_by_the_last_of_its_loads():
    assert time(*in_rows(load(0), load(1, opcode="LDS.64"), load(0), add(1), add(0))) == (2 + 800 + 1, 3)
    assert time(*in_rows(load(0), load(0, opcode="LDS.64"), add(0))) == (801, 1)


def test_what_was_not_waited_for_costs_nothing():
    assert time(*in_rows(load(0), add(stall=5))) == (6, 6)


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [("LDS.64", 33), ("LDSM.16.M88.4", 33), ("LDL", 40), ("LDC.64", 40), ("MUFU.EX2", 24), ("SHFL.IDX", 24)],
)
def test_classes_of_latencies(opcode, expected):
    assert time([load(3, opcode=opcode), add(3)]) == (expected + 1, 1)


def test_a_store_holds_its_registers_until_they_are_read():
    store = Instruction("STG.E", "", "[R4.64], R2", None, Control(2, operands=2))
    assert time([store, add(2)]) == (13, 1)


def test_weights_which_are_loaded_outside_of_loops_lie_in_the_cache():
    assert time([load(0), add(0)]) == (41, 1)


def test_in_channels_last_images_later_channels_lie_in_the_cache():
    channels = (load(0), add(0), load(0), add(0), load(0), add(0))
    assert time(*in_rows(*channels))[0] == 801 + 2 * 41
    assert time(*in_rows(*channels), channels_last=False)[0] == 3 * 801
    assert time(*in_rows(*(load(0, opcode="LDG.E.128"), add(0)) * 2))[0] == 2 * 801
    assert time(*in_rows(load(0), add(0), load(0, line=2), add(0)))[0] == 2 * 801  # another tensor
    assert time(*in_rows(load(0), load(1), add(0, 1)))[0] == 802  # the first has not arrived


def test_each_row_begins_anew_and_each_column_does_not():
    body = (load(0), add(0))
    assert time(*in_rows(*body, trips=5)) == (5 * 801, 5)
    assert time(body, [Loop(0, 1, 5, COLUMN)]) == (801 + 4 * 41, 5)
    nested = (add(), load(0), add(0), add())
    assert time(nested, [Loop(0, 3, 7, ROW), Loop(1, 2, 5, COLUMN)])[0] == 7 * (2 + 801 + 4 * 41)
    assert time(nested, [Loop(0, 3, 7, ROW), Loop(1, 2, 0, COLUMN)])[0] == 7 * 2


def test_a_load_for_the_next_round_is_waited_for_there():
    """What is loaded at the end of a round arrives while the next one computes for 300 cycles."""
    body, loops = in_rows(add(stall=300), add(0, stall=1), load(0), trips=100)
    assert time(body, loops)[0] == 300 + 1 + 1 + 99 * (800 + 1)
    body, loops = in_rows(add(stall=900), add(0, stall=1), load(0), trips=100)
    assert time(body, loops) == (100 * 902, 100 * 902)
    assert time((*body, add(0)), loops) == (100 * 902 - 1 + 800 + 1, 100 * 902)
