"""Folders of Pascal VOC and Cityscapes, written here as they lie on disk."""

import numpy as np
import pytest
import torch
from PIL import Image

from bench.accuracy import data
from bench.accuracy.folders import CITYSCAPES_CLASSES, VOC_CLASSES, Cityscapes, Voc
from bench.accuracy.plan import PROFILES
from bench.accuracy.samples import IGNORED, collate

SIZE = (6, 8)
OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox>"
    "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def write_image(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if mode == "P":
        image = image.convert("L")
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([value for i in range(256) for value in (255 - i, 7, i)])
    image.save(path)


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def voc(tmp_path):
    """Two images of 12 x 16 pixels: "a" with three objects, one of them difficult, and "b" with none."""
    root = tmp_path / "VOCdevkit" / "VOC2007"
    mask = np.zeros((12, 16), dtype=np.uint8)
    mask[:6, :8] = 20
    mask[6:8] = 255
    objects = (("dog", 0, 1, 1, 16, 12), ("person", 1, 2, 2, 5, 5), ("tvmonitor", 0, 3, 5.0, 8, 8))
    for name in ("a", "b"):
        shade = np.full((12, 16, 3), (10, 200, 90), dtype=np.uint8)
        write_image(root / "JPEGImages" / f"{name}.jpg", shade)
        write_image(root / "SegmentationClass" / f"{name}.png", mask, mode="P")
        listed = "".join(OBJECT.format(*values) for values in objects) if name == "a" else ""
        write_text(root / "Annotations" / f"{name}.xml", f"<annotation><folder>VOC2007</folder>{listed}</annotation>")
    write_text(root / "ImageSets" / "Main" / "train.txt", "a\nb\n")
    write_text(root / "ImageSets" / "Main" / "val.txt", "b\n\n")
    write_text(root / "ImageSets" / "Segmentation" / "train.txt", "a\n")
    return root


def test_voc_boxes_are_edges_in_the_resized_image_and_difficult_ones_are_left_out(voc):
    sample = Voc(voc, "train", SIZE, "detection")[0]
    # 1-based and inclusive, in 12 x 16; then halved
    assert sample.boxes.tolist() == [[0, 0, 8, 6], [1, 2, 4, 4]]
    assert sample.boxes.dtype == torch.float32
    assert [VOC_CLASSES[label] for label in sample.labels] == ["dog", "tvmonitor"]
    assert sample.image.shape == (3, *SIZE)
    assert sample.image.dtype == torch.uint8
    assert (sample.image.float().mean((1, 2)) - torch.tensor([10.0, 200, 90])).abs().max() < 4  # JPEG
    assert sample.mask.shape == SIZE
    assert not sample.mask.any()


def test_voc_masks_are_class_numbers_and_borders_are_ignored(voc):
    data = Voc(voc, "train", SIZE, "segmentation")
    assert len(data) == 1
    sample = data[0]
    expected = torch.zeros(SIZE, dtype=torch.uint8)
    expected[:3, :4] = VOC_CLASSES.index("tvmonitor")
    expected[3] = IGNORED
    assert torch.equal(sample.mask, expected)
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.dtype == torch.int64


def test_voc_splits_and_the_folder_above(voc):
    assert len(Voc(voc, "train", SIZE, "detection")) == 2
    data = Voc(voc.parent, "val", SIZE, "detection")
    assert data.names == ["b"]
    assert data[0].boxes.shape == (0, 4)
    assert len(data.classes) == 21


def test_samples_of_folders_make_a_batch(voc):
    data = Voc(voc, "train", SIZE, "detection")
    batch = collate([data[0], data[1]], (3, 4))
    assert batch.images.shape == (2, 3, *SIZE)
    assert batch.boxes[0].tolist() == [[0, 0, 4, 3], [0.5, 1, 2, 2]]


def test_images_are_antialiased(voc):
    rng = np.random.default_rng(0)
    write_image(
        voc / "JPEGImages" / "a.jpg", np.kron(rng.integers(0, 2, (30, 40, 1)), np.full((1, 1, 3), 255)).astype(np.uint8)
    )
    assert Voc(voc, "train", SIZE, "detection")[0].image.float().std() < 40  # of 127 in the file


@pytest.mark.parametrize(
    "lost", ["JPEGImages/a.jpg", "Annotations/a.xml", "SegmentationClass/a.png", "ImageSets/Main/train.txt"]
)
def test_missing_files_of_voc_are_named(voc, lost):
    (voc / lost).unlink()
    task = "segmentation" if lost.startswith("Seg") else "detection"
    with pytest.raises(FileNotFoundError, match=lost):
        Voc(voc, "train", SIZE, task)[0]


