"""Pascal VOC and Cityscapes, as they lie on disk once unpacked; nothing is downloaded.

A sample is read when asked for and stretched to one size: the image by Pillow's bilinear filter, antialiased; the mask to the
class under each pixel's middle; boxes along with the image.
"""

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tritonds import labels

from .samples import IGNORED, Sample

VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

CITYSCAPES_CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The 19 that are evaluated, by their number in ``*_labelIds.png``; all others are ignored."""


class Voc:
    """Pascal VOC, 2007 or 2012: 20 classes and the background.

    Objects marked difficult are left out, as is usual in training; a detector that finds them is then charged with them, unlike
    in VOC's own evaluation. Coordinates count pixels from 1 and include the last: ``(x1 - 1, y1 - 1, x2, y2)`` are the edges.

    Args:
        root: the folder with JPEGImages, or the one above it if that holds a single such folder.
        split: the name of a list in ImageSets, such as "train", "val" or "trainval".
        size: (H, W) of every sample.
        task: "detection" reads ImageSets/Main and Annotations, and masks are all background; "segmentation" reads
            ImageSets/Segmentation and SegmentationClass, and there are no boxes.

    Raises:
        FileNotFoundError: a folder, the list, or a file of the sample asked for is not there.
        ValueError: a file that cannot be understood; an empty list; several folders with JPEGImages; a mask of another size
            than its image, or with a number that is no class.
    """

    classes: tuple[str, ...] = VOC_CLASSES

    def __init__(self, root: str | Path, split: str, size: tuple[int, int], task: Literal["detection", "segmentation"]) -> None:
        self.root = _voc_root(Path(root))
        self.size = size
        self.task = task
        listed = self.root / "ImageSets" / ("Main" if task == "detection" else "Segmentation") / f"{split}.txt"
        self.names = [line.split()[0] for line in _existing(listed).read_text().splitlines() if line.strip()]
        if not self.names:
            raise ValueError(f"{listed}: no image is listed")

    @staticmethod
    def labelled(root: str | Path, split: str) -> bool:
        """Whether a split for detection is listed, and the first of its list annotated."""
        folder = _voc_root(Path(root))
        listed = folder / "ImageSets" / "Main" / f"{split}.txt"
        names = listed.read_text().split() if listed.exists() else []
        return bool(names) and (folder / "Annotations" / f"{names[0]}.xml").exists()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        image = _open(self.root / "JPEGImages" / f"{name}.jpg").convert("RGB")
        if self.task == "segmentation":
            path = self.root / "SegmentationClass" / f"{name}.png"
            mask = _read_mask(path, image)
            unknown = mask[(mask >= len(VOC_CLASSES)) & (mask != IGNORED)].unique().tolist()
            if unknown:
                raise ValueError(f"{path}: expected classes below {len(VOC_CLASSES)} and {IGNORED}, got {unknown}")
            return _sample(image, mask, _NO_OBJECTS, self.size)
        objects = _voc_objects(self.root / "Annotations" / f"{name}.xml")
        return _sample(image, torch.zeros(self.size, dtype=torch.uint8), objects, self.size)


class Cityscapes:
    """Cityscapes with fine annotations, for segmentation: 19 classes, and no background.

    Class 0 is "road": every class counts. What is none of the 19 is ignored. There are no boxes.

    Args:
        root: the folder with leftImg8bit and gtFine.
        split: "train" or "val"; the labels of "test" are not public.
        size: (H, W) of every sample.

    Raises:
        FileNotFoundError: a folder or a file is not there.
        ValueError: an unreadable file; no image in the folder; a mask of another size than its image.
    """

    classes = tuple(CITYSCAPES_CLASSES)

    def __init__(self, root: str | Path, split: str, size: tuple[int, int]) -> None:
        self.root, self.split, self.size = Path(root), split, size
        folder = _existing(self.root / "leftImg8bit" / split)
        self.paths = sorted(folder.glob("*/[!.]*_leftImg8bit.png"))  # macOS leaves ._* files beside those it copies
        if not self.paths:
            raise ValueError(f"{folder}: no image <city>/*_leftImg8bit.png in it")
        self.numbers = torch.full((256,), IGNORED, dtype=torch.uint8)  # number in the file -> class
        for i, number in enumerate(CITYSCAPES_CLASSES.values()):
            self.numbers[number] = i

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        image = _open(path).convert("RGB")
        labels = path.name.replace("_leftImg8bit", "_gtFine_labelIds")
        mask = _read_mask(self.root / "gtFine" / self.split / path.parent.name / labels, image)
        return _sample(image, self.numbers[mask.long()], _NO_OBJECTS, self.size)


class _Objects(NamedTuple):
    boxes: Tensor  # (n, 4), float32, in pixels of the file
    labels: Tensor  # (n,), int64


_NO_OBJECTS = _Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def _sample(image: Image.Image, mask: Tensor, objects: _Objects, size: tuple[int, int]) -> Sample:
    """Image, mask and boxes stretched to ``size``."""
    resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)  # Pillow antialiases
    return Sample(
        torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous(),
        labels.map_boxes(objects.boxes, (image.height, image.width), size),
        objects.labels,
        labels.map_masks(mask, size),
    )


def _voc_root(root: Path) -> Path:
    if (_existing(root) / "JPEGImages").is_dir():
        return root
    found = sorted(path.parent for path in root.glob("*/JPEGImages"))
    if not found:
        raise FileNotFoundError(f"{root}: no folder JPEGImages in it, nor in one of its folders")
    if len(found) > 1:
        raise ValueError(f"{root}: which one? {', '.join(path.name for path in found)} have a folder JPEGImages each")
    return found[0]


def _voc_objects(path: Path) -> _Objects:
    """Boxes and classes of an annotation, the difficult ones left out."""
    boxes, labels = [], []
    try:
        for node in ET.fromstring(_existing(path).read_bytes()).iter("object"):
            if node.findtext("difficult", "0").strip() == "1":
                continue
            # Some coordinates of VOC 2011 and later are fractions.
            x1, y1, x2, y2 = (float(_text(node, f"bndbox/{corner}")) for corner in ("xmin", "ymin", "xmax", "ymax"))
            if not (x1 <= x2 < math.inf and y1 <= y2 < math.inf and min(x1, y1) > -math.inf):
                raise ValueError(f"a box from {x1}, {y1} to {x2}, {y2}")
            boxes.append((x1 - 1, y1 - 1, x2, y2))
            name = _text(node, "name")
            if name not in VOC_CLASSES[1:]:
                raise ValueError(f"an object of unknown class {name!r}")
            labels.append(VOC_CLASSES.index(name))
    except (ET.ParseError, ValueError) as error:
        raise ValueError(f"{path}: not an annotation of VOC: {error}") from error
    return _Objects(torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64))


def _text(node: ET.Element, path: str) -> str:
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"an object without {path}")
    return text.strip()


def _read_mask(path: Path, image: Image.Image) -> Tensor:
    """(H, W), uint8: the numbers in the file, not the colours of its palette."""
    mask = _open(path)
    if mask.mode not in ("P", "L"):
        raise ValueError(f"{path}: expected class numbers, 8 bits each, or a palette; got mode {mask.mode}")
    if mask.size != image.size:
        raise ValueError(f"{path}: {mask.width} x {mask.height} pixels, but its image has {image.width} x {image.height}")
    return torch.from_numpy(np.array(mask))


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(_existing(path)) as image:
            image.load()
    except (UnidentifiedImageError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a readable image: {error}") from error
    return image


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there")
    return path
