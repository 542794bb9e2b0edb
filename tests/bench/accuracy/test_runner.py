"""A plan's runs, in processes of their own: what waits, what fails, what is left behind."""

import os
import signal
import subprocess
import sys

import pytest
from training import CPU, TINY, run_one, started

import tritonds
from bench import measure
from bench.accuracy import downsizers, plan, runner, train
from bench.accuracy.pipelines import PIPELINES
from bench.accuracy.plan import Run

ORPHAN = """
import multiprocessing, os, signal, threading, time
from bench.accuracy import runner
def outlive():
    for _ in range(300):
        time.sleep(0.1)
    print("outlived its parent", flush=True)
    os._exit(0)
def begin():
    threading.Thread(target=outlive, daemon=True).start()
    return os.getpid()
if __name__ == "__main__":
    pool = runner._pool(1)
    print(pool.submit(begin).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
def test_a_worker_ends_with_its_parent(tmp_path):
    """Before it has slept 300 times, and not by a clock: where others keep the processor, the worker's watch waits as well."""
    (tmp_path / "orphan.py").write_text(ORPHAN)
    environment = os.environ | {"PYTHONPATH": str(measure.ROOT)}
    command = [sys.executable, str(tmp_path / "orphan.py")]
    # The output ends when the last process that holds it has ended, and both hold it.
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip().isdecimal(), done.stdout + done.stderr
    assert done.returncode == -signal.SIGKILL


RUNS = [("reconstruction", "nonsense", 0), ("reconstruction", "area", 0)]


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, in_this_process):
    job, results = started(tmp_path, RUNS)
    failed, done = (Run(*run) for run in RUNS)
    assert isinstance(results[failed], KeyError)
    assert results[done]["metrics"]["PSNR"] > 0
    assert runner.remaining(job, [failed, done]) == [failed]


@pytest.mark.long
def test_a_process_that_dies_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_work", die)
    job, results = started(tmp_path, RUNS)
    assert [type(result).__name__ for result in results.values()] == ["BrokenProcessPool"] * 2
    assert len(runner.remaining(job, [Run(*run) for run in RUNS])) == 2


def die(*arguments):
    os._exit(1)


def test_a_finished_run_leaves_no_checkpoint(tmp_path, in_this_process):
    assert run_one(tmp_path, "area", "reconstruction", plan.PROFILES["tiny"], deadline=0) is None
    assert list(tmp_path.rglob("*.pt"))
    job, results = started(tmp_path, [("reconstruction", "area", 1)])
    assert list(results) == [Run("reconstruction", "area", 1)]
    assert runner.remaining(job, list(results)) == []
    assert not list(tmp_path.rglob("*.pt"))


def test_one_process_a_folder(tmp_path):
    job = runner.Job(TINY, "scenes", tmp_path, CPU, 1)
    with runner._alone(tmp_path), pytest.raises(BlockingIOError, match=f"another process works in {tmp_path}"):
        list(runner.run_job(job, [], jobs=1, budget=1))
    assert list(runner.run_job(job, [], jobs=1, budget=1)) == []


def test_a_frozen_run_waits_for_its_source(tmp_path):
    job = runner.Job(TINY, "scenes", tmp_path, CPU, 1)
    waiting = [Run(plan.FROZEN_IN, plan.FROZEN + "segformer", 0), Run("segformer", "bilinear", 0)]
    measure.write(job.origin() | {"rows": []}, job.results)
    assert runner._next(waiting, job) == Run("segformer", "bilinear", 0)
    assert runner._next(waiting, job) is None
    tritonds.DownsizeNet().save_pretrained(train.trained(tmp_path, Run("segformer", plan.FROZEN_METHOD, 0)))
    assert runner._next(waiting, job) is None  # the file is of other settings, whose rows were removed
    row = {"pipeline": "segformer", "method": plan.FROZEN_METHOD, "seed": 0}
    measure.write(job.origin() | {"rows": [row]}, job.results)
    assert runner._next(waiting, job) == Run(plan.FROZEN_IN, plan.FROZEN + "segformer", 0)


def test_plan_has_the_headline_first_and_everything_once():
    profile = plan.PROFILES["cpu"]
    runs = plan.runs(profile, tuple(PIPELINES))
    assert len(runs) == len(set(runs))
    assert {run.method for run in runs} == set(plan.METHODS)
    headline = len(plan.MAIN) * len(downsizers.CORE) * profile.seeds
    assert {run.method for run in runs[:headline]} == set(downsizers.CORE)
    for frozen in (run for run in runs if run.method.startswith(plan.FROZEN)):
        assert runs.index(plan.source(frozen)) < runs.index(frozen)
        assert plan.source(frozen).pipeline != frozen.pipeline
    assert plan.source(Run("dpt", "frozen:segformer", 7)) == Run("segformer", "downsizenet-k2", 7)
    assert plan.source(Run("dpt", "area", 7)) is None
    assert plan.runs(profile, ["dpt"], ["area"], [7, 7]) == [Run("dpt", "area", 7)]
