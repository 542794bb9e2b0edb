"""Networks that segment."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..samples import IGNORED, Batch
from .base import Pipeline, Width, enlarge, normalise


class Segmenter(Pipeline):
    """A network of transformers whose logits, enlarged to its input's size, say which class a pixel is."""

    task = "segmentation"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def logits(self, images: Tensor) -> Tensor:
        """(N, classes, h, w)."""
        return enlarge(self.network(normalise(images)).logits, (images.shape[-2], images.shape[-1]))

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        # One row per pixel: over images, PyTorch's cross entropy adds up in no fixed order on a GPU.
        logits = self.logits(images).permute(0, 2, 3, 1).flatten(0, 2)
        total = F.cross_entropy(logits, batch.masks.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (batch.masks != IGNORED).sum().clamp(min=1)

    @torch.no_grad()
    def predict(self, images: Tensor, source: tuple[int, int]) -> Tensor:
        return self.logits(images).argmax(dim=1)


def segformer(classes: int, width: Width) -> Pipeline:
    """SegFormer: B0's at "full", with smaller strides else."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    shared = {"strides": (2, 2, 2, 2), "depths": (1, 1, 1, 1), "initializer_range": 0.1}
    settings: dict[Width, dict[str, Any]] = {
        "tiny": {
            **shared,
            "patch_sizes": (3, 3, 3, 3),
            "hidden_sizes": (8, 8, 16, 16),
            "num_attention_heads": (1, 1, 2, 2),
            "sr_ratios": (2, 1, 1, 1),
            "decoder_hidden_size": 16,
        },
        "small": {
            **shared,
            "patch_sizes": (5, 3, 3, 3),
            "hidden_sizes": (16, 32, 48, 64),
            "num_attention_heads": (1, 2, 3, 4),
            "sr_ratios": (4, 2, 1, 1),
            "mlp_ratios": (2, 2, 2, 2),
            "decoder_hidden_size": 48,
        },
        "full": {},
    }
    config = SegformerConfig(num_labels=classes, drop_path_rate=0.0, classifier_dropout_prob=0.0, **settings[width])
    return Segmenter(SegformerForSemanticSegmentation(config))
