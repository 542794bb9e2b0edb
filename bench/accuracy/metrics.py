"""How good predictions are, by the field's libraries: mAP, mIoU, PSNR and SSIM."""

import contextlib
import io
import math
from typing import Any

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from .pipelines import Detection, Prediction, Task
from .samples import IGNORED, Batch, only

HEADLINE: dict[Task, str] = {"detection": "mAP", "segmentation": "mIoU", "classification": "accuracy", "reconstruction": "PSNR"}
"""The metric by which methods are compared; PSNR in dB, the others in percent. More is better."""
SECONDARY: dict[Task, str] = {
    "detection": "mAP50",
    "segmentation": "accuracy",
    "classification": "balanced accuracy",
    "reconstruction": "SSIM",
}
"""The other metric of each task; SSIM in 0..1."""


class Metrics:
    """Gathers predictions over a data set; :meth:`compute` then gives every metric of the task by name.

    Args:
        task: of the pipeline that predicts.
        classes: how many there are, the background included.
    """

    def __init__(self, task: Task, classes: int) -> None:
        kinds: dict[Task, Any] = {
            "detection": _Boxes,
            "segmentation": _Pixels,
            "classification": _Labels,
            "reconstruction": _Pictures,
        }
        self._score = kinds[task](classes)

    def update(self, predictions: Prediction, batch: Batch) -> None:
        self._score.update(predictions, batch)

    def compute(self) -> dict[str, float]:
        result: dict[str, float] = self._score.compute()
        return result


class _Boxes:
    """COCO's average precision: over IoU 0.5 to 0.95 (mAP), and at 0.5; of all sizes of boxes."""

    def __init__(self, classes: int) -> None:
        self._categories = [{"id": label, "name": str(label)} for label in range(1, classes)]
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def update(self, predictions: list[Detection], batch: Batch) -> None:
        for found, boxes, labels in zip(predictions, batch.boxes, batch.labels, strict=True):
            image = {"image_id": len(self._images) + 1}
            self._images.append({"id": image["image_id"]})
            for box, label in zip(_width_height(boxes), labels.tolist(), strict=True):
                annotation = {
                    "id": len(self._truth) + 1,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
                self._truth.append(image | annotation)
            for box, score, label in zip(_width_height(found.boxes), found.scores.tolist(), found.labels.tolist(), strict=True):
                # The library refuses NaN. A network that diverged has found nothing, which is a result like another.
                if not math.isnan(score):
                    self._found.append(image | {"category_id": label, "bbox": box, "score": score})

    def compute(self) -> dict[str, float]:
        from faster_coco_eval import COCO, COCOeval_faster

        if not self._truth:  # there is nothing to find
            return {"mAP": math.nan, "mAP50": math.nan}
        if not self._found:
            return {"mAP": 0.0, "mAP50": 0.0}
        with contextlib.redirect_stdout(io.StringIO()):  # the library prints tables of its own
            truth = COCO({"images": self._images, "annotations": self._truth, "categories": self._categories, "info": {}})
            evaluation = COCOeval_faster(truth, truth.loadRes(self._found), iouType="bbox")
            evaluation.run()
        return {"mAP": 100 * float(evaluation.stats[0]), "mAP50": 100 * float(evaluation.stats[1])}


class _Pixels:
    """Mean over the classes of intersection over union, and the share of pixels that are right."""

    def __init__(self, classes: int) -> None:
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

        self._iou = MulticlassJaccardIndex(classes, ignore_index=IGNORED, validate_args=False)
        self._accuracy = MulticlassAccuracy(classes, average="micro", ignore_index=IGNORED, validate_args=False)

    def update(self, predictions: Tensor, batch: Batch) -> None:
        for metric in (self._iou, self._accuracy):
            metric.update(predictions.cpu(), batch.masks.cpu())

    def compute(self) -> dict[str, float]:
        return {"mIoU": 100 * self._iou.compute().item(), "accuracy": 100 * self._accuracy.compute().item()}


class _Labels:
    """The share of images whose class is right; balanced, the mean of that over the classes that there are."""

    def __init__(self, classes: int) -> None:
        self._right: dict[int, list[bool]] = {}

    def update(self, predictions: Tensor, batch: Batch) -> None:
        for predicted, labels in zip(predictions.tolist(), batch.labels, strict=True):
            label = int(only(labels))
            self._right.setdefault(label, []).append(predicted == label)

    def compute(self) -> dict[str, float]:
        every = [right for part in self._right.values() for right in part]
        by_class = [float(np.mean(part)) for part in self._right.values()]
        return {"accuracy": 100 * float(np.mean(every)), "balanced accuracy": 100 * float(np.mean(by_class))}


class _Pictures:
    """PSNR in dB and SSIM, each the mean over images; of values in 0..1."""

    def __init__(self, classes: int) -> None:
        self._psnr: list[float] = []
        self._ssim: list[float] = []

    def update(self, predictions: Tensor, batch: Batch) -> None:
        for predicted, wanted in zip(_pixels(predictions), _pixels(batch.images / 255), strict=True):
            self._psnr.append(float(peak_signal_noise_ratio(wanted, predicted, data_range=1)))
            self._ssim.append(float(structural_similarity(wanted, predicted, channel_axis=-1, data_range=1)))

    def compute(self) -> dict[str, float]:
        return {"PSNR": float(np.mean(self._psnr)), "SSIM": float(np.mean(self._ssim))}


def _width_height(boxes: Tensor) -> list[list[float]]:
    """COCO's boxes: x, y, width, height."""
    return torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1).tolist()


def _pixels(images: Tensor) -> Any:
    return images.permute(0, 2, 3, 1).cpu().double().numpy()
