"""The networks of the accuracy benchmark: their losses train the downsizer, and their predictions have the promised form."""

import math

import pytest
import torch
import torch.nn.functional as F

from bench.accuracy.pipelines import PIPELINES, base, build, detection
from bench.accuracy.pipelines.boxes import DETECTIONS, best_detections, generalised_iou, iou, suppress
from bench.accuracy.samples import IGNORED, Batch, Sample, collate

CLASSES = 4
NAMES = sorted(PIPELINES)
DETECTORS = [name for name in NAMES if PIPELINES[name].task == "detection"]
SEGMENTERS = [name for name in NAMES if PIPELINES[name].task == "segmentation"]


def rectangles(size, *objects):
    """A grey, noisy image of ``size`` with a bright rectangle per object, each (class, x1, y1, x2, y2)."""
    image = torch.randint(90, 110, (3, *size), dtype=torch.uint8)
    mask = torch.zeros(size, dtype=torch.uint8)
    for label, x1, y1, x2, y2 in objects:
        image[:, y1:y2, x1:x2] = 20
        image[label - 1, y1:y2, x1:x2] = 230
        mask[y1:y2, x1:x2] = label
    boxes = torch.tensor([box for _, *box in objects], dtype=torch.float32).reshape(-1, 4)
    return Sample(image, boxes, torch.tensor([label for label, *_ in objects], dtype=torch.int64), mask)


