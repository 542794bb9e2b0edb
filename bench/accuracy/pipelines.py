"""Vision networks to train behind a downsizer, each with its loss and its decoding, behind one small interface.

All start from random numbers: nothing is downloaded, nothing was trained before. Dropout is 0 throughout, so that a run is
determined by its seed.

Every network takes images of any size. Those that cut an image into patches get it enlarged by zeros, at the bottom and on
the right, to a multiple of the patch; what they say about the margin is cut away again.

Batch normalisation over pooled features (the DeepLabs') needs at least two images in training: drop a batch of one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .samples import IGNORED, Batch

Task = Literal["detection", "segmentation", "reconstruction"]
Width = Literal["tiny", "small", "full"]

DETECTIONS = 100
"""Detections kept per image, as in COCO's evaluation."""


class Detection(NamedTuple):
    """What a detector found in one image, best first."""

    boxes: Tensor
    """(n, 4), float32: x1, y1, x2, y2 in pixels of the network's input"""
    scores: Tensor
    """(n,), float32, in 0..1"""
    labels: Tensor
    """(n,), int64, from 1"""


Prediction = list[Detection] | Tensor
"""A :class:`Detection` per image; (N, h, w) int64 classes; or (N, 3, H, W) images in 0..1: by the pipeline's task."""


class Pipeline(nn.Module, ABC):
    """A network that takes downsized images, (N, 3, h, w) in 0..1, and knows its loss."""

    task: Task

    @abstractmethod
    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        """The loss to minimise, a scalar; ``batch`` has labels at the size of ``images``, and the source images."""

    @abstractmethod
    def predict(self, images: Tensor, source: tuple[int, int]) -> Prediction:
        """What the network says of ``images``, without gradients; ``source`` is (H, W) of the images before downsizing."""


class Size(NamedTuple):
    """Of images before and after downsizing: (height, width)."""

    source: tuple[int, int]
    network: tuple[int, int]


class Spec(NamedTuple):
    """A pipeline that can be built, and what to train it with."""

    task: Task
    builder: Callable[[int, tuple[int, int], Width], Pipeline]
    sizes: dict[Width, Size]
    full_lr: float = 1e-3
    """Learning rate for AdamW at width "full": of its authors' order for a transformer, and not tuned."""
    small_lr: float = 2e-3
    """At the other widths."""
    longer: int = 1
    """How many times as many steps as a profile says."""

    def lr(self, width: Width) -> float:
        """Learning rate for AdamW."""
        return self.full_lr if width == "full" else self.small_lr


def build(name: str, classes: int, size: tuple[int, int], width: Width) -> Pipeline:
    """A pipeline with random weights, from PyTorch's generator.

    Args:
        name: a key of :data:`PIPELINES`.
        classes: how many there are, the background included; nothing to "reconstruction".
        size: (h, w) of the network's usual input: learned positions are laid out for it. Other sizes work as well.
        width: "tiny" for tests, "small" for training on a CPU, "full" for a GPU.
    """
    return PIPELINES[name].builder(classes, size, width)


def normalise(images: Tensor) -> Tensor:
    """Images in 0..1, roughly centred and scaled to what networks are initialised for."""
    return (images - 0.45) / 0.25


def pad(images: Tensor, multiple: int, *, square: bool = False) -> Tensor:
    """Images, enlarged by zeros below and on the right until ``multiple`` divides both sides; and to squares, if asked for."""
    h, w = images.shape[-2:]
    high, wide = (max(h, w), max(h, w)) if square else (h, w)
    return F.pad(images, (0, wide - w + -wide % multiple, 0, high - h + -high % multiple))


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of (N, C, h, w) to ``size``, as ``F.interpolate``, by a matrix product along each axis.

    Its gradient adds up in a fixed order on a GPU too, and on a CPU takes a fraction of the time.
    """
    rows, columns = (
        F.interpolate(torch.eye(n, dtype=x.dtype, device=x.device)[None], size=m, mode="linear", align_corners=False)[0]
        for n, m in zip(x.shape[-2:], size, strict=True)
    )  # [h, H], [w, W]
    return rows.mT @ (x @ columns)


# Segmentation


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


def _segformer(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
    """SegFormer: B0's at "full", with smaller strides else."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    settings: dict[Width, dict[str, Any]] = {
        "tiny": {
            "strides": (2, 2, 2, 2),
            "patch_sizes": (3, 3, 3, 3),
            "depths": (1, 1, 1, 1),
            "hidden_sizes": (8, 8, 16, 16),
            "num_attention_heads": (1, 1, 2, 2),
            "sr_ratios": (2, 1, 1, 1),
            "decoder_hidden_size": 16,
            "initializer_range": 0.1,
        },
        "small": {
            "strides": (2, 2, 2, 2),
            "patch_sizes": (5, 3, 3, 3),
            "depths": (1, 1, 1, 1),
            "hidden_sizes": (16, 32, 48, 64),
            "num_attention_heads": (1, 2, 3, 4),
            "sr_ratios": (4, 2, 1, 1),
            "mlp_ratios": (2, 2, 2, 2),
            "decoder_hidden_size": 48,
            "initializer_range": 0.1,
        },
        "full": {},
    }
    config = SegformerConfig(num_labels=classes, drop_path_rate=0.0, classifier_dropout_prob=0.0, **settings[width])
    return Segmenter(SegformerForSemanticSegmentation(config))


