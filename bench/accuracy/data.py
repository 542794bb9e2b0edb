"""The data that a pipeline is trained and measured on, by name."""

import functools
import pathlib
from collections.abc import Callable

from . import collection, folders, natural, packages, scenes
from .pipelines import PIPELINES, Task
from .plan import Profile
from .samples import Dataset
from .train import Data

SCENES = "scenes"
NATURAL = "natural"
NAMES = (SCENES, NATURAL, f"{NATURAL}:FOLDER", "voc:FOLDER", "cityscapes:FOLDER")
TASKS: dict[str, tuple[Task, ...]] = {
    SCENES: ("detection", "segmentation", "reconstruction"),
    NATURAL: ("detection", "segmentation", "classification"),
    "voc": ("detection", "segmentation", "reconstruction"),
    "cityscapes": ("segmentation", "reconstruction"),
}
"""What each kind of data has labels for."""
TEST_SEED = 0
"""All runs are measured on the same test images."""
NATURAL_TEST = 4
"""Times as many natural test images as a profile says: a few objects make many, and rendering them is quick."""


def pipelines_of(name: str) -> list[str]:
    """The pipelines that the data called ``name`` have labels for.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: its folder is not there.
    """
    kind, _, folder = name.partition(":")
    if name not in (SCENES, NATURAL) and (kind not in (NATURAL, "voc", "cityscapes") or not folder):
        raise ValueError(f"data: expected one of {', '.join(NAMES)}, got {name!r}")
    if folder and kind != NATURAL and not pathlib.Path(folder).is_dir():
        raise FileNotFoundError(f"data: {folder} is no folder")
    return [pipeline for pipeline, spec in PIPELINES.items() if spec.task in TASKS[kind]]


def load(name: str, pipeline: str, profile: Profile, seed: int) -> Data:
    """Training and test data of a pipeline, one of :func:`pipelines_of`, at its source size.

    ``scenes`` needs no files; reconstruction then takes photographs. ``natural`` is made of what ``python -m bench accuracy
    fetch`` gets: scenes for detection and segmentation, one object a picture for classification, photographs for
    reconstruction; it has a validation split, of as many samples as test. ``voc:FOLDER`` and ``cityscapes:FOLDER`` are read
    from where they lie, all of their images, and are the same for all seeds. Detectors are trained on VOC's trainval and
    measured on test, or on train and val where the labels of test are not there, as in 2012; all else is trained on train and
    measured on val.

    Raises:
        FileNotFoundError, ValueError: a folder that holds something else.
    """
    spec = PIPELINES[pipeline]
    size = spec.sizes[profile.width].source
    kind, _, folder = name.partition(":")
    if kind == "voc" and spec.task == "detection":
        return _voc_detection(folder, size)
    if kind == "voc":
        return Data(folders.Voc(folder, "train", size, "segmentation"), folders.Voc(folder, "val", size, "segmentation"))
    if kind == "cityscapes":
        return Data(folders.Cityscapes(folder, "train", size), folders.Cityscapes(folder, "val", size))
    if kind == NATURAL:
        where = pathlib.Path(folder) if folder else packages.FOLDER
        return _natural(where, spec.task, size[0], profile, seed)
    source = scenes.Photographs if spec.task == "reconstruction" else scenes.Scenes
    return Data(_made(source, "train", size[0], profile.train, seed), _made(source, "test", size[0], profile.test, TEST_SEED))


def _natural(folder: pathlib.Path, task: str, size: int, profile: Profile, seed: int) -> Data:
    kinds: dict[str, Callable[..., natural.Made]] = {"reconstruction": natural.Photographs, "classification": natural.Objects}
    kind = kinds.get(task, natural.Scenes)
    held_out = (NATURAL_TEST * profile.test, TEST_SEED)
    counts = {"train": (profile.train, seed), "validation": held_out, "test": held_out}
    return Data(**{split: _rendered(kind, split, size, *counts[split], folder) for split in collection.SPLITS})


@functools.lru_cache(maxsize=8)
def _rendered(
    kind: Callable[..., natural.Made], split: str, size: int, count: int, seed: int, folder: pathlib.Path
) -> natural.Made:
    """Kept for all runs that a process trains on it: samples are rendered when they are first asked for."""
    return kind(split, size, count, seed, folder)


def _voc_detection(folder: str, size: tuple[int, int]) -> Data:
    labelled = folders.Voc.labelled(folder, "test")
    train, test = ("trainval", "test") if labelled else ("train", "val")
    return Data(folders.Voc(folder, train, size, "detection"), folders.Voc(folder, test, size, "detection"))


def check(name: str, pipelines: list[str], profile: Profile) -> None:
    """Raise as :func:`load` would for one of the pipelines; rendering no scenes."""
    for pipeline in pipelines if name != SCENES else ():
        load(name, pipeline, profile, TEST_SEED)


@functools.lru_cache(maxsize=8)
def _made(source: type[scenes.Scenes] | type[scenes.Photographs], split: str, size: int, count: int, seed: int) -> Dataset:
    """Rendered once for all runs that a process trains on it, one after the other."""
    return source(split, size, count, seed)
