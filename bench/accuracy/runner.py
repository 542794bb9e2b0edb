"""Does every run of a plan that has no result yet, several at once if wanted, and writes each as soon as it is there."""

import concurrent.futures.process
import contextlib
import datetime
import fcntl
import multiprocessing
import os
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench import measure, report

from . import data, natural, scenes
from .plan import Profile, Run, settings
from .train import Row, checkpoint, train

SCHEMA = 1


@dataclass(frozen=True)
class Job:
    """Everything about a set of results but which runs it has."""

    profile: Profile
    data: str
    """As :func:`data.load` takes it."""
    folder: pathlib.Path
    """The folder of results, checkpoints and trained downsizers."""
    device: torch.device
    threads: int
    """Threads of the CPU for each run."""
    validation: bool = False
    """Whether to measure on the validation split, where settings are chosen, and not on the test split."""

    @property
    def results(self) -> pathlib.Path:
        return self.folder / "results.json"

    def origin(self) -> dict[str, Any]:
        """What results have to have in common."""
        origin = {"schema": SCHEMA, "data": self.data, "scenes": scenes.VERSION, "settings": settings(self.profile)}
        origin |= {"natural": natural.VERSION} if self.data.startswith(data.NATURAL) else {}
        return origin | {"split": "validation" if self.validation else "test"}


def read(path: pathlib.Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ValueError: it is of another version of the format, or damaged.
    """
    return report.read(path, SCHEMA)


def remaining(job: Job, runs: Sequence[Run]) -> list[Run]:
    """The runs without a result.

    Raises:
        ValueError: the results there are of other data or settings.
    """
    if not job.results.exists():
        return list(runs)
    result = {"split": "test"} | read(job.results)  # older ones do not say it
    for name, value in job.origin().items():
        if result.get(name) != value:
            raise ValueError(f"{job.results} is of other {name}: {result.get(name)!r}, not {value!r}; choose another folder")
    done = {Run(row["pipeline"], row["method"], row["seed"]) for row in result["rows"]}
    return [run for run in runs if run not in done]


def run_job(job: Job, runs: Sequence[Run], *, jobs: int, budget: float) -> Iterator[tuple[Run, Row | Exception]]:
    """Train, ``jobs`` at once in processes of their own, for ``budget`` seconds; yield each row after it was written.

    Where a run fails, the exception takes the place of its row, and the others go on. What was begun when the time is over is
    saved, and goes on at the next call.

    Raises:
        BlockingIOError: another process works in the same folder.
    """
    deadline = time.time() + budget
    waiting = list(runs)
    running: dict[concurrent.futures.Future[Row | None], Run] = {}
    with _alone(job.folder):
        machine = measure.machine(job.device) | {"threads": job.threads}
        # Else the C library gives a large tensor's memory back to the system, and gets the next one's page by page.
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**32))
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**25))
        if not job.results.exists():  # and with it, what checkpoints and downsizers in the folder belong to
            measure.write(job.origin() | {"machine": machine, "rows": []}, job.results)
        while waiting and time.time() < deadline:
            with _pool(jobs) as pool:
                where = {"commit": machine["commit"], "device": machine["device"]}
                yield from _fill(pool, job, waiting, running, jobs, deadline, where)


def _fill(
    pool: concurrent.futures.ProcessPoolExecutor,
    job: Job,
    waiting: list[Run],
    running: dict[concurrent.futures.Future[Row | None], Run],
    jobs: int,
    deadline: float,
    where: dict[str, str | None],
) -> Iterator[tuple[Run, Row | Exception]]:
    """Keep a pool busy until nothing waits, the time is over, or one of its processes dies."""
    whole = True
    while True:
        while whole and len(running) < jobs and time.time() < deadline and waiting:
            run = waiting.pop(0)
            running[pool.submit(_work, job, run, deadline)] = run
        if not running:
            return
        finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in finished:
            run = running.pop(future)
            try:
                row = future.result()
            except Exception as error:  # of one run, whatever it is: a night's other runs are worth having
                whole = whole and not isinstance(error, concurrent.futures.process.BrokenProcessPool)
                yield run, error
                continue
            if row is not None:
                result = read(job.results)
                result["rows"].append(row | where)
                measure.write(result, job.results)
                checkpoint(job.folder, run).unlink(missing_ok=True)
                yield run, row


def _work(job: Job, run: Run, deadline: float) -> Row | None:
    """A run, in a process of its own."""
    torch.set_num_threads(job.threads)
    if job.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    content = data.load(job.data, run.pipeline, job.profile, run.seed)
    if job.validation:
        content = content.for_validation()
    peers = (row for row in read(job.results)["rows"] if (row["pipeline"], row["seed"]) == (run.pipeline, run.seed))
    peer = next((row["start"] for row in peers if "start" in row), None)
    row = train(run, job.profile, content, job.folder, job.device, deadline=deadline, peer=peer)
    return None if row is None else row | {"date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}"}


def _pool(jobs: int) -> concurrent.futures.ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    return concurrent.futures.ProcessPoolExecutor(jobs, context, _end_with, (os.getpid(),))


def _end_with(parent: int) -> None:
    """Have this process end when its parent does, lest it writes where another one resumes."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Hold a folder that no other process then holds; it is free again however this one ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"another process works in {folder}") from error
        yield
