"""Natural scenes: photographed things, cut out, on photographs; with exact boxes and masks.

A picture is put together at twice its size, of parts that were brought there by antialiased interpolation, and brought to its
size by averages of 2 x 2 pixels, as a sensor's pixels average what falls on them. It is then sharpened or blurred by an amount
drawn for it, since photographs come as either: at one sharpness, the method whose kernel happens to undo it would be favoured.
The amounts are symmetrical around none.

Splits share neither things nor photographs: see :mod:`collection`. Each sample is drawn by a generator of its own, so the same
arguments give the same data: whichever samples are asked for, in any order, by any number of processes, on any machine.
Versions of Pillow round differently, by one grey of 255.
"""

import functools
import math
import pathlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage import data as installed
from sklearn import datasets

from . import collection
from .packages import FOLDER
from .samples import Sample

VERSION = 1
"""The version of the data. Results of different versions do not compare."""
CLASSES = ("background", *collection.OBJECTS)
FINE = 2
"""Pixels of the composite along one pixel of the sample."""
SMALLEST = 16
"""Side of an image, in pixels."""
OBJECTS = 4
"""Most objects of a scene."""
LENGTHS = (0.3, 0.65)
"""Longer side of an object in a scene, as a share of the image's side; what is smaller in its file is not enlarged."""
ALONE = (0.45, 0.9)
"""The same where an object is alone."""
TILT = 15.0
"""Largest rotation, in degrees."""
BEYOND = 0.15
"""Share of an object's sides that may lie outside the image."""
VISIBLE = 0.7
"""Least share of an object that nothing hides."""
FEWEST = 8
"""Least pixels of the sample that an object covers more than half of."""
PLACES = 4
"""How many places an object may be tried at, until it is seen well enough."""
ATTEMPTS = 8
"""How many objects may be tried; then there is one less."""
ZOOM = 4.0
"""Largest ratio of a photograph's shorter side to the side of the window that is taken of it."""
SHARPNESS = 0.5
"""Largest amount of sharpening, or of blur: this much of the difference to the binomial mean of 3 x 3 pixels."""

CLEAR = np.linspace(1, 0, 256, dtype=np.float32)
"""How much is seen through each opacity."""

QUARTER = np.float32(0.25)

Pixels = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Made:
    """Samples that are rendered when they are asked for, and kept."""

    classes: tuple[str, ...] = CLASSES
    _kind: int

    def __init__(self, split: str, size: int, count: int, seed: int = 0, folder: pathlib.Path = FOLDER) -> None:
        if split not in collection.SPLITS:
            raise ValueError(f"split: expected one of {collection.SPLITS}, got {split!r}")
        if size < SMALLEST:
            raise ValueError(f"size: expected at least {SMALLEST}, got {size}")
        check(folder)
        self._split, self._size, self._folder = split, size, folder
        self._seed = [VERSION, self._kind, collection.SPLITS.index(split), size, seed]
        self._samples: list[Sample | None] = [None] * count

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        sample = self._samples[index]
        if sample is None:
            sample = self._samples[index] = self._render(np.random.default_rng([*self._seed, index]))
        return sample

    def _render(self, generator: np.random.Generator) -> Sample:
        raise NotImplementedError


class Scenes(Made):
    """``count`` scenes of ``size`` x ``size`` pixels, one to :data:`OBJECTS` objects each, for detection and segmentation.

    Raises:
        FileNotFoundError: pictures that are not in ``folder``.
        ValueError: an unknown split; a size below :data:`SMALLEST`.
    """

    _kind = 0

    def _render(self, generator: np.random.Generator) -> Sample:
        return _scene(self._folder, self._split, self._size, int(generator.integers(1, OBJECTS + 1)), LENGTHS, generator)


class Objects(Made):
    """``count`` pictures of ``size`` x ``size`` pixels, one object each, which ``labels`` name, for classification.

    Raises:
        FileNotFoundError: pictures that are not in ``folder``.
        ValueError: an unknown split; a size below :data:`SMALLEST`.
    """

    _kind = 1

    def _render(self, generator: np.random.Generator) -> Sample:
        return _scene(self._folder, self._split, self._size, 1, ALONE, generator)


class Photographs(Made):
    """``count`` windows of photographs, ``size`` x ``size`` pixels each, without labels, for reconstruction.

    Raises:
        FileNotFoundError: pictures that are not in ``folder``.
        ValueError: an unknown split; a size below :data:`SMALLEST`.
    """

    classes: tuple[str, ...] = ("background",)
    _kind = 2

    def _render(self, generator: np.random.Generator) -> Sample:
        window = _window(self._folder, collection.PHOTOGRAPHS[self._split], self._size, generator)
        mask = torch.zeros(self._size, self._size, dtype=torch.uint8)
        return Sample(
            _to_image(_coarse(window.astype(np.float32)), generator), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), mask
        )


