"""The Triton backend as PyTorch operators ``torch.ops.tritonds.*``: schemas, implementations, fakes, autograd, FLOPs.

Each operator is defined with :class:`torch.library.Library` and, at the Autograd key, dispatches to an
:class:`torch.autograd.Function` only if a gradient is wanted: of the ways to register an operator, the one with the least
overhead per call that also compiles, exports and passes :func:`torch.library.opcheck`.

Outputs are allocated here, by the same functions for tensors and for fakes, so that their strides cannot differ. The kernels
are imported at the first call.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .reference import memory_format_of, memory_format_of_all

HAS_TRITON = importlib.util.find_spec("triton") is not None
_LIBRARY = torch.library.Library("tritonds", "FRAGMENT")
IMPLEMENTATIONS: dict[Any, Callable[..., Any]] = {}
"""What allocates the results of each operator and launches its kernels."""


@functools.cache
def why_no_triton(device_type: str) -> str | None:
    """Why the Triton backend cannot run on tensors of ``device_type``, or None if it can."""
    if not HAS_TRITON:
        return "Triton is not installed (a GPU build of PyTorch brings it; for a CPU: pip install 'tritonds[triton]')"
    if device_type == "meta":
        return None
    if device_type not in ("cuda", "cpu"):
        return f"the tensors are on {device_type!r}; the kernels run on CUDA and ROCm devices"
    import triton

    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 6):
        return f"Triton {triton.__version__} is installed; 3.6 or later is needed"
    if device_type == "cuda":
        return None
    from triton.runtime.interpreter import InterpretedFunction

    # Not the environment's word: what counts is how Triton was imported.
    if isinstance(triton.language.cdiv, InterpretedFunction):
        return None
    return "CPU tensors need Triton's interpreter, which is slow and for tests: set TRITON_INTERPRET=1 before starting"


def _kernels(device: torch.device) -> Any:
    """The launchers; compiled graphs that were traced elsewhere may find that kernels cannot run here."""
    reason = why_no_triton(device.type)
    if reason is not None:
        raise RuntimeError(f'backend="triton" cannot run here: {reason}')
    return import_kernels()


@functools.cache
def import_kernels() -> Any:
    """The launchers, wherever Triton is installed."""
    return importlib.import_module(".kernels.launchers", __package__)


def _define(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any], autograd: Callable[..., Any]) -> Any:
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, implementation, key)
    _LIBRARY.impl(name, autograd, "Autograd")
    torch.library.register_fake(f"tritonds::{name}", fake, lib=_LIBRARY)
    operator = getattr(torch.ops.tritonds, name).default
    IMPLEMENTATIONS[operator] = implementation
    return operator


class _NotTwice(torch.autograd.Function):
    """Run a backward operator such that its results cannot be differentiated again without an error."""

    @staticmethod
    def forward(ctx: Any, name: str, run: Callable[[], Any], *inputs: Tensor) -> Any:
        ctx.name = name
        with torch._C._AutoDispatchBelowAutograd():
            result = run()
        return tuple(result) if isinstance(result, list) else result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(f"tritonds::{ctx.name} cannot be differentiated: tritonds has no second derivatives")


def _define_backward(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    name = schema.partition("(")[0]

    def autograd(*args: Any) -> Any:
        if _wants_grad(args):
            result = _NotTwice.apply(name, lambda: operator(*args), *_tensors(args))
            return list(result) if isinstance(result, tuple) else result
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    operator = _define(schema, implementation, fake, autograd)
    return operator


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)):
            found.extend(_tensors(arg))
    return found


def _wants_grad(args: Sequence[Any]) -> bool:
    if not torch.is_grad_enabled() and forward_ad._current_level < 0:
        return False
    tensors = _tensors(args)
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise RuntimeError('the Triton backend has no forward-mode derivatives; use backend="torch"')
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _empty_output(x: Tensor, h: int, w: int) -> Tensor:
    """Uninitialised (N, C, h, w) in the memory format of ``x``."""
    shape = (x.shape[0], x.shape[1], h, w)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


# Area pooling


def _area_pool2d(x: Tensor, h: int, w: int) -> Tensor:
    output = _empty_output(x, h, w)
    _kernels(x.device).area_pool2d(x, output)
    return output


def _area_pool2d_backward(grad_output: Tensor, x_h: int, x_w: int) -> Tensor:
    grad_x = _empty_output(grad_output, x_h, x_w)
    _kernels(grad_output.device).area_pool2d_backward(grad_output, grad_x)
    return grad_x


class _AreaPool2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h: int, w: int) -> Tensor:
        ctx.x_size = x.shape[2], x.shape[3]
        with torch._C._AutoDispatchBelowAutograd():
            return area_pool2d(x, h, w)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return area_pool2d_backward(grad_output, *ctx.x_size), None, None


def _area_pool2d_autograd(x: Tensor, h: int, w: int) -> Tensor:
    if _wants_grad([x]):
        return _AreaPool2d.apply(x, h, w)
    with torch._C._AutoDispatchBelowAutograd():
        return area_pool2d(x, h, w)


area_pool2d = _define("area_pool2d(Tensor x, SymInt h, SymInt w) -> Tensor", _area_pool2d, _empty_output, _area_pool2d_autograd)
area_pool2d_backward = _define_backward(
    "area_pool2d_backward(Tensor grad_output, SymInt x_h, SymInt x_w) -> Tensor", _area_pool2d_backward, _empty_output
)


# Weighted gather


def _weighted_gather2d(image: Tensor, coefficients: Tensor, taps: int) -> Tensor:
    output = _empty_output(image, coefficients.shape[2], coefficients.shape[3])
    _kernels(image.device).weighted_gather2d(image, coefficients, output, taps)
    return output


def _weighted_gather2d_fake(image: Tensor, coefficients: Tensor, taps: int) -> Tensor:
    return _empty_output(image, coefficients.shape[2], coefficients.shape[3])


def _weighted_gather2d_backward(
    grad_output: Tensor, image: Tensor, coefficients: Tensor, taps: int, need_image: bool, need_coefficients: bool
) -> list[Tensor]:
    grads = _weighted_gather2d_backward_fake(grad_output, image, coefficients, taps, need_image, need_coefficients)
    grad_image, grad_coefficients = _spread(grads, [need_image, need_coefficients])
    _kernels(grad_output.device).weighted_gather2d_backward(
        grad_output, image, coefficients, grad_image, grad_coefficients, taps
    )
    return grads


def _weighted_gather2d_backward_fake(
    grad_output: Tensor, image: Tensor, coefficients: Tensor, taps: int, need_image: bool, need_coefficients: bool
) -> list[Tensor]:
    return [torch.empty_like(t) for t, need in ((image, need_image), (coefficients, need_coefficients)) if need]


class _WeightedGather2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, coefficients: Tensor, taps: int) -> Tensor:
        ctx.save_for_backward(image, coefficients)
        ctx.taps = taps
        with torch._C._AutoDispatchBelowAutograd():
            return weighted_gather2d(image, coefficients, taps)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        needs = list(ctx.needs_input_grad[:2])
        grads = weighted_gather2d_backward(grad_output, *ctx.saved_tensors, ctx.taps, *needs)
        return *_spread(grads, needs), None


def _weighted_gather2d_autograd(image: Tensor, coefficients: Tensor, taps: int) -> Tensor:
    if _wants_grad([image, coefficients]):
        return _WeightedGather2d.apply(image, coefficients, taps)
    with torch._C._AutoDispatchBelowAutograd():
        return weighted_gather2d(image, coefficients, taps)


def _spread(grads: list[Tensor], needs: list[bool]) -> list[Tensor | None]:
    """Put the computed gradients back in the places where one is needed, None in the others."""
    remaining = iter(grads)
    return [next(remaining) if need else None for need in needs]


weighted_gather2d = _define(
    "weighted_gather2d(Tensor image, Tensor coefficients, int taps) -> Tensor",
    _weighted_gather2d,
    _weighted_gather2d_fake,
    _weighted_gather2d_autograd,
)
weighted_gather2d_backward = _define_backward(
    "weighted_gather2d_backward(Tensor grad_output, Tensor image, Tensor coefficients, int taps, bool need_image, "
    "bool need_coefficients) -> Tensor[]",
    _weighted_gather2d_backward,
    _weighted_gather2d_backward_fake,
)


# Coefficients and the fused operator. ``weights`` is flat: weight and bias of the distance encoding (if ``distance``), of each
# hidden layer, of the output layer. The autograd functions take it apart, since autograd follows no tensors inside lists.


def _weight_grads(weights: Sequence[Tensor]) -> Tensor:
    """Uninitialised gradients of all weights, one behind the other."""
    return weights[0].new_empty(sum(t.numel() for t in weights))


def _split_weight_grads(flat: Tensor | None, weights: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    """The parts of the flat weight gradient, as views shaped like ``weights``."""
    if flat is None:
        return [None] * len(weights)
    parts = flat.split([t.numel() for t in weights])
    return [part.view(t.shape) if need else None for part, t, need in zip(parts, weights, needs, strict=True)]


def _coefficients(
    texture: Tensor | None, weights: list[Tensor], distance: bool,
    n: int, image_h: int, image_w: int, h: int, w: int, taps: int, prior: str,
) -> Tensor:  # fmt: skip
    output = _coefficients_fake(texture, weights, distance, n, image_h, image_w, h, w, taps, prior)
    _kernels(output.device).coefficients((image_h, image_w), texture, weights, distance, output, taps, prior)
    return output


def _coefficients_fake(
    texture: Tensor | None, weights: list[Tensor], distance: bool,
    n: int, image_h: int, image_w: int, h: int, w: int, taps: int, prior: str,
) -> Tensor:  # fmt: skip
    return weights[0].new_empty(n, taps * taps, h, w)


def _coefficients_backward(
    grad_output: Tensor, texture: Tensor | None, weights: list[Tensor], distance: bool, image_h: int, image_w: int,
    taps: int, prior: str, need_texture: bool, need_weights: bool,
) -> list[Tensor]:  # fmt: skip
    grads = _coefficients_backward_fake(
        grad_output, texture, weights, distance, image_h, image_w, taps, prior, need_texture, need_weights
    )
    grad_texture, grad_weights = _spread(grads, [need_texture, need_weights])
    _kernels(grad_output.device).coefficients_backward(
        grad_output, (image_h, image_w), texture, weights, distance, grad_texture, grad_weights, taps, prior
    )
    return grads


def _coefficients_backward_fake(
    grad_output: Tensor, texture: Tensor | None, weights: list[Tensor], distance: bool, image_h: int, image_w: int,
    taps: int, prior: str, need_texture: bool, need_weights: bool,
) -> list[Tensor]:  # fmt: skip
    grads = [torch.empty_like(texture)] if need_texture and texture is not None else []
    return [*grads, _weight_grads(weights)] if need_weights else grads


class _Coefficients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, distance: bool, n: int, image_h: int, image_w: int, h: int, w: int, taps: int, prior: str,
        texture: Tensor | None, *weights: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(texture, *weights)
        ctx.options = distance, image_h, image_w, taps, prior
        with torch._C._AutoDispatchBelowAutograd():
            return coefficients(texture, list(weights), distance, n, image_h, image_w, h, w, taps, prior)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        texture, *weights = ctx.saved_tensors
        need_texture, *needs = ctx.needs_input_grad[8:]
        needed = [need_texture, any(needs)]
        grads = coefficients_backward(grad_output, texture, weights, *ctx.options, *needed)
        grad_texture, flat = _spread(grads, needed)
        return *[None] * 8, grad_texture, *_split_weight_grads(flat, weights, needs)


def _coefficients_autograd(texture: Tensor | None, weights: list[Tensor], *options: Any) -> Tensor:
    if _wants_grad([texture, weights]):
        return _Coefficients.apply(*options, texture, *weights)
    with torch._C._AutoDispatchBelowAutograd():
        return coefficients(texture, weights, *options)


coefficients = _define(
    "coefficients(Tensor? texture, Tensor[] weights, bool distance, SymInt n, SymInt image_h, SymInt image_w, SymInt h, "
    "SymInt w, int taps, str prior) -> Tensor",
    _coefficients,
    _coefficients_fake,
    _coefficients_autograd,
)
coefficients_backward = _define_backward(
    "coefficients_backward(Tensor grad_output, Tensor? texture, Tensor[] weights, bool distance, SymInt image_h, "
    "SymInt image_w, int taps, str prior, bool need_texture, bool need_weights) -> Tensor[]",
    _coefficients_backward,
    _coefficients_backward_fake,
)


def _downsize(
    image: Tensor, texture: Tensor | None, weights: list[Tensor], distance: bool, h: int, w: int, taps: int, prior: str
) -> Tensor:
    output = _empty_output(image, h, w)
    _kernels(image.device).downsize(image, texture, weights, distance, output, taps, prior)
    return output


def _downsize_fake(
    image: Tensor, texture: Tensor | None, weights: list[Tensor], distance: bool, h: int, w: int, taps: int, prior: str
) -> Tensor:
    return _empty_output(image, h, w)


def _downsize_backward(
    grad_output: Tensor, image: Tensor, texture: Tensor | None, weights: list[Tensor], distance: bool,
    taps: int, prior: str, need_image: bool, need_texture: bool, need_weights: bool,
) -> list[Tensor]:  # fmt: skip
    needs = [need_image, need_texture, need_weights]
    grads = _downsize_backward_fake(grad_output, image, texture, weights, distance, taps, prior, *needs)
    _kernels(image.device).downsize_backward(
        grad_output, image, texture, weights, distance, *_spread(grads, needs), taps, prior
    )
    return grads


def _downsize_backward_fake(
    grad_output: Tensor, image: Tensor, texture: Tensor | None, weights: list[Tensor], distance: bool,
    taps: int, prior: str, need_image: bool, need_texture: bool, need_weights: bool,
) -> list[Tensor]:  # fmt: skip
    grads = [torch.empty_like(image)] if need_image else []
    if need_texture and texture is not None:
        grads.append(torch.empty_like(texture))
    return [*grads, _weight_grads(weights)] if need_weights else grads


class _Downsize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, distance: bool, h: int, w: int, taps: int, prior: str,
        image: Tensor, texture: Tensor | None, *weights: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(image, texture, *weights)
        ctx.options = distance, taps, prior
        with torch._C._AutoDispatchBelowAutograd():
            return downsize(image, texture, list(weights), distance, h, w, taps, prior)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        image, texture, *weights = ctx.saved_tensors
        need_image, need_texture, *needs = ctx.needs_input_grad[5:]
        needed = [need_image, need_texture, any(needs)]
        grads = downsize_backward(grad_output, image, texture, weights, *ctx.options, *needed)
        grad_image, grad_texture, flat = _spread(grads, needed)
        return *[None] * 5, grad_image, grad_texture, *_split_weight_grads(flat, weights, needs)


def _downsize_autograd(image: Tensor, texture: Tensor | None, weights: list[Tensor], *options: Any) -> Tensor:
    if _wants_grad([image, texture, weights]):
        return _Downsize.apply(*options, image, texture, *weights)
    with torch._C._AutoDispatchBelowAutograd():
        return downsize(image, texture, weights, *options)


downsize = _define(
    "downsize(Tensor image, Tensor? texture, Tensor[] weights, bool distance, SymInt h, SymInt w, int taps, str prior) "
    "-> Tensor",
    _downsize,
    _downsize_fake,
    _downsize_autograd,
)
downsize_backward = _define_backward(
    "downsize_backward(Tensor grad_output, Tensor image, Tensor? texture, Tensor[] weights, bool distance, int taps, "
    "str prior, bool need_image, bool need_texture, bool need_weights) -> Tensor[]",
    _downsize_backward,
    _downsize_backward_fake,
)

# The fused operator on images: one batch (N, C, H, W), or several images (C, H, W). ``filters`` are weight and bias of the
# texture's convolution, or none. Gradients to images are those of one batch alone; ``functional`` sees to that.


def _images_memory_format(images: Sequence[Tensor]) -> torch.memory_format:
    return memory_format_of(images[0]) if images[0].dim() == 4 else memory_format_of_all(images)


def _downsize_image(
    images: list[Tensor], filters: list[Tensor], weights: list[Tensor], distance: bool, h: int, w: int, taps: int, prior: str,
    scale: list[float], offset: list[float], fill: float | None, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    output = _downsize_image_fake(images, filters, weights, distance, h, w, taps, prior, scale, offset, fill, dtype)
    _kernels(output.device).downsize_image(
        images, filters, weights, distance, output, taps, prior, tuple(scale), tuple(offset), fill
    )
    return output


def _downsize_image_fake(
    images: list[Tensor], filters: list[Tensor], weights: list[Tensor], distance: bool, h: int, w: int, taps: int, prior: str,
    scale: list[float], offset: list[float], fill: float | None, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    shape = (images[0].shape[0], images[0].shape[1], h, w) if images[0].dim() == 4 else (len(images), images[0].shape[0], h, w)
    return torch.empty(shape, dtype=dtype, device=images[0].device, memory_format=_images_memory_format(images))


def _downsize_image_backward(
    grad_output: Tensor, images: list[Tensor], filters: list[Tensor], weights: list[Tensor], distance: bool, taps: int,
    prior: str, scale: list[float], offset: list[float], fill: float | None, need_image: bool, need_weights: bool,
) -> list[Tensor]:  # fmt: skip
    needs = [need_image, need_weights]
    grads = _downsize_image_backward_fake(
        grad_output, images, filters, weights, distance, taps, prior, scale, offset, fill, *needs
    )
    _kernels(grad_output.device).downsize_image_backward(
        grad_output, images, filters, weights, distance, *_spread(grads, needs), taps, prior, tuple(scale), tuple(offset), fill
    )
    return grads


def _downsize_image_backward_fake(
    grad_output: Tensor, images: list[Tensor], filters: list[Tensor], weights: list[Tensor], distance: bool, taps: int,
    prior: str, scale: list[float], offset: list[float], fill: float | None, need_image: bool, need_weights: bool,
) -> list[Tensor]:  # fmt: skip
    grads = [torch.empty_like(images[0])] if need_image else []
    return [*grads, _weight_grads([*filters, *weights])] if need_weights else grads


class _DownsizeImage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, counts: tuple[int, int], distance: bool, h: int, w: int, taps: int, prior: str,
        scale: list[float], offset: list[float], fill: float | None, dtype: torch.dtype, *tensors: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(*tensors)
        ctx.counts = counts
        ctx.options = distance, taps, prior, scale, offset, fill
        with torch._C._AutoDispatchBelowAutograd():
            return downsize_image(*_regroup(tensors, counts), distance, h, w, taps, prior, scale, offset, fill, dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        images, filters, weights = _regroup(ctx.saved_tensors, ctx.counts)
        need_images, needs = ctx.needs_input_grad[10 : 10 + len(images)], ctx.needs_input_grad[10 + len(images) :]
        needed = [any(need_images), any(needs)]
        grads = downsize_image_backward(grad_output, images, filters, weights, *ctx.options, *needed)
        grad_image, flat = _spread(grads, needed)
        grad_images = [grad_image, *[None] * (len(images) - 1)]
        return *[None] * 10, *grad_images, *_split_weight_grads(flat, [*filters, *weights], needs)


def _regroup(tensors: Sequence[Tensor], counts: tuple[int, int]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Images, filters and weights, which follow one another."""
    images, filters = counts
    return list(tensors[:images]), list(tensors[images : images + filters]), list(tensors[images + filters :])


