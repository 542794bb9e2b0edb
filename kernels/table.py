"""Without texture: coefficients once for all pixels that lie alike between their taps, then weighted sums by that table.

    table[y, x] = the coefficients of the first target pixel of class (y, x), in float32
    y[c] = sum_k table[class of the pixel]_k . image[c, tap k]

Along each axis target pixels fall into classes (:func:`tritonds.geometry.phases`), numbered by their first pixels. The network
runs once a class. Per output pixel the sums read K * K coefficients, mostly from cache, and the taps of C channels.
"""

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import geometry
from . import relaunch
from .constants import Downsize, TabulatedSum
from .convolution import patch_slots
from .forward import infer
from .groups import Batch, Pixels, Plane, Target
from .launch import INTERPRETED, MAX_INT32, Plan, cdiv, launch, plan_of, registers, stride_arguments, tile_columns, tile_shape
from .network import load_network
from .plan import Call, Problem, forward_shape, network_constants, pointers, tiled
from .tile import channel_stride, first_tap, plane_at, tile_column, tile_pixels, unsigned

PIXELS_A_CLASS = 16
"""A table is made where an image has so many target pixels for each class, at least.

It then takes no more than 16 bytes a target pixel, and its network a sixteenth of what pixel by pixel it would take.
"""


@triton.jit
def _class_of(j, low, high, period):
    """The number of target pixel ``j``'s class."""
    inside = low + (unsigned(j - low) % unsigned(period)).to(j.dtype)
    return tl.where(j < low, j, tl.where(j < high, inside, j - high + low + period))


@triton.jit
def _first_of(number, low, high, period):
    """The first target pixel of a class."""
    return tl.where(number < low + period, number, number - low - period + high)


@triton.jit
def _row_fours(classes_w, C: tl.constexpr):
    """From one row of taps to the next, in fours of coefficients: K of each class, rounded up, since a load takes four."""
    return (C.TAPS + 3) // 4 * classes_w


