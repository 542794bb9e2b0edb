"""Natural scenes, of pictures made up here; and, where they were fetched, of the real ones."""

import hashlib
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from training import invoke

from bench.accuracy import collection, data, natural, packages, pipelines, plan, runner
from bench.accuracy.pipelines import PIPELINES

KINDS = [natural.Scenes, natural.Objects, natural.Photographs]


def every(split):
    """The files of a split, cut-outs first."""
    cutouts = [file for splits in collection.OBJECTS.values() for file in splits[split]]
    return cutouts, collection.PHOTOGRAPHS[split]


def level(file):
    """The grey of a made-up cut-out: its class's, 20 apart."""
    return 20 * (1 + next(i for i, splits in enumerate(collection.OBJECTS.values()) if any(file in x for x in splits.values())))


def ellipse(width, height):
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array((height, width))[:, None, None] * 2 - 1
    return 255 * (x**2 + y**2 < 1)


def write(path, array):
    """As PNG, whatever the name says, so that no decoder rounds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path, "PNG", compress_level=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All packages: cut-outs are ellipses of one grey, amid nothing; photographs are noise, fine or coarse."""
    root = tmp_path_factory.mktemp("natural")
    for package in collection.PACKAGES:
        write(root / package.name / packages.COPYRIGHT, np.zeros((1, 1)))
    for split in collection.SPLITS:
        cutouts, photographs = every(split)
        for number, file in enumerate(cutouts):
            height, width = 50 + 7 * number % 90, 60 + 11 * number % 60
            shape = np.pad(ellipse(width, height), 3)
            write(root / file, np.dstack([np.full_like(shape, level(file))] * 3 + [shape]))
        for number, file in enumerate(photographs):
            noise = np.arange(90 * 120 * 3).reshape(90, 120, 3) * (2 * number + 12_345) % 97
            write(root / file, np.kron(noise, np.ones((2, 2, 1))) if number % 2 else noise)
    return root


def forget():
    """What the modules have read."""
    for function in (natural._whole_cutout, natural._scaled_cutout, natural._loaded_photograph, data._rendered):
        function.cache_clear()


@pytest.fixture(autouse=True)
def fresh():
    """Without what other tests had the modules read, and without leaving what these make them read."""
    forget()
    yield
    forget()


@pytest.fixture
def plain(folder, monkeypatch):
    """The folder, where photographs are black and nothing is sharpened: a pixel's grey is the object's, times its share."""
    monkeypatch.setattr(natural, "SHARPNESS", 0)
    monkeypatch.setattr(natural, "_window", lambda folder, files, size, generator: np.zeros((2 * size, 2 * size, 3), np.uint8))
    return folder


def test_splits_share_nothing():
    for splits in (*collection.OBJECTS.values(), collection.BACKGROUNDS, collection.PHOTOGRAPHS):
        files = [file for split in collection.SPLITS for file in splits[split]]
        assert len(files) == len(set(files))
        assert all(len(splits[split]) >= 3 for split in collection.SPLITS)
        assert len(splits["train"]) > len(files) / 2
    names = [file for split in collection.SPLITS for part in every(split) for file in part]
    assert len(names) == len(set(names))
    fetched = {f"{package.name}/{name}" for package in collection.PACKAGES for name in package.pictures}
    assert fetched == {name for name in names if not name.startswith(tuple(collection.INSTALLED))}