def check(folder: pathlib.Path) -> None:
    """Raise FileNotFoundError, which says how to get them, if pictures are not there."""
    for package in collection.PACKAGES:
        lacking = package.lacking(folder)
        if lacking:
            raise FileNotFoundError(
                f"{folder / package.name}: {len(lacking)} files are not there, the first is {lacking[0]}; "
                f"python -m bench accuracy fetch --folder {folder} gets them"
            )


class _Composite:
    """Objects in front of each other, at twice the sample's size; from front to back, so what is there stays as it is."""

    def __init__(self, size: int) -> None:
        side = FINE * size
        self.picture = np.zeros((side, side, 3), np.float32)
        self.free = np.ones((side, side), np.float32)
        """The share of each pixel that nothing covers yet."""
        self.left = np.ones((size, size), np.float32)
        """The same at the sample's size."""
        self.owner = np.zeros((size, size), np.uint8)
        """The number of the object, from 1, that covers more than half of a pixel of the sample."""
        self.labels: list[int] = []

    def put(self, label: int, cutout: Bytes, generator: np.random.Generator) -> bool:
        """Put an object somewhere behind those that are there, unless it would not be seen well there."""
        rows, columns, part = _place(cutout, len(self.free), generator)
        opacity, colours = part[..., 3], part[..., :3]
        free = self.free[rows, columns].copy()
        if (free * opacity).sum(dtype=np.float64) < VISIBLE * cutout[..., 3].sum():
            return False
        fine, coarse = _aligned(rows, columns)
        self.free[rows, columns] *= CLEAR[opacity]
        left = _coarse(self.free[fine])
        owned = self.left[coarse] - left > 0.5
        if np.count_nonzero(owned) < FEWEST:
            self.free[rows, columns] = free
            return False
        self.picture[rows, columns] += free[..., None] * colours
        self.left[coarse] = left
        self.labels.append(label)
        self.owner[coarse][owned] = len(self.labels)
        return True


def _scene(
    folder: pathlib.Path, split: str, size: int, count: int, lengths: tuple[float, float], generator: np.random.Generator
) -> Sample:
    composite = _Composite(size)
    for _ in range(count):
        for _ in range(ATTEMPTS):
            label = int(generator.integers(1, len(CLASSES)))
            cutout = _cutout(folder, split, CLASSES[label], size, lengths, generator)
            if any(composite.put(label, cutout, generator) for _ in range(PLACES)):
                break
    background = _window(folder, collection.BACKGROUNDS[split], size, generator)
    composite.picture += composite.free[..., None] * background
    mask = np.array([0, *composite.labels], np.uint8)[composite.owner]
    boxes = [_bounds(composite.owner == number) for number in range(1, len(composite.labels) + 1)]
    return Sample(
        _to_image(_coarse(composite.picture), generator),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(composite.labels, dtype=torch.int64),
        torch.from_numpy(mask),
    )


