"""What kernels are compiled for: each kernel has one argument whose attributes are the values."""

from dataclasses import MISSING, dataclass, fields
from typing import Any

import triton.language as tl
from typing_extensions import Self

from .launch import INTERPRETED


class Constants(str):
    """Base of the classes below: a string that names every value.

    Triton keeps compiled kernels by this string, on disk as well, and hooks see it. A string computes its hash once. Kernels
    read the attributes, which are plain values in the interpreter and wrapped ones when compiling. Python reads ``values``.
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
    """Constants of a tensor that is averaged over bins."""

    CHANNELS: int
    CHANNELS_PAD: int
    """Channels of a tile, a power of two."""
    CHANNELS_LAST: bool
    ALIGN: int
    """Elements in one unit of the strides along n, h and w."""
    DENSE: bool
    """Whether neighbouring pixels lie side by side."""
    BIN_H: int
    """No bin has more rows than this; 0 if the most is not known when compiling."""
    BIN_W: int
    BINS_WHOLE: bool
    """Whether every bin overlaps BIN_H x BIN_W pixels, all by the same share."""
    ACC: tl.dtype
    """Sums are in this dtype."""


@dataclass(frozen=True, repr=False, eq=False)
class Sums(Constants):
    """Constants of sums over programs."""

    ROWS: int
    COLUMNS: int
    ACC: tl.dtype
    """The dtype of what is summed, and of the sums until they are stored."""


@dataclass(frozen=True, repr=False, eq=False)
class Tiled(Constants):
    """Constants of every kernel: its tile of pixels, and the types of its numbers."""

    BLOCK_H: int
    BLOCK_W: int
    INDEX64: bool
    """Whether offsets and geometry need 64 bits."""
    ACC: tl.dtype
    """Sums are in this dtype."""


@dataclass(frozen=True, repr=False, eq=False)
class AreaPool(Tiled):
    """Constants of area pooling."""

    SOURCE: Pooling
    OUTPUT_CHANNELS_LAST: bool
    OUTPUT_ALIGN: int


@dataclass(frozen=True, repr=False, eq=False)
class Gather(Tiled):
    """Constants of the weighted sum of taps."""

    CHANNELS: int
    TAPS: int
    TAPS_PAD: int
    """TAPS * TAPS, rounded up to a power of two."""
    BACKWARD: bool
    FACTORS: tuple[float, ...] = ()
    """A pixel is normalised as pixel * factor + summand, each of its channel; without factors it is not."""
    SUMMANDS: tuple[float, ...] = ()
    FILL: float = 0.0
    """The result's value around letterboxed images."""
    WARPS: int = 1
    """As in :class:`Convolution`."""


@dataclass(frozen=True, repr=False, eq=False)
class TabulatedSum(Tiled):
    """Constants of the weighted sum by a table of coefficients."""

    CHANNELS: int
    CHANNELS_LAST: bool
    """As in :class:`Convolution`."""
    PIXEL: int
    """Elements from a pixel to its right neighbour; 0 if that is not known when compiling."""
    TAPS: int
    FACTORS: tuple[float, ...]
    """As in :class:`Gather`, likewise SUMMANDS."""
    SUMMANDS: tuple[float, ...]


@dataclass(frozen=True, repr=False, eq=False)
class GatherGradImage(Tiled):
    """Constants of the weighted sum's gradient to the image."""

    CHANNELS: int
    CHANNELS_PAD: int
    TAPS: int


@dataclass(frozen=True, repr=False, eq=False)
class Convolution(Tiled):
    """Constants of kernels that convolve an image for its texture."""

    CHANNELS: int
    """Channels of the image; 0 if there is none."""
    CHANNELS_LAST: bool
    """Whether the image is channels-last."""
    WARPS: int
    """Warps that each have pixels of their own in a product's result."""
    SLOTS: int
    """Elements of a column's row in patches: the image's channels and one more, rounded up to a power of two."""
    TEXTURE_WEIGHT_STRIDES: tuple[int, ...]
    FACTORS: tuple[float, ...]
    """As in :class:`Gather`, likewise SUMMANDS."""
    SUMMANDS: tuple[float, ...]
    LETTERBOX: bool
    TEXTURE: Pooling
    """Constants of the texture, whether it is given or made here."""
    OPERAND: tl.dtype
    """Operands of matrix products are of this dtype."""
    PRECISION: str
    """The precision of float32 products: "ieee" or "tf32"."""


@dataclass(frozen=True, repr=False, eq=False)
class ConvolutionGradImage(Convolution):
    """Constants of the gradient that reaches the image by way of the texture's convolution."""

    CHANNELS_PAD: int


@dataclass(frozen=True, repr=False, eq=False)
class Downsize(Convolution):
    """Constants of the fused forward kernel."""

    DISTANCE_CHANNELS: int
    DISTANCE_CHANNELS_PAD: int
    HIDDEN_CHANNELS: int
    HIDDEN_CHANNELS_PAD: int
    HIDDEN_LAYERS: int
    TAPS: int
    LOGITS: int
    """Rows of the output layer: TAPS * TAPS, and one more with priors that sharpen."""
    TAPS_PAD: int
    """TAPS * TAPS, rounded up to a power of two."""
    PRIOR: str
    FUSED_TEXTURE: bool
    """Whether the texture is made here, of the image."""
    FILL: float
    """The result's value around letterboxed images."""


@dataclass(frozen=True, repr=False, eq=False)
class DownsizeBackward(Downsize):
    """Constants of the fused backward kernel."""

    WEIGHTS: int
    """How many weight gradients a program writes."""
    GRAD_POOLED: bool
    """Whether this result is wanted; likewise GRAD_TEXTURE, COEFFICIENTS and GRAD_WEIGHTS."""
    GRAD_TEXTURE: bool
    GRAD_TEXTURE_ALIGN: int
    COEFFICIENTS: bool
    GRAD_WEIGHTS: bool
