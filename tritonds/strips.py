"""The PyTorch backend on CPUs: what :mod:`tritonds.reference` computes, in strips of rows whose temporaries are used again.

Temporaries of a whole image cost as much as the arithmetic: each is memory that the system maps anew, page by page. Those of a
strip are small, so that the allocator hands out the same memory again.

The operator ``tritonds::strips`` saves its inputs alone. Its backward operator computes each strip again, and has autograd
differentiate it. Second derivatives are those of the reference. A compiled graph calls the operators as they are.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from . import reference
from . import strip as arithmetic
from .batches import memory_format_of
from .coefficient_weights import unflatten
from .dtypes import in_transform
from .ops import NAMESPACE


def can_run(tensors: Sequence[Tensor]) -> bool:
    """Whether strips serve: on CPUs, for plain tensors, where nothing records or transforms the single operations."""
    if tensors[0].device.type != "cpu" or torch.compiler.is_exporting() or in_transform():
        return False
    if torch.compiler.is_compiling():
        return True
    if _get_current_dispatch_mode() is not None or torch._C._get_tracing_state() is not None:
        return False
    plain = all(type(t) in (Tensor, nn.Parameter) for t in tensors)
    return plain and not any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


@torch.library.custom_op(f"{NAMESPACE}::strips", mutates_args=())
def strips(
    image: Tensor, texture: Tensor | None, texture_weights: Sequence[Tensor], weights: Sequence[Tensor], distance: bool,
    h: int, w: int, taps: int, prior: str | None, mean: Sequence[float] | None, std: Sequence[float] | None, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """(N, C, H, W) to (N, C, h, w) of ``dtype``.

    Features are ``texture`` (N, F, Ht, Wt), or made of the normalised image by ``texture_weights``, which are weight and bias,
    or none of both. ``weights`` are flat.
    """
    options = arithmetic.Options(distance, h, w, taps, prior, mean, std, dtype)
    output = _allocate(image, texture, texture_weights, weights, *options)
    with torch.autocast("cpu", enabled=False):
        network = arithmetic.network_of(image, texture, texture_weights, weights, options)
        for strip in arithmetic.split(image, texture, texture_weights, options):
            parts = arithmetic.parts(image, texture, strip)
            output[strip.images, :, strip.rows.start : strip.rows.stop] = arithmetic.downsize(
                *parts, image, texture, network, options, strip
            )
    return output


@strips.register_fake
def _allocate(image: Tensor, texture: Tensor | None, texture_weights: Any, weights: Any, *options: Any) -> Tensor:
    _, h, w, *_, dtype = options
    shape = (image.shape[0], image.shape[1], h, w)
    return torch.empty(shape, dtype=dtype, device=image.device, memory_format=memory_format_of(image))


@torch.library.custom_op(f"{NAMESPACE}::strips_backward", mutates_args=())
def strips_backward(
    grad_output: Tensor, image: Tensor, texture: Tensor | None, texture_weights: Sequence[Tensor], weights: Sequence[Tensor],
    distance: bool, h: int, w: int, taps: int, prior: str | None, mean: Sequence[float] | None, std: Sequence[float] | None,
    dtype: torch.dtype, needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    """The gradients of image, texture, and all texture_weights and weights, each if it is needed."""
    options = arithmetic.Options(distance, h, w, taps, prior, mean, std, dtype)
    need_image, need_texture, need_parameters = needs
    grads = _allocate_gradients(grad_output, image, texture, texture_weights, weights, *options, needs)
    sources = [g.zero_() for g in grads[: need_image + need_texture]]
    parameters = [t.detach().requires_grad_(need_parameters) for t in (*texture_weights, *weights)]
    with _recorded():
        count = len(texture_weights)
        network = arithmetic.network_of(image, texture, parameters[:count], parameters[count:], options)
    shared = [t for part in network for t in part if t.requires_grad]
    sums = [torch.zeros_like(t) for t in shared]
    for strip in arithmetic.split(image, texture, texture_weights, options):
        with _recorded():
            leaves = arithmetic.Network(*([t.detach().requires_grad_(t.requires_grad) for t in part] for part in network))
            pixels, features = arithmetic.parts(image, texture, strip)
            pixels = pixels.detach().requires_grad_(need_image)
            features = None if features is None else features.detach().requires_grad_(need_texture)
            y = arithmetic.downsize(pixels, features, image, texture, leaves, options, strip)
        wanted = [x for x in (pixels, features) if x is not None and x.requires_grad]
        wanted += [t for part in leaves for t in part if t.requires_grad]
        grad = grad_output[strip.images, :, strip.rows.start : strip.rows.stop].to(y.dtype)
        spans = [s for s, need in zip((strip.pixels, strip.features), needs, strict=False) if need]
        targets = [g[strip.images, :, s.start : s.stop] for g, s in zip(sources, spans, strict=True)]
        for total, part in zip([*targets, *sums], torch.autograd.grad(y, wanted, grad, allow_unused=True), strict=True):
            if part is not None:
                total += part
    if need_parameters:
        found = torch.autograd.grad(shared, parameters, sums, allow_unused=True)
        for total, part in zip(grads[len(sources) :], found, strict=True):
            total.zero_() if part is None else total.copy_(part)
    return grads


@strips_backward.register_fake
def _allocate_gradients(
    grad_output: Tensor, image: Tensor, texture: Tensor | None, texture_weights: Any, weights: Any, *options: Any
) -> list[Tensor]:
    need_image, need_texture, need_parameters = options[-1]
    wanted = [x for x, need in ((image, need_image), (texture, need_texture)) if need and x is not None]
    return [
        torch.empty_like(t)
        for t in (*wanted, *(texture_weights if need_parameters else ()), *(weights if need_parameters else ()))
    ]


def _setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    image, texture, texture_weights, weights, *options = inputs
    ctx.save_for_backward(image, texture, *texture_weights, *weights)
    ctx.call = len(texture_weights), arithmetic.Options(*options)


def _backward(ctx: Any, grad_output: Tensor) -> Any:
    image, texture, *parameters = ctx.saved_tensors
    count, options = ctx.call
    need_image, need_texture, *need_lists = ctx.needs_input_grad[:4]
    need_parameters = [need for part in need_lists for need in part]
    needs = [need_image, need_texture, any(need_parameters)]
    if torch.is_grad_enabled():
        tensors: list[Any] = [t if t is None else t.view_as(t) for t in ctx.saved_tensors]  # so that none is made of another
        wanted = [t for t, need in zip(tensors, [need_image, need_texture, *need_parameters], strict=True) if need]
        y = _reference(tensors[0], tensors[1], tensors[2 : 2 + count], tensors[2 + count :], options)
        found = iter(torch.autograd.grad(y, wanted, grad_output, create_graph=True, allow_unused=True))
        each = [next(found) if need else None for need in (need_image, need_texture, *need_parameters)]
    else:
        found = iter(strips_backward(grad_output, image, texture, parameters[:count], parameters[count:], *options, needs))
        each = [next(found) if need else None for need in [need_image, need_texture, *[needs[2]] * len(parameters)]]
    return each[0], each[1], each[2 : 2 + count], each[2 + count :], *[None] * len(options)


strips.register_autograd(_backward, setup_context=_setup)


def _reference(
    image: Tensor, texture: Tensor | None, texture_weights: list[Tensor], weights: list[Tensor], options: arithmetic.Options
) -> Tensor:
    size, network = (options.h, options.w), unflatten(weights, options.distance)
    if texture is not None:
        return reference.downsize(image, texture, network, size, taps=options.taps, prior=options.prior)
    weight, bias = texture_weights or (None, None)
    return reference.downsize_image(
        image, weight, bias, network, size, taps=options.taps, prior=options.prior, mean=options.mean, std=options.std,
        out_dtype=options.dtype,
    )  # fmt: skip


@contextlib.contextmanager
def _recorded() -> Iterator[None]:
    """Let autograd record what an operator's implementation does, which it does not by itself."""
    guard, keys = torch._C._SetExcludeDispatchKeyGuard, torch._C.DispatchKey
    with guard(keys.AutogradFunctionality, False), guard(keys.ADInplaceOrView, False), torch.enable_grad():
        yield
