"""Networks that segment."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..samples import IGNORED, Batch
from .base import Pipeline, Width, enlarge, normalise, pad, reset_batch_norms


class Segmenter(Pipeline):
    """A network whose logits, enlarged to its input's size, say which class a pixel is.

    Args:
        network: of transformers, for semantic segmentation.
        multiple: what divides the sides of its input.
        square: whether its input is to be a square.
    """

    task = "segmentation"

    def __init__(self, network: nn.Module, multiple: int = 1, *, square: bool = False) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple
        self.square = square

    def logits(self, images: Tensor) -> Tensor:
        """(N, classes, h, w)."""
        padded = pad(normalise(images), self.multiple, square=self.square)
        logits = enlarge(self.network(padded).logits, (padded.shape[-2], padded.shape[-1]))
        return logits[..., : images.shape[-2], : images.shape[-1]]

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        # One row per pixel: over images, PyTorch's cross entropy adds up in no fixed order on a GPU.
        logits = self.logits(images).permute(0, 2, 3, 1).flatten(0, 2)
        total = F.cross_entropy(logits, batch.masks.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (batch.masks != IGNORED).sum().clamp(min=1)

    @torch.no_grad()
    def predict(self, images: Tensor, source: tuple[int, int]) -> Tensor:
        return self.logits(images).argmax(dim=1)


def segformer(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
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


def mobilenetv2(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
    """MobileNetV2 with the head that transformers calls DeepLabV3+: pooled and local features, and no decoder."""
    from transformers import MobileNetV2Config, MobileNetV2ForSemanticSegmentation

    settings: dict[Width, dict[str, Any]] = {
        "tiny": {"depth_multiplier": 0.25, "expand_ratio": 2.0, "output_stride": 4, "depth_divisible_by": 4, "min_depth": 4},
        "small": {
            "depth_multiplier": 0.5,
            "expand_ratio": 2.0,
            "output_stride": 4,
            "tf_padding": False,
            "initializer_range": 0.1,  # with 0.02, variances are as small as what normalisation adds to them
        },
        "full": {"output_stride": 8},
    }
    config = MobileNetV2Config(num_labels=classes, classifier_dropout_prob=0.0, **settings[width])
    network = MobileNetV2ForSemanticSegmentation(config)
    network.mobilenet_v2.conv_1x1 = nn.Identity()  # 1280 channels, which the head does not read
    if width != "full":
        _narrow_head(network, 16 if width == "tiny" else 64)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # TensorFlow's 0.997 means the opposite here: statistics of the last batch alone
    return Segmenter(network.to(memory_format=torch.channels_last))  # in which depthwise convolutions are faster


def _narrow_head(network: Any, channels: int) -> None:
    """Replace the DeepLabV3+ head of a MobileNetV2, 256 channels whatever the configuration says, by a narrow one."""
    head, config = network.segmentation_head, network.config
    features = head.conv_aspp.convolution.in_channels
    layer = type(head.conv_aspp)
    for name, inputs in (("conv_pool", features), ("conv_aspp", features), ("conv_projection", 2 * channels)):
        setattr(head, name, layer(config, inputs, channels, kernel_size=1, use_activation="relu", layer_norm_eps=1e-5))
    head.classifier = nn.Conv2d(channels, config.num_labels, 1)


def mobilevit(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
    """MobileViT with the head of DeepLabV3; its first convolution keeps the size but at "full"."""
    from transformers import MobileViTConfig, MobileViTForSemanticSegmentation

    settings: dict[Width, dict[str, Any]] = {
        "tiny": {
            "hidden_sizes": (8, 8, 16),
            "neck_hidden_sizes": (4, 4, 8, 8, 8, 8, 8),
            "num_attention_heads": 2,
            "expand_ratio": 1.0,
            "aspp_out_channels": 8,
            "atrous_rates": (1, 2, 3),
        },
        "small": {
            "hidden_sizes": (16, 24, 32),
            "neck_hidden_sizes": (8, 8, 16, 16, 24, 32, 32),
            "num_attention_heads": 2,
            "expand_ratio": 2.0,
            "aspp_out_channels": 24,
            "atrous_rates": (1, 2, 3),
            "initializer_range": 0.1,
        },
        "full": {},
    }
    config = MobileViTConfig(
        num_labels=classes,
        output_stride=8,
        hidden_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        aspp_dropout_prob=0.0,
        **settings[width],
    )
    network = MobileViTForSemanticSegmentation(config)
    reset_batch_norms(network)
    if width != "full":
        network.mobilevit.conv_stem.convolution.stride = (1, 1)  # objects of 8 pixels: half the stride everywhere
        for stage in network.mobilevit.encoder.layer[2:]:
            stage.transformer.layer = stage.transformer.layer[:1]  # of two to four
    return Segmenter(network.to(memory_format=torch.channels_last))


_SMALL_DPT = {
    "patch_size": 4,
    "num_hidden_layers": 3,
    "backbone_out_indices": (0, 1, 2),
    "reassemble_factors": (2, 1, 0.5),
    "initializer_range": 0.1,
}
_DPT: dict[Width, dict[str, Any]] = {
    "tiny": _SMALL_DPT
    | {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "neck_hidden_sizes": (8, 8, 8),
        "fusion_hidden_size": 8,
    },
    "small": _SMALL_DPT
    | {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "neck_hidden_sizes": (16, 24, 32),
        "fusion_hidden_size": 16,
    },
    "full": {
        "patch_size": 16,
        "hidden_size": 192,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "neck_hidden_sizes": (48, 96, 192, 192),
        "fusion_hidden_size": 96,
    },
}


def dpt(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
    """DPT: a plain vision transformer whose layers are put together to one map."""
    from transformers import DPTConfig, DPTForSemanticSegmentation

    patch = _DPT[width]["patch_size"]
    multiple = 2 * patch  # the coarsest map's cell
    config = DPTConfig(
        num_labels=classes,
        image_size=-(-max(size) // multiple) * multiple,
        use_auxiliary_head=False,
        semantic_classifier_dropout=0.0,
        **_DPT[width],
    )
    network = DPTForSemanticSegmentation(config)
    network.head.head[-1] = nn.Identity()  # enlarges twice, and the logits are enlarged in any case
    network.dpt.layernorm = nn.Identity()  # what it gives is not read, nor is the next one's
    network.neck.fusion_stage.layers[0].residual_layer1 = nn.Identity()
    grid = config.image_size // patch
    _lay_out_positions(network.dpt.embeddings.position_embeddings, (grid, grid))
    return Segmenter(network, multiple, square=True)  # transformers' DPT takes the root of how many patches there are


def _lay_out_positions(positions: Tensor, grid: tuple[int, int]) -> None:
    """Let the positions of a grid's patches, to be learned, begin as sines and cosines of row and column.

    Transformers begin them as zeros, from which a small network hardly learns where anything is.

    Args:
        positions: (1, 1 + rows * columns + more, channels), the first of no patch.
        grid: rows and columns.
    """
    quarter = positions.shape[-1] // 4
    frequencies = 100.0 ** -(torch.arange(quarter) / quarter)
    y, x = torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij")
    angles = torch.stack((y, x), dim=-1).flatten(0, 1)[..., None] * frequencies  # [patches, 2, quarter]
    waves = torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)  # [patches, channels]
    with torch.no_grad():
        positions[0, 1 : 1 + len(waves)] = waves / 2
