"""The operators' arguments. Each operator has a class: its fields are the schema, its methods allocate and launch.

Tensors come first, and parameters last among them. A backward operator takes the gradient of the result, the same arguments,
and which gradients are wanted: of each tensor before the parameters, and of all parameters together.
"""

from typing import Annotated, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .batches import memory_format_of, memory_format_of_all

Length: TypeAlias = Annotated[int, "one that torch.compile may trace as a symbol"]
Parameters: TypeAlias = Annotated[list[Tensor], "weights and biases, one gradient for all, which follow one another in it"]

SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    list[Tensor]: "Tensor[]",
    Parameters: "Tensor[]",
    Length: "SymInt",
    int: "int",
    bool: "bool",
    str: "str",
    list[float]: "float[]",
    float | None: "float?",
    torch.dtype: "ScalarType",
}
"""PyTorch's names for the types of arguments."""


def schema_of(arguments: type[Any]) -> str:
    """The fields as PyTorch's schemas spell them."""
    return ", ".join(f"{SCHEMA_TYPES[kind]} {name}" for name, kind in arguments.__annotations__.items())


class Coefficients(NamedTuple):
    """``weights`` are flat: weight and bias of the distance encoding (if ``distance``), of each hidden layer, of the output."""

    texture: Tensor | None
    weights: Parameters
    distance: bool
    n: Length
    image_h: Length
    image_w: Length
    h: Length
    w: Length
    taps: int
    prior: str

    def allocate(self) -> Tensor:
        return self.weights[0].new_empty(self.n, self.taps * self.taps, self.h, self.w)

    def launch(self, kernels: Any, output: Tensor) -> None:
        size = (self.image_h, self.image_w)
        kernels.coefficients(size, self.texture, self.weights, self.distance, output, self.taps, self.prior)

    def launch_backward(self, kernels: Any, grad_output: Tensor, *grads: Tensor | None) -> None:
        network = (self.image_h, self.image_w), self.texture, self.weights, self.distance
        kernels.coefficients_backward(grad_output, *network, *grads, self.taps, self.prior)


class Downsize(NamedTuple):
    """``weights`` as in :class:`Coefficients`."""

    image: Tensor
    texture: Tensor | None
    weights: Parameters
    distance: bool
    h: Length
    w: Length
    taps: int
    prior: str

    def allocate(self) -> Tensor:
        return _empty_output(self.image, self.h, self.w)

    def launch(self, kernels: Any, output: Tensor) -> None:
        kernels.downsize(self.image, self.texture, self.weights, self.distance, output, self.taps, self.prior)

    def launch_backward(self, kernels: Any, grad_output: Tensor, *grads: Tensor | None) -> None:
        kernels.downsize_backward(grad_output, *self[:4], *grads, self.taps, self.prior)


class DownsizeImage(NamedTuple):
    """One batch (N, C, H, W), or several images (C, H, W), which have no gradients."""

    images: list[Tensor]
    texture_weights: Parameters
    """Weight and bias of the texture's convolution, or none."""
    weights: Parameters
    distance: bool
    h: Length
    w: Length
    taps: int
    prior: str
    factors: list[float]
    """A pixel is normalised as pixel * factor + summand, each of its channel; without factors it is not."""
    summands: list[float]
    fill: float | None
    """The value around letterboxed images; None stretches them."""
    dtype: torch.dtype

    def allocate(self) -> Tensor:
        first = self.images[0]
        if first.dim() == 4:
            n, channels, memory_format = first.shape[0], first.shape[1], memory_format_of(first)
        else:
            n, channels, memory_format = len(self.images), first.shape[0], memory_format_of_all(self.images)
        shape = (n, channels, self.h, self.w)
        return torch.empty(shape, dtype=self.dtype, device=first.device, memory_format=memory_format)

    def launch(self, kernels: Any, output: Tensor) -> None:
        kernels.downsize_image(*self[:4], output, *self._options())

    def launch_backward(self, kernels: Any, grad_output: Tensor, *grads: Tensor | None) -> None:
        kernels.downsize_image_backward(grad_output, *self[:4], *grads, *self._options())

    def _options(self) -> tuple[Any, ...]:
        """The launchers' arguments behind the tensors. They are hashable, since launchers keep plans by them."""
        return self.taps, self.prior, tuple(self.factors), tuple(self.summands), self.fill


class WeightedGather2d(NamedTuple):
    """``coefficients`` (N, taps * taps, h, w) give the size of the result."""

    image: Tensor
    coefficients: Tensor
    taps: int

    def allocate(self) -> Tensor:
        return _empty_output(self.image, self.coefficients.shape[2], self.coefficients.shape[3])

    def launch(self, kernels: Any, output: Tensor) -> None:
        kernels.weighted_gather2d(self.image, self.coefficients, output, self.taps)

    def launch_backward(self, kernels: Any, grad_output: Tensor, *grads: Tensor | None) -> None:
        kernels.weighted_gather2d_backward(grad_output, self.image, self.coefficients, *grads, self.taps)


class AreaPool2d(NamedTuple):
    """Its backward operator is another class: it needs the size of ``x`` alone, so that ``x`` need not be saved."""

    x: Tensor
    h: Length
    w: Length

    def allocate(self) -> Tensor:
        return _empty_output(self.x, self.h, self.w)

    def launch(self, kernels: Any, output: Tensor) -> None:
        kernels.area_pool2d(self.x, output)


class AreaPool2dBackward(NamedTuple):
    """``x_h`` and ``x_w`` are the size of the result."""

    grad_output: Tensor
    x_h: Length
    x_w: Length

    def allocate(self) -> Tensor:
        return _empty_output(self.grad_output, self.x_h, self.x_w)

    def launch(self, kernels: Any, output: Tensor) -> None:
        kernels.area_pool2d_backward(self.grad_output, output)


def _empty_output(x: Tensor, h: int, w: int) -> Tensor:
    """Uninitialised (N, C, h, w) in the memory format of ``x``."""
    shape = (x.shape[0], x.shape[1], h, w)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))