def _downsize_image_autograd(images: list[Tensor], filters: list[Tensor], weights: list[Tensor], *options: Any) -> Tensor:
    if _wants_grad([images, filters, weights]):
        if images[0].dim() == 3 and any(image.requires_grad for image in images):
            raise RuntimeError("tritonds::downsize_image has no gradients to images of different sizes; give it one at a time")
        images = [image.clone() if image.is_inference() else image for image in images]  # which autograd does not save
        return _DownsizeImage.apply((len(images), len(filters)), *options, *images, *filters, *weights)
    with torch._C._AutoDispatchBelowAutograd():
        return downsize_image(images, filters, weights, *options)


downsize_image = _define(
    "downsize_image(Tensor[] images, Tensor[] filters, Tensor[] weights, bool distance, SymInt h, SymInt w, int taps, "
    "str prior, float[] scale, float[] offset, float? fill, ScalarType dtype) -> Tensor",
    _downsize_image,
    _downsize_image_fake,
    _downsize_image_autograd,
)
downsize_image_backward = _define_backward(
    "downsize_image_backward(Tensor grad_output, Tensor[] images, Tensor[] filters, Tensor[] weights, bool distance, int taps, "
    "str prior, float[] scale, float[] offset, float? fill, bool need_image, bool need_weights) -> Tensor[]",
    _downsize_image_backward,
    _downsize_image_backward_fake,
)

if HAS_TRITON:
    from . import flops  # noqa: F401  imported for what it registers
