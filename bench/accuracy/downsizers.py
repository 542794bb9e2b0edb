"""Every downsizer of the comparison, by its name in :mod:`tritonds.methods`."""

from collections.abc import Callable

import torch
from torch import Tensor

from tritonds import methods

Downsize = Callable[[Tensor, tuple[int, int]], Tensor]
"""From uint8 images (N, 3, H, W) and (h, w) to (N, 3, h, w) in 0..1."""

INTERPOLATIONS = methods.PEERS | methods.INTERPOLATIONS
FIXED = tuple(INTERPOLATIONS)
"""Methods that learn nothing. Learned coefficients that choose one pixel, whatever it shows, come close to "nearest"."""
LEARNED = methods.ARCHITECTURES
CORE = (*FIXED, "texture-only-k2-plain", "distance-only-k2", "downsizenet-k2", "downsizenet-k4")
"""What the headline tables hold: the poster's methods, and DownsizeNet with two and four taps."""
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
