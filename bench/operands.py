"""Operands of matrix products that a kernel's registers hold more than once, read off Triton's intermediate representation.

Triton lays out an operand for the fewest bits that anything it derives from was loaded in, whether or not there is as much of
the inner dimension. Where there is less, threads hold elements that others have too, and the product may count them so.
"""

import re

OPERAND = re.compile(
    r"tensor<(?P<shape>[\dx]+)x(?P<dtype>\w+), "
    r"#ttg\.dot_op<\{opIdx = (?P<index>[01]), parent = (?P<parent>#\w+)(?:, kWidth = (?P<width>\d+))?\}>>"
)
PARENT = re.compile(r"^(#\w+) = #ttg\.(\w+)<\{(.*)\}>", re.MULTILINE)
PRODUCT = re.compile(r"(%\S+) = (?:tt\.dot|ttng\.warp_group_dot) (.*)")


def repeated_operands(ttgir: str) -> list[str]:
    """Each such operand of a kernel, with the product's name and the layouts."""
    parents = {name: (kind, fields) for name, kind, fields in PARENT.findall(ttgir)}
    products = PRODUCT.findall(ttgir)
    if "dot_op" in ttgir and not products:
        raise ValueError("there are operands, but no product was found")
    found = []
    for product, types in products:
        operands = list(OPERAND.finditer(types))
        if len(operands) != types.count("dot_op"):
            raise ValueError(f"not understood: {product}, {types}")
        for operand in operands:
            kind, fields = parents[operand["parent"]]
            shape = [int(size) for size in operand["shape"].split("x")]
            inner = shape[-1] if operand["index"] == "0" else shape[-2]
            held = _held(kind, fields, int(operand["width"] or 0))
            if held > inner:
                found.append(f"{product}: {operand[0]} holds {held} of {inner}, with parent {kind}<{fields}>")
    return found


def _held(kind: str, fields: str, width: int) -> int:
    """Elements of the inner dimension that a layout holds before it repeats, as Triton makes linear layouts of these.

    ``width`` is how many neighbours a thread holds, which is what follows the bits loaded.
    """
    if kind == "blocked":
        return 0  # multiplied without matrix units, by threads that hold all of the inner dimension each, whatever its size
    if kind == "nvidia_mma":
        # Four threads share a row, each with a run of ``width`` in either half of the tile; so do warp groups, from registers.
        # Triton 3.6 to 3.8 multiply twice what there is rightly: a thread's halves are alike then, and one is left out. Beyond
        # that threads are alike, and all are counted. Neither is wanted.
        return 8 * width
    if kind == "amd_mfma":
        # As many of 64 threads have a run of ``width`` each as the smaller side of the instruction leaves.
        instruction = re.search(r"instrShape = \[(\d+), (\d+)", fields)
        assert instruction, fields
        return 64 // min(int(instruction[1]), int(instruction[2])) * width
    raise ValueError(f"how operands of {kind} lie is not known here")