def _aligned(*parts: slice) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The whole pixels of the sample that slices of the composite touch: in the composite, and in the sample."""
    coarse = [slice(part.start // FINE, -(-part.stop // FINE)) for part in parts]
    return tuple(slice(FINE * part.start, FINE * part.stop) for part in coarse), tuple(coarse)


def _bounds(shape: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[int, int, int, int]:
    y, x = (np.flatnonzero(shape.any(axis)) for axis in (1, 0))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


def _cutout(
    folder: pathlib.Path, split: str, name: str, size: int, lengths: tuple[float, float], generator: np.random.Generator
) -> Bytes:
    """Some object of a class at the composite's scale: colours times opacity, and opacity; (h, w, 4) of uint8."""
    files = collection.OBJECTS[name][split]
    path = folder / files[generator.integers(len(files))]
    length = FINE * min(generator.uniform(*lengths) * size, max(_whole_cutout(path).size))
    image = _scaled_cutout(path, math.ceil(2 * math.log2(length)))
    scale = max(image.size) / length
    mirror = -1 if generator.random() < 0.5 else 1
    angle = math.radians(generator.uniform(-TILT, TILT))
    cos, sin = math.cos(angle), math.sin(angle)
    w, h = (x / scale for x in image.size)
    # Wide enough for what is turned, and a pixel more on each side, so that edges along the frame are antialiased, too.
    wide, high = math.ceil(w * cos + h * abs(sin)) + 2, math.ceil(h * cos + w * abs(sin)) + 2
    to_x, to_y = (mirror * scale * cos, mirror * scale * sin), (-scale * sin, scale * cos)
    centred = [n / 2 - (x * wide + y * high) / 2 for n, (x, y) in zip(image.size, (to_x, to_y), strict=True)]
    affine = (*to_x, centred[0], *to_y, centred[1])
    turned = image.transform((wide, high), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return np.asarray(turned)


@functools.lru_cache(maxsize=1024)
def _scaled_cutout(path: pathlib.Path, step: int) -> Image.Image:
    """A cut-out in colours times opacity, its longer side the root of two to the power of ``step``, or as in its file.

    What is drawn is so at most 1.4 times smaller, which takes no further antialiasing.
    """
    whole = _whole_cutout(path)
    scale = 2 ** (step / 2) / max(whole.size)
    size = max(1, round(whole.width * scale)), max(1, round(whole.height * scale))
    image = whole.resize(size, Image.Resampling.BILINEAR) if scale < 1 else whole
    framed = Image.new("RGBa", (image.width + 2, image.height + 2))  # by nothing, which edges along the frame fade into
    framed.paste(image, (1, 1))
    return framed


@functools.lru_cache(maxsize=1024)
def _whole_cutout(path: pathlib.Path) -> Image.Image:
    """A cut-out as in its file, without what is transparent around it, in colours times opacity."""
    with Image.open(path) as file:
        image = file.convert("RGBA")
    return image.crop(image.getchannel("A").point([255 * (opacity > 127) for opacity in range(256)]).getbbox()).convert("RGBa")


def _place(cutout: Bytes, side: int, generator: np.random.Generator) -> tuple[slice, slice, Bytes]:
    """Rows and columns of the composite that a cut-out comes to lie on, and the part of it that is inside."""
    inside, within = [], []
    for length in cutout.shape[:2]:
        most = int(BEYOND * length)
        start = int(generator.integers(-most, max(side - length + most, -most) + 1))
        inside.append(slice(max(start, 0), min(start + length, side)))
        within.append(slice(max(-start, 0), min(side - start, length)))
    return inside[0], inside[1], cutout[within[0], within[1]]


def _window(folder: pathlib.Path, files: tuple[str, ...], size: int, generator: np.random.Generator) -> Bytes:
    """A square of some photograph at the composite's scale, mirrored or not; (side, side, 3) of uint8."""
    photograph = _loaded_photograph(folder, files[generator.integers(len(files))], size)
    shorter = min(photograph.size)
    # Windows of a photograph's own pixels are no smaller than the sample: nothing is enlarged beyond its own sharpness.
    window = shorter * min(1.0, max(1 / ZOOM, size / shorter)) ** generator.random()
    left, top = ((n - window) * generator.random() for n in photograph.size)
    side = FINE * size
    box = (left, top, left + window, top + window)
    image = photograph.resize((side, side), Image.Resampling.BILINEAR, box, reducing_gap=1.0)
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


@functools.lru_cache(maxsize=256)
def _loaded_photograph(folder: pathlib.Path, file: str, size: int) -> Image.Image:
    """A photograph, no larger than images of ``size`` ever need it; what is smaller than one goes on as its mirror image."""
    package, _, name = file.partition("/")
    shortest = round(ZOOM * FINE * size)
    if package == "scikit-image":
        image = Image.fromarray(getattr(installed, name.removesuffix(".jpg"))()).convert("RGB")
    elif package == "scikit-learn":
        image = Image.fromarray(datasets.load_sample_image(name))
    else:
        with Image.open(folder / file) as opened:
            opened.draft("RGB", (shortest, shortest))  # decodes at a fraction of the size, where that will do
            image = opened.convert("RGB")
    image = image.reduce(max(1, min(image.size) // shortest))
    short = [(0, max(0, size - n)) for n in (image.height, image.width)]
    return Image.fromarray(np.pad(np.asarray(image), (*short, (0, 0)), mode="symmetric")) if min(image.size) < size else image


def _coarse(fine: Pixels) -> Pixels:
    """Means of 2 x 2 pixels: from the composite's size to the sample's."""
    result: Pixels = (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) * QUARTER
    return result


def _to_image(picture: Pixels, generator: np.random.Generator) -> torch.Tensor:
    """(3, H, W) of uint8 from (H, W, 3), sharpened or blurred."""
    amount = np.float32(generator.uniform(-SHARPNESS, SHARPNESS))
    mean = picture
    for axis in (0, 1):
        numbers = np.arange(mean.shape[axis])
        before, after = (mean.take(neighbours, axis, mode="clip") for neighbours in (numbers - 1, numbers + 1))
        mean = (before + mean + mean + after) * QUARTER
    sharp = picture + amount * (picture - mean)
    return torch.from_numpy(np.ascontiguousarray(sharp.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1)))
