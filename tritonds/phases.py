"""Layers without texture, on CPUs: coefficients once per size, and weighted sums as strided convolutions.

Without texture a pixel's coefficients follow from where it lies between its taps. Along an axis that turns ``step`` source
pixels into ``period`` target pixels, this repeats every ``period`` target pixels. Target pixels whose windows stick out of the
image are each a class of their own.

A convolution whose channels are neighbouring target columns multiplies other columns' taps by zero, so that it spreads NaN and
infinity: it serves finite pixels alone.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import geometry

LONGEST_PERIOD = 32
"""In target pixels. A convolution over more columns at once mostly multiplies by zero."""
CHANNELS = 8
"""Columns that a convolution yields at once: what PyTorch's convolutions on CPUs are fast with."""


class Rows(NamedTuple):
    """Target rows of one class: ``length`` of them from ``start`` on, ``period`` apart."""

    number: int
    """Of the class."""
    start: int
    length: int


class Columns(NamedTuple):
    """Target columns from ``start`` on, ``blocks`` times as many as there are classes."""

    start: int
    blocks: int
    classes: list[int]
    """The number of each column's class in a block."""
    taps: list[list[int]]
    """The K source columns that each column of the first block reads, counted from ``first``."""
    first: int
    span: int
    """How many source columns a block reads."""
    stride: int
    """Source columns from one block to the next."""


