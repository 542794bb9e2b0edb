"""Scores of the runs: means, paired differences with their confidence, and the tables of them."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy import stats

from . import downsizers
from .metrics import HEADLINE, SECONDARY
from .pipelines import PIPELINES, Task
from .plan import METHODS, RECONSTRUCTED, SHIPPED
from .train import Row

CONFIDENCE = 0.95
SCALES = {
    name: spec.sizes["small"].source[0] / spec.sizes["small"].network[0]
    for name, spec in PIPELINES.items()
    if spec.task == "reconstruction"
}
"""Source over network size of each reconstruction."""
RECONSTRUCTIONS = tuple(sorted(SCALES, key=SCALES.__getitem__))
MAIN = tuple(name for name in PIPELINES if name not in RECONSTRUCTIONS or name == "reconstruction")
"""The pipelines of the main tables."""
PEERS = ("bilinear", "bilinear-aa")
"""What every method is compared with: what most use, and what reads all pixels."""
SAY = (("downsizenet-k4", "distance-only-k4"), ("downsizenet-k8-bicubic", "distance-only-k8-bicubic"))
"""With texture, and without: the difference is the image's say in the coefficients."""
SHARPENING = tuple(name for name in downsizers.LEARNED if name.endswith(("bicubic", "lanczos")))
CONVEX = "downsizenet-k4"
Scores = Mapping[tuple[str, str], Mapping[int, float]]
"""A metric by seed, of a pipeline and method."""


class Difference(NamedTuple):
    """The mean of paired differences, and half the width of its confidence interval; nan of less than two pairs.

    Both are nan where one of the differences is not finite.
    """

    mean: float
    half: float
    seeds: int

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "nan"
        interval = "" if math.isnan(self.half) else f" ± {self.half:.2f}"
        mark = "**" if self.half < abs(self.mean) else ""
        return f"{mark}{self.mean:+.2f}{interval}{mark}"


def scores(rows: Iterable[Row], metrics: Mapping[Task, str] = HEADLINE) -> Scores:
    """One metric of every run, by the task of its pipeline."""
    result: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        value = row["metrics"][metrics[PIPELINES[row["pipeline"]].task]]
        result.setdefault((row["pipeline"], row["method"]), {})[row["seed"]] = value
    return result


def interval(values: Sequence[float]) -> Difference:
    """Mean and 95 % confidence, by Student's t: as if seeds were draws from a normal distribution."""
    count = len(values)
    if not values or not all(map(math.isfinite, values)):
        return Difference(math.nan, math.nan, count)
    if count == 1:
        return Difference(values[0], math.nan, count)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return Difference(statistics.fmean(values), half, count)


def difference(found: Scores, pipeline: str, method: str, peer: str) -> Difference:
    """The difference of two methods in one pipeline, seed by seed."""
    a, b = found.get((pipeline, method), {}), found.get((pipeline, peer), {})
    return interval([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])


def mean_difference(found: Scores, method: str, peers: Mapping[str, str]) -> Difference:
    """The difference of a method to its peer in each pipeline, in the mean of these, for the seeds that all of them have."""
    pairs = [(found[name, method], found[name, peer]) for name, peer in peers.items()]
    seeds = set.intersection(*(a.keys() & b.keys() for a, b in pairs)) if pairs else set()
    return interval([statistics.fmean(a[seed] - b[seed] for a, b in pairs) for seed in sorted(seeds)])


