"""Metrics against other libraries, and by hand."""

import math

import pytest
import torch
from sklearn.metrics import jaccard_score

from bench.accuracy.metrics import Metrics
from bench.accuracy.pipelines import Detection
from bench.accuracy.samples import Batch


def boxes_batch(boxes, labels):
    return Batch(torch.zeros(len(boxes), 3, 8, 8), tuple(boxes), tuple(labels), torch.zeros(len(boxes), 8, 8).long())


def test_miou_is_scikit_learns():
    masks, predicted = torch.randint(0, 5, (2, 4, 9, 11))
    masks[0, :3] = 255
    metrics = Metrics("segmentation", 5)
    for part in (slice(0, 1), slice(1, 4)):
        metrics.update(predicted[part], Batch(torch.zeros(0), (), (), masks[part]))
    counted = masks != 255
    found = metrics.compute()
    assert found["mIoU"] == pytest.approx(100 * jaccard_score(masks[counted], predicted[counted], average="macro"), abs=1e-4)
    assert found["accuracy"] == pytest.approx(100 * (masks == predicted)[counted].double().mean().item(), abs=1e-4)


def test_average_precision():
    boxes = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0]]), torch.tensor([[5.0, 5.0, 15.0, 15.0]])]
    labels = [torch.tensor([1, 2]), torch.tensor([1])]

    def score(*found):
        metrics = Metrics("detection", 3)
        metrics.update([Detection(*each) for each in found], boxes_batch(boxes, labels))
        return metrics.compute()

    exact = [(b, torch.full((len(b),), 0.9), label) for b, label in zip(boxes, labels, strict=True)]
    assert score(*exact) == {"mAP": pytest.approx(100), "mAP50": pytest.approx(100)}
    # Class 2's box overlaps by 0.8, right up to the threshold 0.75 or 0.8; class 1's are exact.
    shifted = (torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 36.1]]), exact[0][1], labels[0])
    assert score(shifted, exact[1]) == {"mAP": pytest.approx((100 + 70) / 2, abs=0.1), "mAP50": pytest.approx(100)}
    # Found with the wrong class, and not at all.
    wrong = (boxes[0], exact[0][1], torch.tensor([1, 1]))
    nothing = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    assert score(wrong, exact[1])["mAP"] < 51
    assert score(nothing, nothing) == {"mAP": 0, "mAP50": 0}
    # What a network that diverged says does not count.
    some = (boxes[0].repeat(2, 1), torch.tensor([math.nan, math.nan, 0.9, 0.8]), labels[0].repeat(2))
    assert score(some, exact[1]) == {"mAP": pytest.approx(100), "mAP50": pytest.approx(100)}
    assert score((*exact[0][:1], torch.full((2,), math.nan), labels[0]), nothing) == {"mAP": 0, "mAP50": 0}


@pytest.mark.parametrize("count", [0, 2])
def test_average_precision_of_nothing_to_find_is_nan(count):
    metrics = Metrics("detection", 3)
    found = Detection(torch.tensor([[0.0, 0.0, 5.0, 5.0]] * count).view(-1, 4), torch.ones(count), torch.ones(count).long())
    metrics.update([found], boxes_batch([torch.zeros(0, 4)], [torch.zeros(0).long()]))
    result = metrics.compute()
    assert result.keys() == {"mAP", "mAP50"}
    assert all(map(math.isnan, result.values()))


def test_psnr_of_a_known_error():
    images = torch.randint(20, 200, (2, 3, 16, 16), dtype=torch.uint8)
    batch = Batch(images, (), (), torch.zeros(2, 4, 4).long())
    metrics = Metrics("reconstruction", 1)
    metrics.update(images / 255 + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1), batch)
    assert metrics.compute()["PSNR"] == pytest.approx((20 + 40) / 2, abs=1e-3)
    same = Metrics("reconstruction", 1)
    same.update(images / 255 + 1e-6, batch)
    assert same.compute()["SSIM"] == pytest.approx(1, abs=1e-4)


def test_accuracy_of_classes():
    labels = tuple(torch.tensor([label]) for label in (1, 1, 1, 2))
    batch = Batch(torch.zeros(4, 3, 8, 8), (torch.zeros(1, 4),) * 4, labels, torch.zeros(4, 8, 8).long())
    metrics = Metrics("classification", 4)
    metrics.update(torch.tensor([1, 1, 2, 2]), batch)
    assert metrics.compute() == {"accuracy": 75, "balanced accuracy": pytest.approx(100 * (2 / 3 + 1) / 2)}
