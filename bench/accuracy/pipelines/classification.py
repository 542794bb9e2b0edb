"""Networks that classify."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..samples import Batch, only
from .base import Pipeline, Width, normalise
from .resnet import resnet


class Classifier(Pipeline):
    """The class of the one object of each image, from the mean of a backbone's coarsest features."""

    task = "classification"

    def __init__(self, backbone: Any, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(backbone.channels[-1])
        self.head = nn.Linear(backbone.channels[-1], classes - 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (N, classes - 1): the background is no answer."""
        features = self.backbone(normalise(images)).feature_maps[-1].mean(dim=(2, 3))
        logits: Tensor = self.head(self.norm(features))
        return logits

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(self(images), torch.stack([only(labels) for labels in batch.labels]) - 1)

    @torch.no_grad()
    def predict(self, images: Tensor, source: tuple[int, int]) -> Tensor:
        return self(images).argmax(dim=1) + 1


def resnet_classifier(classes: int, width: Width) -> Pipeline:
    """A :class:`Classifier` on ResNet-18 at "full", on smaller ones else."""
    return Classifier(resnet(width), classes)
