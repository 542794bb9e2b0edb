"""Scenes and photographs from the real images inside scikit-image and scikit-learn: nothing is downloaded.

A scene is a crop of a photograph on which objects stand out by fine detail alone. Their mean colour is that of the photograph
behind them, so class and boundary hang on what shrinking may lose: four weaves, real textures of which a band near the source's
Nyquist frequency was kept, in four directions, and two kinds of small glyphs, handwritten digits of 8x8 pixels.

No pixel is in both splits: photographs belong to one split as a whole, textures are cut in two with a gap between, and each
digit belongs to one. The same arguments give the same data.
"""

import functools
import math
from typing import Any

import numpy as np
import torch
from skimage import data
from skimage.filters import gaussian
from sklearn import datasets

from .samples import Sample

VERSION = 1
"""The version of the data. Results of different versions do not compare."""
SPLITS = ("train", "test")
PHOTOGRAPHS = {
    "train": ("astronaut", "hubble_deep_field", "immunohistochemistry", "motorcycle", "retina", "rocket", "flower.jpg"),
    "test": ("chelsea", "coffee", "camera", "china.jpg"),
}
TEXTURES = ("brick", "grass", "gravel")
TEXTURE_HALVES = {"train": slice(0, 240), "test": slice(272, 512)}
"""Columns of the 512 of a texture."""
DIRECTIONS = (0, 45, 90, 135)
"""Directions of a weave's frequency, in degrees from the x axis."""
GLYPHS = (0, 1)
"""Digits."""
CLASSES = ("background", *(f"weave-{angle}" for angle in DIRECTIONS), *(f"glyph-{digit}" for digit in GLYPHS))

WEAVE_FREQUENCY = 0.42
"""Cycles per source pixel; 0.5 is Nyquist's."""
WEAVE_BANDWIDTH = 0.05
WEAVE_EVENNESS = 6.0
"""Pixels over which a weave's strength is evened out."""
CONTRAST = (20.0, 40.0)
"""Standard deviation of an object's detail, in grey levels of 255."""
DEFOCUS = 1.5
"""Standard deviation in pixels of the blur of the photograph behind, so that all that is fine belongs to objects."""
NOISE = 4.0
"""Standard deviation of the noise of every scene, in grey levels."""
OBJECTS = 4
"""Most objects of a scene."""
SMALLEST = 8
"""Side of an image, in pixels: a glyph's."""
SMALLEST_PART = 0.03
"""The least share of a scene's area at which the visible part of an object is labelled."""

Pixels = np.ndarray[Any, np.dtype[np.float32]]


class Scenes:
    """``count`` scenes of ``size`` x ``size`` pixels, rendered at once.

    Raises:
        ValueError: an unknown split; a size below :data:`SMALLEST`.
    """

    classes: tuple[str, ...] = CLASSES

    def __init__(self, split: str, size: int, count: int, seed: int = 0) -> None:
        _check(split, size)
        generator = np.random.default_rng([VERSION, SPLITS.index(split), size, seed])
        self._samples = [_scene(split, size, generator) for _ in range(count)]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


class Photographs:
    """``count`` crops of ``size`` x ``size`` pixels, without labels, cut when they are first asked for.

    Raises:
        ValueError: an unknown split; a size below :data:`SMALLEST`.
    """

    classes: tuple[str, ...] = ("background",)

    def __init__(self, split: str, size: int, count: int, seed: int = 0) -> None:
        _check(split, size)
        self._split, self._size = split, size
        self._seed = [VERSION, 2 + SPLITS.index(split), size, seed]
        self._samples: list[Sample | None] = [None] * count

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        sample = self._samples[index]
        if sample is None:
            crop = _crop(self._split, self._size, np.random.default_rng([*self._seed, index]))
            mask = torch.zeros(self._size, self._size, dtype=torch.uint8)
            sample = Sample(_to_image(crop), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), mask)
            self._samples[index] = sample
        return sample


def _check(split: str, size: int) -> None:
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
    if size < SMALLEST:
        raise ValueError(f"size: expected at least {SMALLEST}, got {size}")


@functools.cache
def photographs(split: str) -> tuple[Pixels, ...]:
    """The pictures of a split, each (H, W, 3) of float32 between 0 and 255."""
    return tuple(_photograph(name) for name in PHOTOGRAPHS[split])


def _photograph(name: str) -> Pixels:
    if name.endswith(".jpg"):
        picture = datasets.load_sample_image(name)
    elif name == "motorcycle":
        picture = data.stereo_motorcycle()[0]
    else:
        picture = getattr(data, name)()
    picture = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    return picture.astype(np.float32)


