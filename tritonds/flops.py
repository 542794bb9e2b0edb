"""FLOP formulas of the operators, for :class:`torch.utils.flop_counter.FlopCounterMode`.

A multiplication with its addition counts as two, as in PyTorch's own formulas. Shapes arrive in place of tensors.
"""

import math
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula


def _network_flops(texture: Any, weights: Any, pixels: int) -> int:
    pooling = 0 if texture is None else 2 * math.prod(texture)
    return pooling + 2 * pixels * sum(out * inner for out, inner in weights[::2])


@register_flop_formula(torch.ops.tritonds.downsize)
def _downsize_flops(
    image: Any, texture: Any, weights: Any, distance: bool, h: int, w: int, taps: int, prior: str, **_: Any
) -> int:
    pixels = image[0] * h * w
    return int(_network_flops(texture, weights, pixels) + 2 * taps**2 * image[1] * pixels)


@register_flop_formula(torch.ops.tritonds.downsize_backward)
def _downsize_backward_flops(
    grad_output: Any, image: Any, texture: Any, weights: Any, distance: bool, taps: int, prior: str,
    need_image: bool, need_texture: bool, need_weights: bool, **_: Any,
) -> int:  # fmt: skip
    n, channels, h, w = grad_output
    # The recomputed forward pass, then the gradients to inputs, then those to weights: each as much as a forward pass.
    passes = 1 + (need_texture or need_weights) + need_weights
    gather = 2 * taps**2 * channels * n * h * w
    gathers = need_image + (need_texture or need_weights)
    return int(passes * _network_flops(texture, weights, n * h * w) + gathers * gather)


@register_flop_formula(torch.ops.tritonds.coefficients)
def _coefficients_flops(
    texture: Any, weights: Any, distance: bool, n: int, image_h: int, image_w: int, h: int, w: int, *_: Any, **__: Any
) -> int:
    return int(_network_flops(texture, weights, n * h * w))


@register_flop_formula(torch.ops.tritonds.coefficients_backward)
def _coefficients_backward_flops(
    grad_output: Any, texture: Any, weights: Any, distance: bool, image_h: int, image_w: int, taps: int, prior: str,
    need_texture: bool, need_weights: bool, **_: Any,
) -> int:  # fmt: skip
    n, _, h, w = grad_output
    return int((2 + need_weights) * _network_flops(texture, weights, n * h * w))


@register_flop_formula(torch.ops.tritonds.downsize_image)
def _downsize_image_flops(
    images: Any, filters: Any, weights: Any, distance: bool, h: int, w: int, taps: int, *_: Any, **__: Any
) -> int:
    n, channels = images[0][:2] if len(images[0]) == 4 else (len(images), images[0][0])
    pixels = n * h * w
    return int(_texture_flops(images, filters) + _network_flops(None, weights, pixels) + 2 * taps**2 * channels * pixels)


@register_flop_formula(torch.ops.tritonds.downsize_image_backward)
def _downsize_image_backward_flops(
    grad_output: Any, images: Any, filters: Any, weights: Any, distance: bool, taps: int, prior: str, scale: Any, offset: Any,
    fill: Any, need_image: bool, need_weights: bool, **_: Any,
) -> int:  # fmt: skip
    n, channels, h, w = grad_output
    # As in the operator given the texture; what the convolution itself needs is another forward pass for each gradient.
    passes = 2 + need_weights
    network = passes * (_texture_flops(images, filters) + _network_flops(None, weights, n * h * w))
    return int(network + (1 + need_image) * 2 * taps**2 * channels * n * h * w)


def _texture_flops(images: Any, filters: Any) -> int:
    """Convolution and pooling, each image pixel once. (At its bins' edges a kernel computes some twice.)"""
    if not filters:
        return 0
    pixels = sum(math.prod(image) // image[-3] for image in images)
    return int(2 * pixels * (math.prod(filters[0]) + filters[0][0]))


@register_flop_formula(torch.ops.tritonds.area_pool2d)
def _area_pool2d_flops(x: Any, h: int, w: int, **_: Any) -> int:
    return int(2 * math.prod(x))


@register_flop_formula(torch.ops.tritonds.area_pool2d_backward)
def _area_pool2d_backward_flops(grad_output: Any, x_h: int, x_w: int, **_: Any) -> int:
    return int(2 * grad_output[0] * grad_output[1] * x_h * x_w)


@register_flop_formula(torch.ops.tritonds.weighted_gather2d)
def _weighted_gather2d_flops(image: Any, coefficients: Any, taps: int, **_: Any) -> int:
    return int(2 * image[1] * math.prod(coefficients))


@register_flop_formula(torch.ops.tritonds.weighted_gather2d_backward)
def _weighted_gather2d_backward_flops(
    grad_output: Any, image: Any, coefficients: Any, taps: int, need_image: bool, need_coefficients: bool, **_: Any
) -> int:
    return int((need_image + need_coefficients) * 2 * image[1] * math.prod(coefficients))
