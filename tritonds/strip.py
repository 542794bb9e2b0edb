"""One strip of rows of the whole operator, in plain PyTorch, differentiable: the arithmetic of :mod:`tritonds.strips`.

Layouts are those that PyTorch's operators are fastest in on a CPU: features and activations lie pixel by pixel (n, rows, w,
channels), logits and coefficients plane by plane (K*K, n, rows, w). What is computed last is written over where it can be.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import geometry, phases, reference
from .batches import channels_last, normalize
from .coefficient_weights import SHARPENING
from .dtypes import compute_dtype

STRIP_BYTES = 8 << 20
"""What the features under a strip may take. Smaller strips fit smaller caches, but call more operators."""


class Options(NamedTuple):
    """The operators' arguments that are no tensors."""

    distance: bool
    h: int
    w: int
    taps: int
    prior: str | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    dtype: torch.dtype


class Network(NamedTuple):
    """What all strips read: the weights in the compute dtype, and each axis's part of distances and prior."""

    texture_weights: list[Tensor]
    """Weight, channels-last, and bias of the convolution, or none."""
    distances: list[Tensor]
    """Wd . dy + bd (h, E) and Wd . dx (w, E), of one row where all target pixels have the same distances; or none."""
    layers: list[Tensor]
    prior: list[Tensor]
    """q_y (K, h) and q_x (K, w), or none."""
    signed: list[Tensor]
    """b_y and b_x, likewise, of a sharpening prior."""
    table: list[Tensor] = []  # noqa: RUF012 - nobody appends
    """Coefficients (K*K, 1, classes, classes) of each class of target pixels, where they follow from the size; or none."""
    filters: list[Tensor] = []  # noqa: RUF012
    """The same as :func:`tritonds.phases.filters`."""


class Strip(NamedTuple):
    """Which images and target rows, and the source rows under them."""

    images: slice
    rows: range
    pixels: range
    """Of the image: those of the taps, and those that the convolution reads."""
    features: range
    """Of the texture: those of the bins."""


def network_of(
    image: Tensor, texture: Tensor | None, texture_weights: Sequence[Tensor], weights: Sequence[Tensor], options: Options
) -> Network:
    taps, size_in, size = options.taps, image.shape[2:], (options.h, options.w)
    cast = [t.to(compute_dtype(weights[0].dtype)) for t in (*texture_weights, *weights)]
    texture_weights, layers = cast[: len(texture_weights)], cast[len(texture_weights) :]
    distances: list[Tensor] = []
    if options.distance:
        weight, bias, *layers = layers
        # Where one pixel becomes the mean of whole ones, all have the same distances.
        counts = [1 if n_in % n_out == 0 else n_out for n_in, n_out in zip(size_in, size, strict=True)]
        dy, dx = (
            reference._tap_distances(n_in, n_out, taps, image.device, weight.dtype)[:, :count]
            for n_in, n_out, count in zip(size_in, size, counts, strict=True)
        )
        distances = [(weight[:, :taps] @ dy).T + bias, (weight[:, taps:] @ dx).T]
    prior: list[Tensor] = []
    signed: list[Tensor] = []
    if options.prior is not None:
        sizes, rest = list(zip(size_in, size, strict=True)), (taps, options.prior, image.device, layers[0].dtype)
        prior = [reference.prior_axis(n_in, n_out, *rest) for n_in, n_out in sizes]
        if options.prior in SHARPENING:
            signed = [reference.signed_axis(n_in, n_out, *rest) for n_in, n_out in sizes]
    if texture_weights:
        texture_weights = [channels_last(texture_weights[0]), texture_weights[1]]
    network = Network(list(texture_weights), distances, list(layers), prior, signed)
    axes = _axes_of(image, texture, texture_weights, options)
    return network if axes is None else _tabulated(network, axes)