def _mobilenetv2(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
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


def _mobilevit(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
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
    _reset_batch_norms(network)
    if width != "full":
        network.mobilevit.conv_stem.convolution.stride = (1, 1)  # objects of 8 pixels: half the stride everywhere
        for stage in network.mobilevit.encoder.layer[2:]:
            stage.transformer.layer = stage.transformer.layer[:1]  # of two to four
    return Segmenter(network.to(memory_format=torch.channels_last))


def _reset_batch_norms(network: nn.Module) -> None:
    """Let batch normalisation scale by 1: transformers initialises some by numbers near 0, which hardly train."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


def _dpt(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
    """DPT: a plain vision transformer whose layers are put together to one map."""
    from transformers import DPTConfig, DPTForSemanticSegmentation

    small = {
        "patch_size": 4,
        "num_hidden_layers": 3,
        "backbone_out_indices": (0, 1, 2),
        "reassemble_factors": (2, 1, 0.5),
        "initializer_range": 0.1,
    }
    settings: dict[Width, dict[str, Any]] = {
        "tiny": small
        | {
            "hidden_size": 16,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "neck_hidden_sizes": (8, 8, 8),
            "fusion_hidden_size": 8,
        },
        "small": small
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
    patch = settings[width]["patch_size"]
    multiple = 2 * patch  # the coarsest map's cell
    config = DPTConfig(
        num_labels=classes,
        image_size=-(-max(size) // multiple) * multiple,
        use_auxiliary_head=False,
        semantic_classifier_dropout=0.0,
        **settings[width],
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


# Detection


class SetDetector(Pipeline):
    """A transformer that gives a set of boxes, which its own loss matches with the true ones, one to one.

    A batch without any box has the loss 0: there is nothing to match.

    Args:
        network: of transformers, for object detection.
        multiple: what divides the sides of its input.
        nothing: whether the last class is "nothing", and scores add up to 1; else each is for itself.
    """

    task = "detection"

    def __init__(self, network: nn.Module, multiple: int, nothing: bool) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple
        self.nothing = nothing

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        padded = pad(normalise(images), self.multiple)
        if not any(map(len, batch.boxes)):
            return self.network(padded).logits.sum() * 0
        unit = 1 / sides(padded)
        targets = [
            {"class_labels": labels - 1, "boxes": to_centres(boxes * unit)}
            for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
        ]
        loss: Tensor = self.network(padded, labels=targets).loss
        return loss

    @torch.no_grad()
    def predict(self, images: Tensor, source: tuple[int, int]) -> list[Detection]:
        padded = pad(normalise(images), self.multiple)
        found = self.network(padded)
        scores = found.logits.softmax(-1)[..., :-1] if self.nothing else found.logits.sigmoid()
        boxes = clip(to_corners(found.pred_boxes) * sides(padded), images)
        return [best(*each) for each in zip(scores, boxes, strict=True)]


def sides(images: Tensor) -> Tensor:
    """(4,): width, height, width, height of images."""
    h, w = images.shape[-2:]
    return torch.tensor((w, h, w, h), dtype=torch.float32, device=images.device)


def clip(boxes: Tensor, images: Tensor) -> Tensor:
    """Boxes, (..., 4), as far as they are within the images."""
    return boxes.clamp(min=0).minimum(sides(images))


def to_centres(boxes: Tensor) -> Tensor:
    """(..., 4), x1, y1, x2, y2 to x, y of the middle, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def to_corners(boxes: Tensor) -> Tensor:
    """The way back from :func:`to_centres`."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((middle - half, middle + half), dim=-1)


def _detr(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
    """DETR on ResNet-18's first three stages at "full", on smaller ones else."""
    from transformers import DetrConfig, DetrForObjectDetection

    settings: dict[Width, dict[str, Any]] = {
        "tiny": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 8, "init_std": 0.1},
        "small": {"d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "num_queries": 16, "init_std": 0.1},
        "full": {"d_model": 256, "encoder_layers": 3, "decoder_layers": 3, "num_queries": 100},
    }
    backbone = _resnet(width, ["stage3" if width == "full" else "stage2"])
    hidden = settings[width]["d_model"]
    config = DetrConfig(
        num_labels=classes - 1,
        backbone_config=backbone.config,
        encoder_attention_heads=max(2, hidden // 32),
        decoder_attention_heads=max(2, hidden // 32),
        encoder_ffn_dim=2 * hidden,
        decoder_ffn_dim=2 * hidden,
        dropout=0.0,
        auxiliary_loss=True,
        **settings[width],
    )
    network = DetrForObjectDetection(config)
    network.model.backbone.model = backbone  # its own has batch normalisation frozen, at random numbers
    nn.init.normal_(network.model.query_position_embeddings.weight)  # as DETR's authors; else all queries are alike
    return SetDetector(network, multiple=1, nothing=True)


def _yolos(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
    """YOLOS: a plain vision transformer with a token for each box it may find."""
    from transformers import YolosConfig, YolosForObjectDetection

    settings: dict[Width, dict[str, Any]] = {
        "tiny": {
            "patch_size": 4,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "num_detection_tokens": 8,
            "initializer_range": 0.1,
        },
        "small": {
            "patch_size": 4,
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "num_detection_tokens": 16,
            "initializer_range": 0.1,
        },
        "full": {
            "patch_size": 8,
            "hidden_size": 192,
            "num_hidden_layers": 12,
            "num_attention_heads": 3,
            "intermediate_size": 768,
        },
    }
    patch = settings[width]["patch_size"]
    grid = -(-size[0] // patch), -(-size[1] // patch)
    config = YolosConfig(
        num_labels=classes - 1,
        image_size=(grid[0] * patch, grid[1] * patch),
        use_mid_position_embeddings=False,
        **settings[width],
    )
    network = YolosForObjectDetection(config)
    embeddings = network.vit.embeddings
    nn.init.normal_(embeddings.detection_tokens, std=0.5)  # else zeros, and all alike
    _lay_out_positions(embeddings.position_embeddings, grid)
    return SetDetector(network, patch, nothing=True)


def _rtdetr(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
    """RT-DETR on its ResNet-18 at "full", on two levels of a smaller one else."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    sizes: dict[Width, tuple[int, list[int], list[int], int, int]] = {  # stem, stages, their depths, hidden, queries
        "tiny": (8, [8, 8, 16], [1, 1, 1], 16, 8),
        "small": (16, [16, 24, 32], [1, 1, 1], 32, 12),
        "full": (64, [64, 128, 256, 512], [2, 2, 2, 2], 256, 100),
    }
    stem, channels, depths, hidden, queries = sizes[width]
    levels = len(channels) - 1
    first = 8 if width == "full" else 4  # the finest level's stride
    backbone = RTDetrResNetConfig(
        embedding_size=stem,
        hidden_sizes=channels,
        depths=depths,
        layer_type="basic",
        out_features=[f"stage{i + 2}" for i in range(levels)],
    )
    config = RTDetrConfig(
        num_labels=classes - 1,
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        encoder_hidden_dim=hidden,
        encoder_in_channels=channels[1:],
        feat_strides=[first * 2**i for i in range(levels)],
        encode_proj_layers=[levels - 1],
        encoder_ffn_dim=2 * hidden,
        encoder_attention_heads=max(2, hidden // 32 if width == "full" else hidden // 16),
        hidden_expansion=0.5,
        d_model=hidden,
        num_queries=queries,
        decoder_in_channels=[hidden] * levels,
        decoder_ffn_dim=2 * hidden,
        num_feature_levels=levels,
        decoder_layers=3 if width == "full" else 2,
        decoder_attention_heads=max(2, hidden // 32 if width == "full" else hidden // 16),
        num_denoising=queries,
    )
    network = RTDetrForObjectDetection(config)
    _reset_batch_norms(network)
    if width != "full":
        network.model.backbone.model.embedder.pooler = nn.Identity()
    return SetDetector(network, first * 2 ** (levels - 1), nothing=False)


class DenseDetector(Pipeline):
    """ResNet features and, for every cell at stride 4, a score per class and the distances to a box's four sides.

    Ours, after FCOS without its levels: transformers that detect learn slowly from little data, and this learns quickly.
    A cell is trained to find the box whose middle it is near. Loss: focal, for the scores; generalised IoU, for the boxes.
    Decoded by suppressing, in each class, what overlaps something better by half.

    Args:
        backbone: gives ``feature_maps``, finest first; the finest is at stride 4.
        channels: of each feature map.
        hidden: channels of the head.
        classes: the background included.
    """

    task = "detection"
    STRIDE = 4

    def __init__(self, backbone: nn.Module, channels: list[int], hidden: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(count, hidden, 1) for count in channels)
        self.tower = nn.Sequential(*_conv_block(hidden), *_conv_block(hidden))
        self.score = nn.Conv2d(hidden, classes - 1, 3, padding=1)
        self.distance = nn.Conv2d(hidden, 4, 3, padding=1)
        bias = self.score.bias
        assert bias is not None
        nn.init.constant_(bias, -4.6)  # 1 % at first: else the many empty cells are all there is to learn

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores as logits, (N, cells, classes - 1); boxes, (N, cells, 4); the cells' centres, (cells, 2), as x, y."""
        maps = self.backbone(pad(normalise(images), self.STRIDE)).feature_maps
        features = self.lateral[-1](maps[-1])
        for lateral, finer in zip(reversed(self.lateral[:-1]), reversed(maps[:-1]), strict=True):
            features = lateral(finer) + F.interpolate(features, size=finer.shape[-2:], mode="nearest")
        features = self.tower(features)
        rows, columns = (torch.arange(n, device=images.device) + 0.5 for n in features.shape[-2:])
        y, x = torch.meshgrid(rows * self.STRIDE, columns * self.STRIDE, indexing="ij")
        centres = torch.stack((x, y), dim=-1).flatten(0, 1)
        distance = F.softplus(self.distance(features)).flatten(2).mT * self.STRIDE
        boxes = torch.cat((centres - distance[..., :2], centres + distance[..., 2:]), dim=-1)
        return self.score(features).flatten(2).mT, boxes, centres

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        logits, boxes, centres = self(images)
        wanted = torch.zeros_like(logits)
        errors = []
        for i, (truth, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
            cells, objects = assign(centres, truth, self.STRIDE)
            wanted[i, cells, labels[objects] - 1] = 1
            errors.append(1 - generalised_iou(boxes[i, cells], truth[objects]))
        error = torch.cat(errors)
        return (focal_loss(logits, wanted) + 2 * error.sum()) / max(1, len(error))

    @torch.no_grad()
    def predict(self, images: Tensor, source: tuple[int, int]) -> list[Detection]:
        logits, boxes, _ = self(images)
        return [suppress(best(*each)) for each in zip(logits.sigmoid(), clip(boxes, images), strict=True)]


def _conv_block(channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()


def assign(centres: Tensor, boxes: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Which cells are to find which boxes: those within 1.5 cells of a box's middle and inside it; the nearest at least.

    Args:
        centres: (cells, 2), as x, y.
        boxes: (n, 4).
        stride: pixels from a cell to the next.

    Returns:
        cells, objects: (m,) each, int64; a cell is there once at most, for the smallest box, or for the one that has no other.
    """
    if not len(boxes):
        nothing = torch.zeros(0, dtype=torch.int64, device=centres.device)
        return nothing, nothing
    low, high = boxes[:, :2], boxes[:, 2:]
    offset = (centres[:, None] - (low + high) / 2).abs()  # [cells, n, 2]
    inside = (offset <= 1.5 * stride).all(-1) & (offset < (high - low) / 2).all(-1)
    area = (high - low).prod(-1)
    cost = torch.where(inside, area, torch.inf)  # [cells, n]
    cost[offset.sum(-1).argmin(0), torch.arange(len(boxes), device=boxes.device)] = -1
    least, objects = cost.min(1)
    cells = torch.nonzero(least < torch.inf).squeeze(1)
    return cells, objects[cells]


def focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy of logits and 0 or 1, less where the answer is right already, added up."""
    p = logits.sigmoid()
    miss = torch.where(wanted > 0, 1 - p, p)
    share = torch.where(wanted > 0, 0.25, 0.75)
    return (share * miss**2 * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")).sum()


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Of boxes pair by pair, (..., 4) each: overlap by union, less the empty share of the box around both; in -1..1."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    tiny = torch.finfo(a.dtype).tiny  # boxes without area
    return overlap / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Overlap by union of boxes, each with each: (n, 4) and (m, 4) give (n, m)."""
    overlap = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).clamp(min=0).prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1) - overlap
    return overlap / union.clamp(min=torch.finfo(a.dtype).tiny)


def best(scores: Tensor, boxes: Tensor) -> Detection:
    """The :data:`DETECTIONS` best of (n, classes - 1) scores and (n, 4) boxes; a box may be there once per class."""
    values, order = scores.flatten().sort(descending=True, stable=True)
    values, order = values[:DETECTIONS], order[:DETECTIONS]
    return Detection(boxes[order // scores.shape[1]], values, order % scores.shape[1] + 1)


def suppress(found: Detection) -> Detection:
    """Without those that overlap a better one of their class by more than half."""
    rivals = (iou(found.boxes, found.boxes) > 0.5) & (found.labels[:, None] == found.labels)
    beaten = torch.zeros(len(found.scores), dtype=torch.bool)
    for i, row in enumerate(rivals.cpu()):
        if not beaten[i]:
            beaten[i + 1 :] |= row[i + 1 :]
    keep = ~beaten.to(found.boxes.device)
    return Detection(found.boxes[keep], found.scores[keep], found.labels[keep])


def _resnet_dense(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
    """A :class:`DenseDetector` on ResNet-18 at "full", on smaller ones else."""
    backbone = _resnet(width, ["stage1", "stage2", "stage3", "stage4"] if width == "full" else ["stage2", "stage3"])
    hidden: dict[Width, int] = {"tiny": 16, "small": 48, "full": 128}
    return DenseDetector(backbone, backbone.channels, hidden[width], classes)


def _resnet(width: Width, stages: list[str]) -> Any:
    """Transformers' ResNet-18 at "full"; else three stages with half the strides, for objects of 8 pixels."""
    from transformers import ResNetBackbone, ResNetConfig

    sizes: dict[Width, tuple[int, list[int], list[int]]] = {  # stem, stages' channels, their depths
        "tiny": (8, [8, 8, 16], [1, 1, 1]),
        "small": (16, [16, 32, 64], [1, 1, 1]),
        "full": (64, [64, 128, 256, 512], [2, 2, 2, 2]),
    }
    stem, channels, depths = sizes[width]
    last = int(stages[-1].removeprefix("stage"))  # more would be computed for nothing
    config = ResNetConfig(
        embedding_size=stem,
        hidden_sizes=channels[:last],
        depths=depths[:last],
        layer_type="basic",
        out_features=stages,
    )
    backbone = ResNetBackbone(config)
    if width != "full":
        backbone.embedder.pooler = nn.Identity()
    return backbone


# Reconstruction


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


def _reconstruction(classes: int, size: tuple[int, int], width: Width) -> Pipeline:
    sizes: dict[Width, tuple[int, int]] = {"tiny": (8, 2), "small": (16, 4), "full": (64, 8)}
    hidden, depth = sizes[width]
    network: Any = Reconstruction(hidden, depth)  # mypy does not know that modules have memory formats
    return network.to(memory_format=torch.channels_last)


def _sizes(tiny: tuple[int, int], small: tuple[int, int], full: tuple[int, int]) -> dict[Width, Size]:
    """Squares, by the sides of their source and network images."""
    widths: tuple[tuple[Width, tuple[int, int]], ...] = (("tiny", tiny), ("small", small), ("full", full))
    return {width: Size((source, source), (network, network)) for width, (source, network) in widths}


_BY_1_875 = _sizes((24, 13), (75, 40), (300, 160))
_BY_2_87 = _sizes((37, 13), (86, 30), (513, 179))
_BY_3_34 = _sizes((43, 13), (100, 30), (768, 230))

PIPELINES: dict[str, Spec] = {
    "rtdetr": Spec("detection", _rtdetr, _sizes((24, 13), (80, 44), (300, 165)), full_lr=3e-4),
    "resnet-dense": Spec("detection", _resnet_dense, _BY_1_875),
    "segformer": Spec("segmentation", _segformer, _BY_3_34, full_lr=3e-4),
    "mobilenetv2-deeplabv3plus": Spec("segmentation", _mobilenetv2, _BY_2_87, small_lr=4e-3),
    "mobilevit-deeplabv3": Spec("segmentation", _mobilevit, _BY_2_87),
    "dpt": Spec("segmentation", _dpt, _BY_3_34, full_lr=3e-4),
    "reconstruction": Spec("reconstruction", _reconstruction, _BY_1_875, longer=4),
    "detr": Spec("detection", _detr, _BY_1_875, full_lr=3e-4, small_lr=1e-3),
    "yolos": Spec("detection", _yolos, _BY_1_875, full_lr=3e-4, small_lr=1e-3),
}
"""By name. Sizes are those of the method's poster at "full", and in the same ratios at the others."""

SLOW = ("detr", "yolos")
"""They learn too slowly for runs as short as these, to find next to nothing: trained where they are named, and not in means."""