class Axis:
    """One axis of a resize, whose target pixels fall into few classes.

    Classes are numbered in the order of their first target pixels, :attr:`targets`.
    """

    def __init__(self, n_in: int, n_out: int, taps: int) -> None:
        self.n_in, self.n_out, self.taps = n_in, n_out, taps
        phases = geometry.phases(n_in, n_out, taps)
        self.low, self.high, self.period, self.step = phases
        self.is_periodic = self.period <= LONGEST_PERIOD and phases.inside >= self.period
        self.targets = [*range(self.low + self.period), *range(self.high, n_out)]

    def numbers(self, targets: range) -> list[int]:
        """The class of each."""
        inside = range(self.low, self.high)
        beyond = self.low + self.period - self.high
        return [self.low + (j - self.low) % self.period if j in inside else j if j < self.low else j + beyond for j in targets]

    def rows(self, targets: range) -> Iterator[Rows]:
        """The ``targets`` by class."""
        for j in targets:
            if j not in range(self.low, self.high):
                yield Rows(self.numbers(range(j, j + 1))[0], j, 1)
        start, stop = max(targets.start, self.low), min(targets.stop, self.high)
        for j in range(start, min(start + self.period, stop)):
            yield Rows(self.numbers(range(j, j + 1))[0], j, len(range(j, stop, self.period)))

    @functools.cached_property
    def columns(self) -> list[Columns]:
        """All targets in groups: those on the left, whole blocks inside, the rest on the right."""
        width = self.period * max(1, CHANNELS // self.period)
        blocks = (self.high - self.low) // width
        rest = self.low + blocks * width
        groups = [(range(self.low), 1), (range(self.low, self.low + width), blocks), (range(rest, self.n_out), 1)]
        return [self._columns(block, count) for block, count in groups if block and count]

    def _columns(self, block: range, blocks: int) -> Columns:
        windows = [self.window(j, j) for j in block]
        first, last = windows[0][0], windows[-1][-1]
        taps = [[i - first for i in window] for window in windows]
        stride = self.step * len(block) // self.period if blocks > 1 else last - first + 1
        return Columns(block.start, blocks, self.numbers(block), taps, first, last - first + 1, stride)

    def window(self, first: int, last: int) -> list[int]:
        """The source pixels under the windows of two targets and between them, the image's edges repeated."""
        begin, end = (geometry.first_tap(j, self.n_in, self.n_out, self.taps) for j in (first, last))
        return [min(max(i, 0), self.n_in - 1) for i in range(begin, end + self.taps)]

    def source(self, x: Tensor, rows: Rows, first: int) -> Tensor:
        """The rows of ``x`` (N, 1, R, W) under the windows of ``rows``; ``x`` begins with source row ``first``."""
        window = self.window(rows.start, rows.start + (rows.length - 1) * self.period)
        if window[-1] - window[0] + 1 == len(window):
            return x[:, :, window[0] - first : window[-1] - first + 1]
        return x.index_select(2, torch.tensor(window, device=x.device) - first)


@functools.lru_cache(maxsize=256)
def axes_of(size_in: tuple[int, int], size: tuple[int, int], taps: int) -> tuple[Axis, Axis] | None:
    """Both axes, unless that would leave about as many classes as there are target pixels."""
    y, x = (Axis(n_in, n_out, taps) for n_in, n_out in zip(size_in, size, strict=True))
    few = 2 * len(y.targets) * len(x.targets) <= size[0] * size[1]
    return (y, x) if few and y.is_periodic and x.is_periodic else None


def filters(table: Tensor, y: Axis, x: Axis) -> list[Tensor]:
    """The coefficients (K*K, 1, classes, classes) as filters, for each group of columns: (classes, columns, 1, K, span)."""
    square = table.view(y.taps, y.taps, len(y.targets), len(x.targets))
    result = []
    for group in x.columns:
        own = square[..., group.classes].permute(2, 3, 0, 1)
        zeros = own.new_zeros(*own.shape[:3], group.span)
        taps = torch.tensor(group.taps, device=own.device)[:, None].expand_as(own)
        result.append(zeros.scatter_add(3, taps, own).unsqueeze(2))
    return result


class WeightedSum(torch.autograd.Function):
    """Weighted sums (n, C, rows, w) of finite pixels (n, C, R, W), the first of which is row ``first`` of the source.

    Differentiable in the filters alone.
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, first: int, axes: tuple[Axis, Axis], targets: range, *filters: Tensor) -> Tensor:
        ctx.save_for_backward(pixels, *filters)
        ctx.call = first, axes, targets
        result = pixels.new_empty(*pixels.shape[:2], len(targets), axes[1].n_out)
        for piece in _pieces(pixels, result, first, axes, targets):
            weight = filters[piece.group][piece.number]
            piece.results.copy_(F.conv2d(piece.source, weight, stride=piece.stride))
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        pixels, *filters = ctx.saved_tensors
        grads = [torch.zeros_like(f) for f in filters]
        for piece in _pieces(pixels, grad_output.contiguous(), *ctx.call):
            weight = filters[piece.group][piece.number]
            call = (piece.results, piece.source, weight, None, piece.stride, (0, 0), (1, 1), False, (0, 0), 1)
            grads[piece.group][piece.number] += torch.ops.aten.convolution_backward(*call, (False, True, False))[1]
        return None, None, None, None, *grads


class _Piece(NamedTuple):
    """One convolution: rows of one class, and one group of columns."""

    group: int
    number: int
    """Of the class of rows."""
    source: Tensor
    """(n * C, 1, rows, columns)"""
    results: Tensor
    """(n * C, columns of a block, rows, blocks): a view of the results, or of their gradients."""
    stride: tuple[int, int]


def _pieces(pixels: Tensor, results: Tensor, first: int, axes: tuple[Axis, Axis], targets: range) -> Iterator[_Piece]:
    y, x = axes
    planes, results = pixels.contiguous().flatten(0, 1).unsqueeze(1), results.flatten(0, 1)
    for rows in y.rows(targets):
        source = y.source(planes, rows, first)
        start = rows.start - targets.start
        own = results[:, start : start + (rows.length - 1) * y.period + 1 : y.period]
        for group, columns in enumerate(x.columns):
            count = len(columns.classes)
            part = own[..., columns.start : columns.start + columns.blocks * count].unflatten(2, (columns.blocks, count))
            reach = columns.stride * (columns.blocks - 1) + columns.span
            window = source[..., columns.first : columns.first + reach]
            yield _Piece(group, rows.number, window, part.permute(0, 3, 1, 2), (y.step, columns.stride))
