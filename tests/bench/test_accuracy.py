"""The accuracy evaluation: metrics against other libraries, training that resumes bit for bit, tables, every pipeline once."""

import dataclasses
import functools
import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.metrics import jaccard_score
from typer.testing import CliRunner

import tritonds
from bench import measure
from bench.__main__ import app
from bench.accuracy import commands, data, downsizers, learned, pipelines, plan, report, runner, scenes, timing, train, weights
from bench.accuracy.metrics import Metrics
from bench.accuracy.pipelines import PIPELINES, Detection
from bench.accuracy.plan import Run
from bench.accuracy.samples import Batch, collate

CPU = torch.device("cpu")
TINY = dataclasses.replace(plan.PROFILES["tiny"], steps=6)


def run_one(folder, method="downsizenet-k2", pipeline="segformer", profile=TINY, device=CPU, **options):
    run = Run(pipeline, method, seed=1)
    return train.train(run, profile, data.load("scenes", pipeline, profile, run.seed), folder, device, **options)


def outcome(row):
    return {name: value for name, value in row.items() if name != "train_s"}


def boxes_batch(boxes, labels):
    return Batch(torch.zeros(len(boxes), 3, 8, 8), tuple(boxes), tuple(labels), torch.zeros(len(boxes), 8, 8).long())


def test_miou_is_scikit_learns():
    masks, predicted = torch.randint(0, 5, (2, 4, 9, 11))
    masks[0, :3] = 255
    metrics = Metrics("segmentation", 5)
    for part in (slice(0, 1), slice(1, 4)):
        metrics.update(predicted[part], Batch(torch.zeros(0), (), (), masks[part]))
    counted = masks != 255
    found = metrics.compute()
    assert found["mIoU"] == pytest.approx(100 * jaccard_score(masks[counted], predicted[counted], average="macro"), abs=1e-4)
    assert found["accuracy"] == pytest.approx(100 * (masks == predicted)[counted].double().mean().item(), abs=1e-4)


def test_average_precision():
    boxes = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0]]), torch.tensor([[5.0, 5.0, 15.0, 15.0]])]
    labels = [torch.tensor([1, 2]), torch.tensor([1])]

    def score(*found):
        metrics = Metrics("detection", 3)
        metrics.update([Detection(*each) for each in found], boxes_batch(boxes, labels))
        return metrics.compute()

    exact = [(b, torch.full((len(b),), 0.9), label) for b, label in zip(boxes, labels, strict=True)]
    assert score(*exact) == {"mAP": pytest.approx(100), "mAP50": pytest.approx(100)}
    # Class 2's box overlaps by 0.8, right up to the threshold 0.75 or 0.8; class 1's are exact.
    shifted = (torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 36.1]]), exact[0][1], labels[0])
    assert score(shifted, exact[1]) == {"mAP": pytest.approx((100 + 70) / 2, abs=0.1), "mAP50": pytest.approx(100)}
    # Found with the wrong class, and not at all.
    wrong = (boxes[0], exact[0][1], torch.tensor([1, 1]))
    nothing = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    assert score(wrong, exact[1])["mAP"] < 51
    assert score(nothing, nothing) == {"mAP": 0, "mAP50": 0}
    # What a network that diverged says does not count.
    some = (boxes[0].repeat(2, 1), torch.tensor([math.nan, math.nan, 0.9, 0.8]), labels[0].repeat(2))
    assert score(some, exact[1]) == {"mAP": pytest.approx(100), "mAP50": pytest.approx(100)}
    assert score((*exact[0][:1], torch.full((2,), math.nan), labels[0]), nothing) == {"mAP": 0, "mAP50": 0}


@pytest.mark.parametrize("count", [0, 2])
def test_average_precision_of_nothing_to_find_is_nan(count):
    metrics = Metrics("detection", 3)
    found = Detection(torch.tensor([[0.0, 0.0, 5.0, 5.0]] * count).view(-1, 4), torch.ones(count), torch.ones(count).long())
    metrics.update([found], boxes_batch([torch.zeros(0, 4)], [torch.zeros(0).long()]))
    result = metrics.compute()
    assert result.keys() == {"mAP", "mAP50"}
    assert all(map(math.isnan, result.values()))


