"""The public functions: they check their arguments once, choose a backend, and call it."""

import math
import numbers
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import geometry, ops, reference
from .reference import CoefficientWeights

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PRIORS = ("bilinear", "antialias")
BACKENDS = ("auto", "triton", "torch")
MAX_TAPS = 8
MAX_HIDDEN_LAYERS = 3
MAX_FUSED_CHANNELS = 64
"""Widest E, F or M that one program holds in its registers in half precision; half as many otherwise."""
MAX_FUSED_IMAGE_CHANNELS = 10
"""Most channels of an image whose 3x3 patches one program holds, too, or that it normalises."""
SMALLEST_STD = 1e-30
"""What images are divided by, such that float32 holds the inverse and what is multiplied by it."""


class Letterboxed(NamedTuple):
    """Images that kept their aspect, each in the middle of its part of a batch, and where it lies there."""

    images: Tensor
    """(N, C, h, w)"""
    mask: Tensor
    """(N, h, w), bool: True where the image lies, False on what is around it."""
    scale: Tensor
    """(N, 2), float32: pixels of the result per pixel of the image, along x and along y."""
    offset: Tensor
    """(N, 2), float32, in pixels: ``x' = x * scale + offset``. :func:`tritonds.geometry.map_boxes` does this for boxes."""


