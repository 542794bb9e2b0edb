"""Scenes: nothing of the test split is trained on, labels say what is there, and detail is all that tells objects."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data
from sklearn import datasets

from bench.accuracy import samples, scenes
from bench.accuracy.pipelines import PIPELINES


def forget():
    """What the module has read."""
    for function in (scenes.photographs, scenes._weaves, scenes._glyphs):
        function.cache_clear()


@pytest.fixture(autouse=True)
def fresh():
    """Without what other tests had the module read, and without leaving what these make it read."""
    forget()
    yield
    forget()


@pytest.mark.parametrize(("split", "other"), [("train", "test"), ("test", "train")])
def test_splits_share_no_pixel(split, other, monkeypatch):
    """With everything that the other split may use replaced, a split comes out the same."""
    expected = scenes.Scenes(split, 40, 12)
    texture = np.zeros((512, 512), np.uint8)
    for name in scenes.TEXTURES:
        poisoned = getattr(data, name)().copy()
        poisoned[:, scenes.TEXTURE_HALVES[other]] = texture[:, scenes.TEXTURE_HALVES[other]]
        monkeypatch.setattr(data, name, lambda poisoned=poisoned: poisoned)
    digits = datasets.load_digits()
    for digit in scenes.GLYPHS:
        samples_of = np.flatnonzero(digits.target == digit)
        digits.images[samples_of[scenes.SPLITS.index(other) :: 2]] = np.nan
    monkeypatch.setattr(datasets, "load_digits", lambda: digits)
    original = scenes._photograph

    def photograph(name):
        assert name not in scenes.PHOTOGRAPHS[other]
        return original(name)

    monkeypatch.setattr(scenes, "_photograph", photograph)
    forget()
    for sample, same in zip(expected, scenes.Scenes(split, 40, 12), strict=True):
        assert torch.equal(sample.image, same.image)


def test_splits_take_different_parts():
    assert not set(scenes.PHOTOGRAPHS["train"]) & set(scenes.PHOTOGRAPHS["test"])
    columns = {split: set(range(512)[part]) for split, part in scenes.TEXTURE_HALVES.items()}
    assert not columns["train"] & columns["test"]
    digits = {split: {glyph.tobytes() for glyph in scenes._glyphs(split, 0)} for split in scenes.SPLITS}
    assert len(digits["train"]) + len(digits["test"]) == (datasets.load_digits().target == 0).sum()


@pytest.mark.parametrize("kind", [scenes.Scenes, scenes.Photographs])
def test_the_same_arguments_give_the_same_data(kind):
    first, again = (kind("train", 33, 6, seed=3) for _ in range(2))
    assert len(first) == 6
    for index in (4, 0, 5):
        for x, y in zip(first[index], again[index], strict=True):
            assert torch.equal(x, y)
    for other in (kind("train", 33, 6, seed=4), kind("test", 33, 6, seed=3)):
        assert not any(torch.equal(other[i].image, first[i].image) for i in range(6))


def test_labels_say_what_is_there():
    for sample in scenes.Scenes("train", 61, 40, seed=1):
        assert sample.image.shape == (3, 61, 61)
        assert sample.image.dtype == sample.mask.dtype == torch.uint8
        assert len(sample.boxes) == len(sample.labels) <= scenes.OBJECTS
        # Every labelled pixel is in a box of its class, and every box is as tight as the visible part of its object allows.
        inside = torch.zeros(len(scenes.CLASSES), 61, 61, dtype=torch.bool)
        for (x1, y1, x2, y2), label in zip(sample.boxes.int().tolist(), sample.labels.tolist(), strict=True):
            assert 0 <= x1 < x2 <= 61
            assert 0 <= y1 < y2 <= 61
            part = sample.mask[y1:y2, x1:x2] == label
            assert part.sum() >= scenes.SMALLEST_PART * 61 * 61
            assert part.any(0)[[0, -1]].all()
            assert part.any(1)[[0, -1]].all()
            inside[label, y1:y2, x1:x2] = True
        labelled = torch.nonzero(sample.mask)
        assert inside[sample.mask[sample.mask > 0].long(), labelled[:, 0], labelled[:, 1]].all()


def test_detail_alone_tells_objects(monkeypatch):
    """Blurred, objects look like the photograph behind them."""
    scenery = scenes.Scenes("test", 75, 30)
    monkeypatch.setattr(scenes, "CONTRAST", (0.0, 0.0))
    plain = scenes.Scenes("test", 75, 30)
    fine, coarse = [], []
    for sample, empty in zip(scenery, plain, strict=True):
        assert torch.equal(sample.mask, empty.mask)
        difference = (sample.image.float() - empty.image.float()).mean(0).numpy()
        weave = (sample.mask.numpy() > 0) & (sample.mask.numpy() <= len(scenes.DIRECTIONS))
        if weave.any():
            fine.append(difference[weave].std())
            coarse.append(gaussian_filter(difference, 3)[weave].std())
        assert np.abs(difference[sample.mask.numpy() == 0]).mean() < 12  # where a part too small to be labelled lies
    assert np.mean(fine) > 15
    assert np.mean(coarse) < 0.15 * np.mean(fine)


@pytest.mark.parametrize("angle", scenes.DIRECTIONS)
def test_weaves_lie_near_nyquist_in_their_direction(angle):
    for weave in scenes._weaves("train", angle):
        power = np.abs(np.fft.fft2(weave)) ** 2
        fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in weave.shape), indexing="ij")
        frequency = np.hypot(fx, fy)
        direction = np.degrees(np.arctan2(fy, fx)) % 180
        off = np.minimum((direction - angle) % 180, (angle - direction) % 180)
        assert np.average(frequency, weights=power) == pytest.approx(scenes.WEAVE_FREQUENCY, abs=0.03)
        assert power[off < 20].sum() > 0.9 * power.sum()


def test_batches_hold_everything_once():
    dataset = scenes.Scenes("test", 40, 5)
    parts = list(samples.batches(dataset, (13, 17), 2))
    assert [len(part.images) for part in parts] == [2, 2, 1]
    assert parts[0].masks.shape == (2, 13, 17)
    for index, part in enumerate(parts):
        assert torch.equal(part.images[0], dataset[2 * index].image)
        scale = torch.tensor([17 / 40, 13 / 40, 17 / 40, 13 / 40])
        torch.testing.assert_close(part.boxes[0], dataset[2 * index].boxes * scale)


SIZES = sorted({size.source for spec in PIPELINES.values() for size in spec.sizes.values()})


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("split", scenes.SPLITS)
def test_there_are_scenes_of_every_pipelines_size(split, size):
    assert size[0] == size[1]
    for kind in (scenes.Scenes, scenes.Photographs):
        image = kind(split, size[0], 1)[0].image
        assert image.shape == (3, *size)
        assert image.float().std() > 1


def test_photographs_that_are_too_small_go_on_mirrored(monkeypatch):
    small = np.arange(7 * 9, dtype=np.float32).reshape(7, 9, 1)
    monkeypatch.setattr(scenes, "photographs", lambda split: (small,))
    whole = np.pad(small[..., 0], ((21, 21), (27, 27)), mode="symmetric")
    windows = {window.tobytes() for window in np.lib.stride_tricks.sliding_window_view(whole, (20, 20)).reshape(-1, 20, 20)}
    crops = [scenes._crop("test", 20, np.random.default_rng(seed))[..., 0] for seed in range(20)]
    assert {np.ascontiguousarray(crop).tobytes() for crop in crops} <= windows
    assert len({crop[0, 0] for crop in crops}) > 5


@pytest.mark.parametrize("kind", [scenes.Scenes, scenes.Photographs])
def test_refuses_what_it_cannot_make(kind):
    with pytest.raises(ValueError, match=r"split: expected one of \('train', 'test'\), got 'val'"):
        kind("val", 40, 1)
    with pytest.raises(ValueError, match="size: expected at least 8, got 7"):
        kind("test", 7, 1)
    with pytest.raises(IndexError):
        kind("test", 40, 1)[1]