def test_psnr_of_a_known_error():
    images = torch.randint(20, 200, (2, 3, 16, 16), dtype=torch.uint8)
    batch = Batch(images, (), (), torch.zeros(2, 4, 4).long())
    metrics = Metrics("reconstruction", 1)
    metrics.update(images / 255 + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1), batch)
    assert metrics.compute()["PSNR"] == pytest.approx((20 + 40) / 2, abs=1e-3)
    same = Metrics("reconstruction", 1)
    same.update(images / 255 + 1e-6, batch)
    assert same.compute()["SSIM"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("pipeline", ["segformer", "rtdetr"])
def test_every_method_starts_from_the_same_network_and_data(pipeline, tmp_path):
    """With a prior, an untrained DownsizeNet is bilinear: so is the first loss, and it trains from there.

    RT-DETR draws random numbers in training.
    """
    methods = ("bilinear", "downsizenet-k2", "distance-only-k2", "area")
    first = {method: run_one(tmp_path, method, pipeline)["losses"] for method in methods}
    assert first["downsizenet-k2"][0] == pytest.approx(first["bilinear"][0], rel=1e-5)
    assert first["distance-only-k2"][0] == pytest.approx(first["bilinear"][0], rel=1e-5)
    assert first["area"][0] != pytest.approx(first["bilinear"][0], rel=1e-5)
    assert first["downsizenet-k2"][-1] != pytest.approx(first["bilinear"][-1], rel=1e-7)


@pytest.mark.parametrize("name", downsizers.NAMES)
def test_methods_are_what_they_are_called(name):
    images = torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8)
    method = downsizers.build(name)
    result = method(images, (13, 12))
    assert result.shape == (2, 3, 13, 12)
    image = images.float() / 255
    if name in downsizers.FIXED:
        mode, _, antialias = name.partition("-")
        if name == "nearest":
            rows, columns = ((torch.arange(n) + 0.5) * 24 / n for n in (13, 12))
            expected = image[:, :, rows.long()][..., columns.long()]
        elif name == "area":
            expected = tritonds.reference.area_pool2d(image, (13, 12))
        else:
            expected = F.interpolate(image, (13, 12), mode=mode, antialias=antialias == "aa")
        torch.testing.assert_close(result, expected)
        return
    assert method.taps == int(name.partition("-k")[2][:1])
    assert (method.prior is None) == ("plain" in name)
    assert (method.texture_channels == 0) == ("distance-only" in name)
    assert (method.distance_channels == 0) == ("texture-only" in name)
    assert method.hidden_layers == (int(name[-1]) - 1 if "layers" in name else 1)
    assert method.texture_layers == (int(name[-1]) if name[:-1].endswith("-texture") else 1)
    assert method.hidden_channels == (32 if "wide" in name else 16)
    if method.prior is not None:
        expected = F.interpolate(image, (13, 12), mode="bilinear", antialias=method.prior == "antialias")
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_training_through_the_kernels_gives_the_same_curve(device, tmp_path, monkeypatch):
    """Through the fused operator, by Triton's interpreter on a CPU, and through plain PyTorch: equal to 1e-4 at every step."""
    options = {"pipeline": "resnet-dense", "profile": dataclasses.replace(TINY, steps=4, downsizer_lr=0.3), "device": device}
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    curves = [run_one(tmp_path, backend=backend, **options)["losses"] for backend in ("triton", "torch")]
    assert len(curves[0]) == 4
    assert curves[0][-1] != pytest.approx(run_one(tmp_path, "bilinear", **options)["losses"][-1], rel=1e-2)
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.fixture
def asked(monkeypatch):
    """What scenes and photographs were asked for: kind and split."""
    calls = []
    for kind in (scenes.Scenes, scenes.Photographs):
        name = kind.__name__

        def spied(split, *rest, name=name, kind=kind):
            calls.append((name, split))
            return kind(split, *rest)

        monkeypatch.setattr(scenes, name, spied)
    return calls


SOURCES = [("segformer", "Scenes"), ("rtdetr", "Scenes"), ("reconstruction", "Photographs")]


@pytest.mark.parametrize(("pipeline", "kind"), SOURCES)
def test_each_split_serves_its_purpose(pipeline, kind, asked):
    loaded = data.load("scenes", pipeline, TINY, seed=3)
    assert asked == [(kind, "train"), (kind, "test")]
    assert (len(loaded.train), len(loaded.test)) == (TINY.train, TINY.test)


def test_shipped_weights_see_the_training_split_alone(asked):
    for task in weights.TASKS:
        weights._data(task, weights.Training(source=40, images=2))
    assert asked == [("Photographs", "train"), ("Scenes", "train"), ("Scenes", "train")]


class Watched:
    """A data set that notes which samples are taken."""

    def __init__(self, dataset, name, log):
        self.dataset, self.name, self.log = dataset, name, log
        self.classes = dataset.classes

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.log.append((self.name, index))
        return self.dataset[index]


