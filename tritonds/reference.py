"""The operator in plain PyTorch: any device, any float dtype, differentiable in every input.

Written to be read beside the formulas. Half-precision inputs are computed in float32 and rounded once, at the end. The
kernels are tested against these functions, and these against :mod:`torch.nn.functional`, scikit-image and OpenCV.

Source: the method's poster; what it leaves open (prior, distances at edges, hidden layers) is our choice.
"""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import geometry
from .batches import channels_last, memory_format_of, normalize, to_batch
from .coefficient_weights import SHARPENING, CoefficientWeights
from .dtypes import compute_dtype


def area_pool2d(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean of ``x`` (N, C, H, W) over bins with fractional edges: (N, C, h, w). See :func:`tritonds.area_pool2d`."""
    work = x.to(compute_dtype(x.dtype))
    if memory_format_of(x) == torch.channels_last:  # whole pixels are selected fastest where they lie together
        rows = _pool_axis(work.permute(0, 2, 3, 1), size[0], dim=1)
        pooled = _pool_axis(rows, size[1], dim=2).permute(0, 3, 1, 2)
    else:
        pooled = _pool_axis(_pool_axis(work, size[0], dim=2), size[1], dim=3)
    return pooled.to(x.dtype)


def coefficients(
    image: Tensor,
    texture: Tensor | None,
    weights: CoefficientWeights,
    size: tuple[int, int],
    *,
    taps: int = 2,
    prior: str | None = None,
) -> Tensor:
    """Coefficients (N, K*K, h, w) of every target pixel. See :func:`tritonds.coefficients`."""
    a = infer_coefficients(image, texture, weights, size, taps, prior).to(image.dtype)
    return a.expand(image.shape[0], -1, -1, -1).contiguous()


def weighted_gather2d(image: Tensor, coefficients: Tensor, size: tuple[int, int], *, taps: int = 2) -> Tensor:
    """Weighted sum of each target pixel's taps: (N, C, h, w). See :func:`tritonds.weighted_gather2d`."""
    work = image.to(compute_dtype(image.dtype))
    a = coefficients.to(work.dtype)
    tap_rows = tap_indices(image.shape[2], size[0], taps, image.device)
    tap_columns = tap_indices(image.shape[3], size[1], taps, image.device)
    total = None
    for ky in range(taps):
        row = work.index_select(2, tap_rows[ky])
        for kx in range(taps):
            k = ky * taps + kx
            term = a[:, k : k + 1] * row.index_select(3, tap_columns[kx])
            total = term if total is None else total + term
    assert total is not None
    return total.to(image.dtype).contiguous(memory_format=memory_format_of(image))


def downsize(
    image: Tensor,
    texture: Tensor | None,
    weights: CoefficientWeights,
    size: tuple[int, int],
    *,
    taps: int = 2,
    prior: str | None = None,
) -> Tensor:
    """The whole operator: (N, C, H, W) to (N, C, h, w). See :func:`tritonds.downsize`."""
    return weighted_gather2d(image, infer_coefficients(image, texture, weights, size, taps, prior), size, taps=taps)


def downsize_image(
    image: Tensor | Sequence[Tensor],
    texture_weight: Tensor | None,
    texture_bias: Tensor | None,
    weights: CoefficientWeights,
    size: tuple[int, int],
    *,
    taps: int = 2,
    prior: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    out_dtype: torch.dtype | None = None,
    letterbox: bool = False,
    fill: float = 0.0,
) -> Tensor:
    """Images in, batch out, with the texture made of the images: (N, C, h, w). See :func:`tritonds.downsize_image`."""
    dtype = compute_dtype(weights.out_weight.dtype)

    def one(x: Tensor, size: tuple[int, int]) -> Tensor:
        x = normalize(x, mean, std, dtype)
        texture = None
        if texture_weight is not None and texture_bias is not None:
            weight = channels_last(texture_weight.to(dtype))  # makes features channels-last, which is faster
            texture = F.conv2d(x, weight, texture_bias.to(dtype), padding=1).relu()
        return downsize(x, texture, weights, size, taps=taps, prior=prior)

    return to_batch(image, size, letterbox, fill, one).to(out_dtype or weights.out_weight.dtype)


def infer_coefficients(
    image: Tensor,
    texture: Tensor | None,
    weights: CoefficientWeights,
    size: tuple[int, int],
    taps: int,
    prior: str | None,
    pool: Callable[[Tensor, int, int], Tensor] = lambda x, h, w: area_pool2d(x, (h, w)),
) -> Tensor:
    """Coefficients in the compute dtype. Without texture the batch size is 1, since every image has the same."""
    dtype = compute_dtype(image.dtype)
    inputs = []
    if weights.distance_weight is not None and weights.distance_bias is not None:
        inputs.append(_encode_distances(image, weights.distance_weight, weights.distance_bias, size, taps))
    if texture is not None:
        inputs.append(pool(texture.to(dtype), *size))
    for weight, bias in zip(weights.hidden_weights, weights.hidden_biases, strict=True):
        inputs = [_linear(inputs, weight, bias).relu_()]
    return constrain(_linear(inputs, weights.out_weight, weights.out_bias), image, size, taps, prior)


def constrain(logits: Tensor, image: Tensor, size: tuple[int, int], taps: int, prior: str | None) -> Tensor:
    """q . exp(logits) over its sum across the taps, in the compute dtype: (N, K*K, h, w).

    With a sharpening prior ``logits`` have one channel more, g, and g . (b - q) is added.
    """
    logits = logits.to(compute_dtype(image.dtype))
    if prior is None:
        return logits.softmax(dim=1)
    q = _window(image, size, taps, prior, prior_axis)
    if prior not in SHARPENING:
        return torch.where(q > 0, logits + q.log(), -torch.inf).softmax(dim=1)
    logits, gain = logits[:, :-1], logits[:, -1:]
    convex = torch.where(q > 0, logits + q.log(), -torch.inf).softmax(dim=1)
    return convex + gain * (_window(image, size, taps, prior, signed_axis) - q)


def tap_distances(image: Tensor, size: tuple[int, int], taps: int) -> Tensor:
    """Distances of every target pixel's taps, vertical ones first, in source pixels and the compute dtype: (h * w, 2K)."""
    dtype = compute_dtype(image.dtype)
    dy = _tap_distances(image.shape[2], size[0], taps, image.device, dtype).T
    dx = _tap_distances(image.shape[3], size[1], taps, image.device, dtype).T
    rows, columns = dy[:, None].expand(-1, size[1], -1), dx[None].expand(size[0], -1, -1)
    return torch.cat((rows, columns), dim=2).flatten(0, 1)


def _encode_distances(image: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int], taps: int) -> Tensor:
    """relu(Wd . [dy; dx] + bd), summed per axis since dy varies along rows only and dx along columns: (1, E, h, w)."""
    dtype = compute_dtype(image.dtype)
    dy = _tap_distances(image.shape[2], size[0], taps, image.device, dtype)
    dx = _tap_distances(image.shape[3], size[1], taps, image.device, dtype)
    weight, bias = weight.to(dtype), bias.to(dtype)
    vertical = weight[:, :taps] @ dy + bias[:, None]
    horizontal = weight[:, taps:] @ dx
    return (vertical[:, :, None] + horizontal[:, None, :]).relu_().unsqueeze(0)


