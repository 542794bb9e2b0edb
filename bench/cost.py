"""What a compiled kernel will cost on an H200, from its machine code: no GPU needed.

The model, and what it assumes:

- Every warp runs every instruction that is not inside a loop once, and those inside a loop as often as the loop's source line
  says: ``for row in range(rows)``, with ``rows`` as the launcher passed it. Branches that skip code are not taken.
  Subroutines (divisions in 64 bits and in float64) count once, however many call them.
- Loops over bins whose sizes differ, between images or between rows of the result, count with their mean over all rows of all
  images, since the results are of one size.
- There are three floors, beside each other. Instructions: the issue slots (one instruction a cycle for each of a
  multiprocessor's four schedulers), or the busiest execution pipe, if that takes longer. Bytes: those of all tensors, each
  moved once at the rate of a large copy. Latency: the programs' warps, one after the other in as many places as a
  multiprocessor has for them, each as long as :mod:`bench.latency` says that it takes by itself.
- Where floors are near each other, time is lost between them. How much is a guess: see :meth:`Cost.guess_us`.
- Caches that lack what they should hold, bank conflicts and the launch itself are left out.
- Pipes: see :data:`PIPES`. Tensor cores are left out: the largest matrix product here has 64 channels.
- A launch is a kernel of this package; all that PyTorch launches beside them is not counted.
- Processors are evenly loaded: programs that do not fill the last wave cost nothing extra. But no launch takes less than one
  warp does.

The constants are assumed: an H200's 132 multiprocessors, a clock of 1.98 GHz, 4.3 TB/s for a large copy, and the latencies.
``python -m bench`` measures the copy where it runs, and ``python -m bench.fit`` fits the latencies to what it measured.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from . import latency
from .latency import LATENCIES, one_warp
from .sass import loops, parse

MULTIPROCESSORS = 132
SCHEDULERS = 4
CLOCK_HZ = 1.98e9
COPY_BYTES_PER_SECOND = 4.3e12
REGISTERS = 65536
SHARED_BYTES = 227 * 1024
SHARED_BYTES_RESERVED = 1024
MAX_WARPS = 64
MAX_PROGRAMS = 32

PIPES: dict[str, tuple[float, str]] = {
    "fp32": (1, r"FFMA|FADD|FMUL"),
    "multiply": (2, r"IMAD|IDP"),
    "memory": (4, r"LD[GSCL]|ST[GSL]|LDSM|STSM|SHFL|ATOM|RED"),
    "special": (8, r"MUFU|F2I|I2F\b|F2F\b|FRND"),
    "fp64": (2, r"D(ADD|MUL|FMA|SETP|MMA)"),
    "uniform": (2, r"U[A-Z]|R2UR|S2UR"),
    "none": (0, r"NOP|BRA|EXIT|BAR|WARPSYNC|DEPBAR|BSSY|BSYNC|CALL|RET|HMMA|HGMMA|QGMMA|WARPGROUP|S2R|CS2R|MOV|ERRBAR|MEMBAR"),
}
"""Cycles that one warp's instruction occupies its scheduler's share of a pipe, and the opcodes of the pipe.

From the results per clock and multiprocessor that NVIDIA's CUDA programming guide lists for compute capability 9.0: 128 for
float32; 64 for float64, integers, logic, comparisons, selections and conversions; 32 for shuffles and loads; 16 for special
functions. What matches nothing here goes to the pipe of integers and logic, two cycles each.
"""
INTEGER_LOGIC_CYCLES = 2.0


@dataclass(frozen=True)
class Cost:
    """The cost of one launch. Instructions are counted once a warp."""

    instructions_per_pixel: float
    bytes_per_pixel: float
    busiest_pipe: str
    resident_warps: int
    """Warps that fit a multiprocessor at once."""
    issue_us: float
    pipe_us: float
    bandwidth_us: float
    latency_us: float
    way: dict[str, float]
    """One warp's way through the kernel: as :func:`bench.latency.one_warp` gives it."""
    rounds: float
    """How many warps a place for one takes, one after the other; at least 1."""

    def guess_us(self, latencies: Mapping[str, float] = LATENCIES) -> float:
        """What the floors together may come to, at these latencies: their norm of power 3.

        That is the largest if it is by far, and up to 1.44 times the largest if all are near. No measurement speaks for 3.
        """
        floors = (
            max(self.issue_us, self.pipe_us),
            self.bandwidth_us,
            self.rounds * latency.cycles(self.way, latencies) / CLOCK_HZ * 1e6,
        )
        return float(sum(floor**3 for floor in floors) ** (1 / 3))