def test_trained_on_one_split_and_measured_on_the_other(tmp_path):
    """In the same order with every method, and in another with another seed."""
    loaded = data.load("scenes", "segformer", TINY, 1)
    taken = {}
    for method, seed in [("bilinear", 1), ("downsizenet-k2", 1), ("bilinear", 2)]:
        log = taken[method, seed] = []
        watched = train.Data(*(Watched(part, name, log) for part, name in zip(loaded, ("train", "test"), strict=True)))
        train.train(Run("segformer", method, seed), TINY, watched, tmp_path, CPU)
        steps = TINY.steps * TINY.batch
        assert {name for name, _ in log[:steps]} == {"train"}
        assert log[steps:] == [("test", index) for index in range(TINY.test)]
    assert taken["bilinear", 1] == taken["downsizenet-k2", 1] != taken["bilinear", 2]


def test_every_image_is_taken_once_before_any_is_again():
    order = train._order(5, 18, seed=1)
    rounds = [part.tolist() for part in order.split(5)]
    assert [len(part) for part in rounds] == [5, 5, 5, 3]
    assert all(sorted(part) == list(range(5)) for part in rounds[:3])
    assert len(set(rounds[3])) == 3
    assert rounds[0] != rounds[1]
    assert not torch.equal(order, train._order(5, 18, seed=2))
    assert torch.equal(order, train._order(5, 18, seed=1))


@pytest.mark.parametrize("width", ["tiny", "full"])
def test_network_and_downsizer_learn_at_their_own_rates(width, tmp_path):
    profile = dataclasses.replace(TINY, width=width, downsizer_lr=0.7)
    content = data.load("scenes", "segformer", profile, 1)
    state = train._State(Run("segformer", "downsizenet-k2", 1), profile, content, tmp_path, "auto", CPU)
    expected = {id(parameter): PIPELINES["segformer"].lr(width) for parameter in state.network.parameters()}
    expected |= {id(parameter): 0.7 for parameter in state.downsizer.parameters()}
    groups = state.optimizer.param_groups
    assert {id(parameter): group["peak"] for group in groups for parameter in group["params"]} == expected


