"""What kernels are compiled for: one argument of each, whose attributes are the values."""

from dataclasses import MISSING, dataclass, fields
from typing import Any

import triton.language as tl
from typing_extensions import Self

from .launch import INTERPRETED


class Constants(str):
    """Base of the classes below: a text that names every value.

    By it Triton keeps compiled kernels, on disk too, and its hooks see it. A string computes its hash once. Attributes are what
    kernels take: the values themselves in the interpreter, wrapped for the compiler. ``values`` has them for Python.
    """

    values: dict[str, Any]

    def __new__(cls, **values: Any) -> Self:
        defaults = {field.name: field.default for field in fields(cls) if field.default is not MISSING}  # type: ignore[arg-type]
        text = ", ".join(f"{name}={value!r}" for name, value in sorted((defaults | values).items()))
        return super().__new__(cls, f"{cls.__name__}({text})")

    def __post_init__(self) -> None:
        values = dict(vars(self))
        wrapped = values if INTERPRETED else {name: tl.constexpr(value) for name, value in values.items()}
        vars(self).update(wrapped, values=values)


@dataclass(frozen=True, repr=False, eq=False)
class Pooling(Constants):
    """Of a tensor that is averaged over bins."""

    CHANNELS: int
    CHANNELS_PAD: int
    """A power of two: of a tile."""
    CHANNELS_LAST: bool
    ALIGN: int
    """Elements that strides n, h and w count in."""
    DENSE: bool
    """Whether neighbouring pixels lie side by side."""
    BIN_H: int
    """At least the rows of every bin, or 0 if that is not known when compiling."""
    BIN_W: int
    BINS_WHOLE: bool
    """Whether all bins are of BIN_H x BIN_W pixels, none cut."""
    ACC: tl.dtype


@dataclass(frozen=True, repr=False, eq=False)
class Tiled(Constants):
    """Of every kernel: its tile of pixels, and its integers."""

    BLOCK_H: int
    BLOCK_W: int
    INDEX64: bool
    """Whether 32 bits do not hold offsets and geometry."""
    ACC: tl.dtype
    """Of sums."""


@dataclass(frozen=True, repr=False, eq=False)
class AreaPool(Tiled):
    SOURCE: Pooling
    OUTPUT_CHANNELS_LAST: bool
    OUTPUT_ALIGN: int


@dataclass(frozen=True, repr=False, eq=False)
class Gather(Tiled):
    """Of the weighted sum of taps."""

    CHANNELS: int
    TAPS: int
    TAPS_PAD: int
    """A power of two, of TAPS * TAPS."""
    BACKWARD: bool
    FACTORS: tuple[float, ...] = ()
    """What pixels of each channel are multiplied by to be normalised, if they are."""
    SUMMANDS: tuple[float, ...] = ()
    """And what is added then."""
    FILL: float = 0.0


@dataclass(frozen=True, repr=False, eq=False)
class GatherGradImage(Tiled):
    CHANNELS: int
    CHANNELS_PAD: int
    TAPS: int


@dataclass(frozen=True, repr=False, eq=False)
class Convolution(Tiled):
    """Of the texture's convolution, at its place."""

    CHANNELS: int
    """Of the image; 0 if there is none."""
    CHANNELS_LAST: bool
    """Whether the image's are."""
    BAND: int
    """Rows of texture that are made at once."""
    PATCH_PAD: int
    """A power of two, of elements of a column of patches."""
    TEXTURE_WEIGHT_STRIDES: tuple[int, ...]
    FACTORS: tuple[float, ...]
    """What pixels of each channel are multiplied by to be normalised, if they are."""
    SUMMANDS: tuple[float, ...]
    """And what is added then."""
    LETTERBOX: bool
    TEXTURE: Pooling
    """Of the texture, whether it is given or made here."""
    OPERAND: tl.dtype
    """Of matrix products."""
    PRECISION: str


@dataclass(frozen=True, repr=False, eq=False)
class ConvolutionGradImage(Convolution):
    CHANNELS_PAD: int


@dataclass(frozen=True, repr=False, eq=False)
class Downsize(Convolution):
    """Of the fused forward kernel."""

    DISTANCE_CHANNELS: int
    DISTANCE_CHANNELS_PAD: int
    HIDDEN_CHANNELS: int
    HIDDEN_CHANNELS_PAD: int
    HIDDEN_LAYERS: int
    TAPS: int
    TAPS_PAD: int
    """A power of two, of TAPS * TAPS."""
    PRIOR: str
    FUSED_TEXTURE: bool
    """Whether the image is convolved for its texture."""
    FILL: float
    """Around letterboxed images."""


@dataclass(frozen=True, repr=False, eq=False)
class DownsizeBackward(Downsize):
    WEIGHTS: int
    """In a row of partial gradients."""
    GRAD_POOLED: bool
    """Which results are wanted."""
    GRAD_TEXTURE: bool
    GRAD_TEXTURE_ALIGN: int
    COEFFICIENTS: bool
    GRAD_WEIGHTS: bool
