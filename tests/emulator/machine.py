"""A launch of a kernel, executed: every instruction for all threads of all blocks at once, one element of an array each.

Threads that went different ways are at different blocks of instructions. Always the first block in the order of ``flow`` that
any thread is at is executed, by the threads that are there. A thread at a barrier waits for the others of its thread block.
"""

import functools

import numpy as np

from . import arithmetic, flow, ptx, warp
from .arithmetic import DTYPES
from .memory import FaultError, GlobalMemory, SharedMemory
from .ptx import Address, Immediate, Register, Special, Symbol, UnsupportedError, Vector

WORDS = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
"""What registers hold: bits."""

MAX_STEPS = 10_000_000
"""Blocks of instructions until a launch counts as endless."""


@functools.lru_cache(maxsize=256)
def program(text):
    """The kernel of a PTX module, its blocks in the order in which they are executed, and each one's place by its first index.

    A block is a list of (instruction, method, details), and the index of what follows it.
    """
    kernel = ptx.parse(text)
    starts = {0, *kernel.labels.values()}
    starts |= {i + 1 for i, instruction in enumerate(kernel.instructions) if instruction.opcode in ENDS}
    starts = sorted(start for start in starts if start < len(kernel.instructions))
    ends = dict(zip(starts, [*starts[1:], len(kernel.instructions)], strict=True))
    places = flow.ranks({start: _successors(kernel, ends[start]) for start in starts}, 0)
    blocks = [
        ([_resolve(i) for i in kernel.instructions[start : ends[start]]], ends[start])
        for start in sorted(places, key=places.get)
    ]
    table = np.full(len(kernel.instructions) + 1, -1)
    table[list(places)] = list(places.values())
    return kernel, blocks, table


ENDS = ("bra", "ret", "exit", "bar", "barrier")


def _successors(kernel, end):
    """Where threads may go on after the block that ends before instruction ``end``."""
    last = kernel.instructions[end - 1]
    ways = [kernel.labels[last.operands[0].name]] if last.opcode == "bra" else []
    if last.opcode not in ("bra", "ret", "exit") or last.guard is not None:
        ways.append(end)
    return [way for way in ways if way < len(kernel.instructions)]


def _resolve(instruction):
    """(instruction, method, details) so that executing looks nothing up."""
    if instruction.opcode in METHODS:
        return instruction, METHODS[instruction.opcode], None
    return instruction, Launch.compute, arithmetic.resolve(instruction)