def test_layers_know_whether_they_are_trained(tmp_path, monkeypatch):
    """Batch normalisation takes the batch's statistics in training, and its own in the end."""
    modes = []
    build = pipelines.build

    def watched(*arguments):
        network = build(*arguments)
        for name in ("loss", "predict"):
            setattr(network, name, functools.partial(note, network, getattr(network, name)))
        return network

    def note(network, call, *arguments):
        modes.append((call.__name__, {part.training for part in network.modules()}))
        return call(*arguments)

    monkeypatch.setattr(pipelines, "build", watched)
    run_one(tmp_path, pipeline="mobilenetv2-deeplabv3plus")
    assert modes == [("loss", {True})] * TINY.steps + [("predict", {False})] * (TINY.test // TINY.batch)


@pytest.mark.parametrize("pipeline", ["segformer", "rtdetr"])
def test_a_stopped_run_goes_on_bit_for_bit(pipeline, tmp_path):
    """RT-DETR draws random numbers as it trains."""
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
        state = train._State(Run("segformer", "downsizenet-k2", 1), TINY, content, tmp_path, "auto", CPU)
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


def test_a_worker_ends_with_its_parent(tmp_path):
    """Before it has slept 300 times, and not by a clock: where others keep the processor, the worker's watch waits as well."""
    (tmp_path / "orphan.py").write_text(ORPHAN)
    environment = os.environ | {"PYTHONPATH": str(measure.ROOT)}
    command = [sys.executable, str(tmp_path / "orphan.py")]
    # The output ends when the last process that holds it has ended, and both hold it.
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip().isdecimal(), done.stdout + done.stderr
    assert done.returncode == -signal.SIGKILL


def started(tmp_path, runs):
    """What comes of runs, in processes, where RuntimeError and death are what some methods do."""
    job = runner.Job(plan.PROFILES["tiny"], "scenes", tmp_path, CPU, 1)
    return job, dict(runner.do(job, [Run(*run) for run in runs], jobs=1, budget=math.inf))


def test_what_fails_or_dies_does_not_stop_the_others(tmp_path, monkeypatch):
    runs = [("reconstruction", "nonsense", 0), ("reconstruction", "area", 0)]
    job, results = started(tmp_path, runs)
    assert isinstance(results[Run(*runs[0])], KeyError)
    assert results[Run(*runs[1])]["metrics"]["PSNR"] > 0
    monkeypatch.setattr(runner, "_work", die)
    _, results = started(tmp_path / "dead", [*runs, ("dpt", "area", 0)])
    assert [type(result).__name__ for result in results.values()] == ["BrokenProcessPool"] * 3
    assert runner.remaining(job, [Run(*run) for run in runs]) == [Run(*runs[0])]


def die(*arguments):
    os._exit(1)


def test_learning_rates_fall_to_zero_over_the_whole_of_a_longer_training(tmp_path):
    profile = plan.PROFILES["tiny"]
    content = data.load("scenes", "reconstruction", profile, 0)
    state = train._State(Run("reconstruction", "downsizenet-k2", 0), profile, content, tmp_path, "auto", CPU)
    batch = collate([content.train[i] for i in range(2)], state.size)
    rates = []
    for _ in range(PIPELINES["reconstruction"].longer * profile.steps):
        state.advance(batch)
        rates.append([group["lr"] / group["peak"] for group in state.optimizer.param_groups])
    assert min(map(min, rates[:-1])) > 0.01
    assert rates[-1] == pytest.approx([0, 0], abs=1e-9)


def test_a_finished_run_leaves_no_checkpoint(tmp_path):
    assert run_one(tmp_path, "area", "reconstruction", plan.PROFILES["tiny"], deadline=0) is None
    assert list(tmp_path.rglob("*.pt"))
    job, results = started(tmp_path, [("reconstruction", "area", 1)])
    assert list(results) == [Run("reconstruction", "area", 1)]
    assert runner.remaining(job, list(results)) == []
    assert not list(tmp_path.rglob("*.pt"))


def test_one_process_a_folder(tmp_path):
    job = runner.Job(TINY, "scenes", tmp_path, CPU, 1)
    with runner._alone(tmp_path), pytest.raises(BlockingIOError, match=f"another process works in {tmp_path}"):
        list(runner.do(job, [], jobs=1, budget=1))
    assert list(runner.do(job, [], jobs=1, budget=1)) == []


def test_frozen_downsizers_are_those_trained_elsewhere_and_stay(tmp_path):
    source = Run(plan.FROZEN_FROM[0], plan.FROZEN_METHOD, 1)
    net = tritonds.DownsizeNet(taps=2, prior="bilinear")
    torch.nn.init.normal_(net.out.weight)
    net.save_pretrained(train.trained(tmp_path, source))
    frozen = train._downsizer(Run(plan.FROZEN_IN, plan.FROZEN + source.pipeline, 1), tmp_path, "auto")
    for mine, theirs in zip(frozen.parameters(), net.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert not mine.requires_grad
    row = run_one(tmp_path, plan.FROZEN + source.pipeline, plan.FROZEN_IN)
    assert row["metrics"]
    assert [path.name for path in (tmp_path / "downsizers").rglob("*") if path.is_dir()].count("1") == 1


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


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, ["accuracy", *map(str, arguments)], env={"COLUMNS": "500"})  # no message is cut to lines
    assert result.exit_code == code, result.output
    return result.output


def test_every_pipeline_end_to_end(tmp_path):
    """From the command line, each behind an interpolation and behind DownsizeNet; what is done is not done again."""
    chosen = ["--tiny", "--out", tmp_path, "--method", "bilinear", "--method", "downsizenet-k2"]
    chosen += [argument for pipeline in PIPELINES for argument in ("--pipeline", pipeline)]
    output = invoke(*chosen)
    result = runner.read(tmp_path / "results.json")
    done = {(row["pipeline"], row["method"]) for row in result["rows"]}
    assert done == {(pipeline, method) for pipeline in PIPELINES for method in ("bilinear", "downsizenet-k2")}
    for row in result["rows"]:
        assert all(math.isfinite(value) for value in [*row["metrics"].values(), *row["losses"]])
        assert row["commit"] == result["machine"]["commit"]
        assert len(row["losses"]) == plan.PROFILES["tiny"].steps * PIPELINES[row["pipeline"]].longer
    assert "Paired differences" in output
    before = (tmp_path / "results.json").read_bytes()
    invoke(*chosen)
    assert (tmp_path / "results.json").read_bytes() == before
    assert not list(tmp_path.rglob("*.pt"))
    invoke("plot", "--out", tmp_path)
    assert all((tmp_path / "plots" / f"{name}.png").stat().st_size > 10_000 for name in ("differences", "losses"))


def test_a_budget_stops_and_says_so(tmp_path):
    output = invoke("--tiny", "--out", tmp_path, "--budget", 0, code=1)
    usual = plan.runs(plan.PROFILES["tiny"], [name for name in PIPELINES if name not in ("detr", "yolos")])
    assert output.splitlines()[-1] == f"{len(usual)} runs are left: the same command goes on."
    assert runner.read(tmp_path / "results.json")["rows"] == []
    assert "no results yet in" in invoke("plot", "--out", tmp_path, code=2)
    output = invoke("--tiny", "--out", tmp_path, "--budget", 0, "--method", "frozen:segformer", "--seed", 7, code=1)
    assert output.splitlines()[-2].startswith("1 runs are left")
    assert output.splitlines()[-1].startswith("segformer/downsizenet-k2/7 has to be trained before")


def test_refuses_what_does_not_fit(tmp_path):
    out = ("--tiny", "--out", tmp_path)
    assert "expected one of" in invoke(*out, "--pipeline", "unet", code=2)
    assert "expected one of" in invoke(*out, "--method", "lanczos", code=2)
    assert "expected some that are trained in detr" in invoke(*out, "--pipeline", "detr", "--method", "natural-k2", code=2)
    assert "behind the command's name" in invoke(*out, "plot", code=2)
    assert "No such file" in invoke("plot", "--out", tmp_path, code=2)
    with runner._alone(tmp_path):
        assert "another process works" in invoke(*out, code=2)
    assert "expected a folder for results" in invoke("--tiny", "--data", f"voc:{tmp_path}", code=2)
    for name, message in (("coco:/x", "expected one of"), ("voc:", "expected one of"), ("voc:/nowhere", "is no folder")):
        assert message in invoke("--tiny", "--data", name, "--out", tmp_path, code=2)
    assert "JPEGImages" in invoke("--tiny", "--data", f"voc:{tmp_path}", "--out", tmp_path, code=2)
    detector = ("--data", f"cityscapes:{tmp_path}", "--pipeline", "detr", "--out", tmp_path)
    assert "expected one of" in invoke("--tiny", *detector, code=2)
    job = runner.Job(plan.PROFILES["tiny"], "scenes", tmp_path, CPU, 1)
    measure.write(job.origin() | {"rows": [], "data": "voc:/x"}, job.results)
    assert "is of other data" in invoke("--tiny", "--out", tmp_path, code=2)
    assert "is a file" in invoke("--tiny", "--out", job.results, code=2)
    assert "Not a directory" in invoke("--tiny", "--out", job.results / "below", code=2)
    assert "'--budget'" in invoke("--tiny", "--out", tmp_path, "--budget", -1, code=2)
    for text in ("[]", "{", "[1"):
        job.results.write_text(text)
        assert "results.json: " in invoke("plot", "--out", tmp_path, code=2)
    measure.write({"schema": 0}, job.results)
    with pytest.raises(ValueError, match="expected schema 1, got 0"):
        runner.remaining(job, [])


def test_plan_has_the_headline_first_and_everything_once():
    profile = plan.PROFILES["cpu"]
    runs = plan.runs(profile, tuple(PIPELINES))
    assert len(runs) == len(set(runs))
    assert {run.method for run in runs} == set(plan.METHODS)
    headline = len(PIPELINES) * len(downsizers.CORE) * profile.seeds
    assert {run.method for run in runs[:headline]} == set(downsizers.CORE)
    for frozen in (run for run in runs if run.method.startswith(plan.FROZEN)):
        assert runs.index(plan.source(frozen)) < runs.index(frozen)
        assert plan.source(frozen).pipeline != frozen.pipeline
    assert plan.source(Run("dpt", "frozen:segformer", 7)) == Run("segformer", "downsizenet-k2", 7)
    assert plan.source(Run("dpt", "area", 7)) is None
    assert plan.runs(profile, ["dpt"], ["area"], [7, 7]) == [Run("dpt", "area", 7)]


def rows_of(values):
    """Rows from {(pipeline, method): values by seed}."""
    metric = {"detection": "mAP", "segmentation": "mIoU", "reconstruction": "PSNR"}
    return [
        {
            "pipeline": pipeline,
            "method": method,
            "seed": seed,
            "metrics": {metric[PIPELINES[pipeline].task]: value},
            "losses": [1.0],
        }
        for (pipeline, method), column in values.items()
        for seed, value in enumerate(column)
    ]


def append(job, row, date):
    old = runner.read(job.results) if job.results.exists() else job.origin() | {"machine": measure.machine(CPU), "rows": []}
    row |= {"date": date, "commit": "abc1234"}
    measure.write(old | {"rows": [*old["rows"], row]}, job.results)


def test_differences_and_intervals_are_students():
    a, b = np.random.default_rng(0).normal(50, 3, (2, 4))
    found = report.scores(rows_of({("dpt", "downsizenet-k2"): a, ("dpt", "bilinear"): b[:3]}))
    value = report.difference(found, "dpt", "downsizenet-k2", "bilinear")
    low, high = stats.ttest_rel(a[:3], b[:3]).confidence_interval(0.95)
    assert (value.mean - value.half, value.mean + value.half) == (pytest.approx(low), pytest.approx(high))
    assert value.seeds == 3


def test_mean_over_pipelines_is_by_seed():
    rows = rows_of(
        {
            ("dpt", "downsizenet-k2"): [2, 4, 9],
            ("dpt", "bilinear"): [1, 1, 1],
            ("detr", "downsizenet-k2"): [5, 5],
            ("detr", "bilinear"): [2, 2],
            ("yolos", "bilinear"): [2, 2],
        }
    )
    value = report.mean_difference(report.scores(rows), "downsizenet-k2", "bilinear", PIPELINES)
    assert (value.mean, value.seeds) == (pytest.approx((2 + 3) / 2), 2)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1, 1.1, 1.2], "**+1.10 ± 0.25**"),
        ([-3, 1, 2], "+0.00 ± 6.57"),
        ([-1.5], "-1.50"),
        ([-1, -1.1, -1.2], "**-1.10 ± 0.25**"),
        ([1, math.nan, 1.2], "nan"),
        ([1, math.inf], "nan"),
        ([math.nan], "nan"),
    ],
)
def test_bold_only_where_the_interval_excludes_zero(values, text):
    value = report.interval(values)
    assert str(value) == text
    assert value.seeds == len(values)


