"""The public functions' arguments, checked once, and cast under autocast."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import checks
from .coefficient_weights import CoefficientWeights, flatten, unflatten
from .dtypes import autocast, autocasts, trainable


class ImageCall(NamedTuple):
    """The arguments of :func:`downsize_image`, checked, and cast under autocast."""

    image: Tensor | list[Tensor]
    texture_weights: list[Tensor]
    """Weight and bias of the texture's convolution, or none."""
    weights: list[Tensor]
    """The coefficient network's, as :func:`flatten` gives them."""
    distance: bool
    size: tuple[int, int]
    taps: int
    prior: str | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    dtype: torch.dtype
    """The result's."""
    letterbox: bool
    fill: float

    first: Tensor
    """The batch, or the first image of several."""


def image_call(
    image: Tensor | Sequence[Tensor], texture_weight: Tensor | None, texture_bias: Tensor | None,
    weights: CoefficientWeights, size: int | tuple[int, int], taps: int, prior: str | None, mean: Sequence[float] | None,
    std: Sequence[float] | None, out_dtype: torch.dtype | None, letterbox: bool, fill: float,
) -> ImageCall:  # fmt: skip
    images = checks.check_images(image)
    channels = images[0].shape[-3]
    size = checks.check_size(size)
    taps = checks.check_taps(taps)
    checks.check_prior(prior)
    letterbox = checks.check_letterbox(letterbox, images)
    mean, std = checks.check_normalization(channels, mean, std, out_dtype)
    texture_weights = checks.check_texture_weights(texture_weight, texture_bias, channels)
    checks.check_weights(weights, texture_weights[0].shape[0] if texture_weights else 0, taps, prior)
    device_type = images[0].device.type
    images, texture_weights, flat = (autocast(x, device_type) for x in (images, texture_weights, flatten(weights)))
    images = trainable(images)
    checks.check_dtype("weights", flat[0])
    checks.check_all_alike("weights", flat, "the first of them", flat[0])
    for name, tensor in zip(("texture_weight", "texture_bias"), texture_weights, strict=False):
        checks.check_alike(name, tensor, "the weights", flat[0])
    checks.check_like_weights(images[0], flat[0])  # the other images' dtype and device are those of the first
    dtype = out_dtype or flat[0].dtype
    fill = checks.check_fill(fill, dtype)
    given = images[0] if isinstance(image, Tensor) else images
    distance = weights.distance_weight is not None
    return ImageCall(
        given, texture_weights, flat, distance, size, taps, prior, mean, std, dtype, letterbox, fill, images[0]
    )  # fmt: skip


def checked(
    image: Tensor,
    texture: Tensor | None,
    weights: CoefficientWeights,
    size: int | tuple[int, int],
    taps: int,
    prior: str | None,
) -> tuple[Tensor, Tensor | None, CoefficientWeights, list[Tensor], tuple[int, int], int]:
    """Check everything but the backend, and cast under autocast. Return the weights by name, and then as a flat list."""
    checks.check_tensor("image", image)
    if texture is not None:
        checks.check_texture(texture, image)
    size = checks.check_size(size)
    taps = checks.check_taps(taps)
    checks.check_prior(prior)
    checks.check_weights(weights, 0 if texture is None else texture.shape[1], taps, prior)
    flat = flatten(weights)
    if autocasts(image.device.type):
        device_type = image.device.type
        flat = autocast(flat, device_type)
        weights = unflatten(flat, weights.distance_weight is not None)
        (image,) = autocast([image], device_type)
        texture = None if texture is None else autocast([texture], device_type)[0]
    (image,) = trainable([image])
    checks.check_dtype("image", image)
    if texture is not None:
        (texture,) = trainable([texture])
        checks.check_alike("texture", texture, "image", image)
    checks.check_all_alike("weights", flat, "image", image)
    return image, texture, weights, flat, size, taps