def tables(result: dict[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Header and lines of each table, by title; of those that have a line."""
    found = scores(result["rows"])
    usual = usual_seeds(found)
    of_seeds = f"; in brackets, how many seeds where it is not {usual}"
    paired = f"mean ± half of the 95 % interval over seeds; bold where it excludes zero{of_seeds}"
    table = Differences(found, usual)
    every = {
        f"Mean ± standard deviation over seeds{of_seeds}": means(found, MAIN, METHODS),
        **{
            f"Less {peer}, {paired}": table.of([(method, method, peer) for method in METHODS if method != peer])
            for peer in PEERS
        },
        f"The image's say: with texture less without, {paired}": table.of([(f"{a} - {b}", a, b) for a, b in SAY]),
        f"Sharpening that is learned less none, and less the best that is fixed, {paired}": table.of(
            [(f"{method} - {peer}", method, peer) for method, peer in itertools.product(SHARPENING, (CONVEX, BEST))]
        ),
        f"Photographs by scale, PSNR, mean ± standard deviation over seeds{of_seeds}": _by_scale(found),
        f"Photographs by scale: learned less the best that is fixed, with texture less without, {paired}": table.of(
            [
                *((f"{method} - {BEST}", method, BEST) for method in RECONSTRUCTED if method in SHARPENING),
                (f"{SAY[1][0]} - {SAY[1][1]}", *SAY[1]),
            ],
            RECONSTRUCTIONS,
            _scales(),
        ),
    }
    return {title: table for title, table in every.items() if table[1]}


BEST = "the best that is fixed"
"""Of all that learns nothing, the method with the highest mean in a pipeline, over the seeds of what it is compared with."""


def best_fixed(found: Scores, pipeline: str, method: str) -> str:
    """:data:`BEST` of those that have most of the method's seeds; empty if there is none."""
    own = found.get((pipeline, method), {}).keys()
    rivals = {name: [v for seed, v in found.get((pipeline, name), {}).items() if seed in own] for name in downsizers.FIXED}
    most = max(map(len, rivals.values()))
    means = {name: statistics.fmean(values) for name, values in rivals.items() if values and len(values) == most}
    return max(means, key=means.__getitem__, default="")


@dataclass(frozen=True)
class Differences:
    """Tables of paired differences: a line for each pair of methods, a column for each pipeline."""

    found: Scores
    usual: int
    """How many seeds cells do not mention."""

    def of(
        self, pairs: Sequence[tuple[str, str, str]], pipelines: Sequence[str] = MAIN, titles: Sequence[str] = ()
    ) -> tuple[list[str], list[list[str]]]:
        """Of (name of the line, method, peer), in pipelines that have results; and their mean where these are networks."""
        measured = {name for name, _ in self.found}
        titles = [title for name, title in zip(pipelines, titles, strict=False) if name in measured]
        pipelines = [name for name in pipelines if name in measured]
        lines = []
        for name, method, peer in pairs:
            cells = [self.cell(pipeline, method, peer) for pipeline in pipelines]
            if any(cells):
                lines.append([name, *cells, *([] if titles else [self.over_networks(method, peer)])])
        return ["", *(titles or [*pipelines, "mean of networks"])], lines

    def cell(self, pipeline: str, method: str, peer: str) -> str:
        rival = best_fixed(self.found, pipeline, method) if peer == BEST else peer
        value = difference(self.found, pipeline, method, rival)
        named = f", {rival}" if peer == BEST else ""
        return f"{value}{named}{_count(value.seeds, self.usual)}" if value.seeds else ""

    def over_networks(self, method: str, peer: str) -> str:
        """Over all networks but reconstructions, in points alike; of two at least, and only where all of them have both."""
        networks = [name for name in MAIN if PIPELINES[name].task != "reconstruction"]
        rivals = {name: best_fixed(self.found, name, method) if peer == BEST else peer for name in networks}
        shared = [name for name in networks if (name, method) in self.found and (name, rivals[name]) in self.found]
        measured = {name for name, _ in self.found} & set(networks)
        if len(shared) < max(2, len(measured)):
            return ""
        value = mean_difference(self.found, method, {name: rivals[name] for name in shared})
        return f"{value}{_count(value.seeds, self.usual)}" if value.seeds else ""


def usual_seeds(found: Scores) -> int:
    """How many seeds most of the cells have."""
    return statistics.mode(sorted(len(values) for values in found.values())) if found else 0


def means(
    found: Scores, pipelines: Sequence[str], methods: Sequence[str], metrics: Mapping[Task, str] = HEADLINE
) -> tuple[list[str], list[list[str]]]:
    present = [name for name in pipelines if any(key[0] == name for key in found)]
    usual = usual_seeds(found)
    lines = []
    for method in methods:
        cells = [
            mean(found.get((name, method), {}), usual, 4 if metrics[PIPELINES[name].task] == "SSIM" else 2) for name in present
        ]
        if any(cells):
            lines.append([method, *cells])
    return ["", *(f"{name}, {metrics[PIPELINES[name].task]}" for name in present)], lines


def _by_scale(found: Scores) -> tuple[list[str], list[list[str]]]:
    usual, lines = usual_seeds(found), []
    for method in RECONSTRUCTED:
        cells = [mean(found.get((pipeline, method), {}), usual) for pipeline in RECONSTRUCTIONS]
        if any(cells):
            lines.append([method, *cells])
    return ["", *_scales()], lines


def _scales() -> list[str]:
    return [f"{SCALES[name]:.4g}" for name in RECONSTRUCTIONS]


def mean(values: Mapping[int, float], usual: int, digits: int = 2) -> str:
    if not values:
        return ""
    spread = ""
    if len(values) > 1 and all(map(math.isfinite, values.values())):
        spread = f" ± {statistics.stdev(values.values()):.{digits}f}"
    return f"{statistics.fmean(values.values()):.{digits}f}{spread}{_count(len(values), usual)}"


def _count(seeds: int, usual: int) -> str:
    return "" if seeds == usual else f" ({seeds})"


def other_metrics(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Means of the metrics that :func:`tables` leaves out."""
    return means(scores(result["rows"], SECONDARY), MAIN, METHODS, SECONDARY)


def shipped(found: Scores) -> tuple[list[str], list[list[str]]]:
    """The shipped weights, not trained further, in front of networks trained anew."""
    lines = []
    table = Differences(found, usual_seeds(found))
    for pipeline, method in itertools.product(MAIN, SHIPPED):
        if (pipeline, method) in found:
            name = f"{pipeline}, {HEADLINE[PIPELINES[pipeline].task]}"
            cells = [table.cell(pipeline, method, peer) for peer in (*PEERS, BEST)]
            lines.append([name, method, mean(found[pipeline, method], table.usual), *cells])
    return ["pipeline", "weights", "mean over seeds", *(f"- {peer}" for peer in (*PEERS, BEST))], lines