def example(name, source, network):
    """A batch of two images, with an object, or two where that may be, each; and the images downsized."""
    h, w = source
    more = [] if PIPELINES[name].task == "classification" else [(3, 1, h // 2, w // 2, h - 1)]
    samples = (
        rectangles(source, (1, 2, 2, w // 2, h // 2)),
        rectangles(source, (2, w // 2, 1, w - 2, h // 2 - 1), *more),
    )
    batch = collate(samples, network)
    return batch, F.interpolate(batch.images / 255, size=network, mode="bilinear", antialias=True)


def tiny(name):
    torch.manual_seed(0)
    return build(name, CLASSES, "tiny")


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss_and_reaches_the_images(name, device):
    size = PIPELINES[name].sizes["tiny"]
    batch, images = example(name, *size)
    batch, images = batch.to(device), images.to(device).requires_grad_()
    pipeline = tiny(name).to(device).train()
    optimizer = torch.optim.AdamW(pipeline.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = pipeline.loss(images, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert loss.shape == ()
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    # All of the image counts, so that the downsizer learns from each of its pixels.
    assert images.grad.isfinite().all()
    assert (images.grad.abs().sum(1) > 0).float().mean() > 0.9
    idle = [key for key, parameter in pipeline.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not idle
    assert all(parameter.requires_grad for parameter in pipeline.parameters()), "frozen"
    assert all(module.training for module in pipeline.modules() if isinstance(module, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("size", [(13, 17), (20, 14)])
@pytest.mark.parametrize("name", NAMES)
def test_predictions_at_any_size(name, size, device):
    source = (29, 31)
    batch, images = example(name, source, size)
    pipeline = tiny(name).to(device).eval()
    assert pipeline.loss(images.to(device), batch.to(device)).isfinite()
    found = pipeline.predict(images.to(device), source)
    if pipeline.task == "detection":
        assert len(found) == 2
        for each in found:
            check_detection(each, size)
    elif pipeline.task == "segmentation":
        assert found.shape == (2, *size)
        assert found.dtype == torch.int64
        assert found.min() >= 0
        assert found.max() < CLASSES
    elif pipeline.task == "classification":
        assert found.shape == (2,)
        assert found.dtype == torch.int64
        assert set(found.tolist()) <= {1, 2, 3}
    else:
        assert found.shape == (2, 3, *source)
        assert found.min() >= 0
        assert found.max() <= 1
        assert not found.requires_grad


def check_detection(found, size):
    boxes, scores, labels = found
    h, w = size
    assert 0 < len(boxes) <= DETECTIONS
    assert boxes.shape == (len(scores), 4)
    assert labels.shape == scores.shape
    assert (boxes.dtype, scores.dtype, labels.dtype) == (torch.float32, torch.float32, torch.int64)
    assert not boxes.requires_grad
    assert not scores.requires_grad
    assert ((boxes >= 0) & (boxes <= boxes.new_tensor((w, h, w, h)))).all()
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores.diff() <= 0).all(), "best first"
    assert set(labels.tolist()) <= {1, 2, 3}


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("boxes", [(True, False), (False, False)], ids=["one without", "all without"])
def test_images_without_boxes(name, boxes, device):
    size = PIPELINES[name].sizes["tiny"]
    samples = [rectangles(size.source, *([(1, 2, 2, 14, 12)] if some else [])) for some in boxes]
    batch = collate(samples, size.network)
    pipeline = tiny(name).to(device).train()
    images = torch.rand(2, 3, *size.network, device=device, requires_grad=True)
    loss = pipeline.loss(images, batch.to(device))
    loss.backward()
    assert loss.isfinite()
    assert images.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_determines_a_run(name, device):
    def run():
        size = PIPELINES[name].sizes["tiny"]
        torch.manual_seed(7)
        batch, images = example(name, *size)
        pipeline = tiny(name).to(device).train()
        optimizer = torch.optim.AdamW(pipeline.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            loss = pipeline.loss(images.to(device), batch.to(device))
            loss.backward()
            optimizer.step()
        return loss

    assert torch.equal(run(), run())


@pytest.mark.parametrize("name", SEGMENTERS)
def test_ignored_pixels_count_nothing(name):
    size = PIPELINES[name].sizes["tiny"]
    batch, images = example(name, *size)
    pipeline = tiny(name).eval()
    half = batch.masks.clone()
    half[:, :, :6] = IGNORED
    other = batch.masks.clone()
    other[:, :, :6] = 3
    other[:, :, :6][:, ::2] = IGNORED
    loss, logits = pipeline.loss(images, batch._replace(masks=half)), pipeline.logits(images)
    expected = F.cross_entropy(logits[..., 6:], batch.masks[..., 6:])
    torch.testing.assert_close(loss, expected)
    assert pipeline.loss(images, batch._replace(masks=torch.full_like(half, IGNORED))) == 0


def test_sizes_have_the_ratio_of_the_full_ones():
    for name, spec in PIPELINES.items():
        full = spec.sizes["full"]
        for size in spec.sizes.values():
            ratio = size.source[0] / size.network[0]
            assert ratio == pytest.approx(full.source[0] / full.network[0], rel=0.03), name


@pytest.mark.parametrize("size", [((5, 7), (11, 20)), ((8, 8), (8, 8)), ((12, 9), (5, 4)), ((1, 1), (3, 2))])
def test_enlarge_is_bilinear_interpolation(size):
    x = torch.rand(2, 3, *size[0], dtype=torch.float64)
    expected = F.interpolate(x, size=size[1], mode="bilinear", align_corners=False)
    torch.testing.assert_close(base.enlarge(x, size[1]), expected)


def test_iou_by_hand():
    a = torch.tensor([[0.0, 0, 2, 2], [1, 1, 1, 1], [5, 5, 9, 9]])
    b = torch.tensor([[1.0, 0, 3, 2], [0, 0, 2, 2]])
    torch.testing.assert_close(iou(a, b), torch.tensor([[1 / 3, 1], [0, 0], [0, 0]]))
    # Overlap 2 of 6, in a hull of 6; apart: a hull of 9 * 9, of which 4 + 16 are covered.
    pairs = generalised_iou(a[[0, 0]], torch.stack((b[0], a[2])))
    torch.testing.assert_close(pairs, torch.tensor([1 / 3, -61 / 81]))


def test_cells_find_the_boxes_whose_middle_they_are_near():
    centres = torch.tensor([(x, 2.0) for x in (2.0, 6, 10, 14, 18)])
    boxes = torch.tensor([[0.0, 0, 20, 4], [13, 1, 14, 2], [30, 0, 31, 1]])
    cells, objects = detection.assign(centres, boxes, stride=4)
    # The wide box has the cells within 6 of 10; one of those is the nearest of the tiny box; the last box is outside.
    assert dict(zip(cells.tolist(), objects.tolist(), strict=True)) == {1: 0, 2: 0, 3: 1, 4: 2}
    assert [len(part) for part in detection.assign(centres, torch.zeros(0, 4), stride=4)] == [0, 0]


def test_what_overlaps_something_better_of_its_class_is_suppressed():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [1, 0, 10, 10], [5, 0, 15, 10], [2, 0, 12, 10]])
    found = base.Detection(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([1, 1, 2, 1, 1]))
    kept = suppress(found)
    # 1 and 4 overlap 0 by 0.9 and 8 / 12; 2 is of another class; 3 overlaps by 5 / 15
    assert [round(score, 1) for score in kept.scores.tolist()] == [0.9, 0.7, 0.6]
    assert kept.labels.tolist() == [1, 2, 1]


def test_the_best_are_chosen_over_all_classes():
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    found = best_detections(scores, torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2]]))
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8, 0.2, 0.1]))
    assert found.labels.tolist() == [2, 1, 2, 1]
    assert found.boxes[:, 2].tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_are_in_pixels_of_the_unpadded_image(name):
    """What the network is asked for and what it says are in the same place, also where zeros were added."""
    size = (13, 18)
    pipeline = tiny(name).eval()
    images = torch.rand(1, 3, *size)
    found = pipeline.predict(images, size)[0]
    inside = found.boxes[(found.boxes[:, 2] < size[1]) & (found.boxes[:, 3] < size[0])][:1]
    truth = Batch(images, (inside,), (torch.ones(1, dtype=torch.int64),), torch.zeros(1, *size))
    moved = truth._replace(boxes=(inside * 0.5,))
    assert len(inside)
    assert pipeline.loss(images, truth) < pipeline.loss(images, moved)


def test_classifiers_take_one_object_an_image():
    pipeline = tiny("resnet-classifier")
    image = torch.rand(1, 3, 13, 13)
    labels = torch.tensor([2, 3])
    with pytest.raises(ValueError, match="expected one object in each image, got 2"):
        pipeline.loss(image, Batch(image, (torch.zeros(2, 4),), (labels,), torch.zeros(1, 13, 13)))


def test_an_unknown_pipeline_is_named():
    with pytest.raises(KeyError, match="unknown"):
        build("unknown", 2, "tiny")
