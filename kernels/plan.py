"""The launches of the fused kernels: from what an operator is given to programs, integers and constants.

Plans are kept for what determines them, since making one takes longer than the launch itself.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from .area_pool import bins, in_whole_bins
from .constants import Convolution, ConvolutionGradImage, Downsize, DownsizeBackward, Pooling
from .convolution import patch_slots
from .groups import TextureWeights, Weights
from .launch import (
    Layout,
    Plan,
    accumulator,
    aligned_strides,
    dot_precision,
    layout,
    needs_int64,
    next_power_of_2,
    padded,
    plan_of,
    registers,
    stride_arguments,
    tile_columns,
    tile_shape,
)

MAX_BACKWARD_PROGRAMS = 1056
"""Programs of the backward kernel, each with partial weight gradients: eight for each of an H200's 132 processors, or more."""


class Call(NamedTuple):
    """The arguments of an operator, beside its result or the gradient of that."""

    image: Tensor | None
    """A batch (N, C, H, W), or the first image of a table; None if coefficients alone are wanted."""
    image_size: tuple[int, int]
    texture: Tensor | None
    weights: Sequence[Tensor]
    """Flat: weight and bias of the distance encoding if ``distance``, of each hidden layer, of the output layer."""
    distance: bool
    taps: int
    prior: str
    texture_weights: Sequence[Tensor] = ()
    """Weight and bias of the texture's convolution of the image, in place of ``texture``."""
    factors: tuple[float, ...] = ()
    """A pixel is normalised as pixel * factor + summand, each of its channel; without factors it is not."""
    summands: tuple[float, ...] = ()
    fill: float | None = None
    """The value around letterboxed images; None stretches them."""
    table: Tensor | None = None
    """A row for each of several images of different sizes."""
    index64: bool = False
    """Whether the table's images need 64-bit integers."""
    channels_last: bool = False
    """Whether all images are channels-last."""


def texture_weight_pointers(call: Call) -> TextureWeights:
    """Weight and bias of the texture's convolution."""
    weight, bias = call.texture_weights or (None, None)
    return TextureWeights(weight, None if bias is None else bias.contiguous())


def pointers(call: Call) -> dict[str, Any]:
    """The tensors that forward and backward kernels read, by argument."""
    weights = [t.contiguous() for t in call.weights]
    distance = weights[:2] if call.distance else [None, None]
    hidden = [*weights[2 if call.distance else 0 : -2], *[None] * 6][:6]
    return {
        "image_ptr": call.image,
        "texture_ptr": call.texture,
        "table_ptr": call.table,
        "texture_weights": texture_weight_pointers(call),
        "weights": Weights(*[*distance, *hidden, weights[-2], weights[-1]]),
    }


class Problem(NamedTuple):
    """Everything that determines a launch, except the tensors. ``output`` may be its gradient."""

    image: Layout | None
    """None also if there is a table."""
    channels: int
    image_size: tuple[int, int]
    texture: Layout | None
    texture_weight: Layout | None
    weights: tuple[tuple[int, ...], ...]
    distance: bool
    output: Layout
    dtype: torch.dtype
    taps: int
    prior: str
    precision: str
    table: bool
    index64: bool
    channels_last: bool
    factors: tuple[float, ...]
    summands: tuple[float, ...]
    fill: float | None
    bytes: bool
    """Whether the image is of uint8."""

    @property
    def texture_channels(self) -> int:
        return self.texture_weight.shape[0] if self.texture_weight else self.texture.shape[1] if self.texture else 0

    @property
    def texture_size(self) -> tuple[int, int]:
        return (self.texture.shape[2], self.texture.shape[3]) if self.texture else self.image_size

    @property
    def output_size(self) -> tuple[int, int]:
        return self.output.shape[2], self.output.shape[3]


