"""The public functions: they check their arguments once, choose a backend, and call it."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from . import checks, ops, reference, repeats, strips
from .batches import Letterboxed, channels_last, letterboxed, normalization_terms, normalize, to_batch
from .calls import ImageCall, checked, image_call
from .coefficient_weights import CoefficientWeights, unflatten
from .dtypes import autocast, in_transform, trainable

MAX_FUSED_CHANNELS = 64
"""Most channels of distances, texture or a hidden layer in half precision, as registers allow; half as many otherwise."""
MAX_FUSED_IMAGE_CHANNELS = 10
"""Most channels of an image that one program normalises, or whose 3x3 patches it holds in its registers."""


def downsize(
    image: Tensor,
    texture: Tensor | None,
    weights: CoefficientWeights,
    size: int | tuple[int, int],
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
        size: (h, w) of the result, in pixels, each at least 1, or one number for both; larger than the image is allowed.
        taps: K, source pixels read per axis: 1 to 8.
        prior: what the coefficients are a multiple of: None for none (the poster's plain softmax), "bilinear", or "antialias".
            With an output layer of zeros the result then is ``F.interpolate(mode="bilinear", antialias=...)``, given 2 taps,
            or antialiased ``2 * ceil(scale)``, where the scale is H / h or W / w, whichever is larger, or 1.
            Or, to sharpen, "bicubic" or "lanczos": coefficients may be negative, and the output layer has a row more. With
            zeros there, and 1 as the last bias, the result is ``F.interpolate(mode="bicubic", antialias=True)``, given
            ``2 * ceil(2 * scale)`` taps, or Pillow's ``LANCZOS``, given ``2 * ceil(3 * scale)``.
        backend: "triton", "torch", or "auto" for Triton on CUDA and ROCm tensors and PyTorch on all others.

    Returns:
        (N, C, h, w) of the image's dtype, channels-last if the image is. Every value lies within the range of the K*K pixels
        it is a mean of, up to rounding, unless the prior sharpens; a NaN or Inf reaches only the outputs that read it.

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
    options = size, taps, prior, backend
    arguments = image, texture, weights, *options
    known = repeats.may_be(backend, image)
    return repeats.run(_downsize, arguments, [image], [texture], weights, options) if known else _downsize(*arguments)


def _downsize(
    image: Tensor, texture: Tensor | None, weights: CoefficientWeights, size: int | tuple[int, int], taps: int,
    prior: str | None, backend: str,
) -> Tensor:  # fmt: skip
    image, texture, weights, flat, size, taps = checked(image, texture, weights, size, taps, prior)
    distance = weights.distance_weight is not None
    if not _use_triton(backend, image, image.dtype):
        if strips.can_run([image, *flat, *([] if texture is None else [texture])]):
            return strips.strips(image, texture, [], flat, distance, *size, taps, prior, None, None, image.dtype)
        return reference.downsize(image, texture, weights, size, taps=taps, prior=prior)
    if _fits_one_launch(0 if texture is None else texture.shape[1], flat):
        return ops.call(ops.downsize, image, texture, flat, distance, *size, taps, prior or "none")
    return ops.call(ops.weighted_gather2d, image, _coefficients_in_steps(image, texture, weights, size, taps, prior), taps)


@overload
def downsize_image(
    image: Tensor | Sequence[Tensor],
    texture_weight: Tensor | None,
    texture_bias: Tensor | None,
    weights: CoefficientWeights,
    size: int | tuple[int, int],
    *,
    taps: int = ...,
    prior: str | None = ...,
    mean: Sequence[float] | None = ...,
    std: Sequence[float] | None = ...,
    out_dtype: torch.dtype | None = ...,
    letterbox: Literal[False] = ...,
    fill: float = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def downsize_image(
    image: Tensor | Sequence[Tensor],
    texture_weight: Tensor | None,
    texture_bias: Tensor | None,
    weights: CoefficientWeights,
    size: int | tuple[int, int],
    *,
    taps: int = ...,
    prior: str | None = ...,
    mean: Sequence[float] | None = ...,
    std: Sequence[float] | None = ...,
    out_dtype: torch.dtype | None = ...,
    letterbox: Literal[True],
    fill: float = ...,
    backend: str = ...,
) -> Letterboxed: ...
@overload
def downsize_image(
    image: Tensor | Sequence[Tensor],
    texture_weight: Tensor | None,
    texture_bias: Tensor | None,
    weights: CoefficientWeights,
    size: int | tuple[int, int],
    *,
    taps: int = ...,
    prior: str | None = ...,
    mean: Sequence[float] | None = ...,
    std: Sequence[float] | None = ...,
    out_dtype: torch.dtype | None = ...,
    letterbox: bool = ...,
    fill: float = ...,
    backend: str = ...,
) -> Tensor | Letterboxed: ...
def downsize_image(
    image: Tensor | Sequence[Tensor],
    texture_weight: Tensor | None,
    texture_bias: Tensor | None,
    weights: CoefficientWeights,
    size: int | tuple[int, int],
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
    texture: zeros are put around the normalised image. Triton reads each image once and writes the result once: features and
    float copies of uint8 images never go through memory, and images of different sizes are not copied together.

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
    computes the rest again. If an image of a list wants a gradient, Triton resizes one by one, with the same result.
    Networks wider than 64 channels in half precision, or 32 otherwise, and images of more than 10 channels take several steps.

    Source: the method's poster; normalisation is torchvision's, letterboxes are those of object detectors.

    >>> weights = CoefficientWeights(None, None, (), (), torch.zeros(4, 1), torch.zeros(4))
    >>> images = [torch.full((3, 9, 7), 255, dtype=torch.uint8), torch.zeros(3, 5, 8, dtype=torch.uint8)]
    >>> downsize_image(images, torch.zeros(1, 3, 3, 3), torch.zeros(1), weights, (1, 1))[:, 0].flatten().tolist()
    [1.0, 0.0]
    """
    options = size, taps, prior, mean, std, out_dtype, letterbox, fill, backend
    arguments = image, texture_weight, texture_bias, weights, *options
    if repeats.may_be(backend, image):
        convolution = [] if texture_weight is None and texture_bias is None else [texture_weight, texture_bias]
        images, place = ([image], None) if isinstance(image, Tensor) else (image, (size, letterbox))
        result = repeats.run(_downsize_image, arguments, images, convolution, weights, options, place)
    else:
        result = _downsize_image(*arguments)
    return letterboxed(result, image, checks.check_size(size)) if letterbox else result