def test_missing_folders_are_named(tmp_path, voc):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Voc(tmp_path / "nowhere", "train", SIZE, "detection")
    with pytest.raises(FileNotFoundError, match="no folder JPEGImages"):
        Voc(voc / "Annotations", "train", SIZE, "detection")
    (voc.parent / "VOC2012" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(ValueError, match="VOC2007, VOC2012"):
        Voc(voc.parent, "train", SIZE, "detection")
    with pytest.raises(FileNotFoundError, match="leftImg8bit"):
        Cityscapes(tmp_path, "train", SIZE)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("JPEGImages/a.jpg", "no image", r"a\.jpg: not a readable image"),
        ("Annotations/a.xml", "<annotation>", r"a\.xml: not an annotation"),
        ("Annotations/a.xml", f"<a>{OBJECT.format('unicorn', 0, 1, 1, 2, 2)}</a>", r"a\.xml.*'unicorn'"),
        ("Annotations/a.xml", f"<a>{OBJECT.format('dog', 0, 'x', 1, 2, 2)}</a>", r"a\.xml.*'x'"),
        ("Annotations/a.xml", f"<a>{OBJECT.format('dog', 0, 9, 1, 2, 2)}</a>", r"a\.xml.*a box from 9"),
        ("Annotations/a.xml", f"<a>{OBJECT.format('dog', 0, 1, 1, 2, 'nan')}</a>", r"a\.xml.*a box from .* nan"),
        ("Annotations/a.xml", f"<a>{OBJECT.format('dog', 0, '-inf', 1, 2, 2)}</a>", r"a\.xml.*a box from -inf"),
        ("Annotations/a.xml", "<a><object><name>dog</name></object></a>", r"a\.xml.*bndbox/xmin"),
    ],
)
def test_files_that_cannot_be_understood_are_named(voc, file, content, message):
    (voc / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        Voc(voc, "train", SIZE, "detection")[0]


def test_an_empty_list_is_named(voc):
    (voc / "ImageSets" / "Main" / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"val\.txt: no image is listed"):
        Voc(voc, "val", SIZE, "detection")


def test_detectors_take_the_test_split_where_its_labels_are(voc):
    """VOC 2007 has them; of 2012, whose labels are not public, folders lack the annotations or the list."""
    profile = PROFILES["tiny"]

    def names():
        loaded = data.load(f"voc:{voc}", "resnet-dense", profile, seed=0)
        assert loaded.validation is None
        return [loaded.train.names, loaded.test.names]

    assert names() == [["a", "b"], ["b"]]
    write_text(voc / "ImageSets" / "Main" / "trainval.txt", "a\n")
    write_text(voc / "ImageSets" / "Main" / "test.txt", "a\na\n")
    assert names() == [["a"], ["a", "a"]]
    write_text(voc / "ImageSets" / "Main" / "test.txt", "unlabelled\n")
    assert names() == [["a", "b"], ["b"]]
    (voc / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"val\.txt"):
        data.check(f"voc:{voc}", ["resnet-dense"], profile)


def test_truncated_images_are_named(voc):
    path = voc / "JPEGImages" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.jpg: not a readable image"):
        Voc(voc, "train", SIZE, "detection")[0]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((12, 16, 3)), "mode RGB"),
        (np.zeros((5, 16)), "16 x 5 pixels"),
        (np.diag([21.0, 38, *[255] * 10]) @ np.ones((12, 16)), r"got \[21, 38\]"),
    ],
)
def test_masks_that_do_not_fit_are_named(voc, array, message):
    write_image(voc / "SegmentationClass" / "a.png", array.astype(np.uint8))
    with pytest.raises(ValueError, match=rf"a\.png.*{message}"):
        Voc(voc, "train", SIZE, "segmentation")[0]


@pytest.fixture
def cityscapes(tmp_path):
    """Two cities, an image of 12 x 16 pixels each; the left half is road in one, a car in the other."""
    for city, number in (("aachen", 7), ("bochum", 26)):
        ids = np.zeros((12, 16), dtype=np.uint8)
        ids[:, :8] = number
        ids[0:2] = 33
        name = f"{city}_000000_000019"
        write_image(tmp_path / "leftImg8bit" / "val" / city / f"{name}_leftImg8bit.png", np.full((12, 16, 3), 50, np.uint8))
        write_image(tmp_path / "gtFine" / "val" / city / f"{name}_gtFine_labelIds.png", ids)
    return tmp_path


def test_cityscapes_numbers_become_classes_and_the_rest_is_ignored(cityscapes):
    data = Cityscapes(cityscapes, "val", SIZE)
    assert len(data) == 2
    for sample, name in zip((data[0], data[1]), ("road", "car"), strict=True):
        expected = torch.full(SIZE, IGNORED, dtype=torch.uint8)
        expected[:, :4] = data.classes.index(name)
        expected[0] = data.classes.index("bicycle")
        assert torch.equal(sample.mask, expected)
        assert (sample.image == 50).all()
        assert sample.boxes.shape == (0, 4)
    assert data.classes[0] == "road"
    assert len(CITYSCAPES_CLASSES) == 19


def test_cityscapes_without_labels_or_images(cityscapes):
    (cityscapes / "gtFine" / "val" / "aachen" / "aachen_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(FileNotFoundError, match="aachen_000000_000019_gtFine_labelIds"):
        Cityscapes(cityscapes, "val", SIZE)[0]
    copied = cityscapes / "leftImg8bit" / "test" / "berlin" / "._berlin_000000_000019_leftImg8bit.png"
    write_text(copied, "what macOS leaves")
    with pytest.raises(ValueError, match="no image"):
        Cityscapes(cityscapes, "test", SIZE)
