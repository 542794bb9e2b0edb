"""What is trained: profiles by machine, and the runs of each in the order of their importance."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tritonds import methods

from . import downsizers
from .pipelines import PIPELINES, Width

SHIPPED = methods.SHIPPED
"""Methods: the weights that tritonds ships, not trained further; and the architecture of each."""

RECONSTRUCTED = (
    *(name for name in downsizers.FIXED if name != "nearest"),
    *("distance-only-k8-bicubic", "downsizenet-k8-bicubic"),
)
"""What photographs are reconstructed behind: kernels that are fixed, and layers that learn how much to sharpen."""


RECONSTRUCTION_SEEDS = 3
"""At most: a reconstruction hardly differs between seeds."""


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
    "cpu": Profile("small", steps=1000, batch=16, train=3000, test=300, seeds=5),
    "gpu": Profile("full", steps=400, batch=16, train=400, test=100, seeds=5),
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


def runs(profile: Profile, pipelines: Sequence[str], methods: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """Every run of a profile in these pipelines, or those of the methods and seeds given.

    One seed comes after the other, so that what is cut short has told most.

    Raises:
        ValueError: no run is of all that was given.
    """
    every = _all(profile, list(dict.fromkeys(seeds)))
    chosen = [run for run in every if run.pipeline in pipelines and (not methods or run.method in methods)]
    if not chosen:
        raise ValueError(f"methods: expected some that are trained in {', '.join(pipelines)}, got {', '.join(methods)}")
    return chosen


def _all(profile: Profile, seeds: Sequence[int]) -> Iterator[Run]:
    for seed, pipeline in itertools.product(seeds or range(profile.seeds), PIPELINES):
        if seeds or PIPELINES[pipeline].task != "reconstruction" or seed < RECONSTRUCTION_SEEDS:
            yield from (Run(pipeline, method, seed) for method in methods_of(pipeline))


def methods_of(pipeline: str) -> tuple[str, ...]:
    """What is compared in a pipeline."""
    if PIPELINES[pipeline].task != "reconstruction":
        return METHODS
    return (*RECONSTRUCTED, *SHIPPED) if pipeline == "reconstruction" else RECONSTRUCTED


METHODS = (*downsizers.NAMES, *SHIPPED)


def settings(profile: Profile) -> dict[str, object]:
    """What results depend on; results under other settings do not compare."""
    return {name: value for name, value in dataclasses.asdict(profile).items() if name not in ("seeds", "checkpoint_s")}