def _linear(inputs: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """W . [inputs; ...] + b at every pixel, without concatenating the inputs: (N, out, h, w)."""
    dtype = inputs[0].dtype
    blocks = weight.to(dtype).split([z.shape[1] for z in inputs], dim=1)
    total = bias.to(dtype)[:, None]
    for z, block in zip(inputs, blocks, strict=True):
        total = total + block @ z.flatten(2)
    return total.unflatten(2, inputs[0].shape[2:])


def _window(image: Tensor, size: tuple[int, int], taps: int, prior: str, axis: Callable[..., Tensor]) -> Tensor:
    """The products of both axes' numbers: (1, K*K, h, w)."""
    dtype = compute_dtype(image.dtype)
    y = axis(image.shape[2], size[0], taps, prior, image.device, dtype)
    x = axis(image.shape[3], size[1], taps, prior, image.device, dtype)
    return (y[:, None, :, None] * x[None, :, None, :]).flatten(0, 1).unsqueeze(0)


def prior_axis(n_in: int, n_out: int, taps: int, prior: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """max(0, 1 - |d| / support), the support being one source pixel or, antialiased, one target pixel: (K, n_out).

    Never all zero: every window holds the image's pixel nearest to ``u``, less than one source pixel away. Beside a signed
    kernel it sums to 1 over the taps.
    """
    i, j = _taps(n_in, n_out, taps, device)
    antialias = prior != "bilinear"
    support = 2 * _larger(n_in, n_out) if antialias else 2 * n_out
    q = (support - geometry.distance_numerator(i, j, n_in, n_out).abs()).clamp(min=0)
    if antialias:
        q = torch.where((i >= 0) & (i < n_in), q, 0)
    if prior in SHARPENING:
        return q.to(dtype) / q.sum(dim=0)
    return q.to(dtype) / support


def signed_axis(n_in: int, n_out: int, taps: int, prior: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """b: the kernel of antialiased bicubic or Lanczos interpolation, over its sum across the taps in the image: (K, n_out).

    With t = |d| / max(n_in / n_out, 1), and zero at every whole t but 0, exactly:

        bicubic   (1 - t) (1 + t - 3/2 t^2) for t < 1,  -1/2 (t - 1) (t - 2)^2 for 1 <= t < 2
        lanczos   sin(pi t) / (pi t) . sin(pi t/3) / (pi t/3) for t < 3

    The sum is never zero: the pixel nearest to ``u`` weighs more than the others take away.
    """
    i, j = _taps(n_in, n_out, taps, device)
    unit = 2 * _larger(n_in, n_out)
    distance = geometry.distance_numerator(i, j, n_in, n_out).abs()
    t = distance.to(dtype) / unit
    if prior == "bicubic":
        b = torch.where(distance < unit, (1 - t) * (1 + t - 1.5 * t * t), -0.5 * (t - 1) * (t - 2) * (t - 2))
        b = torch.where(distance < 2 * unit, b, 0)
    else:
        angle = torch.pi * torch.where(distance > 0, t, 1)
        between = (distance != unit) & (distance != 2 * unit)  # no remainder, whose divisor ONNX wants to be a number
        b = torch.where(between, 3 * angle.sin() * (angle / 3).sin() / (angle * angle), 0)
        b = torch.where(distance == 0, 1, torch.where(distance < 3 * unit, b, 0))
    b = torch.where((i >= 0) & (i < n_in), b, 0)
    return b / b.sum(dim=0)


def _larger(n: int, other: int) -> int:
    """``max``, which would settle which that is while a program for every size is traced."""
    if torch._C._get_tracing_state() is not None:  # of TorchScript, where sizes are tensors
        return (n + other + abs(n - other)) // 2
    return torch.sym_max(n, other)  # programs of torch.export cannot be saved with abs


def _taps(n_in: int, n_out: int, taps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Unclamped source pixels (K, n_out) and their target pixels (n_out,)."""
    j = torch.arange(n_out, device=device)
    k = torch.arange(taps, device=device)
    return geometry.first_tap(j, n_in, n_out, taps) + k[:, None], j


def tap_indices(n_in: int, n_out: int, taps: int, device: torch.device) -> Tensor:
    """Source pixels that are read: (K, n_out), edge pixels repeating."""
    return _taps(n_in, n_out, taps, device)[0].clamp(0, n_in - 1)


def _tap_distances(n_in: int, n_out: int, taps: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Signed distances in source pixels, taken before clamping: (K, n_out)."""
    i, j = _taps(n_in, n_out, taps, device)
    return geometry.distance_numerator(i, j, n_in, n_out).to(dtype) / (2 * n_out)


def _pool_axis(x: Tensor, n_out: int, dim: int) -> Tensor:
    """Mean over the fractional bins along one axis."""
    n_in = x.shape[dim]
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None:
        return (x.movedim(dim, -1) @ _bin_shares(n_in, n_out, x).T).movedim(-1, dim)
    if n_in % n_out == 0:
        width = n_in // n_out
        return functools.reduce(torch.add, x.unfold(dim, width, width).unbind(-1)) / width
    j = torch.arange(n_out, device=x.device)
    first, last = geometry.bin_first(j, n_in, n_out), geometry.bin_last(j, n_in, n_out)
    total = None
    for t in range(geometry.bin_width(n_in, n_out)):
        i = first + t
        weight = bin_share(i, j, n_in, n_out, x.dtype).view([-1 if d == dim else 1 for d in range(x.ndim)])
        # Past the bin's end the weight is 0 and the bin's last pixel is read again, so that no other pixel's NaN enters.
        term = x.index_select(dim, torch.minimum(i, last)) * weight
        total = term if total is None else total + term
    assert total is not None
    return total


def _bin_shares(n_in: int, n_out: int, x: Tensor) -> Tensor:
    """:func:`bin_share` of all source pixels and bins, as a matrix (n_out, n_in) of the dtype of ``x``.

    Exported programs pool by products with it, which serve all sizes. A sum over a bin's pixels would have as many terms as the
    bins of the traced size have pixels.
    """
    i = torch.arange(n_in, device=x.device)
    j = torch.arange(n_out, device=x.device)[:, None]
    return bin_share(i, j, n_in, n_out, x.dtype)


def bin_share(i: Tensor, j: Tensor, n_in: int, n_out: int, dtype: torch.dtype) -> Tensor:
    """The share of source pixel ``i`` in the mean of bin ``j``."""
    overlap = torch.minimum((i + 1) * n_out, (j + 1) * n_in) - torch.maximum(i * n_out, j * n_in)
    return overlap.clamp(min=0).to(dtype) / n_in
