"""The sums over programs of partial gradients: those of the network's weights, and those of the texture's convolution.

Both are summed by one launch, into one tensor: the convolution's first. Each partial sum is read once.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .constants import Sums
from .launch import INTERPRETED, Plan, accumulator, cdiv, launch, plan_of


@triton.jit
def _store_sums(ptr, n_rows, n_columns, sums_ptr, block, steps, C: tl.constexpr):
    """Store the sums over rows of one block of columns."""
    row = tl.arange(0, C.ROWS)
    column = block * C.COLUMNS + tl.arange(0, C.COLUMNS)
    column_mask = column < n_columns
    total = tl.zeros([C.ROWS, C.COLUMNS], C.ACC)
    for step in range(steps):
        offsets = (step * C.ROWS + row).to(tl.int64)[:, None] * n_columns + column[None, :]
        mask = (step * C.ROWS + row < n_rows)[:, None] & column_mask[None, :]
        total += tl.load(ptr + offsets, mask=mask, other=0.0)
    tl.store(sums_ptr + column, tl.sum(total, axis=0), mask=column_mask)


@triton.jit(do_not_specialize=["first_rows", "first_columns", "second_rows", "second_columns", "steps"])
def sum_rows_kernel(
    first_ptr, first_rows, first_columns,  # or None and zeros
    second_ptr, second_rows, second_columns,
    sums_ptr,  # (first_columns + second_columns,)
    steps, C: tl.constexpr,
):  # fmt: skip
    """One program sums COLUMNS columns of either, ROWS rows at a step."""
    pid = tl.program_id(0)
    if first_ptr is None:
        _store_sums(second_ptr, second_rows, second_columns, sums_ptr, pid, steps, C)
    else:
        blocks = tl.cdiv(first_columns, C.COLUMNS)
        if pid < blocks:
            _store_sums(first_ptr, first_rows, first_columns, sums_ptr, pid, steps, C)
        else:
            _store_sums(second_ptr, second_rows, second_columns, sums_ptr + first_columns, pid - blocks, steps, C)


def sum_rows(first: Tensor | None, second: Tensor, output: Tensor) -> None:
    """Write the sums over rows of ``first`` and of ``second``, one after the other, into the flat ``output``."""
    shapes = (0, 0) if first is None else first.shape, second.shape
    tensors = {"first_ptr": first, "second_ptr": second, "sums_ptr": output}
    launch(sum_rows_kernel, _plan(*shapes, second.dtype), output.device, tensors)


@functools.lru_cache(maxsize=1024)
def _plan(first: tuple[int, int], second: tuple[int, int], dtype: torch.dtype) -> Plan:
    # A row's 8 columns are the 32 bytes that are read at once; so many programs have few rows each. The interpreter's are few.
    rows, columns = (64, 512) if INTERPRETED else (256, 8)
    return plan_of(
        cdiv(first[1], columns) + cdiv(second[1], columns),
        first_rows=first[0],
        first_columns=first[1],
        second_rows=second[0],
        second_columns=second[1],
        steps=cdiv(max(first[0], second[0]), rows),
        C=Sums(ROWS=rows, COLUMNS=columns, ACC=accumulator(dtype)),
        num_warps=4,
    )
