"""Natural scenes: photographed things, cut out, on photographs; with exact boxes and masks.

A picture is put together at twice its size, of parts that were brought there by antialiased interpolation, and brought to its
size by averages of 2 x 2 pixels. So edges are as soft as a camera's, and cut-outs as sharp as what is behind them. It is then
sharpened or blurred by an amount drawn for it, since photographs come as either: at one sharpness, the method whose kernel
happens to undo it would be favoured. The amounts are symmetrical around none.

Splits share neither things nor photographs: see :mod:`collection`. Each sample is drawn by a generator of its own, so the same
arguments give the same data, whichever samples are asked for, in any order and by any number of processes.
"""

import functools
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
LENGTHS = (0.25, 0.6)
"""Longer side of an object in a scene, as a share of the image's side; what is smaller in its file is not enlarged."""
ALONE = (0.45, 0.9)
"""The same where an object is alone."""
TILT = 15.0
"""Largest rotation, in degrees."""
BEYOND = 0.15
"""Share of an object's sides that may lie outside the image."""
VISIBLE = 0.5
"""Least share of an object that nothing hides."""
SMALLEST_PART = 0.004
"""Least share of the image that an object covers."""
ATTEMPTS = 8
"""How often an object is drawn anew, until it is seen well enough; then there is one less."""
ZOOM = 4.0
"""Largest ratio of a photograph's shorter side to the side of the window that is taken of it."""
SHARPNESS = 0.5
"""Largest amount of sharpening, or of blur: this much of the difference to the binomial mean of 3 x 3 pixels."""

Pixels = np.ndarray[Any, np.dtype[np.float32]]


class _Made:
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


class Scenes(_Made):
    """``count`` scenes of ``size`` x ``size`` pixels, one to :data:`OBJECTS` objects each, for detection and segmentation.

    Raises:
        FileNotFoundError: pictures that are not in ``folder``.
        ValueError: an unknown split; a size below :data:`SMALLEST`.
    """

    _kind = 0

    def _render(self, generator: np.random.Generator) -> Sample:
        return _scene(self._folder, self._split, self._size, generator.integers(1, OBJECTS + 1), LENGTHS, generator)


class Objects(_Made):
    """``count`` pictures of ``size`` x ``size`` pixels, one object each, which ``labels`` name, for classification.

    Raises:
        FileNotFoundError: pictures that are not in ``folder``.
        ValueError: an unknown split; a size below :data:`SMALLEST`.
    """

    _kind = 1

    def _render(self, generator: np.random.Generator) -> Sample:
        return _scene(self._folder, self._split, self._size, 1, ALONE, generator)


class Photographs(_Made):
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
        return Sample(_to_image(_coarse(window), generator), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), mask)


def check(folder: pathlib.Path) -> None:
    """Raise FileNotFoundError, which says how to get them, if pictures are not there."""
    for package in collection.PACKAGES:
        lacking = package.lacking(folder)
        if lacking:
            raise FileNotFoundError(
                f"{folder / package.name}: {len(lacking)} files are not there, the first is {lacking[0]}; "
                "python -m bench accuracy fetch gets them"
            )


def _scene(
    folder: pathlib.Path, split: str, size: int, count: int, lengths: tuple[float, float], generator: np.random.Generator
) -> Sample:
    """From front to back: what is drawn later lies behind, and so takes nothing from what is there."""
    side = FINE * size
    picture = np.zeros((side, side, 3), np.float32)
    free = np.ones((side, side), np.float32)  # the share of each pixel that nothing covers yet
    covers, labels = [], []
    for _ in range(count):
        for _ in range(ATTEMPTS):
            label = int(generator.integers(1, len(CLASSES)))
            cutout = _cutout(folder, split, CLASSES[label], size, lengths, generator)
            rows, columns, part = _place(cutout, side, generator)
            cover = free[rows, columns] * part[..., 3]
            seen = cover.sum(dtype=np.float64)
            if seen >= max(VISIBLE * cutout[..., 3].sum(dtype=np.float64), SMALLEST_PART * side * side):
                break
        else:
            continue
        picture[rows, columns] += free[rows, columns, None] * part[..., :3]
        free[rows, columns] -= cover
        whole = np.zeros((side, side), np.float32)
        whole[rows, columns] = cover
        covers.append(_coarse(whole))
        labels.append(label)
    picture += free[..., None] * _window(folder, collection.BACKGROUNDS[split], size, generator)
    owner = np.stack([_coarse(free), *covers]).argmax(0)  # a pixel is whose that covers most of it
    return _labelled(_to_image(_coarse(picture), generator), owner, labels)


