"""The backbone of the networks that detect and that classify."""

from typing import Any

from torch import nn

from .base import Width


def resnet(width: Width) -> Any:
    """Transformers' ResNet-18 at "full"; else the last two of three stages with half the strides, for objects of 8 pixels."""
    from transformers import ResNetBackbone, ResNetConfig

    sizes: dict[Width, tuple[int, list[int], list[int]]] = {  # stem, stages' channels, their depths
        "tiny": (8, [8, 8, 16], [1, 1, 1]),
        "small": (16, [16, 32, 64], [1, 1, 1]),
        "full": (64, [64, 128, 256, 512], [2, 2, 2, 2]),
    }
    stem, channels, depths = sizes[width]
    config = ResNetConfig(
        embedding_size=stem,
        hidden_sizes=channels,
        depths=depths,
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"] if width == "full" else ["stage2", "stage3"],
    )
    backbone = ResNetBackbone(config)
    if width != "full":
        backbone.embedder.pooler = nn.Identity()
    return backbone