@pytest.mark.parametrize("split", collection.SPLITS)
def test_a_split_reads_its_own_pictures_alone(split, folder, monkeypatch):
    opened = set()
    original = Image.open

    def recorded(path, *arguments):
        if isinstance(path, pathlib.Path) and path.is_relative_to(folder):  # else an installed one
            opened.add(str(path.relative_to(folder)))
        return original(path, *arguments)

    monkeypatch.setattr(Image, "open", recorded)
    for kind in KINDS:
        list(kind(split, 32, 150, folder=folder))
    cutouts, photographs = every(split)
    assert opened <= {*cutouts, *photographs}
    assert len(opened) > 0.8 * len(cutouts)
    assert opened & set(photographs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_arguments_give_the_same_data(kind, folder):
    """In any order, and by another process, which has read nothing yet."""
    first = list(kind("train", 33, 6, seed=3, folder=folder))
    forget()
    again = kind("train", 33, 9, seed=3, folder=folder)
    for index in (4, 0, 5):
        for x, y in zip(first[index], again[index], strict=True):
            assert torch.equal(x, y)
        assert again[index] is again[index]
    others = [kind("train", 33, 6, seed=4, folder=folder), kind("test", 33, 6, seed=3, folder=folder)]
    for other in others:
        assert not any(torch.equal(x.image, y.image) for x, y in zip(first, other, strict=True))


def test_the_data_are_the_same_everywhere(folder):
    """They are another version if this fails. Versions of Pillow round differently, by one grey here and there."""
    digest, greys = hashlib.sha256(), []
    for kind in KINDS:
        for sample in kind("validation", 40, 4, folder=folder):
            greys.append(sample.image.double().mean().item())
            for part in sample[1:]:
                digest.update(part.numpy().tobytes())
    assert natural.VERSION == 1
    assert digest.hexdigest()[:16] == "5d8e0f41c40e5bd5"
    assert greys == pytest.approx([63.99, 97.6, 68.09, 62.57, 39.08, 46.29, 51.43, 44.21, 48.0, 48.01, 117.91, 47.99], abs=0.02)


@pytest.mark.parametrize("split", collection.SPLITS)
def test_boxes_are_the_bounds_of_masks(split, folder):
    labels = []
    for sample in natural.Objects(split, 61, 120, folder=folder):
        y, x = torch.nonzero(sample.mask, as_tuple=True)
        bounds = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert sample.boxes.tolist() == [[float(n) for n in bounds]]
        assert sample.labels.tolist() == sample.mask[sample.mask > 0].unique().tolist()
        labels += sample.labels.tolist()
    assert set(labels) == set(range(1, len(natural.CLASSES)))


def test_what_is_in_front_hides_what_is_behind(plain):
    """Each pixel shows whose it is, and each box is as tight as what is seen of its object allows."""
    overlapping = 0
    for sample in natural.Scenes("train", 62, 80, seed=1, folder=plain):
        assert 1 <= len(sample.boxes) == len(sample.labels) <= natural.OBJECTS
        image = sample.image[0].int()
        assert torch.equal(sample.image[0], sample.image[2])
        around = (
            torch.nn.functional.pad(sample.mask[None].float(), (1, 1, 1, 1), "replicate")[0].unfold(0, 3, 1).unfold(1, 3, 1)
        )
        inner = (around == sample.mask[..., None, None]).all(-1).all(-1)
        assert (image[inner] - 20 * sample.mask[inner].int()).abs().float().mean() < 0.5
        inside = torch.zeros(len(natural.CLASSES), 62, 62, dtype=torch.bool)
        for (x1, y1, x2, y2), label in zip(sample.boxes.int().tolist(), sample.labels.tolist(), strict=True):
            assert 0 <= x1 < x2 <= 62
            assert 0 <= y1 < y2 <= 62
            part = sample.mask[y1:y2, x1:x2] == label
            assert part.any(0)[[0, -1]].all()
            assert part.any(1)[[0, -1]].all()
            overlapping += inside[:, y1:y2, x1:x2].any().item()
            inside[label, y1:y2, x1:x2] = True
        labelled = torch.nonzero(sample.mask)
        assert inside[sample.mask[sample.mask > 0].long(), labelled[:, 0], labelled[:, 1]].all()
    assert overlapping > 20


def test_a_mask_has_the_pixels_that_an_object_covers_more_than_half_of(plain):
    """Over black, a pixel's grey is the share of it that is covered; edges have every share, so they are antialiased."""
    shares = []
    for sample in natural.Objects("train", 64, 60, folder=plain):
        share = sample.image[0] / (20 * sample.labels.item())
        certain = (share - 0.5).abs() > 0.5 / 20  # half a grey of the darkest
        assert torch.equal((share > 0.5)[certain], (sample.mask > 0)[certain])
        shares.append(share[(share > 0) & (share < 1)])
    counts = torch.cat(shares).histc(4, 0, 1)
    assert counts.min() > 0.1 * counts.sum()


def test_objects_are_of_the_size_that_was_drawn_and_seen(plain, monkeypatch):
    """Sides of boxes over sides of images; an object is cut off no further than it may be."""
    monkeypatch.setattr(natural, "TILT", 0)
    monkeypatch.setattr(natural, "ALONE", (0.5, 0.5))
    for sample in natural.Objects("train", 96, 30, folder=plain):
        x1, y1, x2, y2 = sample.boxes[0].tolist()
        whole = min(x1, y1, 96 - x2, 96 - y2) > 0
        assert max(x2 - x1, y2 - y1) <= 50
        assert not whole or max(x2 - x1, y2 - y1) >= 46


def test_fine_detail_does_not_alias(folder, tmp_path, monkeypatch):
    """Columns of one pixel each, black and white, become grey: in a cut-out and in a photograph."""
    stripes = np.tile(np.array([0, 255]), (600, 300))
    write(tmp_path / "cutout.png", np.dstack([stripes] * 3 + [np.full_like(stripes, 255)]))
    write(tmp_path / "photograph.png", np.dstack([stripes] * 3))
    monkeypatch.setattr(natural, "SHARPNESS", 0)
    monkeypatch.setattr(natural, "check", lambda folder: None)
    monkeypatch.setattr(collection, "OBJECTS", {name: {"test": ("cutout.png",)} for name in natural.CLASSES[1:]})
    for name in ("BACKGROUNDS", "PHOTOGRAPHS"):
        monkeypatch.setattr(collection, name, {"test": ("photograph.png",)})
    for kind in KINDS:
        for sample in kind("test", 60, 10, folder=tmp_path):
            assert sample.image.float().std() < 15  # of 127 in the files


@pytest.mark.parametrize("size", [24, 32, 75, 100, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_there_are_samples_of_many_sizes(kind, size, folder):
    sample = kind("test", size, 1, folder=folder)[0]
    assert sample.image.shape == (3, size, size)
    assert sample.mask.shape == (size, size)
    assert sample.image.dtype == sample.mask.dtype == torch.uint8
    assert (sample.boxes.dtype, sample.labels.dtype) == (torch.float32, torch.int64)
    assert sample.image.float().std() > 1
    assert len(sample.boxes) == len(sample.labels) == 0 or kind is not natural.Photographs


def test_refuses_what_it_cannot_make(folder, tmp_path):
    with pytest.raises(ValueError, match=r"split: expected one of \('train', 'validation', 'test'\), got 'val'"):
        natural.Scenes("val", 40, 1, folder=folder)
    with pytest.raises(ValueError, match="size: expected at least 16, got 15"):
        natural.Scenes("test", 15, 1, folder=folder)
    with pytest.raises(IndexError):
        natural.Scenes("test", 40, 1, folder=folder)[1]
    for name in (f"natural:{tmp_path}", f"natural:{tmp_path}/nowhere"):
        with pytest.raises(FileNotFoundError, match=rf"are not there.*accuracy fetch --folder {name[8:]} gets them"):
            data.check(name, data.pipelines_of(name), plan.PROFILES["tiny"])
    assert "accuracy fetch" in invoke("--tiny", "--data", f"natural:{tmp_path}", "--out", tmp_path, code=2)


def test_each_task_has_its_kind_of_samples_in_three_splits(folder, monkeypatch):
    profile = plan.PROFILES["tiny"]
    classifier = PIPELINES["segformer"]._replace(task="classification")
    monkeypatch.setitem(pipelines.PIPELINES, "classifier", classifier)
    expected = {"resnet-dense": natural.Scenes, "segformer": natural.Scenes, "classifier": natural.Objects}
    for name, kind in (expected | {"reconstruction": natural.Photographs}).items():
        parts = data.load(f"natural:{folder}", name, profile, seed=2)
        for split, count in (("train", profile.train), ("validation", 4 * profile.test), ("test", 4 * profile.test)):
            part = getattr(parts, split)
            seed = 2 if split == "train" else data.TEST_SEED
            size = PIPELINES[name].sizes[profile.width].source[0]
            assert type(part) is kind
            assert len(part) == count
            assert torch.equal(part[1].image, kind(split, size, 2, seed, folder)[1].image)
    assert data.load("scenes", "segformer", profile, seed=2).validation is None


@pytest.mark.usefixtures("in_this_process")
def test_networks_are_trained_on_them(folder, tmp_path):
    chosen = "--pipeline", "resnet-classifier", "--method", "bilinear"
    invoke("--tiny", "--data", f"natural:{folder}", *chosen, "--out", tmp_path)
    result = runner.read(tmp_path / "results.json")
    assert result["data"] == f"natural:{folder}"
    assert len(result["rows"]) == 1


@pytest.mark.skipif(
    any(package.lacking(packages.FOLDER) for package in collection.PACKAGES),
    reason=f"pictures are not fetched to {packages.FOLDER}: python -m bench accuracy fetch",
)
def test_the_real_pictures_are_what_they_are_said_to_be():
    """Cut-outs are large enough, and surrounded by nothing; no picture is there twice; there are scenes of them."""
    contents = set()
    for split in collection.SPLITS:
        cutouts, photographs = every(split)
        for file in cutouts:
            image = natural._whole_cutout(packages.FOLDER / file)
            opacity = np.asarray(image.getchannel("a"))
            assert max(image.size) >= 40
            assert opacity.max() > 127
            assert (opacity < 128).mean() > 0.02
            contents.add(image.tobytes())
        for file in photographs:
            contents.add(natural._loaded_photograph(packages.FOLDER, file, 40).tobytes())
        for sample in natural.Scenes(split, 86, 20):
            assert len(sample.boxes)
    assert len(contents) == sum(len(part) for split in collection.SPLITS for part in every(split))
