"""Memory as a launch sees it, with every access checked: bounds, alignment, and races in shared memory.

Addresses of global memory are those of this process. An access is allowed inside the allocations that the launch was given.
"""

import ctypes
from typing import NamedTuple

import numpy as np


class FaultError(Exception):
    """An access that a GPU would not survive, or that has no defined result."""


class Allocation(NamedTuple):
    name: str
    start: int
    end: int


_LOWEST = 4096  # ctypes makes no array at address 0
_WORDS = {
    size: np.frombuffer((kind * ((1 << 47) // size)).from_address(_LOWEST), dtype=f"u{size}")
    for size, kind in ((1, ctypes.c_uint8), (2, ctypes.c_uint16), (4, ctypes.c_uint32), (8, ctypes.c_uint64))
}
"""All of this process's memory, as words of each size: an access looks at a word only after it was found to be allowed."""


class GlobalMemory:
    def __init__(self, allocations):
        self.allocations = sorted(allocations, key=lambda allocation: allocation.start)
        merged = [[0, 0]]  # so that there is one
        for _, start, end in self.allocations:
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([start, end])
        self.starts = np.array([start for start, _ in merged], np.uint64)
        self.ends = np.array([end for _, end in merged], np.uint64)

    def load(self, addresses, size):
        """Words at addresses that were checked."""
        return _WORDS[size][_word(addresses, size)]

    def store(self, addresses, values, describe):
        """The same. Threads that write otherwise at one address, at once, are an error: any of them may win on a GPU."""
        words, places = _WORDS[values.dtype.itemsize], _word(addresses, values.dtype.itemsize)
        words[places] = values
        conflict = words[places] != values
        if conflict.any():
            lane = np.flatnonzero(conflict)[0]
            raise FaultError(f"{describe(lane)} writes global memory that another thread writes otherwise at once")

    def check(self, addresses, size, verb, describe):
        """Raise unless all of ``size`` bytes at each address may be touched, and at once."""
        if (addresses % np.uint64(size)).any():
            lane = np.flatnonzero(addresses % np.uint64(size))[0]
            raise FaultError(
                f"{describe(lane)} {verb} {size} bytes at {int(addresses[lane]):#x}, which is no multiple of {size}"
            )
        index = np.searchsorted(self.starts, addresses, side="right") - 1
        left = self.ends[index] - addresses  # a huge number past the end
        outside = (index < 0) | (addresses >= self.ends[index]) | (left < np.uint64(size))
        if outside.any():
            lane = np.flatnonzero(outside)[0]
            raise FaultError(f"{describe(lane)} {verb} {size} bytes at {self._where(int(addresses[lane]))}")

    def _where(self, address):
        """Relative to the nearest allocation."""
        if not self.allocations:
            return f"{address:#x}, and the launch was given no memory"
        near = min(self.allocations, key=lambda a: max(a.start - address, address - a.end))
        if address < near.start:
            return f"{address:#x}, {near.start - address} bytes before {near.name}"
        return f"{address:#x}, {address - near.start} bytes into {near.name}, which has {near.end - near.start}"


def _word(addresses, size):
    return ((addresses - np.uint64(_LOWEST)) // np.uint64(size)).astype(np.int64)


class SharedMemory:
    """The shared memory of all blocks of a launch, side by side. Addresses start at 0 in each.

    Two accesses of one byte, one of them a write, by different threads, with no barrier between them that both threads took
    part in, are a race: of the block, or of their warp. Threads that write the same value at once are none.
    """

    def __init__(self, blocks, size, threads):
        self.given, self.size = size, -(-size // 16) * 16
        self.bytes = np.full((blocks, self.size), 0xCD, np.uint8).reshape(-1)
        self.words = {size: self.bytes.view(f"u{size}") for size in (1, 2, 4, 8)}
        self.threads = threads
        self.block_epoch = np.zeros(blocks, np.int64)
        self.warp_epoch = np.zeros(blocks * threads // 32, np.int64)
        self.written = _Shadow(self.bytes.size)
        self.read = _Shadow(self.bytes.size)

    def block_barrier(self, blocks):
        self.block_epoch[blocks] += 1

    def warp_barrier(self, warps):
        self.warp_epoch[warps] += 1

    def load(self, threads, addresses, size, words, describe):
        """``words`` words of ``size`` bytes behind one another at each address, [words, lanes]."""
        places = self._places(threads, addresses, size * words, "reads", describe)
        who, touched = self._touched(threads, places, size * words)
        self._check(self.written, who, touched, "reads", "wrote", describe)
        self._mark(self.read, who, touched, several=True)
        return [self.words[size][places // size + word] for word in range(words)]

    def store(self, threads, addresses, values, describe, by_several=False):
        """``values`` is a list of arrays, [lanes], that go behind one another; of several threads each if ``by_several``."""
        size = values[0].dtype.itemsize
        places = self._places(threads, addresses, size * len(values), "writes", describe)
        who, touched = self._touched(threads, places, size * len(values))
        self._check(self.written, who, touched, "writes", "wrote", describe)
        self._check(self.read, who, touched, "writes", "read", describe)
        for word, value in enumerate(values):
            self.words[size][places // size + word] = value
        for word, value in enumerate(values):
            conflict = self.words[size][places // size + word] != value
            if conflict.any():
                lane = np.flatnonzero(conflict)[0]
                raise FaultError(f"{describe(lane)} writes shared memory that another thread writes otherwise at once")
        self._mark(self.written, who, touched, several=False)
        if by_several:
            self.written.thread[touched] = _SEVERAL

    def _touched(self, threads, places, size):
        """Threads and bytes of an access, each [lanes, size]."""
        touched = places[:, None] + np.arange(size)
        return np.broadcast_to(threads[:, None], touched.shape), touched

    def _places(self, threads, addresses, size, verb, describe):
        addresses = addresses.astype(np.int64)
        wrong = (addresses % size != 0) | (addresses + size > self.given)
        if wrong.any():
            lane = np.flatnonzero(wrong)[0]
            problem = f"no multiple of {size}" if addresses[lane] % size else f"past the block's {self.given}"
            raise FaultError(f"{describe(lane)} {verb} {size} bytes of shared memory at {addresses[lane]}, which is {problem}")
        return addresses + threads // self.threads * self.size

    def _check(self, shadow, who, touched, verb, earlier, describe):
        thread = shadow.thread[touched]
        block = who // self.threads
        race = (thread != who) & (thread != _NOBODY) & (shadow.block_epoch[touched] == self.block_epoch[block])
        if not race.any():
            return
        same_warp = shadow.warp[touched] == who // 32
        race &= ~(same_warp & (shadow.warp_epoch[touched] < self.warp_epoch[who // 32]))
        if race.any():
            lane, byte = np.argwhere(race)[0]
            other = thread[lane, byte]
            name = f"thread {other % self.threads}" if other >= 0 else "several threads"
            raise FaultError(
                f"{describe(lane)} {verb} byte {touched[lane, byte] % self.size} of shared memory, "
                f"which {name} {earlier} with no barrier between"
            )

    def _mark(self, shadow, who, touched, several):
        block, warp = who // self.threads, who // 32
        thread, by_warp = who, warp
        if several:  # since the last barrier; earlier ones no longer matter
            known = (shadow.block_epoch[touched] == self.block_epoch[block]) & (shadow.thread[touched] != _NOBODY)
            other_warp = known & (shadow.warp[touched] != warp)
            known &= shadow.warp_epoch[touched] == self.warp_epoch[warp]
            thread = np.where(other_warp | (known & (shadow.thread[touched] != who)), _SEVERAL, who)
            by_warp = np.where(other_warp, _SEVERAL, warp)
        shadow.thread[touched] = thread
        shadow.warp[touched] = by_warp
        if several:  # of this very access: one of them is in the shadow now, the others see that it is not themselves
            shadow.warp[touched[shadow.warp[touched] != by_warp]] = _SEVERAL
            shadow.thread[touched[shadow.thread[touched] != thread]] = _SEVERAL
        shadow.block_epoch[touched] = self.block_epoch[block]
        shadow.warp_epoch[touched] = self.warp_epoch[warp]


_NOBODY, _SEVERAL = -1, -2


class _Shadow:
    """Who touched each byte last, and in which epoch of its block and warp."""

    def __init__(self, size):
        self.thread = np.full(size, _NOBODY, np.int64)
        self.warp = np.full(size, _NOBODY, np.int64)
        self.block_epoch = np.full(size, -1, np.int64)
        self.warp_epoch = np.full(size, -1, np.int64)