def test_what_is_not_finite_spoils_its_own_cells_alone():
    found = {
        ("dpt", "downsizenet-k2"): [math.nan, 61],
        ("dpt", "bilinear"): [60, 60],
        ("dpt", "area"): [59, 60.5],
        ("reconstruction", "downsizenet-k2"): [math.inf, math.inf],
        ("reconstruction", "bilinear"): [30, math.inf],
    }
    written = {cell for _, lines in report.tables({"rows": rows_of(found)}).values() for line in lines for cell in line}
    assert {"nan (2)", "inf (2)", "60.00 ± 0.00 (2)", "59.75 ± 1.06 (2)"} <= written


def test_cells_say_where_they_are_of_other_seeds_or_fewer_networks():
    k2 = {(pipeline, "downsizenet-k2"): [3, 4, 6] for pipeline in ("dpt", "segformer")}
    peers = {("dpt", "bilinear"): [1, 2, 3], ("segformer", "bilinear"): [1, 2], ("dpt", "area"): [1, 1, 2]}
    means, differences, *_ = report.tables({"rows": rows_of(k2 | peers)}).values()
    assert [line[1] for line in means[1]] == ["1.50 ± 0.71 (2)", "2.00 ± 1.00"]
    header, lines = differences
    rows = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    assert rows["segformer"]["downsizenet-k2 - bilinear"] == "**+2.00 ± 0.00** (2)"
    mean = rows["mean of 2"]
    assert mean["downsizenet-k2 - bilinear"].endswith("(2)")
    assert mean["downsizenet-k2 - area"].endswith(", of 1")
    assert mean["downsizenet-k4 - bilinear"] == ""


