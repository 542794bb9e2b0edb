"""What instructions read and write: registers, immediates and parameters, in all threads of a launch at once."""

import numpy as np

from .memory import FaultError
from .ptx import Immediate, Register, Special, Symbol, UnsupportedError, Vector

WORDS = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
"""What registers hold: bits."""


class Operands:
    """All threads' registers. ``instruction`` is the one that is executed, by the ``active`` threads, or by all if None."""

    def __init__(self, kernel, grid, block, parameters):
        self.kernel, self.parameters = kernel, parameters
        self.grid, self.per_block = grid, block[0]
        self.threads = grid[0] * block[0]
        self.everybody = np.arange(self.threads)
        self.registers, self.instruction, self.active = {}, None, None

    def describe(self, lanes):
        """A function that names the instruction and the thread of an index among ``lanes``."""
        return lambda index: (
            f"{self.kernel.name}: {self.instruction}: thread {lanes[index] % self.per_block} "
            f"of program {lanes[index] // self.per_block}"
        )

    def value(self, operand, dtype):
        """An operand's value in every thread, or one for all."""
        if type(operand) is Register:
            bits = self.registers.get(operand.name)
            bits = _undefined(operand.bits) if bits is None else bits
            size = np.dtype(dtype).itemsize
            lowest = bits if bits.itemsize == size else bits.astype(f"u{size}")
            return lowest.view(dtype)
        if type(operand) is Immediate:
            return operand.value(dtype)
        if type(operand) is Special:
            return self._special(operand.name).astype(dtype)
        if type(operand) is Symbol and operand.name == "global_smem":
            return np.zeros((), dtype)
        if type(operand) is Vector:
            return self._packed(operand, dtype)
        raise UnsupportedError(f"the emulator does not know the operand {operand} of {self.instruction}")

    def _special(self, name):
        """A special register. Of its three dimensions one is used."""
        register, _, axis = name[1:].partition(".")
        along_x = axis in ("", "x")
        return {
            "tid": self.everybody % self.per_block if along_x else np.zeros(1),
            "ctaid": self.everybody // self.per_block if along_x else np.zeros(1),
            "ntid": np.array([self.per_block if along_x else 1]),
            "nctaid": np.array([self.grid[0] if along_x else 1]),
            "laneid": self.everybody % 32,
            "warpid": self.everybody % self.per_block // 32,
        }[register]

    def _packed(self, vector, dtype):
        """A vector read as one wide value, the first element lowest."""
        elements = [self.value(element, WORDS[element.bits]) for element in vector.elements]
        total, places = np.uint64(0), 0
        for element in elements:
            total = total | (element.astype(np.uint64) << np.uint64(places))
            places += 8 * element.dtype.itemsize
        return total.astype(f"u{places // 8}").view(dtype)

    def mask(self, instruction):
        """Threads that execute the instruction: None for all."""
        if instruction.guard is None:
            return self.active
        guard = self.registers[instruction.guard.name]
        guard = ~guard if instruction.negated else guard
        return guard if self.active is None else guard & self.active

    def write(self, register, value, mask):
        """Arrays of registers are never changed, so that several may share one."""
        if register is None:
            return
        if 8 * value.dtype.itemsize < register.bits:  # extended by its sign, or by zeros
            value = value.astype(f"{value.dtype.kind}{register.bits // 8}")
        bits = value.view(WORDS[register.bits]) if register.bits > 1 else value
        if bits.shape != (self.threads,):
            bits = np.broadcast_to(bits, (self.threads,))
        if mask is not None:
            before = self.registers.get(register.name)
            bits = np.where(mask, bits, _undefined(register.bits) if before is None else before)
        self.registers[register.name] = bits

    def lanes(self, mask):
        return self.everybody if mask is None else np.flatnonzero(mask)

    def whole_warps(self, mask):
        """Which warps take part, all of their threads."""
        if mask is None:
            return np.ones(self.threads // 32, bool)
        warps = mask.reshape(-1, 32)
        some = warps.any(axis=1)
        if (some != warps.all(axis=1)).any():
            raise FaultError(f"{self.kernel.name}: {self.instruction}: only some threads of a warp get there")
        return some

    def check_members(self, operand, mask):
        """Only whole warps are known."""
        members = self.at(self.lanes(mask), self.value(operand, np.uint32))
        if (members != 0xFFFFFFFF).any():
            raise UnsupportedError(f"the emulator does not know {self.instruction} of a part of a warp")

    def at(self, lanes, value):
        """A value in some threads."""
        if value.shape != (self.threads,):
            value = np.broadcast_to(value, (self.threads,))
        return value if lanes is self.everybody else value[lanes]

    def addresses(self, address, dtype, lanes):
        base = self.at(lanes, self.value(address.base, dtype))
        return base + np.array(address.offset).astype(dtype)

    def parameter(self, address, dtype, bits):
        offset = self.kernel.parameters[address.base.name].offset + address.offset
        value = np.frombuffer(self.parameters, dtype, 1, offset)
        return value.astype(f"i{bits // 8}") if value.dtype.kind == "i" else value

    def warps(self, operand, dtype):
        """An operand in rows of 32 lanes."""
        return self.at(self.everybody, self.value(operand, dtype)).reshape(-1, 32)

    def unpack(self, vector, value, mask):
        bits = 8 * value.dtype.itemsize // len(vector.elements)
        wide = value.astype(np.uint64)
        for i, element in enumerate(vector.elements):
            self.write(element, (wide >> np.uint64(i * bits)).astype(WORDS[bits]), mask)


def _undefined(bits):
    """What a register holds that nothing wrote, for which compilers may have a use: NaN, an address that is nobody's."""
    return np.array(2**bits - 1, WORDS[bits])