def _axes_of(
    image: Tensor, texture: Tensor | None, texture_weights: Sequence[Tensor], options: Options
) -> tuple[phases.Axis, phases.Axis] | None:
    """Classes of target pixels, if coefficients follow from them."""
    if texture is not None or texture_weights:
        return None
    return phases.axes_of((image.shape[2], image.shape[3]), (options.h, options.w), options.taps)


def _tabulated(network: Network, axes: tuple[phases.Axis, phases.Axis]) -> Network:
    """``network`` with the coefficients of every class."""
    distances = [t if t.shape[0] == 1 else t[axis.targets] for t, axis in zip(network.distances, axes, strict=True)]
    prior = [t[:, axis.targets] for t, axis in zip(network.prior, axes, strict=False)]
    signed = [t[:, axis.targets] for t, axis in zip(network.signed, axes, strict=False)]
    y, x = axes
    everywhere = Strip(slice(0, 1), range(len(y.targets)), range(0), range(0))
    of_classes = Network([], distances, network.layers, prior, signed)
    table = _coefficients([_encode(of_classes, everywhere)], of_classes, everywhere)
    table = table.expand(-1, -1, len(y.targets), len(x.targets)).contiguous()  # where all have the same distances
    return network._replace(table=[table], filters=phases.filters(table, y, x))