@functools.cache
def _weaves(split: str, angle: int) -> tuple[Pixels, ...]:
    """The band of each texture around one direction near Nyquist's frequency: mean 0, standard deviation about 1."""
    results = []
    for name in TEXTURES:
        texture = getattr(data, name)()[:, TEXTURE_HALVES[split]].astype(np.float64)
        fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in texture.shape), indexing="ij")
        x, y = (WEAVE_FREQUENCY * f(math.radians(angle)) for f in (math.cos, math.sin))
        distance = np.minimum((fx - x) ** 2 + (fy - y) ** 2, (fx + x) ** 2 + (fy + y) ** 2)
        band = np.fft.ifft2(np.fft.fft2(texture) * np.exp(-distance / (2 * WEAVE_BANDWIDTH**2))).real
        # Courses of bricks are full of detail and bricks are not: of equal strength everywhere, no object is without.
        strength = np.sqrt(gaussian(band**2, WEAVE_EVENNESS, mode="wrap"))
        results.append((band / strength).astype(np.float32))
    return tuple(results)


@functools.cache
def _glyphs(split: str, digit: int) -> Pixels:
    """Every other sample of a digit: (n, 8, 8), mean 0 and standard deviation 1 over all."""
    digits = datasets.load_digits()
    glyphs = digits.images[digits.target == digit][SPLITS.index(split) :: 2]
    return ((glyphs - glyphs.mean()) / glyphs.std()).astype(np.float32)


def _crop(split: str, size: int, generator: np.random.Generator) -> Pixels:
    """A square of a photograph, mirrored or not; each photograph is as likely as any other.

    One that is too small goes on as its mirror image: were it left out, the largest sizes would show two photographs or none.
    """
    pictures = photographs(split)
    picture = pictures[generator.integers(len(pictures))]
    rows, columns = (_span(n, size, generator) for n in picture.shape[:2])
    crop = picture[rows[:, None], columns]
    return crop[:, ::-1] if generator.random() < 0.5 else crop


def _span(n: int, size: int, generator: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """``size`` numbers below ``n`` in a row, from anywhere; back and forth where there are not as many."""
    numbers = (generator.integers(n - size + 1 if n >= size else 2 * n) + np.arange(size)) % (2 * n)
    result: np.ndarray[Any, np.dtype[np.int64]] = np.minimum(numbers, 2 * n - 1 - numbers)
    return result


def _scene(split: str, size: int, generator: np.random.Generator) -> Sample:
    picture = gaussian(_crop(split, size, generator), (DEFOCUS, DEFOCUS, 0), preserve_range=True)
    mask = np.zeros((size, size), np.uint8)
    shapes = []
    for _ in range(generator.integers(1, OBJECTS + 1)):
        label = int(generator.integers(1, len(CLASSES)))
        shape = _shape(size, generator) & (mask == 0)  # later objects lie behind earlier ones
        picture[shape] += generator.uniform(*CONTRAST) * _detail(split, label, size, generator)[shape][:, None]
        mask[shape] = label
        shapes.append((label, shape))
    picture += generator.normal(0, NOISE, picture.shape)
    labelled = [(label, shape) for label, shape in shapes if shape.sum() >= SMALLEST_PART * size * size]
    for _, shape in shapes:
        if shape.sum() < SMALLEST_PART * size * size:
            mask[shape] = 0
    boxes = [_bounds(shape) for _, shape in labelled]
    labels = torch.tensor([label for label, _ in labelled], dtype=torch.int64)
    return Sample(_to_image(picture), torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels, torch.from_numpy(mask))


def _shape(size: int, generator: np.random.Generator) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """An ellipse or a rectangle, turned, wholly or partly inside."""
    y, x = np.mgrid[:size, :size] + 0.5
    radii = generator.uniform(0.18, 0.36, 2) * size
    centre = generator.uniform(0.15, 0.85, 2) * size
    angle = generator.uniform(0, math.pi)
    u = ((x - centre[0]) * math.cos(angle) + (y - centre[1]) * math.sin(angle)) / radii[0]
    v = ((y - centre[1]) * math.cos(angle) - (x - centre[0]) * math.sin(angle)) / radii[1]
    inside: np.ndarray[Any, np.dtype[np.bool_]]
    inside = u**2 + v**2 < 1 if generator.random() < 0.5 else np.maximum(abs(u), abs(v)) < 0.85
    return inside


def _detail(split: str, label: int, size: int, generator: np.random.Generator) -> Pixels:
    """(size, size) of mean 0 and standard deviation 1, over the class."""
    if label <= len(DIRECTIONS):
        weaves = _weaves(split, DIRECTIONS[label - 1])
        weave = weaves[generator.integers(len(weaves))]
        rows, columns = (generator.integers(n) + np.arange(size) for n in weave.shape)
        return weave[rows[:, None] % weave.shape[0], columns % weave.shape[1]]
    glyphs = _glyphs(split, GLYPHS[label - 1 - len(DIRECTIONS)])
    side = -(-size // 8) + 1
    tiles = glyphs[generator.integers(len(glyphs), size=(side, side))].transpose(0, 2, 1, 3).reshape(8 * side, 8 * side)
    top, left = generator.integers(8, size=2)
    return tiles[top : top + size, left : left + size]


def _bounds(shape: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _to_image(picture: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.clip(np.rint(picture), 0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()
