"""What every data set gives, and how samples become a batch at the network's size."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tritonds import labels

IGNORED = 255
"""The label of a pixel that counts neither in the loss nor in the metric."""


class Sample(NamedTuple):
    """One image with its labels, all in the image's own pixels."""

    image: Tensor
    """(3, H, W), uint8"""
    boxes: Tensor
    """(n, 4), float32: x1, y1, x2, y2 in pixels"""
    labels: Tensor
    """(n,), int64: a class each, from 1"""
    mask: Tensor
    """(H, W), uint8: 0 is background, :data:`IGNORED` counts nowhere"""


class Dataset(Protocol):
    """Samples of one size, by number."""

    classes: tuple[str, ...]
    """Names; class i is ``classes[i]``, and ``classes[0]`` the background."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Batch(NamedTuple):
    """Images at their own size, labels at the network's."""

    images: Tensor
    """(N, 3, H, W), uint8"""
    boxes: tuple[Tensor, ...]
    """N times (n, 4), float32: x1, y1, x2, y2 in pixels of the network's input"""
    labels: tuple[Tensor, ...]
    """N times (n,), int64, from 1"""
    masks: Tensor
    """(N, h, w), int64"""

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        boxes, labels = (tuple(x.to(device) for x in part) for part in (self.boxes, self.labels))
        return Batch(self.images.to(device), boxes, labels, self.masks.to(device))


def collate(samples: Sequence[Sample], size: tuple[int, int]) -> Batch:
    """A batch for networks whose input is of ``size``, (h, w); masks by nearest neighbour."""
    source = (samples[0].image.shape[1], samples[0].image.shape[2])
    masks = torch.stack([sample.mask for sample in samples])
    return Batch(
        torch.stack([sample.image for sample in samples]),
        tuple(labels.map_boxes(sample.boxes, source, size) for sample in samples),
        tuple(sample.labels for sample in samples),
        labels.map_masks(masks, size).long(),
    )


def only(labels: Tensor) -> Tensor:
    """The label of an image's one object.

    Raises:
        ValueError: there are more, or none.
    """
    if len(labels) != 1:
        raise ValueError(f"labels: expected one object in each image, got {len(labels)}")
    return labels[0]


def batches(dataset: Dataset, size: tuple[int, int], batch: int) -> Iterator[Batch]:
    """The whole of a data set, in its order."""
    for start in range(0, len(dataset), batch):
        yield collate([dataset[i] for i in range(start, min(start + batch, len(dataset)))], size)
