"""Networks that detect objects."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..samples import Batch
from .base import Detection, Pipeline, Width, normalise, pad
from .boxes import best_detections, clip, generalised_iou, suppress
from .resnet import resnet


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
        return [suppress(best_detections(*each)) for each in zip(logits.sigmoid(), clip(boxes, images), strict=True)]


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


def resnet_dense(classes: int, width: Width) -> Pipeline:
    """A :class:`DenseDetector` on ResNet-18 at "full", on smaller ones else."""
    backbone = resnet(width)
    hidden: dict[Width, int] = {"tiny": 16, "small": 48, "full": 128}
    return DenseDetector(backbone, backbone.channels, hidden[width], classes)
