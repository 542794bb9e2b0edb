"""Every downsizer of the comparison, by name.

Names of learned ones say what they are: kind, taps, what differs. With a prior unless "plain"; with two layers, a hidden one
and the output, unless "layers" says how many; with one convolution unless "texture" says how many; with 16 channels unless
"wide".
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tritonds import DownsizeNet, methods

Downsize = Callable[[Tensor, tuple[int, int]], Tensor]
"""From uint8 images (N, 3, H, W) and (h, w) to (N, 3, h, w) in 0..1."""

INTERPOLATIONS: dict[str, methods.Resize] = {
    "nearest": lambda image, size: F.interpolate(image, size, mode="nearest-exact"),
    **methods.INTERPOLATIONS,
}
"""What learns nothing; with the method that learned coefficients come to when they choose a pixel, whatever it shows."""
FIXED = tuple(INTERPOLATIONS)

_K2 = partial(DownsizeNet, taps=2, prior="bilinear")
_K4 = partial(DownsizeNet, taps=4, prior="antialias")
LEARNED: dict[str, Callable[..., DownsizeNet]] = {
    "texture-only-k2": partial(_K2, distance_channels=0),
    "texture-only-k2-plain": partial(_K2, distance_channels=0, prior=None),
    "distance-only-k2": partial(_K2, texture_channels=0),
    "downsizenet-k2": _K2,
    "downsizenet-k2-plain": partial(_K2, prior=None),
    "texture-only-k4": partial(_K4, distance_channels=0),
    "texture-only-k4-plain": partial(_K4, distance_channels=0, prior=None),
    "distance-only-k4": partial(_K4, texture_channels=0),
    "downsizenet-k4": _K4,
    "downsizenet-k4-plain": partial(_K4, prior=None),
    "downsizenet-k2-layers1": partial(_K2, hidden_layers=0),
    "downsizenet-k2-layers3": partial(_K2, hidden_layers=2),
    "downsizenet-k2-layers4": partial(_K2, hidden_layers=3),
    "downsizenet-k2-texture2": partial(_K2, texture_layers=2),
    "downsizenet-k2-texture3": partial(_K2, texture_layers=3),
    "downsizenet-k4-texture2": partial(_K4, texture_layers=2),
    "downsizenet-k2-wide": partial(_K2, texture_channels=32, distance_channels=32, hidden_channels=32),
    "downsizenet-k6": partial(DownsizeNet, taps=6, prior="antialias"),
}
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
