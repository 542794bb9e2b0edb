"""Results of the runs: means, paired differences with their confidence, tables and plots."""

import itertools
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy import stats

from bench.report import markdown, with_section

from . import data, downsizers, learned, runner, timing
from .metrics import HEADLINE, SECONDARY
from .pipelines import PIPELINES, Task
from .plan import (
    FROZEN,
    FROZEN_FROM,
    FROZEN_IN,
    FROZEN_METHOD,
    MAIN,
    PROFILES,
    SHARPENING,
    SHARPENING_IN,
    SHIPPED,
    SHIPPED_IN,
    VARIANTS_IN,
)
from .train import Row

CONFIDENCE = 0.95
PAIRS = (
    ("downsizenet-k2", "bilinear"),
    ("downsizenet-k2", "nearest"),
    ("downsizenet-k2", "area"),
    ("downsizenet-k2", "texture-only-k2-plain"),
    ("downsizenet-k2", "distance-only-k2"),
    ("downsizenet-k2", "bilinear-aa"),
    ("downsizenet-k4", "bilinear-aa"),
    ("downsizenet-k4", "bicubic-aa"),
    ("downsizenet-k4", "bilinear"),
)
"""Differences of the main table: the first less the second."""
SEEDS = PROFILES["cpu"].seeds
"""As many as a profile has: tables say it where there are others."""
COUNTS = f"; in brackets, how many seeds where it is not {SEEDS}"
NOT_MEASURED = "not measured yet: `python -m bench accuracy` fills this table."
SIDES = {"time": timing, "learned": learned}
"""What else a folder of results may hold, each under the name of its command and its file."""

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


def read(path: pathlib.Path) -> dict[str, Any]:
    """A result file, without the rows of networks that have left the study.

    Raises:
        ValueError: it is of another version of the format, or damaged.
    """
    result = runner.read(path)
    return result | {"rows": [row for row in result["rows"] if row["pipeline"] in PIPELINES]}


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


def mean_difference(found: Scores, method: str, peer: str, pipelines: Iterable[str]) -> Difference:
    """The difference of two methods in the mean of the pipelines that have both, for the seeds that all of them have."""
    pairs = [(found[name, method], found[name, peer]) for name in _shared(found, method, peer, pipelines)]
    seeds = set.intersection(*(a.keys() & b.keys() for a, b in pairs)) if pairs else set()
    return interval([statistics.fmean(a[seed] - b[seed] for a, b in pairs) for seed in sorted(seeds)])


def _shared(found: Scores, method: str, peer: str, pipelines: Iterable[str]) -> list[str]:
    return [name for name in pipelines if (name, method) in found and (name, peer) in found]


