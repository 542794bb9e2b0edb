"""A network that reconstructs the source image."""

from typing import Any

import torch
from torch import Tensor, nn

from ..samples import Batch
from .base import Pipeline, Width, enlarge, normalise


class Reconstruction(Pipeline):
    """The source image from the downsized one: interpolated, plus what a small network adds.

    The network works at the low resolution; its features are interpolated, since the ratio is fractional. Loss: ten times the
    mean squared difference from the source, of values in 0..1.
    """

    task = "reconstruction"

    def __init__(self, hidden: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, hidden, 3, padding=1)]
        for _ in range(depth - 1):
            layers += [nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1)]
        layers += [nn.ReLU(), nn.Conv2d(hidden, hidden // 2, 1)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(hidden // 2, 3, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)  # interpolation alone, to begin with

    def forward(self, images: Tensor, source: tuple[int, int]) -> Tensor:
        """(N, 3, H, W), somewhat beyond 0..1."""
        return enlarge(images, source) + self.head(enlarge(self.body(normalise(images)), source))

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        difference = self(images, (batch.images.shape[2], batch.images.shape[3])) - batch.images / 255
        return 10 * difference.square().mean()

    @torch.no_grad()
    def predict(self, images: Tensor, source: tuple[int, int]) -> Tensor:
        return self(images, source).clamp(0, 1)


def reconstruction(classes: int, width: Width) -> Pipeline:
    sizes: dict[Width, tuple[int, int]] = {"tiny": (8, 2), "small": (16, 4), "full": (64, 8)}
    hidden, depth = sizes[width]
    network: Any = Reconstruction(hidden, depth)  # mypy does not know that modules have memory formats
    return network.to(memory_format=torch.channels_last)
