"""What helpers of kernels take and return together.

A kernel itself takes integers one by one, since Triton compiles it anew for some values of those inside a tuple. Its first
lines build these groups. Absent tensors are None, or placeholders, never read.
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
    """The grid of pixels that one image is resized to. Each of its pixels has a bin of the image's pixels."""

    h: Any
    w: Any
    top: Any
    """The grid's first row in the result."""
    left: Any
    bin_h: Any
    """The most rows of the image that a bin overlaps."""
    bin_w: Any


class Pixels(NamedTuple):
    """The pixels of a tile, each field [BLOCK]."""

    y: Any
    x: Any
    mask: Any
    """Which of the pixels lie inside."""
    row: Any
    """The row of all pixels, if a tile has one; else as ``y``."""
    row_mask: Any
    """Whether, or which of, the rows lie inside."""


class Elements(NamedTuple):
    """Elements of a plane's first channel, and the stride from them to the same elements of the next channel."""

    ptr: Any
    offsets: Any
    mask: Any
    stride_c: Any


class BinSpan(NamedTuple):
    """Where bins lie along an axis of an image."""

    first: Any
    """The first pixel that a bin overlaps."""
    last: Any
    first_share: Any
    """Overlap of the first pixel, over the largest of any pixel."""
    end: Any
    """From the first pixel to the bin's end: all pixels but the last, and that one's share."""


class BinColumns(NamedTuple):
    """The columns of a strip's bins; the first three fields as columns of patches are loaded, the others [BLOCK]."""

    first: Any
    """The bin's first column."""
    offset: Any
    """Its offset in a row of the image."""
    last: Any
    """The last column that patches may read."""
    first_share: Any
    """As in :class:`BinSpan`, likewise ``end``."""
    end: Any


class Walk(NamedTuple):
    """How far down an image a program has convolved its rows."""

    row: Any
    """The first row that is not convolved yet, as :class:`Pixels` has rows."""
    upper: Any
    """Of the band above ``row``, the first row's texture, summed over each pixel's bin: [BLOCK, texture channels]."""
    lower: Any
    """The second row's."""


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


class Strength(NamedTuple):
    """The output layer's last row, with priors that sharpen; or its gradients, not yet summed over pixels."""

    weight: Any
    """Of the last hidden layer's channels or, if there is none, of the distance encoding's."""
    pooled: Any
    """Of the texture's channels, if there is no hidden layer."""
    bias: Any


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
    strength: Any


class Activations(NamedTuple):
    """What the network computes for a tile of pixels. Absent layers are placeholders, never read."""

    position: Any
    encoding: Any
    pooled: Any
    hidden_0: Any
    hidden_1: Any
    hidden_2: Any
    softmaxed: Any
    """The convex part of the coefficients: [TAPS_PAD, BLOCK], as the next two."""
    signed: Any
    """What the strength is multiplied by, with priors that sharpen; else never read."""
    coefficients: Any


class Gradients(NamedTuple):
    """The gradients to the coefficient network's weights, transposed: (in, out). Biases' are not yet summed over pixels."""

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
    strength: Any
