"""FLOP formulas of the operators, for :class:`torch.utils.flop_counter.FlopCounterMode`.

A multiplication with its addition counts as two, as in PyTorch's own formulas. Shapes arrive in place of tensors.
"""

import math
from typing import Any

from torch.utils.flop_counter import register_flop_formula

from . import ops
from .arguments import AreaPool2d, AreaPool2dBackward, Coefficients, Downsize, DownsizeImage, WeightedGather2d


def _network_flops(texture: Any, weights: Any, pixels: int) -> int:
    pooling = 0 if texture is None else 2 * math.prod(texture)
    return int(pooling + 2 * pixels * sum(out * inner for out, inner in weights[::2]))


def _texture_flops(images: Any, texture_weights: Any) -> int:
    """Convolution and pooling of each image pixel, counted once. (At the edges of bins the kernel computes some twice.)"""
    if not texture_weights:
        return 0
    pixels = sum(math.prod(image) // image[-3] for image in images)
    return int(2 * pixels * (math.prod(texture_weights[0]) + texture_weights[0][0]))


@register_flop_formula(ops.downsize.overloadpacket)
def _downsize_flops(*args: Any, **_: Any) -> int:
    call: Any = Downsize(*args)
    n, channels = call.image[:2]
    pixels = n * call.h * call.w
    return int(_network_flops(call.texture, call.weights, pixels) + 2 * call.taps**2 * channels * pixels)


@register_flop_formula(ops.downsize_backward.overloadpacket)
def _downsize_backward_flops(grad_output: Any, *args: Any, **_: Any) -> int:
    call: Any = Downsize(*args[:-1])
    need_image, need_texture, need_weights = args[-1]
    # The recomputed forward pass, then the gradients to inputs, then those to weights: each as much as a forward pass.
    passes = 1 + (need_texture or need_weights) + need_weights
    gather = 2 * call.taps**2 * math.prod(grad_output)
    gathers = need_image + (need_texture or need_weights)
    return int(passes * _network_flops(call.texture, call.weights, grad_output[0] * call.h * call.w) + gathers * gather)


@register_flop_formula(ops.coefficients.overloadpacket)
def _coefficients_flops(*args: Any, **_: Any) -> int:
    call: Any = Coefficients(*args)
    return _network_flops(call.texture, call.weights, call.n * call.h * call.w)


@register_flop_formula(ops.coefficients_backward.overloadpacket)
def _coefficients_backward_flops(grad_output: Any, *args: Any, **_: Any) -> int:
    call: Any = Coefficients(*args[:-1])
    _, need_weights = args[-1]
    return (2 + need_weights) * _network_flops(call.texture, call.weights, call.n * call.h * call.w)


@register_flop_formula(ops.downsize_image.overloadpacket)
def _downsize_image_flops(*args: Any, **_: Any) -> int:
    call: Any = DownsizeImage(*args)
    n, channels = call.images[0][:2] if len(call.images[0]) == 4 else (len(call.images), call.images[0][0])
    pixels = n * call.h * call.w
    network = _texture_flops(call.images, call.texture_weights) + _network_flops(None, call.weights, pixels)
    return int(network + 2 * call.taps**2 * channels * pixels)


@register_flop_formula(ops.downsize_image_backward.overloadpacket)
def _downsize_image_backward_flops(grad_output: Any, *args: Any, **_: Any) -> int:
    call: Any = DownsizeImage(*args[:-1])
    need_image, need_weights = args[-1]
    pixels = grad_output[0] * call.h * call.w
    # As in the operator given the texture. Each gradient of the convolution costs as much as its forward pass.
    network = _texture_flops(call.images, call.texture_weights) + _network_flops(None, call.weights, pixels)
    return int((2 + need_weights) * network + (1 + need_image) * 2 * call.taps**2 * math.prod(grad_output))


@register_flop_formula(ops.area_pool2d.overloadpacket)
def _area_pool2d_flops(*args: Any, **_: Any) -> int:
    call: Any = AreaPool2d(*args)
    return int(2 * math.prod(call.x))


@register_flop_formula(ops.area_pool2d_backward.overloadpacket)
def _area_pool2d_backward_flops(*args: Any, **_: Any) -> int:
    call: Any = AreaPool2dBackward(*args)
    n, channels = call.grad_output[:2]
    return int(2 * n * channels * call.x_h * call.x_w)


@register_flop_formula(ops.weighted_gather2d.overloadpacket)
def _weighted_gather2d_flops(*args: Any, **_: Any) -> int:
    call: Any = WeightedGather2d(*args)
    return int(2 * call.image[1] * math.prod(call.coefficients))


@register_flop_formula(ops.weighted_gather2d_backward.overloadpacket)
def _weighted_gather2d_backward_flops(grad_output: Any, *args: Any, **_: Any) -> int:
    return sum(args[-1]) * _weighted_gather2d_flops(*args[:-1])
