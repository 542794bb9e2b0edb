"""Runs that were stopped or killed go on where they were, bit for bit, and not from what does not belong to them."""

import dataclasses
import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from training import CPU, TINY, outcome, run_one

import tritonds
from bench import measure
from bench.accuracy import data, runner, train
from bench.accuracy.pipelines import PIPELINES
from bench.accuracy.plan import Run


@pytest.mark.parametrize("pipeline", ["segformer", "resnet-dense"])
def test_a_stopped_run_goes_on_bit_for_bit(pipeline, tmp_path):
    uninterrupted = run_one(tmp_path / "a", pipeline=pipeline)
    assert run_one(tmp_path / "b", pipeline=pipeline, deadline=0) is None  # late after the first step
    assert run_one(tmp_path / "b", pipeline=pipeline, deadline=0) is None
    assert torch.load(tmp_path / "b" / "checkpoints" / f"{pipeline}/downsizenet-k2/1.pt", weights_only=True)["step"] == 2
    torch.rand(7)
    assert outcome(run_one(tmp_path / "b", pipeline=pipeline)) == outcome(uninterrupted)
    nets = [tritonds.DownsizeNet.from_pretrained(tmp_path / x / "downsizers" / pipeline / "downsizenet-k2" / "1") for x in "ab"]
    for x, y in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(x, y)


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path):
    assert run_one(tmp_path, deadline=0) is None
    other = dataclasses.replace(TINY, downsizer_lr=1e-3)
    assert outcome(run_one(tmp_path, profile=other)) == outcome(run_one(tmp_path / "fresh", profile=other))


def test_methods_are_compared_in_the_same_network_alone(tmp_path, monkeypatch):
    """Whatever of it is changed: its checkpoints are left, and rows behind other methods are not added to."""
    job = runner.Job(TINY, "scenes", tmp_path, CPU, 1)
    assert run_one(tmp_path, deadline=0) is None
    old = run_one(tmp_path / "b", "bilinear")["start"]
    measure.write(job.origin() | {"machine": {}, "rows": [row_of_peer(old)]}, job.results)
    assert run_one(tmp_path / "c", peer=old)["start"] == old
    spec = PIPELINES["segformer"]
    for other in (spec._replace(small_lr=0.1), spec._replace(longer=2), spec._replace(builder=with_other_first_weights(spec))):
        monkeypatch.setitem(PIPELINES, "segformer", other)
        with pytest.raises(ValueError, match="segformer: the results are of other settings"):
            runner._work(job, Run("segformer", "area", 1), math.inf)
        content = data.load("scenes", "segformer", TINY, 1)
        state = train._State(Run("segformer", "downsizenet-k2", 1), TINY, content, "auto", CPU)
        state.resume(train.checkpoint(tmp_path, Run("segformer", "downsizenet-k2", 1)))
        assert state.step == 0


def row_of_peer(start):
    return {"pipeline": "segformer", "method": "bilinear", "seed": 1, "start": start}


def with_other_first_weights(spec):
    def build(*arguments):
        network = spec.builder(*arguments)
        with torch.no_grad():
            next(network.parameters()).mul_(1.1)
        return network

    return build


KILLED = """
import dataclasses, pathlib, sys, torch
from bench.accuracy import data, plan, train
torch.use_deterministic_algorithms(True, warn_only=True)
profile = dataclasses.replace(plan.PROFILES["tiny"], steps=6, checkpoint_s=0)
advance = train._State.advance
def spoken(state, batch):
    print("step", flush=True)
    advance(state, batch)
train._State.advance = spoken
run, folder = plan.Run("segformer", "downsizenet-k2", 1), pathlib.Path(sys.argv[1])
train.train(run, profile, data.load("scenes", "segformer", profile, 1), folder, torch.device("cpu"))
"""


@pytest.mark.long
def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(measure.ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        for _ in range(4):
            assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGKILL)
    steps = []
    advance = train._State.advance
    monkeypatch.setattr(train._State, "advance", lambda state, batch: steps.append(1) or advance(state, batch))
    row = run_one(tmp_path)
    assert len(steps) <= TINY.steps - 3
    assert row["losses"] == pytest.approx(run_one(tmp_path / "fresh")["losses"], rel=1e-4)


def test_a_damaged_checkpoint_is_named_and_not_used(tmp_path):
    assert run_one(tmp_path, deadline=0) is None
    (path,) = tmp_path.rglob("*.pt")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match=f"{path} cannot be read, and its run begins anew"):
        row = run_one(tmp_path)
    assert outcome(row) == outcome(run_one(tmp_path / "fresh"))