def _labelled(image: torch.Tensor, owner: np.ndarray[Any, Any], labels: list[int]) -> Sample:
    """A sample from the number of the object, from 1, that each pixel belongs to."""
    mask = np.array([0, *labels], np.uint8)[owner]
    boxes, kept = [], []
    for number, label in enumerate(labels, start=1):
        y, x = (np.flatnonzero((owner == number).any(axis)) for axis in (1, 0))
        if len(y):  # else it is spread so thin that it owns no pixel
            boxes.append((x[0], y[0], x[-1] + 1, y[-1] + 1))
            kept.append(label)
    return Sample(
        image,
        torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
        torch.tensor(kept, dtype=torch.int64),
        torch.from_numpy(mask),
    )


def _cutout(
    folder: pathlib.Path, split: str, name: str, size: int, lengths: tuple[float, float], generator: np.random.Generator
) -> Pixels:
    """Some object of a class at the composite's scale: colours times opacity, and opacity in 0..1; (h, w, 4)."""
    files = collection.OBJECTS[name][split]
    image, length = _loaded_cutout(folder / files[generator.integers(len(files))], size)
    wanted = min(generator.uniform(*lengths) * size, length) * FINE
    scale = wanted / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BILINEAR)
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(generator.uniform(-TILT, TILT), Image.Resampling.BILINEAR, expand=True)
    scaled = np.asarray(image, np.float32)
    return scaled / np.array((1, 1, 1, 255), np.float32)


@functools.lru_cache(maxsize=1024)
def _loaded_cutout(path: pathlib.Path, size: int) -> tuple[Image.Image, int]:
    """A cut-out, no larger than images of ``size`` ever need it, in colours times opacity; and its longer side in the file."""
    with Image.open(path) as file:
        image = file.convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda opacity: 255 * (opacity > 127)).getbbox())
    length = max(image.size)
    image = image.convert("RGBa")
    scale = max(LENGTHS[1], ALONE[1]) * FINE * size / length
    if scale < 1:
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX)
    framed = Image.new("RGBa", (image.width + 2, image.height + 2))  # so that edges along the frame are antialiased, too
    framed.paste(image, (1, 1))
    return framed, length


def _place(cutout: Pixels, side: int, generator: np.random.Generator) -> tuple[slice, slice, Pixels]:
    """Rows and columns of the composite that a cut-out comes to lie on, and the part of it that is inside."""
    inside, within = [], []
    for length in cutout.shape[:2]:
        most = int(BEYOND * length)
        start = int(generator.integers(-most, max(side - length + most, -most) + 1))
        inside.append(slice(max(start, 0), min(start + length, side)))
        within.append(slice(max(-start, 0), min(side - start, length)))
    return inside[0], inside[1], cutout[within[0], within[1]]


def _window(folder: pathlib.Path, files: tuple[str, ...], size: int, generator: np.random.Generator) -> Pixels:
    """A square of some photograph at the composite's scale, mirrored or not; (side, side, 3)."""
    photograph = _loaded_photograph(folder, files[generator.integers(len(files))], size)
    shorter = min(photograph.size)
    # Windows of a photograph's own pixels are no smaller than the sample: nothing is enlarged beyond its own sharpness.
    window = shorter * min(1.0, max(1 / ZOOM, size / shorter)) ** generator.random()
    left, top = ((n - window) * generator.random() for n in photograph.size)
    side = FINE * size
    image = photograph.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + window, top + window))
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image, np.float32)


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
            opened.draft("RGB", (2 * shortest, 2 * shortest))  # decodes at a fraction of the size, where that will do
            image = opened.convert("RGB")
    scale = shortest / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)
    short = [(0, max(0, size - n)) for n in (image.height, image.width)]
    return Image.fromarray(np.pad(np.asarray(image), (*short, (0, 0)), mode="symmetric")) if min(image.size) < size else image


def _coarse(fine: Pixels) -> Pixels:
    """Means of 2 x 2 pixels: from the composite's size to the sample's."""
    result: Pixels = (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4
    return result


def _to_image(picture: Pixels, generator: np.random.Generator) -> torch.Tensor:
    """(3, H, W) of uint8 from (H, W, 3), sharpened or blurred."""
    amount = np.float32(generator.uniform(-SHARPNESS, SHARPNESS))
    mean = picture
    for axis in (0, 1):
        padded = np.pad(mean, [(1, 1) if i == axis else (0, 0) for i in range(3)], mode="edge")
        before, after = (
            padded[start : start + len(mean)] if axis == 0 else padded[:, start : start + mean.shape[1]] for start in (0, 2)
        )
        mean = (before + 2 * mean + after) / 4
    sharp = picture + amount * (picture - mean)
    return torch.from_numpy(np.ascontiguousarray(sharp.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1)))
