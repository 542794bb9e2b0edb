"""The cost model on machine code written for the purpose, where every count is known."""

import dataclasses

import pytest

pytest.importorskip("typer")

from bench import cost, sass

# A loop over ``trips`` with a counter in R5, in whose body are a load and two additions beside the counter's and the test.
SASS = """
	//## File "{path}", line 1
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   IMAD.MOV.U32 R5, RZ, RZ, RZ ;
.L_x_1:
	//## File "{path}", line 3
	//## File "{path}", line 2 inlined at "elsewhere.py", line 9
        /*0020*/              @!P1 LDG.E.128 R8, desc[UR4][R2.64] ;
        /*0030*/                   FADD R4, R8, R9 ;
        /*0040*/                   FADD R4, R4, R10 ;
	//## File "{path}", line 2
        /*0050*/                   IADD3 R5, R5, {step}, RZ ;
        /*0060*/                   ISETP.NE.AND P0, PT, R5, UR6, PT ;
        /*0070*/               @P0 BRA `(.L_x_1) ;
	//## File "{path}", line 4
        /*0080*/                   STG.E desc[UR4][R2.64], R4 ;
        /*0090*/                   EXIT ;
.L_x_2:
        /*00a0*/                   BRA `(.L_x_2);
"""


@pytest.fixture
def listing(tmp_path):
    source = tmp_path / "kernel.py"

    def written(step="0x1", iterations="range(trips)"):
        source.write_text(f"start\n    for row in {iterations}:\n        body\nend\n")
        return SASS.format(path=source, step=step)

    return written


def test_instructions_and_where_they_come_from(listing):
    instructions, labels = sass.parse(listing())
    assert len(instructions) == 11
    assert [i.opcode for i in instructions][:4] == ["LDC", "IMAD.MOV.U32", "LDG.E.128", "FADD"]
    assert [i.line[1] for i in instructions] == [1, 1, 3, 3, 3, 2, 2, 2, 4, 4, 4]
    assert instructions[2].predicate == "@!P1"
    assert labels == {".L_x_1": 2, ".L_x_2": 10}


@pytest.mark.parametrize(
    ("step", "iterations", "rounds"),
    [
        ("0x1", "range(trips)", 12),
        ("0x4", "range(trips)", 3),
        ("-0x4", "range(trips)", 3),
        ("0xffffffff", "range(trips)", 12),  # a counter that shrinks by 1
        ("0xfffffffc", "range(trips)", 3),
        ("0x2", "range(0, trips, 2)", 6),
        ("0x4", "range(0, trips, 2)", 3),
    ],
)
def test_loops_run_as_often_as_their_source_says(listing, step, iterations, rounds):
    (loop,) = sass.loops(*sass.parse(listing(step, iterations)), {"trips": 12})
    assert (loop.first, loop.last, loop.trips) == (2, 7, rounds)


def test_a_loop_that_is_no_for_statement_is_refused(listing, tmp_path):
    code = listing()
    (tmp_path / "kernel.py").write_text("start\nwhile True:\n    body\nend\n")
    with pytest.raises(ValueError, match="no for statement"):
        sass.loops(*sass.parse(code), {"trips": 12})


def test_cost_of_a_launch(listing):
    """5 + 6 * 12 instructions by each of 2 warps of 1,000 programs; the pipes by hand."""
    arguments = {"num_warps": 2, "trips": 12}
    got = cost.cost(
        listing(), arguments, programs=1000, registers=40, shared_bytes=0, pixels=500, moved=43_000_000, channels_last=True
    )
    assert got.instructions_per_pixel == pytest.approx((5 + 6 * 12) * 2 * 1000 / 500)
    per_cycle = 132 * 4 * 1.98e9 / 1e6
    assert got.issue_us == pytest.approx((5 + 6 * 12) * 2000 / per_cycle)
    # Loads and the constant's load at 4 cycles; integer additions and tests at 2; float additions at 1.
    assert (got.busiest_pipe, got.pipe_us) == ("memory", pytest.approx((12 + 2) * 4 * 2000 / per_cycle))
    assert got.bandwidth_us == pytest.approx(10.0)
    assert got.resident_warps == 50  # 65,536 registers hold 51 warps of 32 * 40 registers: 25 programs of two warps
    # No instruction says that it is waited for, so one follows the other; and 132 * 50 warps have room for all 2,000.
    assert (got.rounds, got.latency_us) == (1.0, pytest.approx((5 + 6 * 12) / 1.98e9 * 1e6))
    assert got.guess_us() == pytest.approx((10.0**3 + got.pipe_us**3 + got.latency_us**3) ** (1 / 3))
    assert got.guess_us({"memory": 800.0}) == got.guess_us()
    waiting = dataclasses.replace(got, way=got.way | {"memory": 99.0}, rounds=2.0)
    slow = 2 * (5 + 6 * 12 + 99 * 500) / 1.98e9 * 1e6
    assert waiting.guess_us({"memory": 500.0}) == pytest.approx((10.0**3 + got.pipe_us**3 + slow**3) ** (1 / 3))


def test_programs_that_find_no_place_wait_for_others(listing):
    """132 multiprocessors hold 6,600 of the 33,000 warps of 16,500 programs."""
    got = cost.cost(
        listing(),
        {"num_warps": 2, "trips": 12},
        programs=16500,
        registers=40,
        shared_bytes=0,
        pixels=1,
        moved=1,
        channels_last=True,
    )
    assert (got.rounds, got.latency_us) == (5.0, pytest.approx(5 * (5 + 6 * 12) / 1.98e9 * 1e6))


def test_bins_that_differ_count_with_their_mean(listing):
    """A quarter of the steps has 2 bands of 3 columns, the others 4 of 5: 6 / 4 + 20 * 3 / 4 rounds on average."""
    sass = listing(iterations="range(bands * bin_w)")
    launch = {"programs": 1000, "registers": 40, "shared_bytes": 0, "pixels": 500, "moved": 1, "channels_last": True}
    got = cost.cost(sass, {"num_warps": 2, "bands": 0, "bin_w": 0}, **launch, bins={(2, 3): 1, (4, 5): 3})
    assert got.instructions_per_pixel == pytest.approx((5 + 6 * 16.5) * 2 * 1000 / 500)
    whole = cost.cost(sass, {"num_warps": 2, "bands": 4, "bin_w": 5}, **launch)
    assert whole.instructions_per_pixel == pytest.approx((5 + 6 * 20) * 2 * 1000 / 500)