def tables(result: dict[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Header and lines of each table, by title; of those that have a line."""
    found = scores(result["rows"])
    every = {
        f"Mean ± standard deviation over seeds{COUNTS}": _means(found, downsizers.CORE),
        f"Paired differences, mean ± half of the 95 % interval over seeds; bold where it excludes zero{COUNTS}": _differences(
            found
        ),
        f"Every method, differences to bilinear and to bilinear-aa{COUNTS}": _variants(found),
        f"Sharpening: reconstruction at four scales, PSNR, mean ± standard deviation over seeds{COUNTS}": _sharpening(found),
        f"Sharpening: learned less the best of what is fixed, at each scale, and with texture less without{COUNTS}": (
            _sharpening_differences(found)
        ),
        f"Generalisation: trained in one pipeline, frozen, in front of a new {FROZEN_IN}{COUNTS}": _generalisation(found),
    }
    return {title: table for title, table in every.items() if table[1]}


def _means(found: Scores, methods: Sequence[str], metrics: Mapping[Task, str] = HEADLINE) -> tuple[list[str], list[list[str]]]:
    present, lines = [method for method in methods if any(key[1] == method for key in found)], []
    for pipeline in MAIN:
        name = metrics[PIPELINES[pipeline].task]
        cells = [_mean(found.get((pipeline, method), {}), 4 if name == "SSIM" else 2) for method in present]
        if any(cells):
            lines.append([f"{pipeline}, {name}", *cells])
    return ["pipeline", *present], lines


def _mean(values: Mapping[int, float], digits: int = 2) -> str:
    if not values:
        return ""
    spread = ""
    if len(values) > 1 and all(map(math.isfinite, values.values())):
        spread = f" ± {statistics.stdev(values.values()):.{digits}f}"
    return f"{statistics.fmean(values.values()):.{digits}f}{spread}{_count(len(values))}"


def _differences(found: Scores) -> tuple[list[str], list[list[str]]]:
    lines = []
    for pipeline in MAIN:
        cells = [difference(found, pipeline, *pair) for pair in PAIRS]
        if any(cell.seeds for cell in cells):
            lines.append([pipeline, *(_cell(cell) for cell in cells)])
    mean = _mean_line(found, [line[0] for line in lines])
    if mean:
        lines.append(mean)
    return ["pipeline", *(f"{method} - {peer}" for method, peer in PAIRS)], lines


def _variants(found: Scores) -> tuple[list[str], list[list[str]]]:
    columns = list(itertools.product(VARIANTS_IN, ("bilinear", "bilinear-aa")))
    lines = []
    for method in downsizers.NAMES:
        cells = [_cell(difference(found, pipeline, method, peer)) for pipeline, peer in columns]
        if any(cells):
            lines.append([method, *cells])
    return ["method", *(f"{pipeline} - {peer}" for pipeline, peer in columns)], lines


def _scales() -> list[str]:
    """Source over network size of each pipeline of the comparison of kernels that sharpen."""
    sizes = [PIPELINES[name].sizes["small"] for name in SHARPENING_IN]
    return [f"{size.source[0] / size.network[0]:.4g}" for size in sizes]


def _sharpening(found: Scores) -> tuple[list[str], list[list[str]]]:
    lines = []
    for method in SHARPENING:
        cells = [_mean(found.get((pipeline, method), {})) for pipeline in SHARPENING_IN]
        if any(cells):
            lines.append([method, *cells])
    return ["scale", *_scales()], lines


def _sharpening_differences(found: Scores) -> tuple[list[str], list[list[str]]]:
    """The best of the fixed methods is that with the highest mean, of those with as many seeds as any."""
    *fixed, lite, full = SHARPENING
    lines: list[list[str]] = []
    for method in (lite, full):
        cells = []
        for pipeline in SHARPENING_IN:
            rivals = {name: values for name in fixed if (values := found.get((pipeline, name)))}
            most = max(map(len, rivals.values()), default=0)
            means = {name: statistics.fmean(values.values()) for name, values in rivals.items() if len(values) == most}
            best = max(means, key=means.__getitem__, default="")
            cell = _cell(difference(found, pipeline, method, best))
            cells.append(cell and f"{cell}, {best}")
        lines.append([f"{method} - best", *cells])
    lines.append([f"{full} - {lite}", *(_cell(difference(found, pipeline, full, lite)) for pipeline in SHARPENING_IN)])
    return ["scale", *_scales()], [line for line in lines if any(line[1:])]


def _generalisation(found: Scores) -> tuple[list[str], list[list[str]]]:
    lines = []
    for source in FROZEN_FROM:
        cell = difference(found, FROZEN_IN, FROZEN + source, "bilinear")
        if cell.seeds:
            lines.append([source, _mean(found[FROZEN_IN, FROZEN + source]), _cell(cell)])
    if lines:
        for method in ("bilinear", FROZEN_METHOD):
            own = difference(found, FROZEN_IN, method, "bilinear")
            name = "bilinear" if method == "bilinear" else "trained here, not frozen"
            lines.append([name, _mean(found.get((FROZEN_IN, method), {})), "" if method == "bilinear" else _cell(own)])
    return [f"{FROZEN_METHOD} from", HEADLINE[PIPELINES[FROZEN_IN].task], "- its bilinear"], lines


def _cell(value: Difference) -> str:
    return f"{value}{_count(value.seeds)}" if value.seeds else ""


def _mean_line(found: Scores, present: Sequence[str]) -> list[str] | None:
    """None of less than two networks. A cell that is the mean of fewer networks than others says so."""
    averaged = [name for name in present if PIPELINES[name].task != "reconstruction"]
    counts = [len(_shared(found, *pair, averaged)) for pair in PAIRS]
    most = max(counts)
    if most < 2:
        return None
    cells = [_cell(mean_difference(found, *pair, averaged)) for pair in PAIRS]
    cells = [cell if not cell or count == most else f"{cell}, of {count}" for cell, count in zip(cells, counts, strict=True)]
    others = [name for name in present if name not in averaged]
    return [f"mean of {most}" + (f", without {', '.join(others)}" if others else ""), *cells]


def _count(seeds: int) -> str:
    return "" if seeds == SEEDS else f" ({seeds})"


def rich_tables(result: dict[str, Any]) -> list[Table]:
    """Every table, for the terminal, and one of the metrics that :func:`tables` leaves out."""
    every = tables(result)
    others = _means(scores(result["rows"], SECONDARY), downsizers.CORE, SECONDARY)
    if others[1]:
        every[f"Other metrics, mean ± standard deviation over seeds{COUNTS}"] = others
    return [rich_table(title, header, lines) for title, (header, lines) in every.items()]


def rich_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """A table for the terminal."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    for line in lines:
        table.add_row(*(cell.replace("**", "") for cell in line))
    return table


def readme(document: str, results: pathlib.Path) -> str:
    """The text of a README with its sections ``accuracy``, ``time`` and ``learned``, each ``:cpu`` and ``:gpu``, written anew.

    Raises:
        ValueError: a section is missing; results of other data than the scenes that the text around them is about.
    """
    for profile in ("cpu", "gpu"):
        path = results / profile / "results.json"
        document = with_section(document, f"accuracy:{profile}", _section(_read(path)) if _has_rows(path) else NOT_MEASURED)
        for name, module in SIDES.items():
            path = results / profile / f"{name}.json"
            text = f"not measured yet: `python -m bench accuracy {name}` fills this table."
            if path.exists():
                result = json.loads(path.read_text())
                text = f"{markdown(*module.lines(result))}\n\n{module.origin(result)}"
            document = with_section(document, f"{name}:{profile}", text)
    return document


def with_model_card(document: str, results: pathlib.Path) -> str:
    """The text of the model card with its section ``accuracy:shipped`` written anew.

    Raises:
        ValueError: the section is missing; results of other data than scenes.
    """
    path = results / "cpu" / "results.json"
    result = _read(path) if _has_rows(path) else None
    header, lines = _shipped(scores(result["rows"] if result else []))
    text = f"{markdown(header, lines)}\n\n{origin(result)}" if result and lines else NOT_MEASURED
    return with_section(document, "accuracy:shipped", text)


def _has_rows(path: pathlib.Path) -> bool:
    """Whether a run has ended: the file is there before the first does."""
    return path.exists() and bool(read(path)["rows"])


def _read(path: pathlib.Path) -> dict[str, Any]:
    result = read(path)
    if result["data"] != data.SCENES:
        raise ValueError(f"{path}: expected results of {data.SCENES}, got {result['data']!r}")
    return result


def _section(result: dict[str, Any]) -> str:
    parts = [f"{title}:\n\n{markdown(header, lines)}" for title, (header, lines) in tables(result).items()]
    return "\n\n".join([*parts, origin(result)])


def _shipped(found: Scores) -> tuple[list[str], list[list[str]]]:
    """The shipped weights, frozen, in front of networks trained anew, against the interpolation that each has as its prior."""
    lines = []
    for pipeline, method in itertools.product(SHIPPED_IN, SHIPPED):
        cells = [difference(found, pipeline, method, peer) for peer in ("bilinear", "bilinear-aa")]
        if any(cell.seeds for cell in cells):
            name = f"{pipeline}, {HEADLINE[PIPELINES[pipeline].task]}"
            lines.append([name, method, _mean(found[pipeline, method]), *map(_cell, cells)])
    return ["pipeline", "weights", "mean over seeds", "- bilinear", "- bilinear-aa"], lines


def origin(result: dict[str, Any]) -> str:
    """Data, machine, versions, settings, dates and command, in one line."""
    machine, settings, rows = result["machine"], result["settings"], result["rows"]
    dates = sorted({row["date"][:10] for row in rows})
    commits = sorted({row["commit"] or "unknown" for row in rows})
    what = result["data"]
    if what == data.SCENES:  # of other data, all images are taken
        what += f", version {result['scenes']}, {settings['train']} images to train, {settings['test']} to test"
    times = {name: PIPELINES[name].longer for name in MAIN}
    longer = "".join(f", {name} {n * settings['steps']}" for name, n in times.items() if n > 1)
    length = f"{what}; {settings['steps']} steps of {settings['batch']}{longer}"
    devices = sorted({row.get("device", machine["device"]) for row in rows})
    where = f"{' and '.join(devices)}, threads of a run: {machine['threads']}, PyTorch {machine['torch']}"
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return f"{length}; {where}; commit {', '.join(commits)}; {when}; `python -m bench accuracy`."


def plot(result: dict[str, Any], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw the paired differences of every pipeline, and the loss curves."""
    folder.mkdir(parents=True, exist_ok=True)
    found = scores(result["rows"])
    pictures = {"differences": _draw_differences(found), "losses": _draw_losses(result["rows"])}
    paths = []
    for name, figure in pictures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _draw_differences(found: Scores) -> Figure:
    """One panel for each peer: how much better DownsizeNet is than it, in each pipeline, with the 95 % interval."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    peers = (("downsizenet-k2", "bilinear"), ("downsizenet-k2", "nearest"), ("downsizenet-k4", "bilinear-aa"))
    drawn = [name for name in MAIN if any(difference(found, name, *pair).seeds for pair in peers)]
    for axis, (method, peer) in zip(figure.subplots(1, len(peers), sharey=True), peers, strict=True):
        for row, pipeline in enumerate(drawn):
            value = difference(found, pipeline, method, peer)
            if math.isnan(value.half):
                axis.plot(value.mean, row, marker="o", fillstyle="none", color="tab:blue")
            else:
                axis.errorbar(value.mean, row, xerr=value.half, marker="o", capsize=3, color="tab:blue")
        axis.axvline(0, color="grey", linewidth=1)
        axis.set_yticks(range(len(drawn)), labels=[f"{name}, {HEADLINE[PIPELINES[name].task]}" for name in drawn])
        axis.set_title(f"{method} - {peer}", fontsize="medium")
        axis.grid(axis="x", alpha=0.3)
    figure.supxlabel("95 % interval over seeds; hollow: one seed", fontsize="medium")
    return figure


def _draw_losses(rows: Sequence[Row]) -> Figure:
    """The first seed's curve of every method of the main table, a panel a pipeline."""
    curves: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["seed"] == 0 and row["method"] in downsizers.CORE:
            curves.setdefault(row["pipeline"], {})[row["method"]] = row["losses"]
    drawn = [name for name in MAIN if name in curves]
    height, width = max(1, -(-len(drawn) // 3)), 3
    figure = Figure(figsize=(4 * width, 3 * height), layout="constrained")
    handles = {}
    for index, pipeline in enumerate(drawn):
        axis = figure.add_subplot(height, width, index + 1)
        for method, losses in curves[pipeline].items():
            (handles[method],) = axis.plot(losses, label=method, color=f"C{downsizers.CORE.index(method)}", linewidth=1)
        axis.set_title(pipeline, fontsize="medium")
        axis.set_yscale("log")
    figure.supxlabel("percent of the steps")
    figure.supylabel("training loss")
    labels = [method for method in downsizers.CORE if method in handles]
    figure.legend([handles[method] for method in labels], labels, loc="outside right upper")
    return figure
