"""A plan's runs, in processes of their own: what waits, what fails, what is left behind."""

import os
import signal
import subprocess
import sys

import pytest
from training import CPU, TINY, run_one, started

from bench import measure
from bench.accuracy import plan, runner
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


def test_plan_has_one_seed_after_the_other_and_everything_once():
    profile = plan.PROFILES["cpu"]
    runs = plan.runs(profile, tuple(PIPELINES))
    assert len(runs) == len(set(runs))
    assert {run.method for run in runs} == set(plan.METHODS)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert {run.seed for run in runs} == set(range(profile.seeds))
    of_photographs = [run for run in runs if PIPELINES[run.pipeline].task == "reconstruction"]
    assert {run.seed for run in of_photographs} == set(range(plan.RECONSTRUCTION_SEEDS))
    assert {run.method for run in of_photographs} == {*plan.RECONSTRUCTED, *plan.SHIPPED}
    assert plan.runs(profile, ["segformer"], ["area"], [7, 7]) == [Run("segformer", "area", 7)]
