"""Every downsizer of the comparison, by its name in :mod:`tritonds.methods`; and kernels that sharpen by a fixed amount."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tritonds import area_pool2d, methods, reference

Downsize = Callable[[Tensor, tuple[int, int]], Tensor]
"""From uint8 images (N, 3, H, W) and (h, w) to (N, 3, h, w) in 0..1."""


def _sharpening(image: Tensor, size: tuple[int, int], kernel: str, strength: float) -> Tensor:
    """q + ``strength`` (b - q), where b is a whole signed kernel and q antialiased bilinear interpolation."""
    convex, signed = image, image
    for dim, (n_in, n_out) in enumerate(zip(image.shape[2:], size, strict=True), start=2):
        arguments = n_in, n_out, kernel, image.device, image.dtype
        convex, signed = (
            _along(x, dim, _matrix(axis, *arguments))
            for x, axis in ((convex, reference.prior_axis), (signed, reference.signed_axis))
        )
    return torch.lerp(convex, signed, strength)


@functools.cache
def _matrix(
    axis: Callable[..., Tensor], n_in: int, n_out: int, kernel: str, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """A kernel's numbers along one axis, as a matrix (n_out, n_in)."""
    taps = 2 * math.ceil(3 * max(n_in / n_out, 1))  # as far as Lanczos reaches
    numbers = axis(n_in, n_out, taps, kernel, device, dtype)
    pixels = reference.tap_indices(n_in, n_out, taps, device)
    return numbers.new_zeros(n_in, n_out).scatter_add_(0, pixels, numbers).T.contiguous()


def _along(x: Tensor, dim: int, matrix: Tensor) -> Tensor:
    return (x.movedim(dim, -1) @ matrix.T).movedim(-1, dim)


def _unsharp(image: Tensor, size: tuple[int, int], shrink: methods.Resize) -> Tensor:
    """Shrunk, and sharpened after that by half of the difference to its own blur, of a deviation of one target pixel."""
    small = shrink(image, size)
    offsets = torch.arange(-3, 4, dtype=image.dtype, device=image.device)
    kernel = (-offsets.square() / 2).softmax(dim=0)
    blurred = F.pad(small, (3, 3, 3, 3), mode="replicate")
    for shape in ((1, 1, 7, 1), (1, 1, 1, 7)):
        blurred = F.conv2d(blurred, kernel.view(shape).expand(3, -1, -1, -1), groups=3)
    return torch.lerp(blurred, small, 1.5)


_LANCZOS = functools.partial(_sharpening, kernel="lanczos", strength=1)
SHARPENING: dict[str, methods.Resize] = {
    "lanczos": _LANCZOS,
    **{
        f"{kernel}-g{g}": functools.partial(_sharpening, kernel=kernel, strength=g)
        for kernel in ("bicubic", "lanczos")
        for g in (2, 3)
    },
    "area-unsharp": functools.partial(_unsharp, shrink=area_pool2d),
    "lanczos-unsharp": functools.partial(_unsharp, shrink=_LANCZOS),
}
"""Pillow's Lanczos; signed kernels at a fixed strength g, where 1 is the kernel itself; unsharp masks."""
INTERPOLATIONS = methods.PEERS | methods.INTERPOLATIONS | SHARPENING
FIXED = tuple(INTERPOLATIONS)
"""Methods that learn nothing. Learned coefficients that choose one pixel, whatever it shows, come close to "nearest"."""
LEARNED = methods.ARCHITECTURES
NAMES = (*FIXED, *LEARNED)


class Interpolation(torch.nn.Module):
    """A method that learns nothing, behind the interface of those that do."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        return INTERPOLATIONS[self.name](images.float() / 255, size)


def build(name: str, backend: str = "auto") -> torch.nn.Module:
    """The downsizer called ``name``, untrained; called like :data:`Downsize`."""
    return LEARNED[name](backend=backend) if name in LEARNED else Interpolation(name)
