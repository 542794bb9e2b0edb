"""Boxes, (..., 4) each: x1, y1, x2, y2 in pixels."""

import torch
from torch import Tensor

from .base import Detection

DETECTIONS = 100
"""Detections kept per image, as in COCO's evaluation."""


def clip(boxes: Tensor, images: Tensor) -> Tensor:
    """Boxes, (..., 4), as far as they are within the images."""
    h, w = images.shape[-2:]
    return boxes.clamp(min=0).minimum(boxes.new_tensor((w, h, w, h)))


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Overlap by union of boxes (..., 4), pair by pair, less the empty share of the box around both; in -1..1."""
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


def best_detections(scores: Tensor, boxes: Tensor) -> Detection:
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