def _downsize_image(*arguments: Any) -> Tensor:
    *options, backend = arguments
    call = image_call(*options)
    run = _downsize_image_triton if _use_triton(backend, call.first, call.weights[0].dtype) else _downsize_image_torch
    return run(call)


def _downsize_image_torch(call: ImageCall) -> Tensor:
    images = [call.image] if isinstance(call.image, Tensor) else call.image
    if strips.can_run([*images, *call.texture_weights, *call.weights]):
        options = call.taps, call.prior, call.mean, call.std, call.dtype

        def in_strips(x: Tensor, size: tuple[int, int]) -> Tensor:
            return strips.strips(x, None, call.texture_weights, call.weights, call.distance, *size, *options)

        return to_batch(call.image, call.size, call.letterbox, call.fill, in_strips)
    weight, bias = call.texture_weights or (None, None)
    return reference.downsize_image(
        call.image, weight, bias, unflatten(call.weights, call.distance), call.size, taps=call.taps, prior=call.prior,
        mean=call.mean, std=call.std, out_dtype=call.dtype, letterbox=call.letterbox, fill=call.fill,
    )  # fmt: skip


def _downsize_image_triton(call: ImageCall) -> Tensor:
    """One launch, if a program holds the network and no gradients to several images are wanted."""
    image, channels = call.image, call.first.shape[-3]
    factors, summands = normalization_terms(call.first, call.mean, call.std)

    def launch(images: list[Tensor], size: tuple[int, int], fill: float | None) -> Tensor:
        return ops.call(
            ops.downsize_image, images, call.texture_weights, call.weights, call.distance, *size, call.taps,
            call.prior or "none", factors, summands, fill, call.dtype,
        )  # fmt: skip

    # The kernel has code of its own for each channel that it convolves or normalises; over others it loops.
    narrow = channels <= MAX_FUSED_IMAGE_CHANNELS or not (call.texture_weights or factors)
    texture_channels = call.texture_weights[0].shape[0] if call.texture_weights else 0
    if not (narrow and _fits_one_launch(texture_channels, call.weights)):
        return to_batch(image, call.size, call.letterbox, call.fill, lambda x, size: _in_steps(call, x, size))
    if isinstance(image, Tensor):
        if not call.letterbox or image.shape[0] == 0:
            return launch([image], call.size, None)
        image = list(image.unbind(0))
    if torch.is_grad_enabled() and any(x.requires_grad for x in image):
        return to_batch(image, call.size, call.letterbox, call.fill, lambda x, size: launch([x], size, None))
    return launch(image, call.size, call.fill if call.letterbox else None)


