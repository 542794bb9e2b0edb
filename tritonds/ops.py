"""The Triton backend as PyTorch operators ``torch.ops.tritonds.*``: schemas, implementations, fakes, autograd.

Everything here follows from the classes in :mod:`tritonds.arguments`, one for each operator. A copy of the package under
another name registers its operators under that name, so that several versions can be in one process.

Operators are defined with :class:`torch.library.Library`. At the Autograd key they go to a :class:`torch.autograd.Function`
only if a gradient is wanted. Of the ways that compile, export and pass :func:`torch.library.opcheck`, this one costs least per
call.

Results are allocated by the same functions for tensors and for fakes, so that their strides cannot differ. The kernels are
imported at the first call.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .arguments import (
    AreaPool2d,
    AreaPool2dBackward,
    Coefficients,
    Downsize,
    DownsizeImage,
    Parameters,
    WeightedGather2d,
    schema_of,
)
from .gradients import Passes

HAS_TRITON = importlib.util.find_spec("triton") is not None
NAMESPACE = __name__.rpartition(".")[0].replace(".", "_")
"""The operators' namespace, which is the package's name."""
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
IMPLEMENTATIONS: dict[Any, Callable[..., Any]] = {}
"""By operator, the function that allocates its results and launches its kernels."""
_AUTOGRAD: dict[Any, Callable[..., Any]] = {}
"""By operator, the function that records it for the backward pass."""


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
    if device_type == "cuda" or is_interpreted():
        return None
    return "CPU tensors need Triton's interpreter, which is slow and for tests: set TRITON_INTERPRET=1 before starting"


@functools.cache
def is_interpreted() -> bool:
    """Whether Triton was imported as its own interpreter; the environment variable may have changed since."""
    import triton
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(triton.language.cdiv, InterpretedFunction)


def why_not_in(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why networks of ``dtype`` cannot run on ``device`` where others can, or None if they can."""
    if dtype == torch.bfloat16 and device.type == "cpu" and is_interpreted():
        return "Triton's interpreter multiplies bfloat16 matrices wrongly (triton-lang/triton issue 11584); use another dtype"
    return None


def _kernels(device: torch.device) -> Any:
    """The launchers, if they can run here: a compiled graph may have been traced elsewhere."""
    reason = why_no_triton(device.type)
    if reason is not None:
        raise RuntimeError(f'backend="triton" cannot run here: {reason}')
    return import_kernels()


@functools.cache
def import_kernels() -> Any:
    """The launchers, wherever Triton is installed."""
    return importlib.import_module(".kernels.launchers", __package__)


class _Gradients:
    """Which of an operator's arguments are tensors, and which gradients its backward operator gives.

    These are the gradient to each input (in a list of images, to the first one), then one tensor for all parameters together.
    """

    def __init__(self, arguments: type[Any]) -> None:
        types = list(arguments.__annotations__.values())
        self.parameters = types.count(Parameters)
        self.inputs = sum(kind in (Tensor, Tensor | None, list[Tensor]) for kind in types)
        self.tensors = self.inputs + self.parameters

    def flatten(self, args: Sequence[Any]) -> tuple[list[Tensor | None], list[int | None]]:
        """All tensors, and the length of each argument that is a list of them."""
        flat: list[Tensor | None] = []
        lengths: list[int | None] = []
        for arg in args[: self.tensors]:
            flat += arg if isinstance(arg, list) else [arg]
            lengths.append(len(arg) if isinstance(arg, list) else None)
        # Autograd saves no tensors that were made in inference mode.
        return [t.clone() if t is not None and t.is_inference() else t for t in flat], lengths

    def unflatten(self, flat: Sequence[Any], lengths: Sequence[int | None]) -> list[Any]:
        """The inverse of :meth:`flatten`, for tensors or for a value of each."""
        parts, start = [], 0
        for n in lengths:
            parts.append(flat[start] if n is None else list(flat[start : start + n]))
            start += 1 if n is None else n
        return parts

    def needs(self, wanted: Sequence[Any]) -> list[bool]:
        """Which gradients the backward operator has to give. ``wanted`` says of each tensor whether its own is wanted."""
        needs = [any(part) if isinstance(part, list) else part for part in wanted]
        return [*needs[: self.inputs], any(needs[self.inputs :])] if self.parameters else needs

    def allocate(self, args: Sequence[Any], needs: Sequence[bool]) -> list[Tensor]:
        """Uninitialised tensors for the gradients that are needed."""
        inputs = [arg[0] if isinstance(arg, list) else arg for arg in args[: self.inputs]]
        grads = [torch.empty_like(x) for x, need in zip(inputs, needs, strict=False) if need and x is not None]
        parameters = [t for arg in args[self.inputs : self.tensors] for t in arg]
        if self.parameters and needs[-1]:
            grads.append(parameters[0].new_empty(sum(t.numel() for t in parameters)))
        return grads

    def spread(self, grads: list[Tensor | None], args: Sequence[Any], wanted: Sequence[Any]) -> list[Tensor | None]:
        """The gradient of each tensor, in the order of :meth:`flatten`; those of parameters are views of the one of all."""
        result: list[Tensor | None] = []
        for grad, arg in zip(grads, args[: self.inputs], strict=False):
            result += [grad, *[None] * (len(arg) - 1)] if isinstance(arg, list) else [grad]
        parameters = [t for arg in args[self.inputs : self.tensors] for t in arg]
        if not self.parameters or grads[-1] is None:
            return [*result, *[None] * len(parameters)]
        if is_watched():  # where sizes may be symbols
            parts = [p.view(t.shape) for p, t in zip(grads[-1].split([t.numel() for t in parameters]), parameters, strict=True)]
        else:  # a third of the time
            parts = torch._C._nn.unflatten_dense_tensors(grads[-1], parameters)
        needs = [need for part in wanted[self.inputs :] for need in part]
        return result + [p if need else None for p, need in zip(parts, needs, strict=True)]