def problem_of(call: Call, output: Tensor) -> Problem:
    image, ragged, weights = call.image, call.table is not None, call.weights
    dtype = weights[-1].dtype
    shapes = tuple([t.shape for t in weights])  # faster than from a generator
    return Problem(
        None if ragged else layout(image), 0 if image is None else image.shape[-3], call.image_size, layout(call.texture),
        layout(call.texture_weights[0]) if call.texture_weights else None, shapes, call.distance,
        Layout(output.shape, output.stride()), dtype, call.taps, call.prior, dot_precision(dtype), ragged, call.index64,
        call.channels_last, call.factors, call.summands, call.fill, image is not None and image.dtype == torch.uint8,
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def forward_plan(problem: Problem) -> Plan:
    values = network_constants(problem)
    pixels, warps = forward_shape(values, problem.dtype)
    tile = tile_shape(pixels)
    columns, rows = tile_columns(problem.output.shape[0], *problem.output_size, tile)
    arguments = _image_integers(problem) | _texture_integers(problem)
    # Where all of a row's texture can be loaded at once, saving registers would load it bit by bit.
    light = problem.dtype.itemsize == 2 and problem.texture is not None and problem.taps <= 2
    if light and values["TEXTURE"].values["BIN_W"] > 0:
        arguments |= registers(255)
    if values["FUSED_TEXTURE"] and warps == 1:
        arguments |= _registers_from_images(problem, values)
    return plan_of(columns, **arguments, rows=rows, C=Downsize(**values, **tiled(tile, warps)), num_warps=warps)


class BackwardPlan(NamedTuple):
    plan: Plan
    pooled: bool
    """Whether the kernel writes the gradient to the pooled texture."""
    direct: bool
    """Whether the kernel writes the gradient to the texture itself."""


@functools.lru_cache(maxsize=1024)
def backward_plan(problem: Problem, to_image: bool, grad_texture: Layout | None, weights: int) -> BackwardPlan:
    """``weights``: how many gradients to weights there are, the convolution's not counted; 0 if they are not wanted."""
    values = network_constants(problem)
    # Known columns alone are worth a kernel of their own in the forward pass only.
    values["TEXTURE"] = Pooling(**(values["TEXTURE"].values | {"BIN_W": values["TEXTURE"].values["BIN_H"]}))
    pixels, warps = _backward_shape(values, problem.dtype)
    tile = tile_shape(pixels)
    batch, (out_h, out_w), taps = problem.output.shape[0], problem.output_size, problem.taps
    total_columns, rows = tile_columns(batch, out_h, out_w, tile)
    strides = aligned_strides(grad_texture)
    # Where every source pixel lies in one bin, its gradient is that of the bin over the bin's size: it is written at once.
    direct = grad_texture is not None and strides.channels_last and in_whole_bins(problem.texture_size, (out_h, out_w))
    pooled = (grad_texture is not None and not direct) or problem.texture_weight is not None
    written = [_dense(batch, out_h, out_w, problem.texture_channels)] if pooled else []
    written += [_dense(batch, out_h, out_w, taps * taps)] if to_image else []
    values["INDEX64"] |= needs_int64([], [*written, grad_texture])
    constants = DownsizeBackward(
        **values,
        **tiled(tile, warps),
        WEIGHTS=weights,
        GRAD_POOLED=pooled,
        GRAD_TEXTURE=direct,
        GRAD_TEXTURE_ALIGN=strides.align if direct else 1,
        COEFFICIENTS=to_image,
        GRAD_WEIGHTS=weights > 0,
    )
    arguments = dict(
        **stride_arguments("grad_texture", (strides.n, strides.h, strides.w), "nhw"),
        total_columns=total_columns,
        rows=rows,
        C=constants,
        num_warps=warps,
    )
    resident, most = _backward_residents(problem, values)
    arguments |= _image_integers(problem) | _texture_integers(problem) | registers(most)
    return BackwardPlan(plan_of(min(total_columns, MAX_BACKWARD_PROGRAMS * resident // 8), **arguments), pooled, direct)


@functools.lru_cache(maxsize=1024)
def grad_texture_weights_plan(problem: Problem, index64: bool) -> Plan:
    """The launch for the gradients to weight and bias of the texture's convolution. ``index64`` is the backward kernel's."""
    values = _convolution_constants(problem) | {"INDEX64": index64}
    pixels, warps = _texture_weights_shape(values, problem.dtype)
    tile = tile_shape(pixels)
    total_columns, rows = tile_columns(problem.output.shape[0], *problem.output_size, tile)
    arguments = dict(total_columns=total_columns, rows=rows, C=Convolution(**values, **tiled(tile, warps)), num_warps=warps)
    return plan_of(min(total_columns, MAX_BACKWARD_PROGRAMS), **_image_integers(problem), **arguments)


@functools.lru_cache(maxsize=1024)
def grad_image_plan(problem: Problem, grad_image: Layout, index64: bool) -> Plan:
    """The launch for the gradient that reaches the image by way of the texture. ``index64`` is the backward kernel's."""
    batch, (out_h, out_w), (image_h, image_w) = problem.output.shape[0], problem.output_size, problem.image_size
    values = _convolution_constants(problem)
    # The bins are those of the gradient's pixels that hold a pixel of the image.
    bin_h, bin_w, static, whole, _ = bins((out_h, out_w), (image_h, image_w))
    strides = aligned_strides(_channels_last(batch, out_h, out_w, problem.texture_channels))
    known = {"ALIGN": strides.align, "DENSE": True, "BIN_H": static, "BIN_W": static, "BINS_WHOLE": whole}
    values["TEXTURE"] = Pooling(**(values["TEXTURE"].values | known))
    values["INDEX64"] = index64 or needs_int64([], [grad_image])
    tile, warps = tile_shape(32), 1 if problem.dtype.itemsize == 2 else 4
    columns, rows = tile_columns(batch, image_h, image_w, tile)
    arguments = dict(
        **stride_arguments("grad_pooled", (strides.n, strides.h, strides.w), "nhw"),
        **stride_arguments("grad_image", grad_image.stride),
        bin_h=bin_h,
        bin_w=bin_w,
        rows=rows,
        C=ConvolutionGradImage(**values, **tiled(tile, warps), CHANNELS_PAD=next_power_of_2(problem.channels)),
        num_warps=warps,
    )
    return plan_of(columns, **_image_integers(problem) | arguments)


def tiled(tile: tuple[int, int], warps: int) -> dict[str, Any]:
    return {"BLOCK_H": tile[0], "BLOCK_W": tile[1], "WARPS": min(warps, tile[0] * tile[1] // 16)}


def _dense(n: int, h: int, w: int, channels: int) -> Layout:
    """The layout of a dense tensor (n, h, w, channels)."""
    return Layout((n, h, w, channels), (h * w * channels, w * channels, channels, 1))


def _channels_last(n: int, h: int, w: int, channels: int) -> Layout:
    """The layout of the same tensor, seen as (n, channels, h, w)."""
    return Layout((n, channels, h, w), (h * w * channels, 1, w * channels, channels))


def _texture_bins(problem: Problem) -> tuple[int, int, int, bool, bool]:
    """:func:`bins` of a texture whose images share them. In a table every image has bins of its own, so all is 0 here."""
    if problem.table or not (problem.texture or problem.texture_weight):
        return 0, 0, 0, False, False
    bin_h, bin_w, static, whole, narrow = bins(problem.texture_size, problem.output_size)
    if not (whole and static == 2):  # all other scales share a kernel, or two
        static, whole = 0, False
    return bin_h, bin_w, static, whole, narrow


def _image_integers(problem: Problem) -> dict[str, int]:
    """The integers of image, result and bins, by argument."""
    strides = problem.image.stride if problem.image else (0, 0, 0, 0)
    bin_h, bin_w, *_ = _texture_bins(problem)
    return dict(
        **stride_arguments("image", strides),
        image_h=problem.image_size[0],
        image_w=problem.image_size[1],
        out_h=problem.output_size[0],
        out_w=problem.output_size[1],
        bin_h=bin_h,
        bin_w=bin_w,
    )


def _texture_integers(problem: Problem) -> dict[str, int]:
    """The integers of texture and result, by argument."""
    strides, (texture_h, texture_w) = aligned_strides(problem.texture), problem.texture_size
    integers = stride_arguments("texture", strides[:4]) | {"texture_h": texture_h, "texture_w": texture_w}
    return integers | stride_arguments("output", problem.output.stride)


def _convolution_constants(problem: Problem) -> dict[str, Any]:
    """The constants of :class:`Convolution`, but for the tile."""
    _, _, static, whole, narrow = _texture_bins(problem)
    strides = aligned_strides(problem.texture)
    channels, acc = problem.texture_channels, accumulator(problem.dtype)
    axes = [
        *zip(problem.image_size, problem.output_size, strict=True),
        *zip(problem.texture_size, problem.output_size, strict=True),
    ]
    texture = Pooling(
        CHANNELS=channels,
        CHANNELS_PAD=padded(channels),
        CHANNELS_LAST=strides.channels_last,
        ALIGN=strides.align,
        DENSE=strides.dense,
        BIN_H=static,
        BIN_W=static or (3 if problem.texture and narrow else 0),
        BINS_WHOLE=whole,
        ACC=acc,
    )
    return dict(
        INDEX64=problem.index64 or needs_int64(axes, [problem.image, problem.texture, problem.output]),
        ACC=acc,
        CHANNELS=problem.channels,
        CHANNELS_LAST=problem.channels_last,
        SLOTS=patch_slots(problem.channels),
        TEXTURE_WEIGHT_STRIDES=problem.texture_weight.stride if problem.texture_weight else (),
        FACTORS=problem.factors,
        SUMMANDS=problem.summands,
        LETTERBOX=problem.fill is not None,
        TEXTURE=texture,
        OPERAND=OPERANDS[problem.dtype],
        PRECISION=problem.precision,
    )


def network_constants(problem: Problem) -> dict[str, Any]:
    """The constants of :class:`Downsize`, but for the tile."""
    weights, taps = problem.weights, problem.taps
    hidden_layers = (len(weights) - 2 - 2 * problem.distance) // 2
    hidden_channels = weights[-2][1] if hidden_layers else 0
    distance_channels = weights[0][0] if problem.distance else 0
    return _convolution_constants(problem) | dict(
        DISTANCE_CHANNELS=distance_channels,
        DISTANCE_CHANNELS_PAD=padded(distance_channels),
        HIDDEN_CHANNELS=hidden_channels,
        HIDDEN_CHANNELS_PAD=padded(hidden_channels),
        HIDDEN_LAYERS=hidden_layers,
        TAPS=taps,
        LOGITS=weights[-1][0],
        TAPS_PAD=next_power_of_2(taps * taps),
        PRIOR=problem.prior,
        FUSED_TEXTURE=problem.texture_weight is not None,
        FILL=problem.fill or 0.0,
    )


OPERANDS = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def _widest(values: dict[str, Any]) -> int:
    """Channels of the widest tile that a program holds."""
    names = ("DISTANCE_CHANNELS_PAD", "HIDDEN_CHANNELS_PAD", "TAPS_PAD")
    return int(max(16, values["TEXTURE"].values["CHANNELS_PAD"], *(values[name] for name in names)))


def _is_default_size(values: dict[str, Any]) -> bool:
    """Whether the network is no wider or deeper than the default one, and needs no padding."""
    widths = {values["TEXTURE"].values["CHANNELS"], values["DISTANCE_CHANNELS"], values["HIDDEN_CHANNELS"]}
    return widths <= {0, 16} and values["HIDDEN_LAYERS"] <= 1


def _registers_from_images(problem: Problem, values: dict[str, Any]) -> dict[str, int]:
    """What forward programs may take that make their texture. They would take more, and few warps wait long for their loads."""
    if problem.taps > 4:
        return {}
    if not values["TEXTURE"].values["BINS_WHOLE"]:
        return registers(176 if values["LETTERBOX"] else 184) if problem.bytes else {}  # eleven warps
    plain = problem.taps <= 2 and problem.prior == "none"
    return registers((152 if plain else 168) + (0 if problem.bytes else 16)) if _is_default_size(values) else {}


def forward_shape(values: dict[str, Any], dtype: torch.dtype) -> tuple[int, int]:
    """(pixels, warps) of a forward program: as many pixels as fit the registers of an sm_90 without spilling."""
    if dtype.itemsize == 2:
        return 32, 1
    widest = _widest(values)
    if values["FUSED_TEXTURE"]:
        return 32, 4
    return (128 if widest == 16 and dtype == torch.float32 else 1024 // widest), 4


def _backward_shape(values: dict[str, Any], dtype: torch.dtype) -> tuple[int, int]:
    """(pixels, warps) of a backward program: few warps, since every warp computes all of a program's weight gradients."""
    half = dtype.itemsize == 2
    fused = values["FUSED_TEXTURE"]
    if _widest(values) == 16 and (half or (dtype == torch.float32 and not fused)):
        return 32, 1 if half and not (fused and not values["TEXTURE"].values["BINS_WHOLE"]) else 2
    return 32 if half else 16, 4  # wider tiles do not fit the registers of fewer warps


def _backward_residents(problem: Problem, values: dict[str, Any]) -> tuple[int, int]:
    """(Backward programs that fit a processor, registers that let them). Of those compiled, no others did without spills."""
    light = problem.dtype.itemsize == 2 and problem.texture is not None and problem.taps <= 4
    few = light and values["TEXTURE"].values["BINS_WHOLE"] and _is_default_size(values) and values["LOGITS"] == problem.taps**2
    return (8, 255) if not few else (12, 168) if problem.taps <= 2 else (9, 224)


def _texture_weights_shape(values: dict[str, Any], dtype: torch.dtype) -> tuple[int, int]:
    """(pixels, warps) of a program that sums the gradients of the convolution's weights."""
    if dtype.itemsize > 2:
        return 16, 4
    texture = values["TEXTURE"].values
    return 32, 4 if texture["CHANNELS_PAD"] > 16 else 1 if texture["BINS_WHOLE"] else 2
