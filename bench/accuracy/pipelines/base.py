"""What every network shares: the interface of a pipeline, what it predicts, and how images reach the network."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..samples import Batch

Task = Literal["detection", "segmentation", "classification", "reconstruction"]
Width = Literal["tiny", "small", "full"]


class Detection(NamedTuple):
    """What a detector found in one image, best first."""

    boxes: Tensor
    """(n, 4), float32: x1, y1, x2, y2 in pixels of the network's input"""
    scores: Tensor
    """(n,), float32, in 0..1"""
    labels: Tensor
    """(n,), int64, from 1"""


Prediction = list[Detection] | Tensor
"""By task: a :class:`Detection` per image; (N, h, w) or (N,) int64 classes; (N, 3, H, W) images in 0..1."""


class Pipeline(nn.Module, ABC):
    """A network that takes downsized images, (N, 3, h, w) in 0..1, and knows its loss."""

    task: Task

    @abstractmethod
    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        """The loss to minimise, a scalar; ``batch`` has labels at the size of ``images``, and the source images."""

    @abstractmethod
    def predict(self, images: Tensor, source: tuple[int, int]) -> Prediction:
        """What the network says of ``images``, without gradients; ``source`` is (H, W) of the images before downsizing."""


def normalise(images: Tensor) -> Tensor:
    """Images in 0..1, roughly centred and scaled to what networks are initialised for."""
    return (images - 0.45) / 0.25


def pad(images: Tensor, multiple: int) -> Tensor:
    """Images, enlarged by zeros below and on the right until ``multiple`` divides both sides."""
    h, w = images.shape[-2:]
    return F.pad(images, (0, -w % multiple, 0, -h % multiple))


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of (N, C, h, w) to ``size``, as ``F.interpolate``, by a matrix product along each axis.

    Its gradient adds up in a fixed order on a GPU too, and on a CPU takes a fraction of the time.
    """
    rows, columns = (
        F.interpolate(torch.eye(n, dtype=x.dtype, device=x.device)[None], size=m, mode="linear", align_corners=False)[0]
        for n, m in zip(x.shape[-2:], size, strict=True)
    )  # [h, H], [w, W]
    return rows.mT @ (x @ columns)
