"""Does every run of a plan that has no result yet, several at once if wanted, and writes each as soon as it is there."""

import concurrent.futures
import datetime
import functools
import json
import multiprocessing
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench import measure

from . import data, scenes
from .plan import FROZEN, FROZEN_METHOD, Profile, Run, settings
from .train import Data, Row, train, trained

SCHEMA = 1


@dataclass(frozen=True)
class Job:
    """Everything about a set of results but which runs it has."""

    profile: Profile
    data: str
    """As :func:`data.load` takes it."""
    folder: pathlib.Path
    """For results, checkpoints and trained downsizers."""
    device: torch.device
    threads: int
    """Of the CPU, for each run."""

    @property
    def results(self) -> pathlib.Path:
        return self.folder / "results.json"

    def origin(self) -> dict[str, Any]:
        """What results have to have in common."""
        return {"schema": SCHEMA, "data": self.data, "scenes": scenes.VERSION, "settings": settings(self.profile)}


def read(path: pathlib.Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ValueError: it is of another version of the format.
    """
    result: dict[str, Any] = json.loads(path.read_text())
    if result.get("schema") != SCHEMA:
        raise ValueError(f"{path}: expected schema {SCHEMA}, got {result.get('schema')!r}")
    return result


def remaining(job: Job, runs: Sequence[Run]) -> list[Run]:
    """The runs without a result.

    Raises:
        ValueError: the results there are of other data or settings.
    """
    if not job.results.exists():
        return list(runs)
    result = read(job.results)
    for name, value in job.origin().items():
        if result[name] != value:
            raise ValueError(
                f"{job.results} has results of other {name}: {result[name]!r}, not {value!r}; choose another folder"
            )
    done = {Run(row["pipeline"], row["method"], row["seed"]) for row in result["rows"]}
    return [run for run in runs if run not in done]


def do(job: Job, runs: Sequence[Run], *, jobs: int, budget: float) -> Iterator[tuple[Run, Row | Exception]]:
    """Train, ``jobs`` at once in processes of their own, for ``budget`` seconds; yield each row after it was written.

    Where a run fails, the exception takes the place of its row, and the others go on.

    What was begun when the time is over is saved, and goes on at the next call. A run whose frozen downsizer was not trained is
    left out.
    """
    deadline = time.time() + budget
    job.folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    waiting = list(runs)
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running: dict[concurrent.futures.Future[Row | None], Run] = {}
        while True:
            while len(running) < jobs and time.time() < deadline and (run := _next(waiting, job)) is not None:
                running[pool.submit(_work, job, run, deadline, os.getpid())] = run
            if not running:
                return
            finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                run = running.pop(future)
                try:
                    row = future.result()
                except Exception as error:  # of one run, whatever it is: a night's other runs are worth having
                    yield run, error
                    continue
                if row is not None:
                    _append(job, row)
                    yield run, row


def _next(waiting: list[Run], job: Job) -> Run | None:
    """Take the first run that can begin: a frozen downsizer has to be trained first."""
    for run in waiting:
        source = Run(run.method.removeprefix(FROZEN), FROZEN_METHOD, run.seed)
        if not run.method.startswith(FROZEN) or trained(job.folder, source).exists():
            waiting.remove(run)
            return run
    return None


def _work(job: Job, run: Run, deadline: float, parent: int) -> Row | None:
    """A run, in a process that ends with its parent, lest another one resumes what this one still writes."""
    torch.set_num_threads(job.threads)
    if job.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    alive = functools.partial(_is_child_of, parent)
    row = train(run, job.profile, _data(job, run), job.folder, job.device, deadline=deadline, alive=alive)
    return None if row is None else row | {"date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}"}


def _data(job: Job, run: Run) -> Data:
    return _load(job.data, run.pipeline, job.profile, run.seed)


@functools.lru_cache(maxsize=4)
def _load(name: str, pipeline: str, profile: Profile, seed: int) -> Data:
    """Scenes are rendered once for all methods that a process trains one after the other."""
    return data.load(name, pipeline, profile, seed)


def _is_child_of(parent: int) -> bool:
    return os.getppid() == parent


def _append(job: Job, row: Row) -> None:
    machine = measure.machine(job.device) | {"threads": job.threads}
    result = read(job.results) if job.results.exists() else job.origin() | {"machine": machine, "rows": []}
    result["rows"].append(row | {"commit": machine["commit"]})
    measure.write(result, job.results)
