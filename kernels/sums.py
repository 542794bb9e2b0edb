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
def _load(ptr, row, column, n_rows, n_columns):
    """Some rows and columns, zero where there are none. The first columns may be negative."""
    offsets = row.to(tl.int64)[:, None] * n_columns + column[None, :]
    mask = (row < n_rows)[:, None] & ((column >= 0) & (column < n_columns))[None, :]
    return tl.load(ptr + offsets, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["first_rows", "first_columns", "second_rows", "second_columns", "rows"])
def sum_rows_kernel(
    first_ptr, first_rows, first_columns,  # or None and zeros
    second_ptr, second_rows, second_columns,
    sums_ptr,  # (first_columns + second_columns,)
    rows,  # the larger number of them
    C: tl.constexpr,
):  # fmt: skip
    """One program sums COLUMNS columns of either, ROWS rows at a step.

    Loads that are not of its own columns are masked. That costs less than to choose pointers, which takes two loops.
    """
    first_column = tl.program_id(0) * C.COLUMNS + tl.arange(0, C.COLUMNS)
    second_column = first_column
    if first_ptr is not None:
        second_column -= tl.cdiv(first_columns, C.COLUMNS) * C.COLUMNS
    total = tl.zeros([C.ROWS, C.COLUMNS], C.ACC)
    for first_row in range(0, rows, C.ROWS):
        row = first_row + tl.arange(0, C.ROWS)
        total += _load(second_ptr, row, second_column, second_rows, second_columns)
        if first_ptr is not None:
            total += _load(first_ptr, row, first_column, first_rows, first_columns)
    sums = tl.sum(total, axis=0)
    if first_ptr is not None:
        tl.store(sums_ptr + first_column, sums, mask=first_column < first_columns)
    mask = (second_column >= 0) & (second_column < second_columns)
    tl.store(sums_ptr + first_columns + second_column, sums, mask=mask)


def sum_rows(first: Tensor | None, second: Tensor, output: Tensor) -> None:
    """Write the sums over rows of ``first`` and of ``second``, one after the other, into the flat ``output``."""
    shapes = (0, 0) if first is None else first.shape, second.shape
    tensors = {"first_ptr": first, "second_ptr": second, "sums_ptr": output}
    launch(sum_rows_kernel, _plan(*shapes, second.dtype), output.device, tensors)


@functools.lru_cache(maxsize=1024)
def _plan(first: tuple[int, int], second: tuple[int, int], dtype: torch.dtype) -> Plan:
    # 8 columns of a row are the 32 bytes that are read at once, so that many programs share few rows. In the interpreter each
    # takes long.
    tile = (64, 512) if INTERPRETED else (512, 8)
    return plan_of(
        cdiv(first[1], tile[1]) + cdiv(second[1], tile[1]),
        first_rows=first[0],
        first_columns=first[1],
        second_rows=second[0],
        second_columns=second[1],
        rows=max(first[0], second[0]),
        C=Sums(ROWS=tile[0], COLUMNS=tile[1], ACC=accumulator(dtype)),
        num_warps=8,
    )
