"""Results of the runs in the terminal, in documents, and as plots."""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.report import markdown, with_section

from . import data, learned, pretrained, runner, timing
from .metrics import HEADLINE
from .pipelines import PIPELINES
from .plan import METHODS
from .scores import MAIN, PEERS, Scores, difference, other_metrics, scores, shipped, tables
from .train import Row

NOT_MEASURED = "not measured yet: `python -m bench accuracy` fills this table."
FOLDERS = {"natural-cpu": "natural", "natural-gpu": "natural", "cpu": data.SCENES, "gpu": data.SCENES}
"""Folders of committed results, and the data of each."""
SIDES: dict[str, tuple[Any, str]] = {
    "time": (timing, data.SCENES),
    "learned": (learned, ""),
    "pretrained": (pretrained, "natural"),
}
"""What else a folder of results may hold, under the name of its command and its file; and of which data alone."""


def read(path: pathlib.Path) -> dict[str, Any]:
    """A result file, without the rows of networks and methods that have left the study.

    Raises:
        ValueError: it is of another version of the format, or damaged.
    """
    result = runner.read(path)
    return result | {"rows": [row for row in result["rows"] if row["pipeline"] in PIPELINES and row["method"] in METHODS]}


def rich_tables(result: dict[str, Any]) -> list[Table]:
    """Every table, for the terminal, and one of the metrics that :func:`tables` leaves out."""
    every = tables(result)
    others = other_metrics(result)
    if others[1]:
        every["Other metrics, mean ± standard deviation over seeds"] = others
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
    """The text of a document with its sections ``accuracy``, ``time`` and ``learned`` of each folder of results written anew.

    Raises:
        ValueError: a section is missing; results of other data than the text around them is about.
    """
    for folder, name in FOLDERS.items():
        path = results / folder / "results.json"
        document = with_section(
            document, f"accuracy:{folder}", _section(_read(path, name)) if _has_rows(path) else NOT_MEASURED
        )
        for side, (module, only) in SIDES.items():
            if only not in ("", name):
                continue
            path = results / folder / f"{side}.json"
            text = f"not measured yet: `python -m bench accuracy {side}` fills this table."
            if path.exists():
                result = json.loads(path.read_text())
                text = f"{markdown(*module.lines(result))}\n\n{module.origin(result)}"
            document = with_section(document, f"{side}:{folder}", text)
    return document


def with_model_card(document: str, results: pathlib.Path) -> str:
    """The text of the model card with its section ``accuracy:shipped`` written anew, of what was done on a CPU.

    Raises:
        ValueError: the section is missing; results of other data than their folder's name says.
    """
    parts = []
    for folder, name in FOLDERS.items():
        path = results / folder / "results.json"
        if folder.endswith("cpu") and _has_rows(path):
            result = _read(path, name)
            header, lines = shipped(scores(result["rows"]))
            parts += [markdown(header, lines), origin(result)] if lines else []
    return with_section(document, "accuracy:shipped", "\n\n".join(parts) or NOT_MEASURED)


def _has_rows(path: pathlib.Path) -> bool:
    """Whether a run has ended: the file is there before the first does."""
    return path.exists() and bool(read(path)["rows"])


def _read(path: pathlib.Path, name: str) -> dict[str, Any]:
    result = read(path)
    if result["data"] != name:
        raise ValueError(f"{path}: expected results of {name}, got {result['data']!r}")
    return result


def _section(result: dict[str, Any]) -> str:
    parts = [f"{title}:\n\n{markdown(header, lines)}" for title, (header, lines) in tables(result).items()]
    return "\n\n".join([*parts, origin(result)])


def origin(result: dict[str, Any]) -> str:
    """Data, machine, versions, settings, dates and command, in one line."""
    machine, settings, rows = result["machine"], result["settings"], result["rows"]
    dates = sorted({row["date"][:10] for row in rows})
    commits = sorted({row["commit"] or "unknown" for row in rows})
    what = result["data"]
    if what == data.SCENES:
        what += f", version {result['scenes']}, {settings['train']} images to train, {settings['test']} to test"
    elif what == data.NATURAL:  # of other data, all images are taken
        tested = data.NATURAL_TEST * settings["test"]
        what += f", version {result['natural']}, {settings['train']} images to train, {tested} to test"
    trained = {row["pipeline"] for row in rows}
    times = {name: PIPELINES[name].longer for name in MAIN if name in trained}
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
    """One panel for each peer: how much better some methods are than it, in each pipeline, with the 95 % interval."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    drawn = [name for name in MAIN if any(difference(found, name, method, PEERS[0]).seeds for method in DRAWN)]
    for axis, peer in zip(figure.subplots(1, len(PEERS), sharey=True), PEERS, strict=True):
        for number, method in enumerate(DRAWN):
            for row, pipeline in enumerate(drawn):
                value = difference(found, pipeline, method, peer)
                place = row + (number + 1) / (len(DRAWN) + 1) - 0.5
                half = 0 if math.isnan(value.half) else value.half
                label = method if row == 0 else None
                axis.errorbar(value.mean, place, xerr=half, marker="o", capsize=3, color=f"C{number}", label=label)
        axis.axvline(0, color="grey", linewidth=1)
        axis.set_yticks(range(len(drawn)), labels=[f"{name}, {HEADLINE[PIPELINES[name].task]}" for name in drawn])
        axis.set_title(f"less {peer}", fontsize="medium")
        axis.grid(axis="x", alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper")
    figure.supxlabel("95 % interval over seeds; without bars: one seed", fontsize="medium")
    return figure


CURVES = (*PEERS, "lanczos", "downsizenet-k2", "downsizenet-k4", "downsizenet-k8-bicubic")
DRAWN = ("downsizenet-k2", "downsizenet-k4", "distance-only-k8-bicubic", "downsizenet-k8-bicubic")


def _draw_losses(rows: Sequence[Row]) -> Figure:
    """The first seed's curves of some methods, a panel a pipeline."""
    curves: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["seed"] == 0 and row["method"] in CURVES:
            curves.setdefault(row["pipeline"], {})[row["method"]] = row["losses"]
    drawn = [name for name in MAIN if name in curves]
    height, width = max(1, -(-len(drawn) // 3)), 3
    figure = Figure(figsize=(4 * width, 3 * height), layout="constrained")
    handles = {}
    for index, pipeline in enumerate(drawn):
        axis = figure.add_subplot(height, width, index + 1)
        for method, losses in curves[pipeline].items():
            (handles[method],) = axis.plot(losses, label=method, color=f"C{CURVES.index(method)}", linewidth=1)
        axis.set_title(pipeline, fontsize="medium")
        axis.set_yscale("log")
    figure.supxlabel("percent of the steps")
    figure.supylabel("training loss")
    labels = [method for method in CURVES if method in handles]
    figure.legend([handles[method] for method in labels], labels, loc="outside right upper")
    return figure