def split(image: Tensor, texture: Tensor | None, texture_weights: Sequence[Tensor], options: Options) -> Iterator[Strip]:
    """Strips of one image, or of several whole ones if they are small."""
    n, _, image_h, image_w = image.shape
    source_h, source_w = (image_h, image_w) if texture is None else texture.shape[2:]
    channels = texture_weights[0].shape[0] if texture_weights else 1 if texture is None else texture.shape[1]
    # A target pixel's activations and coefficients; or, where convolutions take their place, results and their gradients.
    results = 32 + options.taps**2 if _axes_of(image, texture, texture_weights, options) is None else 12
    elements = channels * source_w * (source_h / options.h) + results * options.w
    count = max(1, int(STRIP_BYTES / (4 * elements)))
    together = max(1, count // options.h)
    for first in range(0, n, together):
        for j in range(0, options.h, count):
            rows = range(j, min(j + count, options.h))
            ends = [geometry.first_tap(rows[i], image_h, options.h, options.taps) for i in (0, -1)]
            low, high = (min(max(i, 0), image_h - 1) for i in (ends[0], ends[1] + options.taps - 1))
            bins = range(geometry.bin_first(j, source_h, options.h), geometry.bin_last(rows[-1], source_h, options.h) + 1)
            if texture_weights:
                low, high = min(low, max(bins.start - 1, 0)), max(high, min(bins.stop, image_h - 1))
            yield Strip(slice(first, first + together), rows, range(low, high + 1), bins)


def parts(image: Tensor, texture: Tensor | None, strip: Strip) -> tuple[Tensor, Tensor | None]:
    """The rows of image and texture that the strip reads."""
    pixels = image[strip.images, :, strip.pixels.start : strip.pixels.stop]
    return pixels, None if texture is None else texture[strip.images, :, strip.features.start : strip.features.stop]


def downsize(
    image: Tensor, texture: Tensor | None, whole: Tensor, whole_texture: Tensor | None, network: Network, options: Options,
    strip: Strip,
) -> Tensor:  # fmt: skip
    """The strip's target pixels (n, C, rows, w) in the compute dtype, of the source rows ``image`` and ``texture`` under it."""
    image_size, size = (whole.shape[2], whole.shape[3]), (options.h, options.w)
    dtype = network.layers[0].dtype
    pixels = normalize(image, options.mean, options.std, dtype)
    if network.table:
        return _by_class(pixels, network, image_size, options, strip)
    inputs = [_encode(network, strip)] if network.distances else []
    if network.texture_weights:
        features = _convolve(pixels, network.texture_weights, image_size[0], strip)
        scale = [n_in // n_out if n_in % n_out == 0 else 0 for n_in, n_out in zip(image_size, size, strict=True)]
        if all(scale):
            inputs.append(_MeanOfRelu.apply(features, scale).permute(0, 2, 3, 1))
        else:
            inputs.append(_pool(features.relu_(), image_size, size, strip))
    elif texture is not None and whole_texture is not None:
        inputs.append(_pool(channels_last(texture.to(dtype)), whole_texture.shape[2:], size, strip))
    return _gather(pixels, _coefficients(inputs, network, strip), image_size, options, strip)


def _by_class(pixels: Tensor, network: Network, image_size: tuple[int, int], options: Options, strip: Strip) -> Tensor:
    """The same where the coefficients of all classes of target pixels are known."""
    axes = phases.axes_of(image_size, (options.h, options.w), options.taps)
    assert axes is not None
    if pixels.dtype == torch.float32 and not pixels.requires_grad and pixels.sum().isfinite():
        result: Tensor = phases.WeightedSum.apply(pixels, strip.pixels.start, axes, strip.rows, *network.filters)
        return result
    y, x = (
        torch.tensor(axis.numbers(targets), device=pixels.device)
        for axis, targets in zip(axes, (strip.rows, range(options.w)), strict=True)
    )
    (table,) = network.table
    return _gather(pixels, table.index_select(2, y).index_select(3, x), image_size, options, strip)


def _encode(network: Network, strip: Strip) -> Tensor:
    """relu(Wd . [dy; dx] + bd): (1, rows, w, E), where rows and w may be 1."""
    dy, dx = network.distances
    return (_rows(dy, strip)[:, None] + dx).relu_()[None]


def _coefficients(inputs: list[Tensor], network: Network, strip: Strip) -> Tensor:
    """Coefficients (K*K, n, rows, w) of the first layer's inputs (n, rows, w, channels), where n, rows and w may be 1."""
    *hidden, weight, bias = network.layers
    for w, b in zip(hidden[::2], hidden[1::2], strict=True):
        inputs = [_linear(inputs, w, b).relu_()]
    return _constrain(_planes(inputs, weight, bias), network, strip)


def _constrain(logits: Tensor, network: Network, strip: Strip) -> Tensor:
    """Coefficients (K*K, n, rows, w), as :func:`tritonds.reference.constrain` gives them."""
    if not network.prior:
        return logits.softmax(dim=0)
    q = _window(network.prior, strip)
    # The logarithm of 0 takes many times as long as any other; what it would give is not read.
    log_q = q.clamp_min(torch.finfo(q.dtype).tiny).log_()
    if not network.signed:
        return torch.where(q > 0, logits + log_q, -torch.inf).softmax(dim=0)
    logits, strength = logits.split([len(q), 1])
    convex = torch.where(q > 0, logits + log_q, -torch.inf).softmax(dim=0)
    return convex.addcmul(strength, _window(network.signed, strip) - q)


def _window(axes: list[Tensor], strip: Strip) -> Tensor:
    """The products of both axes' numbers: (K*K, 1, rows, w)."""
    y, x = axes[0][:, strip.rows.start : strip.rows.stop], axes[1]
    return (y[:, None, :, None] * x[None, :, None, :]).flatten(0, 1).unsqueeze(1)


def _rows(x: Tensor, strip: Strip) -> Tensor:
    """The strip's rows of a table of all; or the one that all rows share."""
    return x if x.shape[0] == 1 else x[strip.rows.start : strip.rows.stop]


def _convolve(pixels: Tensor, texture_weights: list[Tensor], image_h: int, strip: Strip) -> Tensor:
    """Features before the ReLU (n, F, rows, W) of the source rows under the strip's bins; zeros lie around the image alone."""
    low, high = strip.features.start - 1, strip.features.stop + 1
    window = pixels[:, :, max(low, 0) - strip.pixels.start : min(high, image_h) - strip.pixels.start]
    window = window.contiguous(memory_format=torch.channels_last)
    if low < 0 or high > image_h:
        window = F.pad(window, (0, 0, max(-low, 0), max(high - image_h, 0)))
    return F.conv2d(window, texture_weights[0], texture_weights[1], padding=(0, 1))


class _MeanOfRelu(torch.autograd.Function):
    """Mean of relu(x) over bins of whole pixels. Its backward pass writes the gradient of ``x`` once, not twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: list[int]) -> Tensor:
        features = x.detach().relu_()  # in place: the convolution does not need its result
        ctx.save_for_backward(features)
        ctx.scale = scale
        return F.avg_pool2d(features, scale)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        scale_y, scale_x = ctx.scale
        grad = torch.empty_like(features)
        into, given = (t.permute(0, 2, 3, 1).unflatten(1, (-1, scale_y)) for t in (grad, features))
        share = (grad_output.permute(0, 2, 3, 1) / (scale_y * scale_x)).unsqueeze(3)
        # Written out along rows, so that the loops below are as long as rows.
        share = share.expand(-1, -1, -1, scale_x, -1).flatten(2, 3).unsqueeze(2).expand_as(given)
        torch.ops.aten.threshold_backward.grad_input(share, given, 0, grad_input=into)
        return grad, None


def _pool(features: Tensor, size_in: Sequence[int], size: tuple[int, int], strip: Strip) -> Tensor:
    """Mean of (n, F, rows, W) over the bins: (n, rows, w, F)."""
    whole = [n_in // n_out if n_in % n_out == 0 else 1 for n_in, n_out in zip(size_in, size, strict=True)]
    pooled = (features if whole == [1, 1] else F.avg_pool2d(features, whole)).permute(0, 2, 3, 1)
    if size_in[0] % size[0]:
        pooled = _pool_axis(pooled, size_in[0], size[0], strip.rows, strip.features.start, dim=1)
    if size_in[1] % size[1]:
        pooled = _pool_axis(pooled, size_in[1], size[1], range(size[1]), 0, dim=2)
    return pooled


def _pool_axis(x: Tensor, n_in: int, n_out: int, targets: range, first: int, dim: int) -> Tensor:
    """Mean over the fractional bins of ``targets`` along one axis, on which ``x`` begins with source pixel ``first``."""
    j = torch.arange(targets.start, targets.stop, device=x.device)
    begin, last = geometry.bin_first(j, n_in, n_out), geometry.bin_last(j, n_in, n_out)
    total = None
    for t in range(geometry.bin_width(n_in, n_out)):
        i = begin + t
        weight = reference.bin_share(i, j, n_in, n_out, x.dtype).view([-1 if d == dim else 1 for d in range(x.ndim)])
        # Past the bin's end the weight is 0 and the bin's last pixel is read again, so that no other pixel's NaN enters.
        term = x.index_select(dim, torch.minimum(i, last) - first)
        total = term * weight if total is None else total.addcmul_(term, weight)
    assert total is not None
    return total


def _linear(inputs: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """W . [inputs; ...] + b at every pixel, of inputs (n, rows, w, channels) whose n, rows and w may be 1."""
    blocks = weight.split([z.shape[-1] for z in inputs], dim=1)
    *smaller, largest = [z @ block.T for z, block in zip(inputs, blocks, strict=True)]
    return functools.reduce(Tensor.add_, smaller, largest.add_(bias))


def _planes(inputs: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """As :func:`_linear`, but each channel of the result lies in a plane of its own: (channels, n, rows, w)."""
    blocks = weight.split([z.shape[-1] for z in inputs], dim=1)
    terms = [block @ z.flatten(0, 2).T for z, block in zip(inputs, blocks, strict=True)]
    terms[-1].add_(bias[:, None])  # before it is seen as planes: autograd would copy what is written through a view
    *smaller, largest = [term.unflatten(1, z.shape[:3]) for term, z in zip(terms, inputs, strict=True)]
    return functools.reduce(Tensor.add, smaller, largest)


def _gather(pixels: Tensor, a: Tensor, size_in: tuple[int, int], options: Options, strip: Strip) -> Tensor:
    """Weighted sum of each target pixel's taps, with the coefficients (K*K, n, rows, w), where n, rows and w may be 1."""
    # Single pixels are slow to fetch, whole rows are not: so columns come first, for the rows of all taps at once.
    source = pixels if size_in[1] % options.w == 0 else _columns(pixels, size_in[1], options.w, options.taps)
    if pixels.requires_grad:
        return _weighted_sum(_taps(source, size_in, options, strip), a)
    a = a.expand(-1, len(pixels), len(strip.rows), options.w)
    result: Tensor = _WeightedSum.apply(source, a, size_in, options, strip)
    return result


def _weighted_sum(taps: Iterable[Tensor], a: Tensor) -> Tensor:
    total = None
    for plane, tap in zip(a.unsqueeze(2).unbind(0), taps, strict=True):
        total = plane * tap if total is None else total.addcmul_(plane, tap)
    assert total is not None
    return total


class _WeightedSum(torch.autograd.Function):
    """The same of taps that need no gradient. Its backward pass adds up channels without a tensor of each product."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, a: Tensor, *call: Any) -> Tensor:
        ctx.save_for_backward(source)
        ctx.call = call
        return _weighted_sum(_taps(source, *call), a)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        (source,) = ctx.saved_tensors
        first, *others = range(grad_output.shape[1])
        grad = source.new_empty(ctx.call[1].taps ** 2, len(source), *grad_output.shape[2:])
        for plane, tap in zip(grad, _taps(source, *ctx.call), strict=True):
            torch.mul(grad_output[:, first], tap[:, first], out=plane)
            for c in others:
                plane.addcmul_(grad_output[:, c], tap[:, c])
        return None, grad, None, None, None


def _taps(source: Tensor, size_in: tuple[int, int], options: Options, strip: Strip) -> Iterator[Tensor]:
    """Tap after tap (n, C, rows, w) of all target pixels, of pixels or of :func:`_columns`."""
    (image_h, image_w), (h, w), taps = size_in, (options.h, options.w), options.taps
    for ky in range(taps):
        row = _tap(source, ky, image_h, h, taps, strip.rows, strip.pixels.start, dim=2)
        if image_w % w == 0:
            yield from (_tap(row, kx, image_w, w, taps, range(w), 0, dim=3) for kx in range(taps))
        else:
            yield from row.unflatten(3, (taps, w)).unbind(3)


def _columns(x: Tensor, n_in: int, n_out: int, taps: int) -> Tensor:
    """Every tap's column of ``x`` (n, C, rows, W) for every target: (n, C, rows, K * w)."""
    begin = geometry.first_tap(torch.arange(n_out, device=x.device), n_in, n_out, taps)
    indices = begin + torch.arange(taps, device=x.device)[:, None]
    return x.index_select(3, indices.clamp_(0, n_in - 1).flatten())


def _tap(x: Tensor, k: int, n_in: int, n_out: int, taps: int, targets: range, first: int, dim: int) -> Tensor:
    """Tap ``k`` of all targets along one axis, on which ``x`` begins with source pixel ``first``."""
    begin, end = (geometry.first_tap(targets[i], n_in, n_out, taps) + k for i in (0, -1))
    if n_in % n_out == 0 and begin >= 0 and end < n_in:  # evenly spaced: a view
        index = [slice(None)] * x.ndim
        index[dim] = slice(begin - first, end - first + 1, n_in // n_out)
        return x[tuple(index)]
    j = torch.arange(targets.start, targets.stop, device=x.device)
    return x.index_select(dim, (geometry.first_tap(j, n_in, n_out, taps) + k).clamp(0, n_in - 1) - first)
