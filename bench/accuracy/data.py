"""The data that a pipeline is trained and measured on, by name."""

from . import folders, pipelines, scenes
from .plan import Profile
from .samples import Dataset
from .train import Data

SCENES = "scenes"
NAMES = (SCENES, "voc:FOLDER", "cityscapes:FOLDER")
TEST_SEED = 0
"""All runs are measured on the same test images."""


def load(name: str, pipeline: str, profile: Profile, seed: int) -> Data:
    """Training and test data of a pipeline at its source size.

    ``scenes`` needs no files; reconstruction then takes photographs. ``voc:FOLDER`` and ``cityscapes:FOLDER`` are read from
    where they lie, all of their images, and are the same for all seeds.

    Raises:
        ValueError: an unknown name; Cityscapes for a detector.
        FileNotFoundError: a folder that holds something else.
    """
    spec = pipelines.PIPELINES[pipeline]
    size = spec.sizes[profile.width].source
    kind, _, folder = name.partition(":")
    if kind == "voc" and folder:
        if spec.task == "detection":
            return Data(folders.Voc(folder, "trainval", size, "detection"), folders.Voc(folder, "test", size, "detection"))
        return Data(folders.Voc(folder, "train", size, "segmentation"), folders.Voc(folder, "val", size, "segmentation"))
    if kind == "cityscapes" and folder and spec.task != "detection":
        return Data(folders.Cityscapes(folder, "train", size), folders.Cityscapes(folder, "val", size))
    if name != SCENES:
        raise ValueError(f"data: expected one of {', '.join(NAMES)}, the last without boxes, got {name!r} for {spec.task}")
    source = scenes.Photographs if spec.task == "reconstruction" else scenes.Scenes
    return Data(_made(source, "train", size, profile.train, seed), _made(source, "test", size, profile.test, TEST_SEED))


def _made(
    source: type[scenes.Scenes] | type[scenes.Photographs], split: str, size: tuple[int, int], count: int, seed: int
) -> Dataset:
    return source(split, size[0], count, seed)
