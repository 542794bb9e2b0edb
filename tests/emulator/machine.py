"""A launch of a kernel, executed: every instruction for all threads of all blocks at once, one element of an array each.

Threads that went different ways are at different blocks of instructions. Always the first block in the order of ``flow`` that
any thread is at is executed, by the threads that are there. A thread at a barrier waits for the others of its thread block.
"""

import functools

import numpy as np

from . import arithmetic, flow, ptx, warp
from .arithmetic import DTYPES
from .memory import FaultError, GlobalMemory, SharedMemory
from .operands import WORDS, Operands
from .ptx import Address, Immediate, Register, UnsupportedError, Vector

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


class Launch(Operands):
    """One launch of the kernel in ``text``, with the raw bytes of its parameters, on the memory that it was given.

    ``grid`` and ``block`` are (x, y, z); ``shared`` is the size of a block's shared memory in bytes.
    """

    def __init__(self, text, grid, block, shared, parameters, allocations):
        kernel, self.blocks, self.places = program(text)
        super().__init__(kernel, grid, block, parameters)
        if block[1:] != (1, 1) or grid[1:] != (1, 1) or block[0] % 32:
            raise UnsupportedError(f"the emulator launches whole warps along x alone, not a grid of {grid} blocks of {block}")
        if self.kernel.threads and self.kernel.threads != block[0]:
            raise FaultError(
                f"{self.kernel.name} requires blocks of {self.kernel.threads} threads, and was launched with {block[0]}"
            )
        self.memory = GlobalMemory(allocations)
        self.shared = SharedMemory(grid[0], shared, block[0])

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
            self.check_members(instruction.operands[0], mask)
            self.shared.warp_barrier(self.whole_warps(mask))
        else:
            self._arrive(instruction, mask, active)

    def _arrive(self, instruction, mask, active):
        known = instruction.opcode == "bar" and instruction.modifiers == ("sync",)
        if not known or instruction.operands != (Immediate("0"),) or instruction.guard is not None:
            raise UnsupportedError(f"the emulator does not know {instruction}")
        self.whole_warps(mask)  # all of a warp at the same barrier
        self.waiting |= mask
        self._release()

    def _release(self):
        """Let those blocks go on whose threads have all arrived or ended."""
        waiting = self.waiting.reshape(-1, self.per_block)
        arrived = (waiting | self.done.reshape(-1, self.per_block)).all(axis=1) & waiting.any(axis=1)
        waiting[arrived] = False
        self.shared.block_barrier(arrived)

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
            self.unpack(target, value, self.mask(instruction))
        else:
            self.write(target, value, self.mask(instruction))

    def load(self, instruction, _):
        *how, kind = instruction.modifiers
        space, *vector = how
        target, address = instruction.operands
        targets = target.elements if type(target) is Vector else (target,)
        if vector not in ([], [f"v{len(targets)}"]):
            raise UnsupportedError(f"the emulator does not know {instruction}")
        if space == "param":
            self.write(target, self.parameter(address, DTYPES[kind], target.bits), self.mask(instruction))
            return
        mask, size = self.mask(instruction), np.dtype(DTYPES[kind]).itemsize
        lanes = self.lanes(mask)
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
            places = self.addresses(address, np.uint32, lanes)
            return self.shared.load(lanes, places, size, words, self.describe(lanes))
        if space != "global":
            raise UnsupportedError(f"the emulator does not know {instruction}")
        places = self.addresses(address, np.uint64, lanes)
        self.memory.check(places, size * words, "reads", self.describe(lanes))
        return [self.memory.load(places + np.uint64(size * word), size) for word in range(words)]

    def store(self, instruction, _):
        *how, kind = instruction.modifiers
        space, *vector = how
        address, source = instruction.operands
        sources = source.elements if type(source) is Vector else (source,)
        if vector not in ([], [f"v{len(sources)}"]) or space not in ("global", "shared"):
            raise UnsupportedError(f"the emulator does not know {instruction}")
        lanes = self.lanes(self.mask(instruction))
        word = WORDS[8 * np.dtype(DTYPES[kind]).itemsize]
        values = [self.at(lanes, self.value(operand, WORDS[_bits(operand, kind)])).astype(word) for operand in sources]
        if space == "shared":
            self.shared.store(lanes, self.addresses(address, np.uint32, lanes), values, self.describe(lanes))
            return
        places = self.addresses(address, np.uint64, lanes)
        size = np.dtype(word).itemsize
        self.memory.check(places, size * len(values), "writes", self.describe(lanes))
        for index, value in enumerate(values):
            self.memory.store(places + np.uint64(size * index), value, self.describe(lanes))

    def convert_address(self, instruction, _):
        """Global addresses are the generic ones here."""
        if instruction.modifiers not in (("to", "global", "u64"), ("global", "u64")):
            raise UnsupportedError(f"the emulator does not know {instruction}")
        target, source = instruction.operands
        self.write(target, np.asarray(self.value(source, np.uint64)), self.mask(instruction))

    def shuffle(self, instruction, _):
        if len(instruction.modifiers) != 3 or instruction.modifiers[0] != "sync" or instruction.modifiers[2] != "b32":
            raise UnsupportedError(f"the emulator does not know {instruction}")
        target, *operands = instruction.operands
        valid = operands.pop(0) if len(operands) == 5 else None
        mask = self.mask(instruction)
        self.whole_warps(mask)
        self.check_members(operands[3], mask)
        x, b, c = (self.warps(operand, np.uint32) for operand in operands[:3])
        result, in_range = warp.shuffle(instruction.modifiers[1], x, b.astype(np.int64), c.astype(np.int64))
        self.write(target, result.reshape(-1), mask)
        self.write(valid, in_range.reshape(-1), mask)

    def reduce(self, instruction, _):
        how, operation, kind = instruction.modifiers
        target, source, members = instruction.operands
        if how != "sync":
            raise KeyError(how)
        mask = self.mask(instruction)
        self.whole_warps(mask)
        self.check_members(members, mask)
        self.write(target, warp.reduce(operation, self.warps(source, DTYPES[kind])).reshape(-1), mask)

    def multiply_matrices(self, instruction, _):
        *how, shape, a_order, b_order, to, left, right, of = instruction.modifiers
        accumulates = {"f64": "f64"}.get(left, "f32")
        known = (shape, left) in warp.FRAGMENTS and (a_order, b_order) == ("row", "col") and left == right
        if how != ["sync", "aligned"] or not known or to != accumulates or of != accumulates:
            raise UnsupportedError(f"the emulator does not know {instruction}")
        mask = self.mask(instruction)
        self.whole_warps(mask)
        target, *operands = instruction.operands
        bits = np.uint64 if left == "f64" else np.uint32
        a, b, c = ([self.warps(element, bits) for element in operand.elements] for operand in operands)
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
        warps = self.whole_warps(mask)
        lanes = self.everybody.reshape(-1, 32)[warps][:, : 8 * count].reshape(-1)
        address = next(operand for operand in instruction.operands if type(operand) is Address)
        return count, how[0] == "trans", mask, warps, lanes, self.addresses(address, np.uint32, lanes)

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
        registers = [self.warps(element, np.uint32)[warps] for element in instruction.operands[1].elements]
        rows = warp.fragments_to_rows(registers, transposed).reshape(-1, 8)
        self.shared.store(lanes, addresses, list(np.ascontiguousarray(rows.T)), self.describe(lanes), by_several=True)


def _bits(operand, kind):
    """The bits of a stored operand: those of its register, of which the lowest are stored."""
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
