"""PTX as Triton's compiler prints it: a kernel's parameters, registers and instructions.

Source: NVIDIA's "PTX ISA", whose terms are used throughout. What is not understood is an error, never skipped.
"""

import functools
import re
import struct
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class UnsupportedError(Exception):
    """PTX that the emulator does not know."""


class Register(NamedTuple):
    """``%r7``, of so many bits; a predicate has 1."""

    name: str
    bits: int


class Special(NamedTuple):
    """``%tid.x`` and its like."""

    name: str


class Immediate(NamedTuple):
    text: str

    @functools.cache  # noqa: B019  a named tuple of a few letters
    def value(self, dtype):
        """As a number of ``dtype``. Floating-point literals are bits; integers stand for bits too where a float is read."""
        text = self.text.rstrip("U")
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
            return np.float32(struct.unpack(">f", bytes.fromhex(text[2:]))[0]).view(np.uint32).view(dtype)
        if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
            return np.float64(struct.unpack(">d", bytes.fromhex(text[2:]))[0]).view(np.uint64).view(dtype)
        bits = 8 * np.dtype(dtype).itemsize
        return np.array(int(text, 0) % 2**bits, dtype=f"u{bits // 8}").view(dtype)[()]


class Symbol(NamedTuple):
    """A label, a parameter, or a variable in memory."""

    name: str


class Address(NamedTuple):
    base: object
    offset: int


class Vector(NamedTuple):
    """Operands in braces; None for ``_``."""

    elements: tuple


@dataclass(frozen=True)
class Instruction:
    opcode: str
    """The first part of the name."""
    modifiers: tuple[str, ...]
    operands: tuple
    guard: Register | None
    negated: bool
    line: int
    """The line in the PTX, counted from 1."""
    source: str
    """File, line and column that it was compiled from, if the PTX tells."""

    def __str__(self):
        return (
            f"{'.'.join((self.opcode, *self.modifiers))} (line {self.line} of the PTX, from {self.source or 'an unknown line'})"
        )


class Parameter(NamedTuple):
    offset: int
    size: int


@dataclass
class Kernel:
    name: str = ""
    threads: int = 0
    """Threads of a block, as the kernel requires."""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    """Index of the instruction that follows."""


REGISTER_BITS = {"pred": 1, "b16": 16, "b32": 32, "b64": 64}


def parse(text):
    """The one kernel of a PTX module."""
    return _Parser(text).kernel