def downsize(
    image: Tensor,
    texture: Tensor | None,
    weights: CoefficientWeights,
    size: tuple[int, int],
    *,
    taps: int = 2,
    prior: str | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Resize images with coefficients inferred at every target pixel from distances and texture.

    ``y[n, c, j] = sum_k a[n, k, j] * image[n, c, tap k of j]``, with ``a`` from :func:`coefficients`.

    Args:
        image: (N, C, H, W), any strides; float16, bfloat16, float32 or float64. An empty batch is fine.
        texture: texture features (N, F, Ht, Wt) of any size, or None to infer from distances alone. Channels-last is fastest.
        weights: the sub-network's weights, each of the image's dtype.
        size: (h, w) of the result, in pixels, each at least 1; larger than the image is allowed.
        taps: K, source pixels read per axis: 1 to 8.
        prior: what the coefficients are a multiple of: None for none (the poster's plain softmax), "bilinear", or "antialias".
            With an output layer of zeros the result then is ``F.interpolate(mode="bilinear", antialias=...)``, given 2 taps,
            or ``2 * ceil(scale)`` antialiased.
        backend: "triton", "torch", or "auto" for Triton on CUDA and ROCm tensors and PyTorch on all others.

    Returns:
        (N, C, h, w) of the image's dtype, channels-last if the image is. Every value lies within the range of the K*K pixels
        it is a mean of, up to rounding; a NaN or Inf reaches only the outputs that read it.

    Raises:
        TypeError: an argument of the wrong type, or tensors of different or unsupported dtypes.
        ValueError: shapes that do not fit, a size below 1, taps outside 1 to 8, an unknown prior or backend.
        RuntimeError: backend="triton" where it cannot run; a second or forward-mode derivative of a Triton operator.

    Sums, distances and the softmax are in float32 (float64 for float64); float32 matrix products follow PyTorch's precision
    setting. Under autocast all tensors but float64 are cast to its dtype. Triton's results are bitwise equal from run to run,
    forward and backward. Differentiable in image, texture and all weights: with Triton once, backward, saving its inputs alone
    (networks too wide for one launch save more); with PyTorch as often as you like.

    Source: the method's poster; prior, hidden layers and half-pixel centres are our choice.

    >>> weights = CoefficientWeights(None, None, (), (), torch.zeros(4, 1), torch.zeros(4))
    >>> downsize(torch.ones(1, 3, 8, 8), torch.ones(1, 1, 8, 8), weights, (4, 4)).shape
    torch.Size([1, 3, 4, 4])
    """
    image, texture, weights, flat, size = _prepare(image, texture, weights, size, taps, prior)
    if _use_triton(backend, image):
        if _fits_one_launch(0 if texture is None else texture.shape[1], flat):
            distance = weights.distance_weight is not None
            return ops.downsize(image, texture, flat, distance, *size, taps, prior or "none")
        a = reference.infer_coefficients(image, texture, weights, size, taps, prior, pool=ops.area_pool2d)
        a = a.to(image.dtype).expand(image.shape[0], -1, -1, -1)
        return ops.weighted_gather2d(image, a, taps)
    return reference.downsize(image, texture, weights, size, taps=taps, prior=prior)


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
    backend: str = "auto",
) -> Tensor | Letterboxed:
    """Resize images by texture that is made of them on the way: from decoded images to a normalised batch in one launch.

    As :func:`downsize` of ``x = (image - mean) / std`` with ``relu(conv2d(x, texture_weight, texture_bias, padding=1))`` as
    texture: zeros are put around the normalised image. Triton reads each image once and writes the result once: neither
    features nor a float copy of a uint8 image are in memory, nor are images of different sizes copied together.

    Args:
        image: (N, C, H, W), or a list of N images (C, H, W) of any sizes; any strides; uint8, or the weights' dtype.
        texture_weight: (F, C, 3, 3), any strides, or None to infer from distances alone.
        texture_bias: (F,), or None with the weight.
        weights: the coefficient network's, all of one of float16, bfloat16, float32 and float64.
        size: (h, w) of the result, in pixels.
        taps: as in :func:`downsize`; likewise prior and backend.
        mean: C numbers, subtracted from the channels; uint8 images are divided by 255 before (torchvision's convention).
        std: C numbers above 0, by which they are divided then.
        out_dtype: of the result; the weights' if None.
        letterbox: keep each image's aspect and place it in the middle, as :func:`tritonds.geometry.letterbox` says, instead of
            stretching it.
        fill: the result's value around letterboxed images; it is not normalised.

    Returns:
        (N, C, h, w) of ``out_dtype``, channels-last if all images are (C last); with ``letterbox`` :class:`Letterboxed`. In
        one launch of Triton's, each image's row has the same bits as if that image were alone.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`downsize`.

    Arithmetic is in float32 (float64 for float64 weights), with activations in the weights' dtype. Under autocast weights and
    float images are cast to its dtype. Differentiable in float images and all weights; Triton saves the inputs alone, and
    computes the rest again. It resizes one by one, which gives the same, the images of a list of which one wants a gradient.
    Networks wider than 64 channels (32 but in half precision), and images of more than 10 channels, take several steps.

    Source: the method's poster; normalisation is torchvision's, letterboxes are those of object detectors.

    >>> weights = CoefficientWeights(None, None, (), (), torch.zeros(4, 1), torch.zeros(4))
    >>> images = [torch.full((3, 9, 7), 255, dtype=torch.uint8), torch.zeros(3, 5, 8, dtype=torch.uint8)]
    >>> downsize_image(images, torch.zeros(1, 3, 3, 3), torch.zeros(1), weights, (1, 1))[:, 0].flatten().tolist()
    [1.0, 0.0]
    """
    images = _check_images(image)
    size = _check_size(size)
    check_options(size, taps, prior, backend)
    check_normalization(images[0].shape[-3], mean, std, out_dtype)
    filters = _check_filters(texture_weight, texture_bias, images[0].shape[-3])
    _check_weights(weights, filters[0].shape[0] if filters else 0, taps)
    device_type = images[0].device.type
    flat = _cast(_flatten(weights), device_type)
    filters = _cast(filters, device_type)
    images = _cast(images, device_type)
    _check_dtype("weights", flat[0])
    weights_dtype, device = flat[0].dtype, flat[0].device
    for tensor in flat:
        if tensor.dtype != weights_dtype or tensor.device != device:
            _check_alike("weights", tensor, "the first of them", flat[0])
    for name, tensor in zip(("texture_weight", "texture_bias"), filters, strict=False):
        _check_alike(name, tensor, "the weights", flat[0])
    _check_like_weights(images[0], flat[0])  # the other images' dtype and device are those of the first
    dtype = out_dtype or weights_dtype
    check_fill(fill, dtype)
    given = images[0] if isinstance(image, Tensor) else images
    distance = weights.distance_weight is not None
    if _use_triton(backend, images[0]):
        result = _downsize_image_triton(given, filters, flat, distance, size, taps, prior, mean, std, dtype, letterbox, fill)
    else:
        weight, bias = filters or (None, None)
        result = reference.downsize_image(
            given, weight, bias, _unflatten(flat, distance), size, taps=taps, prior=prior, mean=mean, std=std, out_dtype=dtype,
            letterbox=letterbox, fill=fill,
        )  # fmt: skip
    return letterboxed(result, given, size) if letterbox else result


def _downsize_image_triton(
    image: Tensor | list[Tensor], filters: list[Tensor], flat: list[Tensor], distance: bool, size: tuple[int, int],
    taps: int, prior: str | None, mean: Sequence[float] | None, std: Sequence[float] | None, dtype: torch.dtype,
    letterbox: bool, fill: float,
) -> Tensor:  # fmt: skip
    """One launch, if it holds the network and nobody wants gradients to several images."""
    first = image if isinstance(image, Tensor) else image[0]
    channels = first.shape[-3]
    options = (taps, prior or "none", *_affine(channels, first.dtype, mean, std))

    def one(x: Tensor, size: tuple[int, int]) -> Tensor:
        return ops.downsize_image([x], filters, flat, distance, *size, *options, None, dtype)

    def step_by_step(x: Tensor, size: tuple[int, int]) -> Tensor:
        x = reference.normalize(x, mean, std, flat[0].dtype)
        texture = F.conv2d(x, filters[0], filters[1], padding=1).relu() if filters else None
        weights = _unflatten(flat, distance)
        return downsize(x, texture, weights, size, taps=taps, prior=prior, backend="triton").to(dtype)

    written_out = filters or options[2]  # the kernel's code for each channel; otherwise it loops over them
    narrow = channels <= MAX_FUSED_IMAGE_CHANNELS or not written_out
    if not (narrow and _fits_one_launch(filters[0].shape[0] if filters else 0, flat)):
        return reference.to_batch(image, size, letterbox, fill, step_by_step)
    if isinstance(image, Tensor):
        if not letterbox or image.shape[0] == 0:
            return one(image, size)
        image = list(image.unbind(0))
    if torch.is_grad_enabled() and any(x.requires_grad for x in image):
        return reference.to_batch(image, size, letterbox, fill, one)
    return ops.downsize_image(image, filters, flat, distance, *size, *options, fill if letterbox else None, dtype)


def _affine(
    channels: int, dtype: torch.dtype, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """Factor and summand of each channel, by which pixels of ``dtype`` are normalised; none if they are as they are."""
    if mean is None and std is None and dtype != torch.uint8:
        return [], []
    mean, std = mean or [0.0] * channels, std or [1.0] * channels
    most = 255 if dtype == torch.uint8 else 1
    return [1 / (most * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def letterboxed(result: Tensor, image: Tensor | Sequence[Tensor], size: tuple[int, int]) -> Letterboxed:
    """``result`` of letterboxing ``image``, with where each image lies in it."""
    sizes = [(x.shape[-2], x.shape[-1]) for x in image]
    places = [geometry.letterbox(size_in, size) for size_in in sizes]
    device = result.device
    ends = torch.tensor([[top, top + h, left, left + w] for (h, w), (top, left) in places], device=device).view(-1, 4, 1)
    row, column = torch.arange(size[0], device=device), torch.arange(size[1], device=device)
    rows = (row >= ends[:, 0]) & (row < ends[:, 1])
    columns = (column >= ends[:, 2]) & (column < ends[:, 3])
    scale = [[w / in_w, h / in_h] for (in_h, in_w), ((h, w), _) in zip(sizes, places, strict=True)]
    offset = [[float(left), float(top)] for _, (top, left) in places]
    scales, offsets = (torch.tensor(x, dtype=torch.float32, device=device).view(-1, 2) for x in (scale, offset))
    return Letterboxed(result, rows[:, :, None] & columns[:, None, :], scales, offsets)


def coefficients(
    image: Tensor,
    texture: Tensor | None,
    weights: CoefficientWeights,
    size: tuple[int, int],
    *,
    taps: int = 2,
    prior: str | None = None,
    backend: str = "auto",
) -> Tensor:
    """Infer the coefficients alone: ``a = q * exp(logits) / sum(q * exp(logits))`` over the K*K taps of a target pixel.

    Args:
        image: (N, C, H, W). Only its size, dtype and device are read.
        texture: as in :func:`downsize`; likewise weights, size, taps, prior, backend and the errors raised.

    Returns:
        (N, K*K, h, w), contiguous: tap (ky, kx) at ``ky * K + kx``. Each between 0 and 1; they sum to 1 at every pixel.

    Source: the poster (softmax constraint); the prior is our choice.

    >>> weights = CoefficientWeights(None, None, (), (), torch.zeros(4, 1), torch.zeros(4))
    >>> coefficients(torch.ones(1, 3, 4, 4), torch.ones(1, 1, 4, 4), weights, (1, 1)).flatten().tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    image, texture, weights, flat, size = _prepare(image, texture, weights, size, taps, prior)
    if _use_triton(backend, image):
        if _fits_one_launch(0 if texture is None else texture.shape[1], flat):
            n, _, image_h, image_w = image.shape
            distance = weights.distance_weight is not None
            return ops.coefficients(texture, flat, distance, n, image_h, image_w, *size, taps, prior or "none")
        a = reference.infer_coefficients(image, texture, weights, size, taps, prior, pool=ops.area_pool2d)
        return a.to(image.dtype).expand(image.shape[0], -1, -1, -1).contiguous()
    return reference.coefficients(image, texture, weights, size, taps=taps, prior=prior)


def area_pool2d(x: Tensor, size: tuple[int, int], *, backend: str = "auto") -> Tensor:
    """Average over bins with fractional edges, for any real scale: area interpolation proper.

    Along each axis ``y[j]`` is the mean of ``x`` over ``[j * n_in / n_out, (j + 1) * n_in / n_out)``, pixels cut by an edge
    counting by the part inside. (``F.interpolate(mode="area")`` rounds the bins to whole pixels.)

    Args:
        x: (N, C, H, W), any strides; float16, bfloat16, float32 or float64.
        size: (h, w) in pixels, each at least 1.
        backend: as in :func:`downsize`.

    Returns:
        (N, C, h, w) of the dtype of ``x``, channels-last if ``x`` is. Sums are in float32 (float64 for float64).

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`downsize`.

    Source: the poster's "floating type pooling layer"; that its bins tile the image is our reading.

    >>> area_pool2d(torch.tensor([[[[0.0, 3.0, 6.0]]]]), (1, 2)).flatten().tolist()
    [1.0, 5.0]
    """
    _check_tensor("x", x)
    size = _check_size(size)
    (x,) = _cast([x], x.device.type)
    _check_dtype("x", x)
    if _use_triton(backend, x):
        return ops.area_pool2d(x, *size)
    return reference.area_pool2d(x, size)


def weighted_gather2d(
    image: Tensor, coefficients: Tensor, size: tuple[int, int], *, taps: int = 2, backend: str = "auto"
) -> Tensor:
    """Sum each target pixel's K*K taps, weighted by coefficients of your own (any values, also negative).

    Args:
        image: (N, C, H, W), any strides; float16, bfloat16, float32 or float64.
        coefficients: (N, K*K, h, w) of the same dtype, tap (ky, kx) at ``ky * K + kx``.
        size: (h, w), in pixels.
        taps: K, 1 to 8.
        backend: as in :func:`downsize`.

    Returns:
        (N, C, h, w) of the image's dtype, channels-last if the image is.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`downsize`.

    Source: the poster's weighted sum; taps around half-pixel centres, edge pixels repeating, are our choice.

    >>> quarter = torch.full((1, 4, 1, 1), 0.25)
    >>> weighted_gather2d(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), quarter, (1, 1)).item()
    1.5
    """
    _check_tensor("image", image)
    _check_tensor("coefficients", coefficients)
    size = _check_size(size)
    _check_taps(taps)
    expected = (image.shape[0], taps * taps, *size)
    if tuple(coefficients.shape) != expected:
        raise ValueError(f"coefficients: expected shape {expected} (N, taps*taps, h, w), got {tuple(coefficients.shape)}")
    image, coefficients = _cast([image, coefficients], image.device.type)
    _check_dtype("image", image)
    _check_alike("coefficients", coefficients, "image", image)
    if _use_triton(backend, image):
        return ops.weighted_gather2d(image, coefficients, taps)
    return reference.weighted_gather2d(image, coefficients, size, taps=taps)


def check_options(size: tuple[int, int] | None, taps: int, prior: str | None, backend: str) -> None:
    """Raise what :func:`downsize` would raise for these arguments, before there is an image."""
    if size is not None:
        _check_size(size)
    _check_taps(taps)
    _check_prior(prior)
    _check_backend(backend)


def check_channels(image: Tensor | Sequence[Tensor], channels: int) -> None:
    """Raise if ``image``, or the first of several, has other than ``channels``; whatever else is wrong, others will say."""
    first = image[0] if isinstance(image, (tuple, list)) and image else image
    if isinstance(first, Tensor) and first.dim() >= 3 and first.shape[-3] != channels:
        raise ValueError(f"image: expected {channels} channels, got shape {tuple(first.shape)}")


def check_image(image: Tensor | Sequence[Tensor], parameter: Tensor) -> None:
    """Raise unless ``image`` is (N, C, H, W) or a list of (C, H, W), on the device of ``parameter``.

    And of uint8 or, without autocast, its dtype.
    """
    images = _check_images(image)
    if _autocasts(images[0].device.type) and images[0].dtype != torch.uint8:
        _check_dtype("image", images[0])
    else:
        _check_like_weights(images[0], parameter)


def check_normalization(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None, out_dtype: torch.dtype | None
) -> None:
    """Raise unless there is a number for each channel, or none, and results can be of ``out_dtype``."""
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if not isinstance(values, (tuple, list)) or not all(type(v) is float or isinstance(v, numbers.Real) for v in values):
            raise TypeError(f"{name}: expected a list of numbers, got {values!r}")
        # Comparisons, and no function of ``math``: torch.compile may see these numbers as symbols.
        if len(values) != channels or not all(-math.inf < v < math.inf for v in values):
            raise ValueError(f"{name}: expected {channels} finite numbers, one for each channel, got {values!r}")
        if name == "std" and not all(v > SMALLEST_STD for v in values):
            raise ValueError(f"std: expected numbers above {SMALLEST_STD}, got {values!r}")
    if out_dtype is not None and not isinstance(out_dtype, torch.dtype):
        raise TypeError(f"out_dtype: expected a torch.dtype, got {out_dtype!r}")
    if out_dtype is not None and out_dtype not in DTYPES:
        raise TypeError(f"out_dtype: expected float16, bfloat16, float32 or float64, got {out_dtype}")


def check_fill(fill: float, dtype: torch.dtype) -> None:
    """Raise unless ``fill`` is a number that ``dtype`` holds."""
    if type(fill) is not float and (not isinstance(fill, numbers.Real) or isinstance(fill, bool)):
        raise TypeError(f"fill: expected a number, got {fill!r}")
    most = torch.finfo(dtype).max
    if not -most <= fill <= most:
        raise ValueError(f"fill: expected a finite number of {dtype}, got {fill!r}")


def _prepare(
    image: Tensor,
    texture: Tensor | None,
    weights: CoefficientWeights,
    size: tuple[int, int],
    taps: int,
    prior: str | None,
) -> tuple[Tensor, Tensor | None, CoefficientWeights, list[Tensor], tuple[int, int]]:
    """Check everything but the backend; cast under autocast; give the weights as they came and as a flat list."""
    _check_tensor("image", image)
    if texture is not None:
        _check_tensor("texture", texture)
        if texture.shape[0] != image.shape[0]:
            raise ValueError(f"texture: expected the image's batch size {image.shape[0]}, got {texture.shape[0]}")
    size = _check_size(size)
    _check_taps(taps)
    _check_prior(prior)
    _check_weights(weights, 0 if texture is None else texture.shape[1], taps)
    flat = _flatten(weights)
    if _autocasts(image.device.type):
        device_type = image.device.type
        flat = _cast(flat, device_type)
        weights = _unflatten(flat, weights.distance_weight is not None)
        (image,) = _cast([image], device_type)
        texture = None if texture is None else _cast([texture], device_type)[0]
    _check_dtype("image", image)
    if texture is not None:
        _check_alike("texture", texture, "image", image)
    dtype, device = image.dtype, image.device
    for tensor in flat:
        if tensor.dtype != dtype or tensor.device != device:
            _check_alike("weights", tensor, "image", image)
    return image, texture, weights, flat, size


def _check_tensor(name: str, x: Tensor) -> None:
    geometry.check_dense(name, x)
    shape = x.shape
    if len(shape) != 4:
        raise ValueError(f"{name}: expected 4 dimensions (N, channels, height, width), got shape {tuple(shape)}")
    if shape[1] < 1 or shape[2] < 1 or shape[3] < 1:
        raise ValueError(f"{name}: expected channels, height and width of at least 1, got shape {tuple(shape)}")


def _check_images(image: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """A batch (N, C, H, W), or the images (C, H, W) of a list, as a list."""
    if isinstance(image, Tensor):
        _check_tensor("image", image)
        return [image]
    if not isinstance(image, (tuple, list)):
        raise TypeError(f"image: expected a torch.Tensor or a list of them, got {type(image).__name__}")
    if not image:
        raise ValueError("image: expected at least one image in a list, got none")
    for index, x in enumerate(image):
        name = f"image[{index}]"
        geometry.check_dense(name, x)
        if x.dim() != 3 or min(x.shape) < 1:
            raise ValueError(f"{name}: expected shape (channels, height, width), each at least 1, got {tuple(x.shape)}")
        if x.shape[0] != image[0].shape[0]:
            raise ValueError(f"{name}: expected the first image's {image[0].shape[0]} channels, got {x.shape[0]}")
        if x.dtype != image[0].dtype or x.device != image[0].device:
            _check_alike(name, x, "the first image", image[0])
    return list(image)


def _check_filters(weight: Tensor | None, bias: Tensor | None, channels: int) -> list[Tensor]:
    """Weight and bias of the texture's convolution, or none."""
    if weight is None and bias is None:
        return []
    if weight is None or bias is None:
        raise ValueError("texture_weight, texture_bias: expected both or neither")
    geometry.check_dense("texture_weight", weight)
    geometry.check_dense("texture_bias", bias)
    if weight.dim() != 4 or weight.shape[0] < 1 or tuple(weight.shape[1:]) != (channels, 3, 3):
        raise ValueError(f"texture_weight: expected shape (F, {channels}, 3, 3), got {tuple(weight.shape)}")
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"texture_bias: expected shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    return [weight, bias]


def _check_like_weights(image: Tensor, weight: Tensor) -> None:
    """Images are of the weights' device, and of their dtype or uint8."""
    if image.dtype not in (weight.dtype, torch.uint8):
        raise TypeError(f"image: expected uint8 or the weights' dtype, {weight.dtype}, got {image.dtype}")
    if image.device != weight.device:
        raise ValueError(f"image: expected the weights' device, {weight.device}, got {image.device}")


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    if type(size) is tuple and len(size) == 2 and type(size[0]) is type(size[1]) is int and min(size) >= 1:
        return size  # at every call but the strange ones
    return geometry.check_size("size", size)


def _check_taps(taps: int) -> None:
    if not isinstance(taps, int) or isinstance(taps, bool):
        raise TypeError(f"taps: expected an integer, got {taps!r}")
    if not 1 <= taps <= MAX_TAPS:
        raise ValueError(f"taps: expected 1 to {MAX_TAPS}, got {taps}")


def _check_prior(prior: str | None) -> None:
    if prior is not None and not (isinstance(prior, str) and prior in PRIORS):
        raise ValueError(f"prior: expected None or one of {PRIORS}, got {prior!r}")


def _check_backend(backend: str) -> None:
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {BACKENDS}, got {backend!r}")


def _check_weights(weights: CoefficientWeights, texture_channels: int, taps: int) -> None:
    """Types and shapes, layer by layer."""
    if not isinstance(weights, CoefficientWeights):
        raise TypeError(f"weights: expected a CoefficientWeights, got {type(weights).__name__}")
    if (weights.distance_weight is None) != (weights.distance_bias is None):
        raise ValueError("weights: expected both distance_weight and distance_bias, or neither")
    channels = texture_channels
    if weights.distance_weight is not None and weights.distance_bias is not None:
        distance_channels = _check_layer("distance", weights.distance_weight, weights.distance_bias, 2 * taps, "2 * taps")
        channels += distance_channels
    if channels == 0:
        raise ValueError("weights: expected distance weights or a texture, got neither")
    for name, tensors in (("hidden_weights", weights.hidden_weights), ("hidden_biases", weights.hidden_biases)):
        if not isinstance(tensors, (tuple, list)):
            raise TypeError(f"weights: expected {name} to be a tuple of tensors, got {type(tensors).__name__}")
    if len(weights.hidden_weights) != len(weights.hidden_biases):
        raise ValueError(
            f"weights: expected as many hidden_biases as hidden_weights, got {len(weights.hidden_biases)} and "
            f"{len(weights.hidden_weights)}"
        )
    if len(weights.hidden_weights) > MAX_HIDDEN_LAYERS:
        raise ValueError(f"weights: expected at most {MAX_HIDDEN_LAYERS} hidden layers, got {len(weights.hidden_weights)}")
    width = None
    for index, (weight, bias) in enumerate(zip(weights.hidden_weights, weights.hidden_biases, strict=True)):
        out = _check_layer(f"hidden[{index}]", weight, bias, channels, "the channels before it")
        if width is not None and out != width:
            raise ValueError(f"weights: expected hidden layers of one width, got {width} and {out}")
        channels = width = out
    out = _check_layer("out", weights.out_weight, weights.out_bias, channels, "the channels before it")
    if out != taps * taps:
        raise ValueError(f"weights: expected out_weight with taps*taps = {taps * taps} rows, got {out}")


def _check_layer(name: str, weight: Tensor, bias: Tensor, channels: int, meaning: str) -> int:
    """Check one layer that reads ``channels``, and return how many it writes."""
    for part, tensor in (("weight", weight), ("bias", bias)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"weights: expected {name} {part} to be a torch.Tensor, got {type(tensor).__name__}")
    shape = weight.shape
    if len(shape) != 2 or shape[0] < 1 or shape[1] != channels:
        raise ValueError(
            f"weights: expected {name} weight of shape (out, {channels}), {channels} being {meaning}, got {tuple(shape)}"
        )
    if bias.shape != shape[:1]:
        raise ValueError(f"weights: expected {name} bias of shape ({shape[0]},), got {tuple(bias.shape)}")
    return shape[0]


def _check_dtype(name: str, x: Tensor) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}")


def _check_alike(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.dtype != other.dtype:
        raise TypeError(f"{name}: expected the dtype of {other_name}, {other.dtype}, got {x.dtype}")
    if x.device != other.device:
        raise ValueError(f"{name}: expected the device of {other_name}, {other.device}, got {x.device}")


def _flatten(weights: CoefficientWeights) -> list[Tensor]:
    """Weight and bias of the distance encoding if there is one, of each hidden layer, of the output layer."""
    flat = []
    if weights.distance_weight is not None and weights.distance_bias is not None:
        flat += [weights.distance_weight, weights.distance_bias]
    for weight, bias in zip(weights.hidden_weights, weights.hidden_biases, strict=True):
        flat += [weight, bias]
    return [*flat, weights.out_weight, weights.out_bias]


def _unflatten(flat: list[Tensor], distance: bool) -> CoefficientWeights:
    """The inverse of :func:`_flatten`."""
    distance_weight, distance_bias = flat[:2] if distance else (None, None)
    hidden = flat[2 if distance else 0 : -2]
    return CoefficientWeights(distance_weight, distance_bias, tuple(hidden[::2]), tuple(hidden[1::2]), flat[-2], flat[-1])


def _autocasts(device_type: str) -> bool:
    """Whether autocast is on; some devices, such as meta, have none."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def _cast(tensors: list[Tensor], device_type: str) -> list[Tensor]:
    """``tensors`` in autocast's dtype if it is on, float64 excepted, as autocast does for PyTorch's own operators."""
    if not _autocasts(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return [t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors]


def _use_triton(backend: str, x: Tensor) -> bool:
    """Whether ``backend`` means Triton for ``x``."""
    _check_backend(backend)
    if backend == "auto":
        # While tracing, no more than whether Triton is there: the operator itself says the rest, when it runs.
        return x.is_cuda and (ops.HAS_TRITON if torch.compiler.is_compiling() else ops.why_no_triton("cuda") is None)
    if backend == "torch":
        return False
    reason = None if torch.compiler.is_compiling() else ops.why_no_triton(x.device.type)
    if reason is not None:
        raise RuntimeError(f'backend="triton" cannot run here: {reason}')
    return True


def _fits_one_launch(texture_channels: int, flat: list[Tensor]) -> bool:
    """Whether a program holds the network's tiles in its registers; wider ones run as pooling, matrix products, gather."""
    widest = max([texture_channels, *[bias.shape[0] for bias in flat[1:-1:2]]])
    tensor_cores = flat[0].dtype in (torch.float16, torch.bfloat16)
    return widest <= (MAX_FUSED_CHANNELS if tensor_cores else MAX_FUSED_CHANNELS // 2)