def pipe(opcode: str) -> tuple[str, float]:
    """The pipe that an instruction occupies, and for how many cycles."""
    for name, (cycles, pattern) in PIPES.items():
        if re.match(rf"(?:{pattern})", opcode):
            return name, cycles
    return "integer", INTEGER_LOGIC_CYCLES


def cost(
    sass: str,
    arguments: dict[str, Any],
    programs: int,
    registers: int,
    shared_bytes: int,
    pixels: int,
    moved: int,
    channels_last: bool,
    bins: Mapping[tuple[int, int], int] | None = None,
) -> Cost:
    """Cost of a launch of ``programs`` programs that computes ``pixels`` pixels and moves ``moved`` bytes.

    ``bins`` are the values of ``bands`` and ``bin_w``, with a share each, if they do not follow from the arguments.
    """
    instructions, labels = parse(sass)
    warps = arguments["num_warps"]
    names = {"pid": 0, "num_programs": programs, "repeats_y": 1, "repeats_x": 1, "border_rows": 0, **arguments}
    if "C" in arguments:  # kernels' constants, whose attributes are the compiler's
        names["C"] = SimpleNamespace(**arguments["C"].values)
    cases = (
        [(names, 1)] if bins is None else [(names | {"bands": bands, "bin_w": w}, count) for (bands, w), count in bins.items()]
    )
    found = [(loops(instructions, labels, case), count / sum(n for _, n in cases)) for case, count in cases]
    issued = 0.0
    busy: dict[str, float] = {}
    for index, instruction in enumerate(instructions):
        runs = sum(share * math.prod(loop.trips for loop in of if loop.first <= index <= loop.last) for of, share in found)
        name, cycles = pipe(instruction.opcode)
        issued += runs
        busy[name] = busy.get(name, 0.0) + runs * cycles
    busiest = max(busy, key=lambda name: busy[name])
    way: dict[str, float] = {}
    for of, share in found:
        for name, count in one_warp(instructions, of, channels_last).items():
            way[name] = way.get(name, 0.0) + share * count
    resident = _resident_warps(registers, shared_bytes, warps)
    rounds = max(1.0, programs * warps / (MULTIPROCESSORS * resident))
    us_per_cycle = programs * warps / (MULTIPROCESSORS * SCHEDULERS * CLOCK_HZ) * 1e6
    return Cost(
        instructions_per_pixel=issued * programs * warps / pixels,
        bytes_per_pixel=moved / pixels,
        busiest_pipe=busiest,
        resident_warps=resident,
        issue_us=issued * us_per_cycle,
        pipe_us=busy[busiest] * us_per_cycle,
        bandwidth_us=moved / COPY_BYTES_PER_SECOND * 1e6,
        latency_us=rounds * latency.cycles(way) / CLOCK_HZ * 1e6,
        way=way,
        rounds=rounds,
    )


def _resident_warps(registers: int, shared_bytes: int, warps: int) -> int:
    """Warps on a multiprocessor at once: registers are given out in eights a thread, to whole warps."""
    by_registers = REGISTERS // (max(registers, 1) + 7 & ~7) // 32 // warps
    by_shared = SHARED_BYTES // (shared_bytes + SHARED_BYTES_RESERVED)
    return min(MAX_WARPS // warps, MAX_PROGRAMS, by_registers, by_shared) * warps