class _Parser:
    def __init__(self, text):
        self.kernel = Kernel()
        self.registers = {}
        self.operands = {}
        self.scopes = [{}]
        self.source = ""
        self.in_body = False
        pending, start = "", 0
        for number, line in enumerate(text.splitlines(), 1):
            self._follow_source(line)
            code = line.partition("//")[0].strip()
            if not code or code.startswith((".loc", ".file")):
                continue
            if code.startswith(".section"):  # what follows is for debuggers
                break
            start = start if pending else number
            pending = self._statements(f"{pending} {code}".strip(), start)
        if pending or not self.kernel.name:
            raise UnsupportedError(f"PTX that does not end as expected, at line {start}: {pending[:100]!r}")

    def _follow_source(self, line):
        if match := re.match(r"\s*\.loc\s.*//\s*(\S+)", line):
            self.source = match[1]

    def _statements(self, code, line):
        """Take all whole statements off ``code``, and return what is left."""
        while code:
            if match := re.match(r"(\$?[\w$]+):\s*", code):
                self.kernel.labels[match[1]] = len(self.kernel.instructions)
            elif not self.in_body:
                match = self._header(code)
                if match is None:
                    return code
            elif match := re.match(r"([{}])\s*", code):
                self._scope(match[1])
            elif match := re.match(r"([^;]*);\s*", code):
                self._statement(match[1].strip(), line)
            else:
                return code
            code = code[match.end() :]
        return ""

    def _scope(self, brace):
        if brace == "{":
            self.scopes.append({})
        elif len(self.scopes) > 1:
            self.scopes.pop()
        if len(self.scopes) == 1:
            self.in_body = False

    def _header(self, code):
        """A directive outside of the body, or None if its end has not come yet."""
        if code.startswith((".version", ".target", ".address_size")):
            return re.match(r"\.\w+\s+[\w., ]+$", code)
        if code.startswith((".extern", ".global", ".const", ".weak")):
            return re.match(r"[^;]*;\s*", code)
        if match := re.match(r"\.visible\s+\.entry\s+(\w+)\s*\(([^)]*)\)", code):
            if self.kernel.name:
                raise UnsupportedError(f"a second kernel in one module: {match[1]}")
            self.kernel.name = match[1]
            self._parameters(match[2])
            return match
        if match := re.match(r"\.(reqntid|maxntid)\s+(\d+)(\s*,\s*1)*\s*", code):
            self.kernel.threads = int(match[2])
            return match
        if match := re.match(r"\.(minnctapersm|maxnreg)\s+\d+\s*", code):
            return match
        if self.kernel.name and (match := re.match(r"\{\s*", code)):
            self.in_body = True
            self._scope("{")
            return match
        if re.match(r"\.visible|\.entry", code):
            return None
        raise UnsupportedError(f"PTX directive {code[:100]!r}")

    def _parameters(self, declarations):
        offset = 0
        for declaration in filter(None, map(str.strip, declarations.split(","))):
            match = re.fullmatch(
                r"\.param\s+\.[a-z](\d+)(?:\s+\.ptr)?(?:\s+\.global)?(?:\s+\.align\s+\d+)?\s+(\w+)", declaration
            )
            if match is None:
                raise UnsupportedError(f"PTX parameter {declaration!r}")
            size = int(match[1]) // 8
            offset = -(-offset // size) * size
            self.kernel.parameters[match[2]] = Parameter(offset, size)
            offset += size

    def _statement(self, code, line):
        if match := re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", code):
            self._declare(REGISTER_BITS[match[1]], match[2])
            return
        if code.startswith(".pragma"):
            return
        match = re.fullmatch(r"(?:@(!?)(%?[\w$]+)\s+)?([a-z]\w*)((?:[.:]+\w+)*)\s*(.*)", code, re.DOTALL)
        if match is None:
            raise UnsupportedError(f"PTX statement at line {line}: {code[:100]!r}")
        guard = None if match[2] is None else self._register(match[2], line)
        operands = tuple(self._operand(text, line) for text in _split(match[5]))
        modifiers = tuple(re.findall(r"\w+(?:::\w+)*", match[4].replace("shared::cta", "shared")))  # two names of one space
        self.kernel.instructions.append(Instruction(match[3], modifiers, operands, guard, match[1] == "!", line, self.source))

    def _declare(self, bits, names):
        for name in map(str.strip, names.split(",")):
            if match := re.fullmatch(r"(%\w+)<(\d+)>", name):
                self.registers[match[1]] = bits
            else:
                self.scopes[-1][name] = Register(f"{name} of line {len(self.kernel.instructions)}", bits)

    def _register(self, name, line):
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        match = re.fullmatch(r"(%[a-z]+)\d+", name)
        if match is None or match[1] not in self.registers:
            raise UnsupportedError(f"PTX operand {name!r} at line {line}")
        return Register(name, self.registers[match[1]])

    def _operand(self, text, line):
        """An operand. Texts of the kernel's own registers are parsed once each."""
        if any(self.scopes):
            return self._new_operand(text, line)
        if text not in self.operands:
            self.operands[text] = self._new_operand(text, line)
        return self.operands[text]

    def _new_operand(self, text, line):
        if text == "_":
            return None
        if match := re.fullmatch(r"\{(.*)\}", text, re.DOTALL):
            return Vector(tuple(self._operand(element, line) for element in _split(match[1])))
        if match := re.fullmatch(r"\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\w+))?\s*\]", text):
            return Address(self._operand(match[1], line), int(match[2] or "0", 0))
        if re.fullmatch(r"%(tid|ntid|ctaid|nctaid|laneid|warpid)(\.[xyz])?", text):
            return Special(text)
        if text.startswith("%") or any(text in scope for scope in self.scopes):
            return self._register(text, line)
        if re.fullmatch(r"-?\d\w*", text):
            return Immediate(text)
        if re.fullmatch(r"\$?[A-Za-z_][\w$]*", text):
            return Symbol(text)
        raise UnsupportedError(f"PTX operand {text!r} at line {line}")


def _split(text):
    """Operands between commas, those inside braces together; two predicates as ``p|q`` are two operands."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,|{\[])+", text) if part.strip()]