def test_the_mean_of_networks_has_none_that_learn_too_slowly():
    names = ("dpt", "segformer", "reconstruction", "detr", "yolos")
    found = {(name, "downsizenet-k2"): [100 if name in ("detr", "reconstruction") else 3] for name in names}
    found |= {(name, "bilinear"): [1] for name in names}
    _, (_, lines), *_ = report.tables({"rows": rows_of(found)}).values()
    assert lines[-1][:2] == ["mean of 2, without reconstruction, detr, yolos", "+2.00 (1)"]
    of_one = {key: values for key, values in found.items() if key[0] != "dpt"}
    _, (_, lines), *_ = report.tables({"rows": rows_of(of_one)}).values()
    assert lines[-1][0] == "yolos"


def test_other_metrics_are_in_the_terminal_alone():
    rows = rows_of({("dpt", "bilinear"): [1, 3], ("rtdetr", "area"): [5], ("reconstruction", "bilinear"): [7]})
    for row in rows:
        row["metrics"] |= {"mAP50": 20.0, "accuracy": 10.0 + row["seed"], "SSIM": 0.98765}
    table = report.rich_tables({"rows": rows})[-1]
    assert str(table.title).startswith("Other metrics, mean")
    assert list(zip(*([column.header, *column.cells] for column in table.columns), strict=True)) == [
        ("pipeline", "bilinear", "area"),
        ("rtdetr, mAP50", "", "20.00 (1)"),
        ("dpt, accuracy", "10.50 ± 0.71 (2)", ""),
        ("reconstruction, SSIM", "0.9877 (1)", ""),
    ]
    assert not any("SSIM" in cell for _, lines in report.tables({"rows": rows}).values() for line in lines for cell in line)


