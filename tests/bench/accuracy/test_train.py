"""One run of training: the same network and data whatever the method, on one split and measured on the other."""

import dataclasses
import functools

import pytest
import torch
from training import CPU, TINY, run_one

import tritonds
from bench import measure
from bench.accuracy import data, pipelines, plan, runner, scenes, train, weights
from bench.accuracy.pipelines import PIPELINES
from bench.accuracy.plan import Run
from bench.accuracy.samples import collate


@pytest.mark.parametrize("pipeline", ["segformer", "resnet-dense"])
def test_every_method_starts_from_the_same_network_and_data(pipeline, tmp_path):
    """With a prior, an untrained DownsizeNet is an interpolation: so is the first loss, and it trains from there."""
    methods = ("bilinear", "downsizenet-k2", "bicubic-aa", "distance-only-k8-bicubic", "area")
    first = {method: run_one(tmp_path, method, pipeline, plan.PROFILES["tiny"])["losses"] for method in methods}
    assert first["downsizenet-k2"][0] == pytest.approx(first["bilinear"][0], rel=1e-5)
    if pipeline == "resnet-dense":  # at a scale for which eight taps hold the whole kernel
        assert first["distance-only-k8-bicubic"][0] == pytest.approx(first["bicubic-aa"][0], rel=1e-5)
    assert first["area"][0] != pytest.approx(first["bilinear"][0], rel=1e-5)
    assert first["downsizenet-k2"][-1] != pytest.approx(first["bilinear"][-1], rel=1e-7)


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


SOURCES = [("segformer", "Scenes"), ("resnet-dense", "Scenes"), ("reconstruction", "Photographs")]


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
        watched = train.Data(*(Watched(part, name, log) for part, name in zip(loaded[:2], ("train", "test"), strict=True)))
        train.train(Run("segformer", method, seed), TINY, watched, tmp_path, CPU)
        steps = TINY.steps * TINY.batch
        assert {name for name, _ in log[:steps]} == {"train"}
        assert log[steps:] == [("test", index) for index in range(TINY.test)]
    assert taken["bilinear", 1] == taken["downsizenet-k2", 1] != taken["bilinear", 2]


@pytest.mark.parametrize("validation", [False, True])
def test_settings_are_chosen_on_the_validation_split(validation, tmp_path, monkeypatch):
    job = runner.Job(TINY, "scenes", tmp_path, CPU, 1, validation)
    measure.write(job.origin() | {"rows": []}, job.results)
    asked = []
    monkeypatch.setattr(data, "load", lambda *arguments: train.Data("train", "test", "validation"))
    monkeypatch.setattr(runner, "train", lambda run, profile, content, *rest, **options: asked.append(content))
    runner._work(job, Run("segformer", "area", 1), 0)
    assert [content.test for content in asked] == ["validation" if validation else "test"]
    with pytest.raises(ValueError, match="is of other split"):
        runner.remaining(dataclasses.replace(job, validation=not validation), [])
    with pytest.raises(ValueError, match="expected some with a validation split"):
        train.Data("train", "test").for_validation()


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
    state = train._State(Run("segformer", "downsizenet-k2", 1), profile, content, "auto", CPU)
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
    run_one(tmp_path, pipeline="resnet-dense")
    assert modes == [("loss", {True})] * TINY.steps + [("predict", {False})] * (TINY.test // TINY.batch)


def test_learning_rates_fall_to_zero_over_the_whole_of_a_longer_training(tmp_path):
    profile = plan.PROFILES["tiny"]
    content = data.load("scenes", "reconstruction", profile, 0)
    state = train._State(Run("reconstruction", "downsizenet-k2", 0), profile, content, "auto", CPU)
    batch = collate([content.train[i] for i in range(2)], state.size)
    rates = []
    for _ in range(PIPELINES["reconstruction"].longer * profile.steps):
        state.advance(batch)
        rates.append([group["lr"] / group["peak"] for group in state.optimizer.param_groups])
    assert min(map(min, rates[:-1])) > 0.01
    assert rates[-1] == pytest.approx([0, 0], abs=1e-9)


def test_shipped_weights_stay(tmp_path):
    net = train._downsizer(Run("segformer", "natural-k2", 1), "auto")
    expected = tritonds.DownsizeNet.from_pretrained("natural-k2")
    for mine, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert not mine.requires_grad
    assert run_one(tmp_path, "natural-k2")["metrics"]
    assert not (tmp_path / "downsizers").exists()
