"""What the PyTorch operators call: a launcher for each, which writes into tensors that it is given."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import area_pool, batch, gather, launch, plan, relaunch, table
from .area_pool import area_pool2d, area_pool2d_backward
from .backward import downsize_backward_kernel
from .convolution_backward import texture_grad_image_kernel, texture_grad_weights_kernel
from .forward import downsize_kernel
from .gather import grad_image_gather, weighted_gather2d, weighted_gather2d_backward
from .launch import Layout, layout
from .plan import Call, Problem, pointers, problem_of, texture_weight_pointers
from .sums import sum_rows

__all__ = [
    "area_pool",
    "area_pool2d",
    "area_pool2d_backward",
    "batch",
    "coefficients",
    "coefficients_backward",
    "downsize",
    "downsize_backward",
    "downsize_image",
    "downsize_image_backward",
    "gather",
    "launch",
    "plan",
    "relaunch",
    "table",
    "weighted_gather2d",
    "weighted_gather2d_backward",
]


def downsize(
    image: Tensor, texture: Tensor | None, weights: Sequence[Tensor], distance: bool, output: Tensor, taps: int, prior: str
) -> None:
    """Write the downsized ``image`` (N, C, H, W) into ``output`` (N, C, h, w).

    ``weights`` is flat: weight and bias of the distance encoding if ``distance``, of each hidden layer, of the output layer.
    """
    _forward(Call(image, (image.shape[2], image.shape[3]), texture, weights, distance, taps, prior), output)


def coefficients(
    image_size: tuple[int, int],
    texture: Tensor | None,
    weights: Sequence[Tensor],
    distance: bool,
    output: Tensor,
    taps: int,
    prior: str,
) -> None:
    """Write the coefficients for an image of ``image_size`` (H, W) into ``output`` (N, K*K, h, w)."""
    _forward(Call(None, image_size, texture, weights, distance, taps, prior), output)


def downsize_image(
    images: Sequence[Tensor],
    texture_weights: Sequence[Tensor],
    weights: Sequence[Tensor],
    distance: bool,
    output: Tensor,
    taps: int,
    prior: str,
    factors: tuple[float, ...],
    summands: tuple[float, ...],
    fill: float | None,
) -> None:
    """Write into ``output`` (N, C, h, w) one batch (N, C, H, W), or N images (C, H, W), of a float dtype or uint8.

    Texture is their convolution by ``texture_weights``, weight and bias, if there are any. Pixels are normalised by ``factors``
    and ``summands``, a number for each channel or none. Images (C, H, W) keep their aspect if there is a ``fill``.
    """
    call = Call(images[0], (1, 1), None, weights, distance, taps, prior, texture_weights, factors, summands, fill)
    _forward(_of_images(call, images, output), output)


def downsize_backward(
    grad_output: Tensor,
    image: Tensor,
    texture: Tensor | None,
    weights: Sequence[Tensor],
    distance: bool,
    grad_image: Tensor | None,
    grad_texture: Tensor | None,
    grad_weights: Tensor | None,
    taps: int,
    prior: str,
) -> None:
    """Write those gradients of :func:`downsize` that are given a tensor; that of the weights is one flat tensor."""
    call = Call(image, (image.shape[2], image.shape[3]), texture, weights, distance, taps, prior)
    _backward(call, grad_output, grad_image, grad_texture, grad_weights)


def coefficients_backward(
    grad_output: Tensor,
    image_size: tuple[int, int],
    texture: Tensor | None,
    weights: Sequence[Tensor],
    distance: bool,
    grad_texture: Tensor | None,
    grad_weights: Tensor | None,
    taps: int,
    prior: str,
) -> None:
    """Write those gradients of :func:`coefficients` that are given a tensor; that of the weights is one flat tensor."""
    call = Call(None, image_size, texture, weights, distance, taps, prior)
    _backward(call, grad_output, None, grad_texture, grad_weights)


def downsize_image_backward(
    grad_output: Tensor,
    images: Sequence[Tensor],
    texture_weights: Sequence[Tensor],
    weights: Sequence[Tensor],
    distance: bool,
    grad_image: Tensor | None,
    grad_weights: Tensor | None,
    taps: int,
    prior: str,
    factors: tuple[float, ...],
    summands: tuple[float, ...],
    fill: float | None,
) -> None:
    """Write those gradients of :func:`downsize_image` that are given a tensor. Only a batch can have one to the image.

    That of the weights is one flat tensor, the convolution's first.
    """
    call = Call(images[0], (1, 1), None, weights, distance, taps, prior, texture_weights, factors, summands, fill)
    _backward(_of_images(call, images, grad_output), grad_output, grad_image, None, grad_weights)


def _of_images(call: Call, images: Sequence[Tensor], output: Tensor) -> Call:
    """``call`` completed by what follows from ``images``: one batch, or images of which there is a table."""
    if images[0].ndim == 4:
        image = images[0]
        size, channels_last = (image.shape[2], image.shape[3]), image.stride(1) == 1 or image.shape[1] == 1
        return call._replace(image_size=size, channels_last=channels_last)
    size = (output.shape[2], output.shape[3])
    rows = batch.read(images, size, call.fill is not None)
    table = batch.table(rows, images[0].device)
    index64 = any(t.index64 for t in rows.traits)
    channels_last = all(t.channels_adjacent or t.channels == 1 for t in rows.traits)
    return call._replace(table=table, index64=index64, channels_last=channels_last)


def _forward(call: Call, output: Tensor) -> None:
    problem = problem_of(call, output)
    if call.texture is None and not call.texture_weights and table.downsize_by_table(call, problem, output):
        return
    forward = plan.forward_plan(problem)
    launch.launch(downsize_kernel, forward, output.device, pointers(call) | {"output_ptr": output})


def _backward(
    call: Call,
    grad_output: Tensor,
    grad_image: Tensor | None,
    grad_texture: Tensor | None,
    grad_weights: Tensor | None,
) -> None:
    """Launch the backward kernel, then the gathers to the gradients of texture and image, and the sums over programs."""
    problem, weight, taps = problem_of(call, grad_output), call.weights[-1], call.taps
    n, (out_h, out_w) = grad_output.shape[0], problem.output_size
    texture_weights = sum(t.numel() for t in call.texture_weights)
    weights = 0 if grad_weights is None else grad_weights.numel() - texture_weights
    backward, pooled, direct = plan.backward_plan(problem, grad_image is not None, layout(grad_texture), weights)
    grad_pooled = relaunch.scratch(weight, n, out_h, out_w, problem.texture_channels) if pooled else None
    coefficients = None if grad_image is None else relaunch.scratch(weight, n, out_h, out_w, taps * taps)
    partial, texture_partial = None, None
    if grad_weights is not None:
        partial = relaunch.scratch(weight, backward.programs, weights, dtype=_accumulator(weight))
    tensors = {
        "grad_output_ptr": grad_output,
        "grad_pooled_ptr": grad_pooled,
        "grad_texture_ptr": grad_texture if direct else None,
        "coefficients_ptr": coefficients,
        "partial_ptr": partial,
    }
    launch.launch(downsize_backward_kernel, backward, grad_output.device, pointers(call) | tensors)
    if grad_texture is not None and grad_pooled is not None:
        area_pool2d_backward(grad_pooled.permute(0, 3, 1, 2), grad_texture)
    if grad_image is not None:
        assert coefficients is not None
        grad_image_gather(grad_output, coefficients.permute(0, 3, 1, 2), grad_image, taps)
    if call.texture_weights:
        assert grad_pooled is not None
        index64 = backward.arguments["C"].values["INDEX64"]
        if grad_weights is not None:
            texture_partial = _grad_texture_weights(call, problem, index64, grad_pooled, texture_weights)
        if grad_image is not None:
            _add_grad_image(call, problem, index64, grad_pooled, grad_image)
    if grad_weights is not None:
        assert partial is not None
        sum_rows(texture_partial, partial, grad_weights)
    if grad_image is not None and call.factors:
        relaunch.spoil()
        torch._foreach_mul_(grad_image.unbind(1), call.factors)  # a tensor of them would be copied from the host


def _accumulator(weight: Tensor) -> torch.dtype:
    """The dtype of partial gradients."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _grad_texture_weights(call: Call, problem: Problem, index64: bool, grad_pooled: Tensor, weights: int) -> Tensor:
    """Partial gradients to the ``weights`` weights and biases of the texture's convolution, to be summed over rows."""
    texture = plan.grad_texture_weights_plan(problem, index64)
    partial = relaunch.scratch(grad_pooled, 2 * texture.programs, weights, dtype=_accumulator(grad_pooled))
    tensors = {
        "image_ptr": call.image,
        "table_ptr": call.table,
        "texture_weights": texture_weight_pointers(call),
        "grad_pooled_ptr": grad_pooled,
        "partial_ptr": partial,
    }
    launch.launch(texture_grad_weights_kernel, texture, grad_pooled.device, tensors)
    return partial


def _add_grad_image(call: Call, problem: Problem, index64: bool, grad_pooled: Tensor, grad_image: Tensor) -> None:
    """Add the gradient to the image by way of the texture's convolution."""
    gathers = plan.grad_image_plan(problem, Layout(grad_image.shape, grad_image.stride()), index64)
    tensors = {
        "image_ptr": call.image,
        "texture_weights": texture_weight_pointers(call),
        "grad_pooled_ptr": grad_pooled,
        "grad_image_ptr": grad_image,
    }
    launch.launch(texture_grad_image_kernel, gathers, grad_pooled.device, tensors)
