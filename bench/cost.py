"""What a compiled kernel will cost on an H200, from its machine code: no GPU needed.

The model, and what it assumes:

- Every warp runs every instruction that is not inside a loop once, and those inside a loop as often as the loop's source line
  says: ``for row in range(rows)``, with ``rows`` as the launcher passed it. Branches that skip code are not taken.
  Subroutines (divisions in 64 bits and in float64) count once, however many call them.
- Loops over bins whose sizes differ, between images or between rows of the result, count with their mean over all rows of all
  images, since the results are of one size.
- Time is the largest of three floors, and nothing is lost between them: the issue slots (one instruction a cycle for each of a
  multiprocessor's four schedulers), the busiest execution pipe, and the bytes of all tensors, each moved once at the rate of a
  large copy. Latencies, caches, bank conflicts and the launch itself are left out, so the model is a lower bound.
- Pipes: see :data:`PIPES`. Tensor cores are left out: the largest matrix product here has 64 channels.
- A launch is a kernel of this package. The sums over programs of partial weight gradients are PyTorch's, and not counted.
- Processors are evenly loaded: programs that do not fill the last wave cost nothing extra.

The constants are assumed: an H200's 132 multiprocessors, a clock of 1.98 GHz, 4.3 TB/s for a large copy. ``python -m bench``
measures the last of these where it runs.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

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

Source = tuple[str, int]
"""File and line."""


@dataclass(frozen=True)
class Instruction:
    opcode: str
    """The opcode with its modifiers: IMAD.WIDE.U32."""
    predicate: str
    operands: str
    line: Source | None
    """The line of the innermost function that it was compiled from."""


@dataclass(frozen=True)
class Loop:
    """Instructions ``first`` to ``last``, which run ``trips`` times whenever their surroundings run once."""

    first: int
    last: int
    trips: int


@dataclass(frozen=True)
class Cost:
    """The cost of one launch. Instructions are counted once a warp."""

    instructions_per_pixel: float
    bytes_per_pixel: float
    busiest_pipe: str
    occupancy: float
    """Warps that fit a multiprocessor at once, over the most that any kernel has."""
    issue_us: float
    pipe_us: float
    bandwidth_us: float

    @property
    def predicted_us(self) -> float:
        """The largest floor."""
        return max(self.issue_us, self.pipe_us, self.bandwidth_us)


def parse(sass: str) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions, and the index of the one behind each label, of what ``nvdisasm -c -gi`` prints."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    line: Source | None = None
    innermost = True
    for text in sass.splitlines():
        if match := re.match(r'\s*//## File "(.*?)", line (\d+)', text):
            if innermost:
                line = (match[1], int(match[2]))
            innermost = False
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+)?\s*([A-Z][\w.]*)\s*(.*?)\s*;", text):
            innermost = True
            instructions.append(Instruction(match[2], match[1] or "", match[3], line))
        elif match := re.match(r"(\.L_\w+):", text):
            labels[match[1]] = len(instructions)
    return instructions, labels


def loops(instructions: list[Instruction], labels: dict[str, int], names: dict[str, Any]) -> list[Loop]:
    """Every branch backwards, with the trip count that its source line and the launch's arguments ``names`` give."""
    found: list[Loop] = []
    unrolled: dict[Source, int] = {}
    for last, instruction in enumerate(instructions):
        if not instruction.opcode.startswith("BRA"):
            continue
        match = re.search(r"\((\.L_\w+)\)", instruction.operands)
        first = labels[match[1]] if match else last
        if first >= last:
            continue
        assert instruction.line is not None, "a loop without a source line"
        iterations = _iterations(instruction.line, names)
        trips = len(iterations)
        step = _step(instructions, first, last) // iterations.step
        if step > 1:  # unrolled by the compiler
            unrolled[instruction.line] = step
            trips //= step
        elif instruction.line in unrolled:  # the remainder of a loop that the compiler unrolled
            trips %= unrolled[instruction.line]
        found.append(Loop(first, last, trips))
    return found


def _iterations(line: Source, names: dict[str, Any]) -> range:
    """What the ``for`` statement on a source line iterates over."""
    with open(line[0]) as file:
        text = file.read().splitlines()[line[1] - 1]
    match = re.search(r"for \w+ in (range\(.*\)):", text)
    if match is None:
        raise ValueError(f"{line[0]}:{line[1]} ends a loop in the machine code, and is no for statement: {text.strip()}")
    expression = match[1].replace("tl.num_programs(0)", "num_programs")
    iterations: range = eval(expression, {"range": range}, names)
    return iterations


def _step(instructions: list[Instruction], first: int, last: int) -> int:
    """What a loop's counter, compared at its end, grows or shrinks by in one round; 1 if that is not known when compiling."""
    predicate = instructions[last].predicate.lstrip("@!")
    tests = [i for i in range(first, last) if _compares(instructions[i], predicate)]
    while tests and ".EX" in instructions[tests[-1]].opcode:  # the upper half of a 64-bit counter
        tests.pop()
    if not predicate or not tests:
        return 1
    for register in re.findall(r"\bU?R\d+\b", instructions[tests[-1]].operands):
        for instruction in reversed(instructions[first : tests[-1]]):
            if re.match(rf"{register}\b", instruction.operands):  # what was written to it last
                match = re.match(rf"{register}(?:, U?P\d)?, {register}, -?(0x[0-9a-f]+)\b", instruction.operands)
                if match and re.match(r"U?(IADD3|VIADD)|IMAD\.IADD", instruction.opcode):
                    step = int(match[1], 16)
                    return min(step, 2**32 - step)  # a counter that shrinks may grow by nearly 2**32
                break
    return 1


def _compares(instruction: Instruction, predicate: str) -> bool:
    return "ISETP" in instruction.opcode and instruction.operands.startswith(predicate + ",")


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
    bins: Mapping[tuple[int, int], int] | None = None,
) -> Cost:
    """Cost of a launch of ``programs`` programs that computes ``pixels`` pixels and moves ``moved`` bytes.

    ``bins`` are the values of ``bands`` and ``bin_w``, with a share each, if they do not follow from the arguments.
    """
    instructions, labels = parse(sass)
    warps = arguments["num_warps"]
    names = {"pid": 0, "num_programs": programs, "repeats_y": 1, "repeats_x": 1, **arguments}
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
    seconds_per_cycle = programs * warps / (MULTIPROCESSORS * SCHEDULERS * CLOCK_HZ)
    return Cost(
        instructions_per_pixel=issued * programs * warps / pixels,
        bytes_per_pixel=moved / pixels,
        busiest_pipe=busiest,
        occupancy=_occupancy(registers, shared_bytes, warps),
        issue_us=issued * seconds_per_cycle * 1e6,
        pipe_us=busy[busiest] * seconds_per_cycle * 1e6,
        bandwidth_us=moved / COPY_BYTES_PER_SECOND * 1e6,
    )


def _occupancy(registers: int, shared_bytes: int, warps: int) -> float:
    """Warps resident at once over the most possible: registers are given out in eights a thread, to whole warps."""
    by_registers = REGISTERS // (max(registers, 1) + 7 & ~7) // 32 // warps
    by_shared = SHARED_BYTES // (shared_bytes + SHARED_BYTES_RESERVED)
    return min(MAX_WARPS // warps, MAX_PROGRAMS, by_registers, by_shared) * warps / MAX_WARPS
