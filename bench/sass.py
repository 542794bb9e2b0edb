"""Machine code as ``nvdisasm -c -gi -hex`` prints it: instructions, what they wait for, and loops with their trips."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

Source = tuple[str, int]
"""File and line."""


@dataclass(frozen=True)
class Control:
    """How an instruction waits and is waited for: what the compiler writes beside it, since the hardware checks no registers.

    Results after a known time are waited for by stalling. All others have one of six counters, the scoreboard.
    """

    stall: int = 1
    """Cycles until the warp's next instruction may be issued."""
    result: int | None = None
    """The counter that its result releases."""
    operands: int | None = None
    """The counter that is released when its operands have been read."""
    waits: tuple[int, ...] = ()
    """The counters that it waits for."""


@dataclass(frozen=True)
class Instruction:
    opcode: str
    """The opcode with its modifiers: IMAD.WIDE.U32."""
    predicate: str
    operands: str
    line: Source | None
    """The line of the innermost function that it was compiled from."""
    control: Control = Control()


@dataclass(frozen=True)
class Loop:
    """Instructions ``first`` to ``last``, which run ``trips`` times whenever their surroundings run once."""

    first: int
    last: int
    trips: int
    statement: str = ""
    """The ``for`` statement that it was compiled from."""


def parse(sass: str) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions, and the index of the one behind each label, of what ``nvdisasm -c -gi -hex`` prints."""
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
        elif match := re.match(r"\s+/\* 0x([0-9a-f]{16}) \*/", text):  # the upper half of the instruction before
            instructions[-1] = dataclasses.replace(instructions[-1], control=_control(int(match[1], 16)))
        elif match := re.match(r"(\.L_\w+):", text):
            labels[match[1]] = len(instructions)
    return instructions, labels


def _control(upper: int) -> Control:
    """What bits 105 to 121 of an instruction say, from its upper 64. (Bit 109 lets another warp go first.)"""
    bits = upper >> 41
    result, operands, waits = bits >> 5 & 7, bits >> 8 & 7, bits >> 11 & 63
    return Control(
        bits & 15,
        result if result < 6 else None,
        operands if operands < 6 else None,
        tuple(counter for counter in range(6) if waits >> counter & 1),
    )


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
        statement = _statement(instruction.line)
        iterations = _iterations(statement, names)
        trips = len(iterations)
        step = _step(instructions, first, last) // iterations.step
        if step > 1:  # unrolled by the compiler
            unrolled[instruction.line] = step
            trips //= step
        elif instruction.line in unrolled:  # the remainder of a loop that the compiler unrolled
            trips %= unrolled[instruction.line]
        found.append(Loop(first, last, trips, statement))
    return found


def _statement(line: Source) -> str:
    """The ``for`` statement on a source line."""
    with open(line[0]) as file:
        text = file.read().splitlines()[line[1] - 1].strip()
    if not re.match(r"for \w+ in range\(.*\):", text):
        raise ValueError(f"{line[0]}:{line[1]} ends a loop in the machine code, and is no for statement: {text}")
    return text


def _iterations(statement: str, names: dict[str, Any]) -> range:
    """What a ``for`` statement iterates over."""
    expression = statement.partition(" in ")[2].rpartition(":")[0].replace("tl.num_programs(0)", "num_programs")
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
