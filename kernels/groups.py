"""What helpers of kernels take and return together.

A kernel itself takes integers one by one, since Triton compiles it anew for some values of those inside a tuple. Its first
lines build these groups. Tensors that are not there are None, or placeholders, never read.
"""

from typing import Any, NamedTuple


class Batch(NamedTuple):
    """A tensor (N, C, H, W)."""

    ptr: Any
    stride_n: Any
    stride_c: Any
    stride_h: Any
    stride_w: Any
    h: Any
    w: Any


class Plane(NamedTuple):
    """One image of a batch, all its channels."""

    ptr: Any
    stride_c: Any
    stride_h: Any
    stride_w: Any
    h: Any
    w: Any


class Target(NamedTuple):
    """The pixels that one image is resized to, and the bins of its pixels that these are."""

    h: Any
    w: Any
    top: Any
    """Of these pixels in the result."""
    left: Any
    bin_h: Any
    """Rows that the highest bin overlaps."""
    bin_w: Any


class Pixels(NamedTuple):
    """Those of a tile, each field [BLOCK]."""

    y: Any
    x: Any
    mask: Any
    """Which of them there are."""


class Elements(NamedTuple):
    """Elements of a plane's first channel, and how far the same ones of the next are."""

    ptr: Any
    offsets: Any
    mask: Any
    stride_c: Any


class BinEdges(NamedTuple):
    """Where bins and the patches around their pixels lie in an image, each field [BLOCK]."""

    first_row: Any
    """Of the bin."""
    last_row: Any
    """That patches may read."""
    first_column: Any
    last_column: Any


class TextureWeights(NamedTuple):
    """Pointers to the texture's convolution: weight (F, C, 3, 3) and bias (F,)."""

    weight: Any
    bias: Any


class Weights(NamedTuple):
    """Pointers to the coefficient network's weights (out, in), dense, and biases."""

    distance_weight: Any
    distance_bias: Any
    hidden_0_weight: Any
    hidden_0_bias: Any
    hidden_1_weight: Any
    hidden_1_bias: Any
    hidden_2_weight: Any
    hidden_2_bias: Any
    out_weight: Any
    out_bias: Any


class Network(NamedTuple):
    """The coefficient network's weights as tiles, the first layer in two parts: for distances and for texture."""

    encoding: Any
    first_encoding: Any
    first_pooled: Any
    first_bias: Any
    hidden_1: Any
    hidden_1_bias: Any
    hidden_2: Any
    hidden_2_bias: Any
    out: Any
    out_bias: Any


class Activations(NamedTuple):
    """What the network makes of a tile of pixels; layers that there are not repeat another's, never read."""

    position: Any
    encoding: Any
    pooled: Any
    hidden_0: Any
    hidden_1: Any
    hidden_2: Any
    coefficients: Any
    """[TAPS_PAD, BLOCK]"""


class Gradients(NamedTuple):
    """To the coefficient network's weights: transposed, (in, out); biases' are still to be summed over pixels."""

    encoding: Any
    encoding_bias: Any
    first_encoding: Any
    first_pooled: Any
    first_bias: Any
    hidden_1: Any
    hidden_1_bias: Any
    hidden_2: Any
    hidden_2_bias: Any
    out: Any
    out_bias: Any