def _place(grads: list[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    """The computed gradients in the places where one is needed, None in the others."""
    remaining = iter(grads)
    return [next(remaining) if need else None for need in needs]


def call(operator: Any, *args: Any) -> Any:
    """``operator(*args)``, without PyTorch's dispatcher where it would do no more than call these functions.

    Whatever watches or replaces operators still sees them: compilation, tracing, profilers, modes, torch.func, subclasses of
    tensors.
    """
    if torch.compiler.is_compiling() or is_watched():
        return operator(*args)
    tensors = _tensors(args)
    for t in tensors:
        if (type(t) is not Tensor and type(t) is not torch.nn.Parameter) or t.is_neg():  # PyTorch writes negated views out
            return operator(*args)
    if _any_wants_grad(tensors):
        return _AUTOGRAD[operator](*args)
    return IMPLEMENTATIONS[operator](*args)


def is_watched() -> bool:
    c = torch._C
    return bool(
        c._len_torch_dispatch_stack()
        or c._len_torch_function_stack()
        or c._are_functorch_transforms_active()
        or c._get_tracing_state() is not None
        or c._autograd._profiler_enabled()
    )


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    """The tensors among an operator's arguments, and in its lists of tensors."""
    found: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Tensor):
            found += arg
    return found


def _wants_grad(args: Sequence[Any]) -> bool:
    return _any_wants_grad(_tensors(args))


def _any_wants_grad(tensors: list[Tensor]) -> bool:
    if not torch.is_grad_enabled() and forward_ad._current_level < 0:
        return False
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise RuntimeError('the Triton backend has no forward-mode derivatives; use backend="torch"')
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


class Recorded(NamedTuple):
    """A call of an operator that is recorded for the backward pass, but for its tensors."""

    operator: Any
    backward: Any
    gradients: _Gradients
    lengths: list[int | None]
    options: Sequence[Any]
    passes: Passes | None = None
    """Backward passes of a call that is repeated."""


class Differentiable(torch.autograd.Function):
    """An operator and its backward operator. Tensors are arguments of their own, since autograd follows none inside lists.

    ``launch()`` takes the place of the operator's call, if it is not None. It also gives a list's images for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, recorded: Recorded, launch: Callable[[], Any] | None, *tensors: Tensor | None) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.recorded = recorded
        if launch is not None:
            result: Tensor
            result, ctx.images = launch()
            return result
        operator, _, gradients, lengths, options, _ = recorded
        with torch._C._AutoDispatchBelowAutograd():
            return call(operator, *gradients.unflatten(tensors, lengths), *options)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        recorded, tensors, wanted = ctx.recorded, ctx.saved_tensors, ctx.needs_input_grad[2:]
        passes, images = recorded.passes, recorded.lengths[0]
        unusual = torch.is_grad_enabled() or torch.compiler.is_compiling() or is_watched() or forward_ad._current_level >= 0
        if passes is None or unusual:
            return None, None, *_backward(recorded, grad_output, tensors, wanted)
        first = recorded.gradients.inputs - 1 + (1 if images is None else images)
        long = functools.partial(_backward, recorded)
        before = getattr(ctx, "images", None)
        return None, None, *passes.run(import_kernels(), long, grad_output, tensors, wanted, images or 1, first, before)


def _backward(recorded: Recorded, grad_output: Tensor, tensors: Sequence[Any], wanted: Sequence[bool]) -> list[Tensor | None]:
    """The gradient to each of the ``tensors`` that were saved, where it is wanted."""
    gradients = recorded.gradients
    args = gradients.unflatten(tensors, recorded.lengths)
    wants = gradients.unflatten(wanted, recorded.lengths)
    needs = gradients.needs(wants)
    grads = _place(call(recorded.backward, grad_output, *args, *recorded.options, needs), needs)
    return gradients.spread(grads, args, wants)


class _DifferentiableAreaPool2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h: int, w: int) -> Tensor:
        ctx.x_size = x.shape[2], x.shape[3]
        with torch._C._AutoDispatchBelowAutograd():
            return call(area_pool2d, x, h, w)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return call(area_pool2d_backward, grad_output, *ctx.x_size), None, None


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
        raise RuntimeError(f"{NAMESPACE}::{ctx.name} cannot be differentiated: tritonds has no second derivatives")


def _define(
    schema: str, implementation: Callable[..., Any], fake: Callable[..., Any], differentiate: Callable[..., Any]
) -> Any:
    """Register an operator. ``differentiate`` is called instead of it where a gradient is wanted."""
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    operator = getattr(getattr(torch.ops, NAMESPACE), name).default

    def autograd(*args: Any) -> Any:
        if _wants_grad(args):
            return differentiate(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, implementation, key)
    _LIBRARY.impl(name, autograd, "Autograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    IMPLEMENTATIONS[operator], _AUTOGRAD[operator] = implementation, differentiate
    return operator


def _define_backward(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    name = schema.partition("(")[0]

    def differentiate(*args: Any) -> Any:
        result = _NotTwice.apply(name, lambda: operator(*args), *_tensors(args))
        return list(result) if isinstance(result, tuple) else result

    operator = _define(schema, implementation, fake, differentiate)
    return operator


def _functions(arguments: type[Any]) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Implementation and fake of an operator with one result."""
    make = functools.partial(tuple.__new__, arguments)  # a third of the time; the dispatcher has checked the arguments

    def implementation(*args: Any) -> Tensor:
        call: Any = make(args)
        output: Tensor = call.allocate()
        call.launch(_kernels(output.device), output)
        return output

    return implementation, lambda *args, **kwargs: arguments(*args, **kwargs).allocate()


def _define_pair(name: str, arguments: type[Any]) -> tuple[Any, Any]:
    """The operator ``name`` and its backward operator."""
    gradients = _Gradients(arguments)

    def backward_implementation(grad_output: Tensor, *args: Any) -> list[Tensor]:
        needs = args[-1]
        grads = gradients.allocate(args, needs)
        arguments(*args[:-1]).launch_backward(_kernels(grad_output.device), grad_output, *_place(grads, needs))
        return grads

    def backward_fake(grad_output: Tensor, *args: Any) -> list[Tensor]:
        return gradients.allocate(args, args[-1])

    def differentiate(*args: Any) -> Tensor:
        tensors, lengths = gradients.flatten(args)
        if lengths[0] is not None and args[0][0].dim() == 3 and any(image.requires_grad for image in args[0]):
            raise RuntimeError(f"{NAMESPACE}::{name} has no gradients to images of different sizes; give it one at a time")
        recorded = Recorded(operator, backward, gradients, lengths, args[gradients.tensors :])
        return Differentiable.apply(recorded, None, *tensors)

    schema = schema_of(arguments)
    operator = _define(f"{name}({schema}) -> Tensor", *_functions(arguments), differentiate)
    backward = _define_backward(
        f"{name}_backward(Tensor grad_output, {schema}, bool[] needs) -> Tensor[]", backward_implementation, backward_fake
    )
    return operator, backward


coefficients, coefficients_backward = _define_pair("coefficients", Coefficients)
downsize, downsize_backward = _define_pair("downsize", Downsize)
downsize_image, downsize_image_backward = _define_pair("downsize_image", DownsizeImage)
weighted_gather2d, weighted_gather2d_backward = _define_pair("weighted_gather2d", WeightedGather2d)

area_pool2d = _define(
    f"area_pool2d({schema_of(AreaPool2d)}) -> Tensor", *_functions(AreaPool2d), _DifferentiableAreaPool2d.apply
)
area_pool2d_backward = _define_backward(
    f"area_pool2d_backward({schema_of(AreaPool2dBackward)}) -> Tensor", *_functions(AreaPool2dBackward)
)
