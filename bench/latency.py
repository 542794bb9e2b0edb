"""How long one warp takes by itself, if nothing else keeps it waiting: its instructions' latencies, from the machine code.

A warp issues its instructions in order. Each waits for as long as the compiler has written beside the ones before it, and for
the counters that stand beside itself (:class:`bench.sass.Control`). So the latency of arithmetic and of matrix products is in
the code. What takes a time that the compiler does not know is assumed, see :data:`LATENCIES`; these are textbook figures, not
measured. Two rules say where a load finds its data:

- Outside of loops kernels load weights and tables, which other programs have brought into the L1 cache.
- In channels-last images, and in loops, the first loads of a source line bring what later ones of the same line find in the L1
  cache, once they have arrived: other channels, and pixels of the same row. Each row of pixels begins anew. Wide loads, of
  textures, bring whole sectors, and find nothing there.

All other loads come from memory. Waiting for the memory units, because several instructions want them, is not counted.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .sass import Instruction, Loop, Source

LATENCIES = {
    "memory": 800.0,
    "L1": 40.0,
    "shared": 33.0,
    "special": 24.0,
    "operands": 12.0,
}
"""Cycles until a result is there, by class; ``operands``: until a store or a load has read its registers. All assumed."""

CLASSES = (("L1", r"LDL|U?LDC"), ("shared", r"LDS|LDSM|STS"))
"""Opcodes, but for global loads. What matches nothing is special: functions, conversions, shuffles, special registers."""

COLUMNS = re.compile(r"for (column|start|\w+_x) in")
"""Loops along a row of pixels."""

Time = npt.NDArray[np.float64]
"""Cycles of issue, then how many latencies of each class have passed. What a time is in cycles is linear in the latencies."""


def one_warp(
    instructions: Sequence[Instruction],
    loops: Sequence[Loop],
    channels_last: bool,
    latencies: Mapping[str, float] = LATENCIES,
) -> dict[str, float]:
    """One warp's way through a kernel: cycles of ``issue``, and how many latencies of each class, one after the other.

    If several are waited for at once, the longest alone counts.
    """
    time = _Warp(instructions, loops, channels_last, latencies).run()
    return dict(zip(("issue", *latencies), map(float, time), strict=True))


def cycles(way: Mapping[str, float], latencies: Mapping[str, float] = LATENCIES) -> float:
    """The cycles of a way of :func:`one_warp`."""
    return way["issue"] + sum(way[name] * latency for name, latency in latencies.items())


class _Warp:
    def __init__(
        self,
        instructions: Sequence[Instruction],
        loops: Sequence[Loop],
        channels_last: bool,
        latencies: Mapping[str, float],
    ) -> None:
        self.instructions = instructions
        self.loops = sorted(loops, key=lambda loop: (loop.first, -loop.last))
        self.channels_last = channels_last
        self.cost = np.array([1.0, *latencies.values()])
        self.one = dict(zip(latencies, np.eye(len(self.cost))[1:], strict=True))
        self.now = np.zeros(len(self.cost))
        self.counters = [self.now] * 6
        """When each is released."""
        self.arrived: dict[Source | None, Time] = {}
        """When what a source line loads has come from memory first."""

    def run(self) -> Time:
        self._run(0, len(self.instructions), self.loops)
        return self.now

    def _run(self, first: int, end: int, loops: Sequence[Loop]) -> None:
        index = first
        while index < end:
            loop = next((loop for loop in loops if loop.first == index), None)
            if loop is None:
                self._issue(self.instructions[index], outside=loops is self.loops)
                index += 1
            else:
                inner = [inner for inner in loops if inner is not loop and index <= inner.first and inner.last <= loop.last]
                self._repeat(loop, inner)
                index = loop.last + 1

    def _repeat(self, loop: Loop, inner: Sequence[Loop]) -> None:
        """All rounds of a loop. From the third on they take as long as the third, which begins as the second ended."""
        for _ in range(min(loop.trips, 3)):
            start = self.now
            if not COLUMNS.match(loop.statement):
                self.arrived = {}
            self._run(loop.first, loop.last + 1, inner)
        if loop.trips > 3:
            skipped = (loop.trips - 3) * (self.now - start)
            self.now = self.now + skipped
            self.counters = [time + skipped for time in self.counters]

    def _issue(self, instruction: Instruction, outside: bool) -> None:
        control = instruction.control
        for counter in control.waits:
            self.now = self._later(self.now, self.counters[counter])
        if control.result is not None:
            done = self.now + self.one[self._class(instruction, outside)]
            self.counters[control.result] = self._later(self.counters[control.result], done)
        if control.operands is not None:
            done = self.now + self.one["operands"]
            self.counters[control.operands] = self._later(self.counters[control.operands], done)
        self.now = self.now.copy()
        self.now[0] += max(control.stall, 1)

    def _later(self, a: Time, b: Time) -> Time:
        return a if a @ self.cost >= b @ self.cost else b

    def _class(self, instruction: Instruction, outside: bool) -> str:
        """Where a result comes from."""
        if not instruction.opcode.startswith("LDG"):
            return next((name for name, opcodes in CLASSES if re.match(rf"(?:{opcodes})\b", instruction.opcode)), "special")
        if outside:
            return "L1"
        if not self.channels_last or re.search(r"\.(64|128)\b", instruction.opcode):
            return "memory"
        if instruction.line in self.arrived:
            return "L1" if self.now @ self.cost >= self.arrived[instruction.line] @ self.cost else "memory"
        self.arrived[instruction.line] = self.now + self.one["memory"]
        return "memory"