def test_plots_show_every_pipeline_with_results_and_every_method():
    rows = rows_of({("dpt", "bilinear"): [1], ("detr", "area"): [2], ("detr", "downsizenet-k2"): [3]})
    rows += rows_of({("detr", "bilinear"): [2]})
    figure = report._draw_losses(rows)
    assert [axis.get_title() for axis in figure.axes] == ["dpt", "detr"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["bilinear", "area", "downsizenet-k2"]
    colours = [{line.get_label(): line.get_color() for line in axis.lines} for axis in figure.axes]
    assert colours[0]["bilinear"] == colours[1]["bilinear"]
    assert len(set(colours[1].values())) == 3
    axis = report._draw_differences(report.scores(rows)).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["detr, mAP"]
    assert axis.lines[0].get_fillstyle() == "none"
    assert not axis.containers  # one seed has no interval
    rows = rows_of({("detr", "downsizenet-k2"): [3, 5], ("detr", "bilinear"): [2, 3]})
    assert len(report._draw_differences(report.scores(rows)).axes[0].containers) == 1


def test_tables_go_into_documents(tmp_path):
    names = [f"{name}:{profile}" for name in ("accuracy", "time", "learned") for profile in ("cpu", "gpu")]
    document = "a\n" + "b\n".join(f"<!-- {name} -->\nOUTDATED\n<!-- /{name} -->\n" for name in names)
    assert report.readme(document, tmp_path).count("not measured yet") == 6
    job = runner.Job(plan.PROFILES["cpu"], "scenes", tmp_path / "cpu", CPU, 1)
    measure.write(job.origin() | {"machine": measure.machine(CPU), "rows": []}, job.results)  # as before the first run ends
    assert report.readme(document, tmp_path).count("not measured yet") == 6
    append(job, rows_of({("dpt", "downsizenet-k2"): [61.5]})[0], "2026-11-22 10:00")
    append(job, rows_of({("dpt", "bilinear"): [60]})[0], "2026-11-23 10:00")
    times = {"pipeline": "resnet-dense", "size": [[4, 4], [2, 2]], "machine": measure.machine(CPU), "date": "2026-11-24 10:00"}
    rows = [{"method": "bilinear", "frame_ms": 3.0, "downsizer_ms": 0.5}, {"method": "x", "frame_ms": 4.5, "downsizer_ms": 2.0}]
    measure.write(times | {"rows": rows}, tmp_path / "cpu" / "time.json")
    rows = [
        {"pipeline": "dpt", "method": "downsizenet-k2", "seed": seed, "prior": 0.5, "largest": largest, "by_image": 0.25}
        for seed, largest in enumerate((0.75, 0.85))
    ]
    measure.write({k: times[k] for k in ("machine", "date")} | {"images": 7, "rows": rows}, tmp_path / "cpu" / "learned.json")
    text = report.readme(document, tmp_path)
    assert "| x | 4.50 | +1.50 | 2.00 |" in text
    assert "| dpt, mIoU | 60.00 (1) | 61.50 (1) |" in text
    assert "| dpt | +1.50 (1) |" in text
    assert "2026-11-22 to 2026-11-23" in text
    assert f"scenes, version {scenes.VERSION}, 3000 images to train, 300 to test; 1000 steps of 16, reconstruction 4000" in text
    assert "| dpt | downsizenet-k2 | 0.500 | 0.800 ± 0.071 | 0.250 ± 0.000 |" in text
    assert "OUTDATED" not in text
    assert text.count("not measured yet") == 3
    with pytest.raises(ValueError, match="expected a section between <!-- accuracy:cpu -->"):
        report.readme("", tmp_path)


def test_the_model_card_has_the_shipped_weights_alone(tmp_path):
    document = "<!-- accuracy:shipped -->\n<!-- /accuracy:shipped -->\n"
    assert "not measured yet" in report.card(document, tmp_path)
    job = runner.Job(plan.PROFILES["cpu"], "scenes", tmp_path / "cpu", CPU, 1)
    where = plan.SHIPPED_IN[0]
    for row in rows_of({(where, "natural-k2"): [31.0, 33.0], (where, "bilinear"): [30.0, 31.0], (where, "area"): [1.0]}):
        append(job, row, "2026-11-22 10:00")
    text = report.card(document, tmp_path)
    assert f"| {where}, PSNR | natural-k2 | 32.00 ± 1.41 (2) | +1.50 ± 6.35 (2) |  |" in text
    assert "area" not in text


def test_other_data_are_not_taken_for_scenes(tmp_path):
    job = runner.Job(plan.PROFILES["cpu"], "voc:/x", tmp_path / "cpu", CPU, 1)
    append(job, rows_of({("dpt", "bilinear"): [60]})[0], "2026-11-22 10:00")
    text = report.origin(runner.read(job.results))
    assert text.startswith("voc:/x; 1000 steps of 16, reconstruction 4000; ")
    assert "images" not in text
    for written, name in ((report.readme, "accuracy:cpu"), (report.card, "accuracy:shipped")):
        with pytest.raises(ValueError, match="expected results of scenes, got 'voc:/x'"):
            written(f"<!-- {name} -->\n<!-- /{name} -->\n", tmp_path)


def test_the_documents_tables_are_up_to_date():
    invoke("tables", "--check")


def test_committed_results_are_whole():
    for path in commands.RESULTS.glob("*/results.json"):
        result = runner.read(path)
        keys = [(row["pipeline"], row["method"], row["seed"]) for row in result["rows"]]
        assert len(keys) == len(set(keys))
        assert result["settings"] == json.loads(json.dumps(plan.settings(plan.PROFILES[path.parent.name])))


def test_time_table(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0.01)
    monkeypatch.setattr(timing, "METHODS", {"bilinear": "bilinear", "4 layers": "downsizenet-k2-layers4"})
    result = timing.time(CPU)
    header, lines = timing.lines(result)
    assert [line[0] for line in lines] == ["bilinear", "4 layers"]
    assert lines[0][2] == "+0.00"
    assert float(lines[1][1]) > float(lines[1][3]) > 0
    assert len(header) == len(lines[0])
    assert "CPU: " in timing.origin(result)


def test_coefficients_are_described():
    """Of two images at two places, four taps: one place has the first pixel in both, the other one each."""
    chosen = torch.tensor([[0, 1], [0, 2]])
    one_pixel = F.one_hot(chosen, 4).double().movedim(2, 1)[..., None]
    assert learned.describe(one_pixel) == {"largest": 1.0, "by_image": 0.25}  # 0 and 1 deviate by a half
    mean = torch.full((2, 4, 2, 1), 0.25)
    assert learned.describe(mean) == {"largest": 0.25, "by_image": 0.0}


def test_what_was_learned_is_told_apart_from_the_prior(tmp_path):
    job = runner.Job(TINY, "scenes", tmp_path, CPU, 1)
    runs = [Run("segformer", method, 1) for method in ("bilinear", "downsizenet-k2", "downsizenet-k4")]
    assert len(list(runner.do(job, runs, jobs=1, budget=math.inf))) == 3
    net = tritonds.DownsizeNet.from_pretrained(train.trained(tmp_path, runs[1]))
    with torch.no_grad():
        net.out.weight.zero_()
        net.out.bias.copy_(torch.tensor([0.0, 0.0, 99.0, 0.0]))  # the third pixel, whatever is there
    net.save_pretrained(train.trained(tmp_path, runs[1]))
    k2, k4 = learned.look(runner.read(job.results), tmp_path)["rows"]
    assert [row["method"] for row in (k2, k4)] == ["downsizenet-k2", "downsizenet-k4"]
    assert k2["largest"] > 0.95  # all but the few places where its prior is 0
    assert k2["by_image"] == pytest.approx(0, abs=1e-6)
    assert 0.25 < k2["prior"] < 0.9
    assert k4["by_image"] > 0
    assert k4["largest"] == pytest.approx(k4["prior"], abs=0.05)  # after six steps


def test_weights_are_trained_and_written(tmp_path):
    training = weights.Training(steps=2, batch=2, source=40, images=4)
    losses = []
    net = weights.make("natural-k4", training, CPU, lambda step, loss: losses.append((step, loss)))
    assert [step for step, _ in losses] == [1, 2]
    assert set(losses[0][1]) == set(weights.TASKS)
    assert net.out.weight.abs().max() > 0  # zeros before training
    tritonds.DownsizeNet().save_pretrained(tmp_path / "natural-k4")
    weights.save(net, tmp_path / "natural-k4.safetensors")
    assert tritonds.DownsizeNet.from_pretrained(tmp_path / "natural-k4").taps == 2  # which is somebody else's
    loaded = tritonds.DownsizeNet.from_pretrained(tmp_path / "natural-k4.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["natural-k4", "natural-k4.safetensors"]
    for x, y in zip(loaded.parameters(), net.parameters(), strict=True):
        assert torch.equal(x, y)
    assert loaded.options() == downsizers.build(plan.SHIPPED["natural-k4"]).options()