def _in_steps(call: ImageCall, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Normalise and convolve by PyTorch, then downsize given the texture."""
    x = normalize(x, call.mean, call.std, call.weights[0].dtype)
    texture = None
    if call.texture_weights:
        weight, bias = call.texture_weights
        # Channels-last weights make features channels-last, which the kernels read fastest.
        texture = F.conv2d(x, channels_last(weight), bias, padding=1).relu()
    return _downsize(x, texture, unflatten(call.weights, call.distance), size, call.taps, call.prior, "triton").to(call.dtype)


def coefficients(
    image: Tensor,
    texture: Tensor | None,
    weights: CoefficientWeights,
    size: int | tuple[int, int],
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
        (N, K*K, h, w), contiguous: tap (ky, kx) at ``ky * K + kx``. They sum to 1 at every pixel, and are between 0 and 1
        unless the prior sharpens, which adds ``g * (b - q)``: the network's last output times the signed kernel b less q.

    Source: the poster (softmax constraint); the prior is our choice.

    >>> weights = CoefficientWeights(None, None, (), (), torch.zeros(4, 1), torch.zeros(4))
    >>> coefficients(torch.ones(1, 3, 4, 4), torch.ones(1, 1, 4, 4), weights, (1, 1)).flatten().tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    image, texture, weights, flat, size, taps = checked(image, texture, weights, size, taps, prior)
    if not _use_triton(backend, image, image.dtype):
        return reference.coefficients(image, texture, weights, size, taps=taps, prior=prior)
    if _fits_one_launch(0 if texture is None else texture.shape[1], flat):
        n, _, image_h, image_w = image.shape
        distance = weights.distance_weight is not None
        return ops.call(ops.coefficients, texture, flat, distance, n, image_h, image_w, *size, taps, prior or "none")
    return _coefficients_in_steps(image, texture, weights, size, taps, prior).contiguous()


def area_pool2d(x: Tensor, size: int | tuple[int, int], *, backend: str = "auto") -> Tensor:
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
    checks.check_tensor("x", x)
    size = checks.check_size(size)
    (x,) = trainable(autocast([x], x.device.type))
    checks.check_dtype("x", x)
    if _use_triton(backend, x):
        return ops.call(ops.area_pool2d, x, *size)
    return reference.area_pool2d(x, size)


def weighted_gather2d(
    image: Tensor, coefficients: Tensor, size: int | tuple[int, int], *, taps: int = 2, backend: str = "auto"
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
    checks.check_tensor("image", image)
    checks.check_tensor("coefficients", coefficients)
    size = checks.check_size(size)
    taps = checks.check_taps(taps)
    expected = (image.shape[0], taps * taps, *size)
    if tuple(coefficients.shape) != expected:
        raise ValueError(f"coefficients: expected shape {expected} (N, taps*taps, h, w), got {tuple(coefficients.shape)}")
    image, coefficients = trainable(autocast([image, coefficients], image.device.type))
    checks.check_dtype("image", image)
    checks.check_alike("coefficients", coefficients, "image", image)
    if _use_triton(backend, image):
        return ops.call(ops.weighted_gather2d, image, coefficients, taps)
    return reference.weighted_gather2d(image, coefficients, size, taps=taps)


def _coefficients_in_steps(
    image: Tensor, texture: Tensor | None, weights: CoefficientWeights, size: tuple[int, int], taps: int, prior: str | None
) -> Tensor:
    """The coefficients of networks too wide for one launch: Triton pools the texture, PyTorch multiplies the matrices."""
    a = reference.infer_coefficients(image, texture, weights, size, taps, prior, pool=ops.area_pool2d)
    return a.to(image.dtype).expand(image.shape[0], -1, -1, -1)


def _use_triton(backend: str, x: Tensor, network: torch.dtype | None = None) -> bool:
    """Whether ``backend`` means Triton for ``x``, and for a network of dtype ``network``."""
    checks.check_backend(backend)
    if backend == "torch" or (backend == "auto" and not x.is_cuda):
        return False
    if torch.compiler.is_compiling():  # the operator checks all else when it runs
        return backend == "triton" or ops.HAS_TRITON
    reason = ops.why_no_triton(x.device.type) or (None if network is None else ops.why_not_in(network, x.device))
    if reason is None and in_transform():
        reason = "torch.func's transforms know nothing of the kernels"
    if reason is not None and backend == "triton":
        raise RuntimeError(f'backend="triton" cannot run here: {reason}; use backend="torch"')
    return reason is None


def _fits_one_launch(texture_channels: int, flat: list[Tensor]) -> bool:
    """Whether a program holds the network's tiles in its registers. Wider ones run as pooling, matrix products, gather."""
    widest = max([texture_channels, *[bias.shape[0] for bias in flat[1:-1:2]]])
    tensor_cores = flat[0].dtype in (torch.float16, torch.bfloat16)
    return widest <= (MAX_FUSED_CHANNELS if tensor_cores else MAX_FUSED_CHANNELS // 2)