@triton.jit(
    do_not_specialize=[
        "image_h", "image_w", "out_h", "out_w", "low_h", "high_h", "period_h", "low_w", "high_w", "period_w",
        "classes_h", "classes_w",
    ]
)  # fmt: skip
def coefficient_table_kernel(
    weights, coefficients_ptr, image_h, image_w, out_h, out_w, low_h, high_h, period_h, low_w, high_w, period_w,
    classes_h, classes_w, C: tl.constexpr,
):  # fmt: skip
    """One program writes the coefficients of a tile of classes: table[class y, ky, kx // 4, class x, kx % 4]."""
    network = load_network(weights, C)
    _, tile_y, tile_x = tile_column(tl.program_id(0), classes_h, classes_w, 1, C)
    classes = tile_pixels(tile_y, tile_x, classes_h, classes_w, C)
    y = _first_of(classes.y, low_h, high_h, period_h)
    x = _first_of(classes.x, low_w, high_w, period_w)
    image = Plane(coefficients_ptr, 0, 0, 0, image_h, image_w)
    pixels = Pixels(y, x, classes.mask, y, classes.row_mask)
    activations, _ = infer(network, (), None, 0, 0, pixels, image, None, Target(out_h, out_w, 0, 0, 0, 0), C)
    k = tl.arange(0, C.TAPS_PAD)[:, None]
    column = k % C.TAPS
    fours = (classes.y[None, :] * C.TAPS + k // C.TAPS) * _row_fours(classes_w, C) + column // 4 * classes_w
    offsets = (fours + classes.x[None, :]) * 4 + column % 4
    tl.store(coefficients_ptr + offsets, activations.coefficients, mask=classes.mask[None, :] & (k < C.TAPS * C.TAPS))


@triton.jit
def _load_four(pointers):
    """The four elements from each of ``pointers`` [BLOCK] on: each [BLOCK]."""
    elements = tl.load(pointers[:, None] + tl.arange(0, 4)[None, :])
    even, odd = tl.split(tl.reshape(elements, [pointers.shape[0], 2, 2]))
    a_0, a_2 = tl.split(even)
    a_1, a_3 = tl.split(odd)
    return a_0, a_1, a_2, a_3


@triton.jit
def _load_pixels(pointers, ACC: tl.constexpr):
    """Pixels as ACC. Bytes become the last bits of 2^23, which takes less time than to convert them."""
    pixel = tl.load(pointers)
    if pixel.dtype == tl.uint8:
        return (pixel.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0
    else:
        return pixel.to(ACC)


@triton.jit
def _pixel_stride(image, C: tl.constexpr):
    return C.PIXEL if C.PIXEL > 0 else image.stride_w


@triton.jit
def _add_row(totals, image, row, column, table_ptr, number, classes_w, CLAMPED: tl.constexpr, C: tl.constexpr):
    """``totals``, one a channel, plus one source row's taps, the first of which are those of ``column``."""
    line = image.ptr + tl.minimum(tl.maximum(row, 0), image.h - 1) * image.stride_h
    first = line + column * _pixel_stride(image, C)
    for k in tl.static_range(C.TAPS):
        if k % 4 == 0:
            a = _load_four(table_ptr + (number + k // 4 * classes_w) * 4)
        if CLAMPED:
            tap = line + tl.minimum(tl.maximum(column + k, 0), image.w - 1) * image.stride_w
        else:
            tap = first + k * _pixel_stride(image, C)
        added = ()
        for c in tl.static_range(len(totals)):
            total = tl.fma(a[k % 4], _load_pixels(tap, C.ACC), totals[c])
            added = added + (total,)  # type: ignore[assignment]  # grows, as only compiling may
            tap += channel_stride(image, C)
        totals = added
    return totals


@triton.jit(
    do_not_specialize=[
        "image_stride_n", "image_stride_c", "image_stride_h", "image_stride_w",
        "output_stride_n", "output_stride_c", "output_stride_h", "output_stride_w",
        "image_h", "image_w", "out_h", "out_w", "low_h", "high_h", "period_h", "low_w", "high_w", "period_w",
        "classes_w", "rows",
    ],
    do_not_specialize_on_alignment=["image_ptr", "output_ptr"],
)  # fmt: skip
def tabulated_sum_kernel(
    image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w,
    coefficients_ptr,
    output_ptr, output_stride_n, output_stride_c, output_stride_h, output_stride_w,
    image_h, image_w, out_h, out_w, low_h, high_h, period_h, low_w, high_w, period_w, classes_w, rows, C: tl.constexpr,
):  # fmt: skip
    """One program computes ``rows`` pieces of output rows, one below the other, all channels."""
    TOGETHER: tl.constexpr = C.CHANNELS if C.CHANNELS <= 4 or len(C.FACTORS) > 0 else 1
    images = Batch(image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w, image_h, image_w)
    n, tile_y, tile_x = tile_column(tl.program_id(0), out_h, out_w, rows, C)
    image = plane_at(n, images, 1)
    output_ptr += n * output_stride_n
    x = tile_pixels(tile_y, tile_x, out_h, out_w, C).x
    column = first_tap(x, image_w, out_w, C.TAPS)
    number_x = _class_of(x, low_w, high_w, period_w)
    # Only a piece with pixels next to the image's left or right edge has taps outside.
    inside = (tile_x * C.BLOCK_W >= low_w) & (tile_x * C.BLOCK_W + C.BLOCK_W <= high_w)
    border_rows = tl.where(inside, 0, C.TAPS)
    for step in range(rows):
        pixels = tile_pixels(tile_y + step, tile_x, out_h, out_w, C)
        row = first_tap(pixels.row, image_h, out_h, C.TAPS)
        number_y = _class_of(pixels.row, low_h, high_h, period_h)
        plane = image
        outputs = output_ptr + (pixels.row * output_stride_h + x * output_stride_w)
        for _ in range(C.CHANNELS // TOGETHER):
            table_ptr = coefficients_ptr + number_y * C.TAPS * _row_fours(classes_w, C) * 4
            totals = ()
            for c in tl.static_range(TOGETHER):  # noqa: B007
                zeros = tl.zeros([C.BLOCK_H * C.BLOCK_W], C.ACC)
                totals = totals + (zeros,)  # type: ignore[assignment]  # likewise
            for k in range(C.TAPS - border_rows):
                totals = _add_row(totals, plane, row + k, column, table_ptr, number_x, classes_w, False, C)
                table_ptr += _row_fours(classes_w, C) * 4
            for k in range(border_rows):
                totals = _add_row(totals, plane, row + k, column, table_ptr, number_x, classes_w, True, C)
                table_ptr += _row_fours(classes_w, C) * 4
            for c in tl.static_range(TOGETHER):
                total = totals[c]  # type: ignore[var-annotated]
                if len(C.FACTORS) > 0:
                    total = tl.fma(total, tl.full([1], C.FACTORS[c], C.ACC), tl.full([1], C.SUMMANDS[c], C.ACC))
                tl.store(outputs, total, mask=pixels.mask)
                outputs += output_stride_c
            plane = Plane(
                plane.ptr + TOGETHER * image_stride_c, image_stride_c, image_stride_h, image_stride_w, image_h, image_w
            )


class TablePlan(NamedTuple):
    """The two launches that take a fused one's place."""

    table: Plan
    sums: Plan
    elements: int
    """Of the table."""


def downsize_by_table(call: Call, problem: Problem, output: Tensor) -> bool:
    """Launch both kernels, if the coefficients of ``call`` follow from a table. Otherwise nothing is done."""
    plans = table_plan(problem)
    if plans is None:
        return False
    assert call.image is not None
    coefficients = relaunch.scratch(call.weights[-1], plans.elements, dtype=torch.float32)
    tensors = {"weights": pointers(call)["weights"], "coefficients_ptr": coefficients}
    launch(coefficient_table_kernel, plans.table, output.device, tensors)
    tensors = {"image_ptr": call.image, "coefficients_ptr": coefficients, "output_ptr": output}
    launch(tabulated_sum_kernel, plans.sums, output.device, tensors)
    return True


def phases_of(size_in: tuple[int, int], size: tuple[int, int], taps: int) -> list[geometry.Phases] | None:
    """Those of both axes, if target pixels have few classes."""
    y, x = (geometry.phases(n_in, n_out, taps) for n_in, n_out in zip(size_in, size, strict=True))
    periodic = y.inside >= y.period and x.inside >= x.period
    few = PIXELS_A_CLASS * y.count(size[0]) * x.count(size[1]) <= size[0] * size[1]
    return [y, x] if periodic and few else None


@functools.lru_cache(maxsize=1024)
def table_plan(problem: Problem) -> TablePlan | None:
    """None where texture has a say, for lists and float64, and where there are too many classes."""
    image, size, taps = problem.image, problem.output_size, problem.taps
    if image is None or problem.texture_channels or problem.dtype == torch.float64:
        return None
    axes = phases_of(problem.image_size, size, taps)
    if axes is None:
        return None
    counts = [axis.count(n) for axis, n in zip(axes, size, strict=True)]
    elements = counts[0] * counts[1] * taps * cdiv(taps, 4) * 4
    values = network_constants(problem)
    values["INDEX64"] |= elements > MAX_INT32
    integers = dict(
        image_h=problem.image_size[0],
        image_w=problem.image_size[1],
        out_h=size[0],
        out_w=size[1],
        low_h=axes[0].low,
        high_h=axes[0].high,
        period_h=axes[0].period,
        low_w=axes[1].low,
        high_w=axes[1].high,
        period_w=axes[1].period,
        classes_w=counts[1],
    )
    return TablePlan(_plan_of_table(problem, values, counts, integers), _plan_of_sums(problem, values, integers), elements)


def _plan_of_table(problem: Problem, values: dict[str, Any], counts: list[int], integers: dict[str, int]) -> Plan:
    # Nothing of the image matters here but its size.
    values = values | dict(CHANNELS=0, CHANNELS_LAST=True, SLOTS=patch_slots(0), FACTORS=(), SUMMANDS=())
    pixels, warps = forward_shape(values, problem.dtype)
    tile = tile_shape(pixels)
    programs = cdiv(counts[0], tile[0]) * cdiv(counts[1], tile[1])
    constants = Downsize(**values, **tiled(tile, warps))
    return plan_of(programs, **integers, classes_h=counts[0], C=constants, num_warps=warps)


def _plan_of_sums(problem: Problem, values: dict[str, Any], integers: dict[str, int]) -> Plan:
    assert problem.image is not None
    tile = (32, 32) if INTERPRETED else (1, 32)  # the interpreter's time is that of its operations, of whatever size
    programs, rows = tile_columns(problem.output.shape[0], *problem.output_size, tile)
    _, channel, _, pixel = problem.image.stride
    constants = TabulatedSum(
        BLOCK_H=tile[0],
        BLOCK_W=tile[1],
        INDEX64=values["INDEX64"],
        ACC=values["ACC"],
        CHANNELS=problem.channels,
        CHANNELS_LAST=channel == 1 or problem.channels == 1,
        PIXEL=pixel if pixel in (1, problem.channels) else 0,
        TAPS=problem.taps,
        FACTORS=problem.factors,
        SUMMANDS=problem.summands,
    )
    strides = stride_arguments("image", problem.image.stride) | stride_arguments("output", problem.output.stride)
    # Fewer would have it load a few taps, add them up, and load more.
    arguments = strides | integers | registers(128)
    return plan_of(programs, **arguments, rows=rows, C=constants, num_warps=1)
