"""The command line ``python -m bench accuracy``."""

import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench import measure
from bench.options import known

from . import collection, data, learned, packages, plan, pretrained, report, runner, timing, train, weights
from .pipelines import PIPELINES

RESULTS = measure.ROOT / "bench" / "results" / "accuracy"
FOLDERS = {data.SCENES: "", data.NATURAL: "natural-"}
"""Data whose results are committed, and how the names of their folders begin."""
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
console = Console()
app = typer.Typer(add_completion=False, help="Train networks behind many downsizers, and compare; without a command: run.")

Folder = Annotated[
    pathlib.Path | None,
    typer.Option(file_okay=False, help="folder of the results; in bench/results/accuracy if not given"),
]


@app.callback(invoke_without_command=True)
def run(
    ctx: typer.Context,
    tiny: Annotated[bool, typer.Option("--tiny", help="every run for a few steps on few small images")] = False,
    pipeline: Annotated[
        list[str] | None, typer.Option(help=f"may be repeated: {', '.join(PIPELINES)}; all if not given")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="may be repeated: " + ", ".join(plan.METHODS))] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="may be repeated; all of the profile's if not given")] = None,
    data_name: Annotated[str, typer.Option("--data", help=", ".join(data.NAMES))] = data.SCENES,
    validate: Annotated[bool, typer.Option("--validate", help="measure on the validation split, to choose settings")] = False,
    out: Folder = None,
    budget: Annotated[float, typer.Option(min=0, help="seconds until runs are saved, to go on at the next call")] = 24 * 3600,
    jobs: Annotated[int, typer.Option(min=1, help="runs at once, which share the cores")] = os.cpu_count() or 1,
) -> None:
    """Train networks, each behind many downsizers, on the GPU if there is one, and write each result as soon as it is there.

    What has a result is not done again, and what was stopped or killed goes on where it was.
    """
    if ctx.invoked_subcommand is not None:
        _refuse_options(ctx)
        return
    if (data_name not in FOLDERS or validate) and out is None:
        what = "of the validation split" if validate else f"of other data than {' and '.join(FOLDERS)}"
        raise typer.BadParameter(f"expected a folder for results {what}", param_hint="--out")
    job = _job(tiny, data_name, out, jobs, validate)
    try:
        possible = data.pipelines_of(data_name)
        pipelines = known("pipeline", pipeline, possible) or possible
        data.check(data_name, pipelines, job.profile)
        chosen = plan.runs(job.profile, pipelines, known("method", method, plan.METHODS), seed or ())
        waiting = runner.remaining(job, chosen)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    with Progress(*COLUMNS, console=console) as progress:
        task = progress.add_task("training", total=len(chosen), completed=len(chosen) - len(waiting))
        try:
            for done, row in runner.run_job(job, waiting, jobs=jobs, budget=budget):
                _show(progress, task, done, row)
        except OSError as error:
            raise typer.BadParameter(str(error), param_hint="--out") from error
    for table in report.rich_tables(report.read(job.results)):
        console.print(table)
    console.print(f"wrote {job.results}", markup=False, soft_wrap=True)
    left = runner.remaining(job, chosen)
    if left:
        console.print(f"{len(left)} runs are left: the same command goes on.")
        raise typer.Exit(1)


def _show(progress: Progress, task: TaskID, run: plan.Run, row: train.Row | Exception) -> None:
    if isinstance(row, Exception):
        console.print(f"{run.key} failed: {type(row).__name__}: {row}", style="red", markup=False)
        return
    metrics = ", ".join(f"{name} {value:.2f}" for name, value in row["metrics"].items())
    console.print(f"{run.key}: {metrics}, {row['train_s']:.0f} s", highlight=False)
    progress.update(task, advance=1)


@app.command()
def tables(
    check: Annotated[bool, typer.Option("--check", help="change nothing; exit with 1 if a document is out of date")] = False,
) -> None:
    """Write the committed results into docs/results/accuracy.md and the model card, between their accuracy marks."""
    outdated = []
    for path, written in (
        (measure.ROOT / "docs" / "results" / "accuracy.md", report.readme),
        (measure.ROOT / "tritonds/weights/README.md", report.with_model_card),
    ):
        old = path.read_text()
        new = written(old, RESULTS)
        if new != old:
            outdated.append(path.name)
            if not check:
                path.write_text(new)
    if check and outdated:
        console.print("out of date: python -m bench accuracy tables", style="red")
        raise typer.Exit(1)


@app.command()
def plot(out: Folder = None) -> None:
    """Draw the differences and the loss curves of a folder's results into its folder plots."""
    folder = out or RESULTS / _profile(tiny=False)
    result = _results(folder)
    if not result["rows"]:
        raise typer.BadParameter(f"no results yet in {folder}")
    for picture in report.plot(result, folder / "plots"):
        console.print(f"wrote {picture}", markup=False, soft_wrap=True)


