"""The command line ``python -m bench``."""

import collections
import contextlib
import datetime
import json
import pathlib
import re
from typing import Annotated, Any

import torch
import typer
import typer.core
import typer.main
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import measure, predicted, report, workloads
from .options import known
from .providers import PROVIDERS

RESULTS = measure.ROOT / "bench" / "results"
console = Console()


class _RunByDefault(typer.core.TyperGroup):
    """Without the name of a command, the arguments are those of ``run``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["run", *args])


class _Accuracy(typer.core.TyperGroup):
    """Imported when it is called: of the libraries that accuracy needs, speed needs none."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        from .accuracy.commands import app as accuracy

        return typer.main.get_command(accuracy).make_context(*args, **kwargs)


app = typer.Typer(cls=_RunByDefault, help="Measure tritonds and its peers; without a command: run.", add_completion=False)
app.add_typer(typer.Typer(cls=_Accuracy, help="Train networks behind every downsizer, and compare."), name="accuracy")


@app.command()
def run(
    quick: Annotated[bool, typer.Option("--quick", help="one small workload, few repetitions, nothing compiled")] = False,
    workload: Annotated[list[str] | None, typer.Option(help="may be repeated: " + ", ".join(workloads.NAMES))] = None,
    provider: Annotated[list[str] | None, typer.Option(help="may be repeated: " + ", ".join(PROVIDERS))] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="may be repeated: " + ", ".join(workloads.DTYPES))] = None,
    mode: Annotated[list[str] | None, typer.Option(help="may be repeated: " + ", ".join(workloads.MODES))] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="JSON file; bench/results/DEVICE-DATE.json if not given")] = None,
    budget: Annotated[float, typer.Option(help="seconds after which no further row is begun")] = 300,
) -> None:
    """Measure speed, on the GPU if there is one, and write each row as soon as it is measured.

    Exits with 1 if a provider gave a wrong result or failed.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = workloads.plan(
        device.type,
        quick=quick,
        workloads=known("workload", workload, workloads.NAMES),
        providers=known("provider", provider, PROVIDERS),
        dtypes=known("dtype", dtype, workloads.DTYPES),
        modes=known("mode", mode, workloads.MODES),
    )
    if not cases:
        raise typer.BadParameter("nothing is measured with all of these options")
    out = out or RESULTS / _file_name(device, quick)
    rows = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress, contextlib.suppress(KeyboardInterrupt):
        task = progress.add_task("preparing", total=len(cases))
        for row in measure.run(cases, device, out, quick=quick, budget=budget):
            rows.append(row)
            progress.update(task, advance=1, description=f"{row['workload']['name']} {row['mode']} {row['provider']}")
    for table in report.rich_tables(rows):
        console.print(table)
    console.print("GB/s: of the bytes that are necessary; of copy: of a large copy's, so that caches give more than 100%")
    console.print("vs: the peer's time over this one's")
    counts = collections.Counter(_summary(row) for row in rows)
    console.print(", ".join(f"{count} {summary}" for summary, count in counts.items()), markup=False, soft_wrap=True)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)
    if len(rows) < len(cases) or any(row["status"] in ("wrong", "failed") for row in rows):
        raise typer.Exit(1)


@app.command()
def plot(
    results: Annotated[list[pathlib.Path], typer.Argument(metavar="RESULT.json...", help="files written by run")],
    out: Annotated[pathlib.Path, typer.Option(help="folder for the PNG files")],
) -> None:
    """Draw the sweeps, the headline workloads, and how near each comes to the speed of a copy."""
    for path in results:
        for picture in report.plot(report.read(path), out / path.stem):
            console.print(f"wrote {picture}", markup=False, soft_wrap=True)


@app.command()
def fit(result: Annotated[pathlib.Path, typer.Argument(metavar="RESULT.json", help="written by run on a GPU")]) -> None:
    """Fit the latencies that the cost model assumes to a result, and say how far off each prediction is."""
    from .fit import tables  # imported when it is called: nothing else needs SciPy

    compiled = json.loads((RESULTS / "kernels" / "sm_90.json").read_text())
    try:
        for table in tables(predicted.passes(compiled["rows"]), predicted.measured(report.read(result)["rows"])):
            console.print(table)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    console.print("To accept: write them into bench/latency.py, then make kernels.")


@app.command()
def tables(
    check: Annotated[bool, typer.Option("--check", help="change nothing; exit with 1 if the page is out of date")] = False,
) -> None:
    """Write the newest results into docs/results/speed.md, between its speed markers."""
    page = measure.ROOT / "docs" / "results" / "speed.md"
    old = page.read_text()
    new = report.with_tables(old, RESULTS)
    if check and new != old:
        console.print("docs/results/speed.md is out of date: python -m bench tables", style="red")
        raise typer.Exit(1)
    if not check:
        page.write_text(new)


def _summary(row: measure.Row) -> str:
    return f"not measured ({row['reason']})" if row["status"] == "not measured" else str(row["status"])


def _file_name(device: torch.device, quick: bool) -> str:
    name = "cpu" if device.type == "cpu" else re.sub(r"\W+", "-", torch.cuda.get_device_name(device).lower())
    return f"{'quick-' if quick else ''}{name}-{datetime.datetime.now():%Y-%m-%d-%H%M}.json"


if __name__ == "__main__":
    app()
