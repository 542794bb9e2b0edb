"""What is trained: profiles by machine, and the runs of each in the order of their importance."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tritonds import methods

from . import downsizers
from .pipelines import PIPELINES, Width

FROZEN = "frozen:"
"""A method's name: DownsizeNet as it was trained in the pipeline named after this, and not trained further."""
FROZEN_METHOD = "downsizenet-k2"
FROZEN_FROM = ("segformer", "resnet-dense", "reconstruction")
FROZEN_IN = "mobilenetv2-deeplabv3plus"
"""The pipelines of the generalisation table, and the one that none of their downsizers has seen; the poster has DeepLabv3+."""

SHIPPED = methods.SHIPPED
"""Methods: the weights that tritonds ships, not trained further; and the architecture of each."""
SHIPPED_IN = ("reconstruction", "mobilenetv2-deeplabv3plus", "rtdetr")
"""The last two were not among the networks that they were trained in front of."""

VARIANTS_IN = ("segformer", "reconstruction")
"""Pipelines in which methods outside the main table are trained: one of scenes, one of photographs."""


SHARPENING_IN = ("reconstruction-1.5", "reconstruction", "reconstruction-2.5", "reconstruction-3.3")
SHARPENING = (
    *("bilinear", "bilinear-aa", "area", "bicubic-aa", *downsizers.SHARPENING),
    *("distance-only-k8-bicubic", "downsizenet-k8-bicubic"),
)
"""Fixed kernels that sharpen, against layers that learn how much to, by scale."""

MAIN = tuple(name for name in PIPELINES if name not in SHARPENING_IN or name == "reconstruction")
"""The pipelines of the main tables."""


@dataclass(frozen=True)
class Profile:
    """How long to train on how much, for one kind of machine."""

    width: Width
    """The networks' width, which also decides the sizes of images: see ``PIPELINES`` in pipelines."""
    steps: int
    batch: int
    train: int
    """Images to train on; as many for all methods and seeds, other scenes for each seed."""
    test: int
    seeds: int
    downsizer_lr: float = 5e-3
    warmup: float = 0.05
    """Share of the steps over which the learning rates rise; they fall to 0 as a cosine after that."""
    checkpoint_s: float = 30
    """Seconds after which a run is saved, to be resumed from there."""


PROFILES = {
    "tiny": Profile("tiny", steps=3, batch=2, train=8, test=4, seeds=1),
    "cpu": Profile("small", steps=1000, batch=16, train=3000, test=300, seeds=3),
    "gpu": Profile("full", steps=400, batch=16, train=400, test=100, seeds=3),
}
"""Profiles by name: for the tests; for a night on a few cores; for 25 minutes, by estimate, of a GPU beside 16 cores."""


@dataclass(frozen=True)
class Run:
    """One network trained behind one downsizer, from one seed."""

    pipeline: str
    method: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.pipeline}/{self.method}/{self.seed}"


def source(run: Run) -> Run | None:
    """The run whose downsizer this one takes frozen, if it does."""
    name = run.method.removeprefix(FROZEN)
    return None if name == run.method else Run(name, FROZEN_METHOD, run.seed)


def runs(profile: Profile, pipelines: Sequence[str], methods: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """Every run of a profile in these pipelines, or those of the methods and seeds given.

    The headline's methods come first, in all pipelines, one seed after the other, so that what is cut short has told most.

    Raises:
        ValueError: no run is of all that was given.
    """
    every = _all(list(dict.fromkeys(seeds)) or range(profile.seeds))
    chosen = [run for run in every if run.pipeline in pipelines and (not methods or run.method in methods)]
    if not chosen:
        raise ValueError(f"methods: expected some that are trained in {', '.join(pipelines)}, got {', '.join(methods)}")
    return chosen


def _all(seeds: Sequence[int]) -> Iterator[Run]:
    for seed, pipeline, method in itertools.product(seeds, MAIN, downsizers.CORE):
        yield Run(pipeline, method, seed)
    for seed, source in itertools.product(seeds, FROZEN_FROM):
        yield Run(FROZEN_IN, FROZEN + source, seed)
    for seed, pipeline, method in itertools.product(seeds, SHIPPED_IN, SHIPPED):
        yield Run(pipeline, method, seed)
    done = {(pipeline, method) for pipeline in MAIN for method in downsizers.CORE}
    for seed, pipeline, method in itertools.product(seeds, SHARPENING_IN, SHARPENING):
        if (pipeline, method) not in done:
            yield Run(pipeline, method, seed)
    rest = [name for name in downsizers.LEARNED if name not in downsizers.CORE]
    for seed, pipeline, method in itertools.product(seeds, VARIANTS_IN, rest):
        if pipeline not in SHARPENING_IN or method not in SHARPENING:
            yield Run(pipeline, method, seed)


METHODS = (*downsizers.NAMES, *(FROZEN + source for source in FROZEN_FROM), *SHIPPED)


def settings(profile: Profile) -> dict[str, object]:
    """What results depend on; results under other settings do not compare."""
    return {name: value for name, value in dataclasses.asdict(profile).items() if name not in ("seeds", "checkpoint_s")}
