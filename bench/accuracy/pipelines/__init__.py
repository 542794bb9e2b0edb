"""Vision networks to train behind a downsizer, each with its loss and its decoding, behind one small interface.

All start from random numbers: nothing is downloaded, nothing was trained before. Dropout is 0 throughout, so that a run is
determined by its seed.

Every network takes images of any size.
"""

from collections.abc import Callable
from typing import NamedTuple

from . import classification, detection, reconstruction, segmentation
from .base import Detection, Pipeline, Prediction, Task, Width

__all__ = ["PIPELINES", "Detection", "Pipeline", "Prediction", "Size", "Spec", "Task", "Width", "build"]


class Size(NamedTuple):
    """Sizes of images before and after downsizing: (height, width)."""

    source: tuple[int, int]
    network: tuple[int, int]


class Spec(NamedTuple):
    """A pipeline that can be built, and what to train it with."""

    task: Task
    builder: Callable[[int, Width], Pipeline]
    sizes: dict[Width, Size]
    full_lr: float = 1e-3
    """Learning rate for AdamW at width "full": of its authors' order for a transformer, and not tuned."""
    small_lr: float = 2e-3
    """At the other widths."""
    longer: int = 1
    """How many times as many steps as a profile says."""

    def lr(self, width: Width) -> float:
        """Learning rate for AdamW."""
        return self.full_lr if width == "full" else self.small_lr


def build(name: str, classes: int, width: Width) -> Pipeline:
    """A pipeline with random weights, from PyTorch's generator.

    Args:
        name: a key of :data:`PIPELINES`.
        classes: how many there are, the background included; nothing to "reconstruction".
        width: "tiny" for tests, "small" for training on a CPU, "full" for a GPU.
    """
    return PIPELINES[name].builder(classes, width)


def _sizes(tiny: tuple[int, int], small: tuple[int, int], full: tuple[int, int]) -> dict[Width, Size]:
    """Squares, by the sides of their source and network images."""
    widths: tuple[tuple[Width, tuple[int, int]], ...] = (("tiny", tiny), ("small", small), ("full", full))
    return {width: Size((source, source), (network, network)) for width, (source, network) in widths}


def _reconstruction(sizes: dict[Width, Size]) -> Spec:
    return Spec("reconstruction", reconstruction.reconstruction, sizes, longer=4)


_BY_1_875 = _sizes((24, 13), (75, 40), (300, 160))
_BY_3_34 = _sizes((43, 13), (100, 30), (768, 230))

PIPELINES: dict[str, Spec] = {
    "resnet-dense": Spec("detection", detection.resnet_dense, _BY_1_875),
    "segformer": Spec("segmentation", segmentation.segformer, _BY_3_34, full_lr=3e-4),
    "resnet-classifier": Spec("classification", classification.resnet_classifier, _BY_1_875),
    "reconstruction": _reconstruction(_BY_1_875),
    "reconstruction-1.5": _reconstruction(_sizes((24, 16), (75, 50), (300, 200))),
    "reconstruction-2.5": _reconstruction(_sizes((25, 10), (75, 30), (300, 120))),
    "reconstruction-3.3": _reconstruction(_sizes((43, 13), (76, 23), (304, 92))),
}
"""Pipelines by name. At "full" sizes are those of the method's poster; at other widths they have the same ratios.

Those whose names end in a scale are not the poster's.
"""