class Launch:
    """One launch of the kernel in ``text``, with the raw bytes of its parameters, on the memory that it was given.

    ``grid`` and ``block`` are (x, y, z); ``shared`` is the size of a block's shared memory in bytes.
    """

    def __init__(self, text, grid, block, shared, parameters, allocations):
        self.kernel, self.blocks, self.places = program(text)
        if block[1:] != (1, 1) or grid[1:] != (1, 1) or block[0] % 32:
            raise UnsupportedError(f"the emulator launches whole warps along x alone, not a grid of {grid} blocks of {block}")
        if self.kernel.threads and self.kernel.threads != block[0]:
            raise FaultError(
                f"{self.kernel.name} requires blocks of {self.kernel.threads} threads, and was launched with {block[0]}"
            )
        self.grid, self.per_block = grid, block[0]
        self.threads = grid[0] * block[0]
        self.parameters = parameters
        self.memory = GlobalMemory(allocations)
        self.shared = SharedMemory(grid[0], shared, block[0])
        self.registers = {}
        self.everybody = np.arange(self.threads)

    @staticmethod
    def parameters_of(text):
        """Offset and size of each of the kernel's parameters, in order."""
        return list(program(text)[0].parameters.values())

    def run(self):
        """Execute until every thread has returned."""
        at = np.full(self.threads, self.places[0])  # the block that each thread is at
        self.waiting = np.zeros(self.threads, bool)
        self.done = np.zeros(self.threads, bool)
        with np.errstate(all="ignore"):
            for _ in range(MAX_STEPS):
                ready = ~(self.waiting | self.done)
                if not ready.any():
                    return
                first = at[ready].min()
                self._execute(first, ready & (at == first), at)
        raise FaultError(f"{self.kernel.name} did not end in {MAX_STEPS} steps")

    def _execute(self, place, active, at):
        """Run a block for the ``active`` threads, and move them on."""
        self.active = None if active.all() else active  # None: all
        code, end = self.blocks[place]
        at[active] = self.places[end]
        for instruction, method, details in code:
            self.instruction = instruction
            if instruction.opcode in ENDS:
                self._end(instruction, active, at)
                continue
            try:
                method(self, instruction, details)
            except (KeyError, ValueError) as error:
                raise UnsupportedError(f"the emulator does not know {instruction}") from error

    def _end(self, instruction, active, at):
        mask = active
        if instruction.guard is not None:
            mask = active & (self.registers[instruction.guard.name] ^ instruction.negated)
        if instruction.opcode == "bra":
            at[mask] = self.places[self.kernel.labels[instruction.operands[0].name]]
        elif instruction.opcode in ("ret", "exit"):
            self.done |= mask
            self._release()
        elif instruction.modifiers == ("warp", "sync"):
            self._check_members(instruction.operands[0], mask)
            self.shared.warp_barrier(self._whole_warps(mask))
        else:
            self._arrive(instruction, mask, active)

    def _arrive(self, instruction, mask, active):
        known = instruction.opcode == "bar" and instruction.modifiers == ("sync",)
        if not known or instruction.operands != (Immediate("0"),) or instruction.guard is not None:
            raise UnsupportedError(f"the emulator does not know {instruction}")
        self._whole_warps(mask)  # all of a warp at the same barrier
        self.waiting |= mask
        self._release()

    def _release(self):
        """Let those blocks go on whose threads have all arrived or ended."""
        waiting = self.waiting.reshape(-1, self.per_block)
        arrived = (waiting | self.done.reshape(-1, self.per_block)).all(axis=1) & waiting.any(axis=1)
        waiting[arrived] = False
        self.shared.block_barrier(arrived)

    # Operands

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
            return (bits if bits.itemsize == size else bits.astype(f"u{size}")).view(
                dtype
            )  # of a wide register the lowest bits
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
        """Of the three dimensions one is used."""
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

    def _lanes(self, mask):
        return self.everybody if mask is None else np.flatnonzero(mask)

    def _whole_warps(self, mask):
        """Which warps take part, all of their threads."""
        if mask is None:
            return np.ones(self.threads // 32, bool)
        warps = mask.reshape(-1, 32)
        some = warps.any(axis=1)
        if (some != warps.all(axis=1)).any():
            raise FaultError(f"{self.kernel.name}: {self.instruction}: only some threads of a warp get there")
        return some

    def _check_members(self, operand, mask):
        """Only whole warps are known."""
        members = self._at(self._lanes(mask), self.value(operand, np.uint32))
        if (members != 0xFFFFFFFF).any():
            raise UnsupportedError(f"the emulator does not know {self.instruction} of a part of a warp")

    # Instructions

    def compute(self, instruction, resolved):
        dtype, dtypes, function = resolved
        target, *operands = instruction.operands
        values = [self.value(operand, kind) for operand, kind in zip(operands, dtypes, strict=True)]
        result = np.asarray(function(*values))
        self.write(target, result if result.dtype == dtype else result.astype(dtype), self.mask(instruction))

    def move(self, instruction, _):
        (kind,) = instruction.modifiers
        target, source = instruction.operands
        dtype = DTYPES[kind]
        if kind == "pred" and type(source) is Immediate:
            value = np.asarray(int(source.text) != 0)
        else:
            value = np.asarray(self.value(source, dtype))
        if type(target) is Vector:
            self._unpack(target, value, self.mask(instruction))
        else:
            self.write(target, value, self.mask(instruction))

    def _unpack(self, vector, value, mask):
        bits = 8 * value.dtype.itemsize // len(vector.elements)
        wide = value.astype(np.uint64)
        for i, element in enumerate(vector.elements):
            self.write(element, (wide >> np.uint64(i * bits)).astype(WORDS[bits]), mask)

    def load(self, instruction, _):
        *how, kind = instruction.modifiers
        space, *vector = how
        target, address = instruction.operands
        targets = target.elements if type(target) is Vector else (target,)
        if vector not in ([], [f"v{len(targets)}"]):
            raise UnsupportedError(f"the emulator does not know {instruction}")
        if space == "param":
            self.write(target, self._parameter(address, DTYPES[kind], target.bits), self.mask(instruction))
            return
        mask, size = self.mask(instruction), np.dtype(DTYPES[kind]).itemsize
        lanes = self._lanes(mask)
        for register, word in zip(targets, self._load(space, instruction, lanes, address, size, len(targets)), strict=True):
            if DTYPES[kind](0).dtype.kind == "i":  # sign-extended
                word = word.view(DTYPES[kind]).astype(f"i{register.bits // 8}")
            if mask is not None:
                everywhere = np.zeros(self.threads, word.dtype)
                everywhere[lanes] = word
                word = everywhere
            self.write(register, word, mask)

    def _load(self, space, instruction, lanes, address, size, words):
        """A list of arrays, [lanes], of words that lie behind one another."""
        if space == "shared":
            places = self._addresses(address, np.uint32, lanes)
            return self.shared.load(lanes, places, size, words, self.describe(lanes))
        if space != "global":
            raise UnsupportedError(f"the emulator does not know {instruction}")
        places = self._addresses(address, np.uint64, lanes)
        self.memory.check(places, size * words, "reads", self.describe(lanes))
        return [self.memory.load(places + np.uint64(size * word), size) for word in range(words)]

    def store(self, instruction, _):
        *how, kind = instruction.modifiers
        space, *vector = how
        address, source = instruction.operands
        sources = source.elements if type(source) is Vector else (source,)
        if vector not in ([], [f"v{len(sources)}"]) or space not in ("global", "shared"):
            raise UnsupportedError(f"the emulator does not know {instruction}")
        lanes = self._lanes(self.mask(instruction))
        word = WORDS[8 * np.dtype(DTYPES[kind]).itemsize]
        values = [self._at(lanes, self.value(operand, WORDS[_bits(operand, kind)])).astype(word) for operand in sources]
        if space == "shared":
            self.shared.store(lanes, self._addresses(address, np.uint32, lanes), values, self.describe(lanes))
            return
        places = self._addresses(address, np.uint64, lanes)
        size = np.dtype(word).itemsize
        self.memory.check(places, size * len(values), "writes", self.describe(lanes))
        for index, value in enumerate(values):
            self.memory.store(places + np.uint64(size * index), value, self.describe(lanes))

    def _addresses(self, address, dtype, lanes):
        base = self._at(lanes, self.value(address.base, dtype))
        return base + np.array(address.offset).astype(dtype)

    def _at(self, lanes, value):
        """A value in some threads."""
        if value.shape != (self.threads,):
            value = np.broadcast_to(value, (self.threads,))
        return value if lanes is self.everybody else value[lanes]

    def _parameter(self, address, dtype, bits):
        offset = self.kernel.parameters[address.base.name].offset + address.offset
        value = np.frombuffer(self.parameters, dtype, 1, offset)
        return value.astype(f"i{bits // 8}") if value.dtype.kind == "i" else value

    def convert_address(self, instruction, _):
        """Global addresses are the generic ones here."""
        if instruction.modifiers not in (("to", "global", "u64"), ("global", "u64")):
            raise UnsupportedError(f"the emulator does not know {instruction}")
        target, source = instruction.operands
        self.write(target, np.asarray(self.value(source, np.uint64)), self.mask(instruction))

    def _warps(self, operand, dtype):
        """An operand in rows of 32 lanes."""
        return self._at(self.everybody, self.value(operand, dtype)).reshape(-1, 32)

    def shuffle(self, instruction, _):
        if len(instruction.modifiers) != 3 or instruction.modifiers[0] != "sync" or instruction.modifiers[2] != "b32":
            raise UnsupportedError(f"the emulator does not know {instruction}")
        target, *operands = instruction.operands
        valid = operands.pop(0) if len(operands) == 5 else None
        mask = self.mask(instruction)
        self._whole_warps(mask)
        self._check_members(operands[3], mask)
        x, b, c = (self._warps(operand, np.uint32) for operand in operands[:3])
        result, in_range = warp.shuffle(instruction.modifiers[1], x, b.astype(np.int64), c.astype(np.int64))
        self.write(target, result.reshape(-1), mask)
        self.write(valid, in_range.reshape(-1), mask)

    def reduce(self, instruction, _):
        how, operation, kind = instruction.modifiers
        target, source, members = instruction.operands
        if how != "sync":
            raise KeyError(how)
        mask = self.mask(instruction)
        self._whole_warps(mask)
        self._check_members(members, mask)
        self.write(target, warp.reduce(operation, self._warps(source, DTYPES[kind])).reshape(-1), mask)

    def multiply_matrices(self, instruction, _):
        *how, shape, a_order, b_order, to, left, right, of = instruction.modifiers
        accumulates = {"f64": "f64"}.get(left, "f32")
        known = (shape, left) in warp.FRAGMENTS and (a_order, b_order) == ("row", "col") and left == right
        if how != ["sync", "aligned"] or not known or to != accumulates or of != accumulates:
            raise UnsupportedError(f"the emulator does not know {instruction}")
        mask = self.mask(instruction)
        self._whole_warps(mask)
        target, *operands = instruction.operands
        bits = np.uint64 if left == "f64" else np.uint32
        a, b, c = ([self._warps(element, bits) for element in operand.elements] for operand in operands)
        for register, value in zip(target.elements, warp.multiply_matrices(shape, left, a, b, c), strict=True):
            self.write(register, np.ascontiguousarray(value).reshape(-1), mask)

    def _matrix_access(self, instruction):
        """(matrices, whether transposed, mask, lanes, addresses of 8 rows each) of ldmatrix or stmatrix."""
        *sync, shape, count = instruction.modifiers[:4]
        how = instruction.modifiers[4:]
        if sync != ["sync", "aligned"] or how not in (("shared", "b16"), ("trans", "shared", "b16")) or shape != "m8n8":
            raise UnsupportedError(f"the emulator does not know {instruction}")
        count = int(count[1:])
        mask = self.mask(instruction)
        warps = self._whole_warps(mask)
        lanes = self.everybody.reshape(-1, 32)[warps][:, : 8 * count].reshape(-1)
        address = next(operand for operand in instruction.operands if type(operand) is Address)
        return count, how[0] == "trans", mask, warps, lanes, self._addresses(address, np.uint32, lanes)

    def load_matrices(self, instruction, _):
        count, transposed, mask, warps, lanes, addresses = self._matrix_access(instruction)
        # A row goes to four lanes, and not just to the one that gives its address: as if its neighbour read it, too.
        self.shared.load(lanes ^ 1, addresses, 2, 8, self.describe(lanes ^ 1))
        words = self.shared.load(lanes, addresses, 2, 8, self.describe(lanes))
        rows = np.stack(words, axis=-1).reshape(-1, count, 8, 8)
        for register, value in zip(instruction.operands[0].elements, warp.rows_to_fragments(rows, transposed), strict=True):
            everywhere = np.zeros((self.threads // 32, 32), np.uint32)
            everywhere[warps] = value
            self.write(register, everywhere.reshape(-1), mask)

    def store_matrices(self, instruction, _):
        _, transposed, _, warps, lanes, addresses = self._matrix_access(instruction)
        registers = [self._warps(element, np.uint32)[warps] for element in instruction.operands[1].elements]
        rows = warp.fragments_to_rows(registers, transposed).reshape(-1, 8)
        self.shared.store(lanes, addresses, list(np.ascontiguousarray(rows.T)), self.describe(lanes), by_several=True)


def _undefined(bits):
    """What a register holds that nothing wrote, for which compilers may have a use: NaN, an address that is nobody's."""
    return np.array(2**bits - 1, WORDS[bits])


def _bits(operand, kind):
    """Of a stored operand: those of its register, of which the lowest are stored."""
    return operand.bits if type(operand) is Register else 8 * np.dtype(DTYPES[kind]).itemsize


METHODS = {
    "mov": Launch.move,
    "ld": Launch.load,
    "st": Launch.store,
    "cvta": Launch.convert_address,
    "shfl": Launch.shuffle,
    "redux": Launch.reduce,
    "mma": Launch.multiply_matrices,
    "ldmatrix": Launch.load_matrices,
    "stmatrix": Launch.store_matrices,
    **dict.fromkeys(ENDS),
}