@app.command()
def time(out: Folder = None) -> None:
    """Time a frame behind DownsizeNet, by the number of its layers, and behind bilinear."""
    folder = out or RESULTS / _profile(tiny=False)
    result = timing.time(_device())
    measure.write(result, folder / "time.json")
    console.print(report.rich_table("Time", *timing.lines(result)))
    console.print(f"wrote {folder / 'time.json'}", markup=False, soft_wrap=True)


@app.command(name="pretrained")
def show_pretrained(
    out: Folder = None,
    pictures: Annotated[int, typer.Option(min=2, help="of each kind")] = 100,
) -> None:
    """Ask pretrained networks about pictures behind every method, and behind layers that are trained for them.

    What was done stays: the same command goes on with the tests that are left.
    """
    path = (out or RESULTS / f"natural-{_profile(tiny=False)}") / "pretrained.json"
    result = before = json.loads(path.read_text()) if path.exists() else None
    with _told():
        for result in pretrained.run(pictures, pretrained.Training(), before):
            measure.write(result, path)
    assert result is not None
    console.print(report.rich_table("Divergence, its difference to bilinear-aa, agreement", *pretrained.lines(result)))
    console.print(f"wrote {path}", markup=False, soft_wrap=True)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what is missing instead of where it was missed."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        raise typer.BadParameter(f"{error}; it needs {', '.join(pretrained.PACKAGES)}") from error


@app.command(name="learned")
def show_learned(out: Folder = None) -> None:
    """Say what trained downsizers learned: how far each chooses one pixel, and how far the image has a say."""
    folder = out or RESULTS / _profile(tiny=False)
    path = folder / "learned.json"
    earlier = json.loads(path.read_text())["rows"] if path.exists() else []
    result = learned.summarize(_results(folder), folder, earlier)
    if not result["rows"]:
        raise typer.BadParameter(f"{folder} holds no trained downsizers: they are where the runs were done")
    measure.write(result, path)
    console.print(report.rich_table("Coefficients", *learned.lines(result)))
    console.print(f"wrote {path}", markup=False, soft_wrap=True)


@app.command(name="weights")
def train_weights(
    name: Annotated[list[str] | None, typer.Option(help="may be repeated: " + ", ".join(plan.SHIPPED))] = None,
    out: Annotated[pathlib.Path, typer.Option(help="folder for the files")] = measure.ROOT / "tritonds" / "weights",
) -> None:
    """Train the weights that tritonds ships."""
    training = weights.Training()
    for each in known("name", name, plan.SHIPPED) or plan.SHIPPED:
        with Progress(*COLUMNS, console=console) as progress:
            task = progress.add_task(each, total=training.steps)
            net = weights.make(each, training, _device(), functools.partial(_show_losses, progress, task))
        path = out / f"{each}.safetensors"
        weights.save(net, path)
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


@app.command()
def fetch(
    folder: Annotated[
        pathlib.Path,
        typer.Option(file_okay=False, help="folder for the pictures; others than the default: --data natural:FOLDER"),
    ] = packages.FOLDER,
    mirror: Annotated[
        str, typer.Option(help="of Debian; snapshot.debian.org keeps what others have dropped")
    ] = packages.MIRROR,
) -> None:
    """Fetch the pictures of the data "natural" out of Debian's packages; what is there stays, what was begun goes on."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    for package in collection.PACKAGES:
        missing = package.lacking(folder)
        if missing:
            console.print(f"{package.name}: {len(missing)} files are missing", highlight=False)
            with Progress(*columns, console=console) as progress:
                task = progress.add_task(package.name, total=package.size)
                try:
                    packages.fetch(package, folder, mirror, functools.partial(_show_bytes, progress, task))
                except (OSError, ValueError) as error:
                    raise typer.BadParameter(str(error), param_hint="--mirror") from error
        said = folder / package.name / packages.COPYRIGHT
        console.print(f"{package.name} {package.version}: {', '.join(package.licences)}; see {said}", soft_wrap=True)
    for name, licences in collection.INSTALLED.items():
        console.print(f"{name}, which is installed: {', '.join(licences)}")


def _show_bytes(progress: Progress, task: TaskID, done: int) -> None:
    progress.update(task, completed=done)


def _show_losses(progress: Progress, task: TaskID, step: int, losses: dict[str, float]) -> None:
    progress.update(task, completed=step)
    if step % 100 == 0:
        progress.console.print(
            f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in losses.items()), highlight=False
        )


def _refuse_options(ctx: typer.Context) -> None:
    """Refuse options in front of a command's name: they are those of training, and would be ignored."""
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"expected --{name.removesuffix('_name')} behind the command's name, if it takes one")


def _results(folder: pathlib.Path) -> dict[str, Any]:
    try:
        return report.read(folder / "results.json")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _job(tiny: bool, data_name: str, out: pathlib.Path | None, jobs: int, validate: bool) -> runner.Job:
    name = _profile(tiny)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    folder = out or RESULTS / f"{FOLDERS[data_name]}{name}"
    return runner.Job(plan.PROFILES[name], data_name, folder, _device(), threads, validate)


def _profile(tiny: bool) -> str:
    return "tiny" if tiny else {"cuda": "gpu", "cpu": "cpu"}[_device().type]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
