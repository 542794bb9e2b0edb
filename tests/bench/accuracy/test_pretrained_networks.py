"""Pretrained networks behind every method, here two small ones that nobody trained."""

import math

import pytest
import torch
from torch import nn

from bench.accuracy import downsizers, pretrained


class Sharp(pretrained.Classifier):
    """Classes by how much neighbouring pixels differ: what a blur changes."""

    def __init__(self):
        nn.Module.__init__(self)

    def forward(self, images):
        detail = images.diff(dim=3).abs().mean(dim=(1, 2, 3))
        return torch.stack([8 * detail, 2 - 8 * detail], dim=1).log_softmax(dim=1)


class Bright(pretrained.TextDetector):
    def __init__(self):
        nn.Module.__init__(self)

    def forward(self, images):
        return images.mean(dim=1, keepdim=True)


@pytest.fixture
def result(monkeypatch):
    pictures = [torch.randint(256, (1, 3, 30, 36), dtype=torch.uint8) for _ in range(3)]
    monkeypatch.setattr(pretrained, "NETWORKS", {"a": Sharp, "b": Bright})
    tests = [pretrained.Test("a", "noise", 1.9, lambda: pictures), pretrained.Test("b", "noise", 2.5, lambda: pictures)]
    monkeypatch.setattr(pretrained, "tests", lambda count: tests)
    monkeypatch.setattr(pretrained, "_photographs", lambda split, count, side: pictures * 4)
    monkeypatch.setattr(pretrained, "PACKAGES", ("torch",))
    monkeypatch.setattr(pretrained, "TRAINED", ("distance-only-k4", "distance-only-k8-bicubic"))
    training = pretrained.Training(steps=40, batch=3, seeds=2)
    first, second = pretrained.run(3, training)
    (again,) = pretrained.run(3, training, first)
    assert first["rows"] == second["rows"][: len(first["rows"])] == again["rows"][: len(first["rows"])]
    assert list(pretrained.run(3, training, second)) == []
    assert len(list(pretrained.run(4, training, second))) == 2
    return second


def test_every_method_is_asked_and_layers_learn(result):
    by_method = {}
    for row in result["rows"]:
        by_method.setdefault((row["network"], row["method"]), []).append(row)
    assert {name for network, name in by_method if network == "b"} == set(pretrained.METHODS)
    assert {name for network, name in by_method if network == "a"} == {*pretrained.METHODS, *pretrained.TRAINED}
    divergence = {key: sum(sum(row["divergence"]) for row in rows) / len(rows) for key, rows in by_method.items()}
    assert divergence["a", "distance-only-k8-bicubic"] < divergence["a", "bicubic-aa"]
    (trained,) = {row["strength"] > 1 for row in by_method["a", "distance-only-k8-bicubic"]}
    assert trained


def test_the_table(result):
    header, lines = pretrained.lines(result)
    assert header == ["", "a, noise, by 1.9", "b, noise, by 2.5"]
    cells = {line[0]: line[1:] for line in lines}
    assert list(cells)[: len(downsizers.FIXED)] == list(downsizers.FIXED)
    assert cells["distance-only-k4, trained for it"][1] == ""
    assert "(" not in cells["bilinear-aa"][0]
    assert "±" in cells["bicubic-aa"][0]
    assert ", g " in cells["distance-only-k8-bicubic, trained for it"][0]
    assert "torch " in pretrained.origin(result)
    of = {row["method"]: row["divergence"] for row in result["rows"] if row["network"] == "b"}
    best = min(downsizers.FIXED, key=lambda name: sum(of[name]))
    differences = [a - b for a, b in zip(of["natural-k8"], of[best], strict=True)]
    assert cells["natural-k8, less the best that is fixed"][1].strip("*").startswith(f"{sum(differences) / 3:+.2f}")
    assert cells["natural-k8, less the best that is fixed"][1].endswith(f", {best}")
    assert cells["distance-only-k4, trained for it, less the best that is fixed"][1] == ""
    assert not any(name.startswith("downsizenet-k4") for name in cells)  # it was not trained


def test_texture_is_compared_with_distance_alone():
    fixed = [row("a", name, [2.0, 3.0]) for name in downsizers.FIXED]
    trained = [row("a", "downsizenet-k4", [1.0, 2.5], 0), row("a", "downsizenet-k4", [1.2, 2.7], 1)]
    trained += [row("a", "distance-only-k4", [1.5, 2.0], 0)]
    _, lines = pretrained.lines({"rows": [*fixed, *trained]})
    ((name, cell),) = (line for line in lines if line[0].startswith("downsizenet-k4 - "))
    assert name == "downsizenet-k4 - distance-only-k4"
    # -0.4 and +0.6 of the two pictures: by hand, 12.706 * 0.7071 / sqrt(2)
    assert cell == "+0.10 ± 6.35"


def row(network, method, divergence, seed=0):
    trained = method not in downsizers.FIXED
    what = {"network": network, "pictures": "noise", "scale": 2.0, "method": method, "seed": seed, "trained": trained}
    return what | {"divergence": divergence, "agreement": [50.0] * len(divergence)}


def test_divergences_by_hand():
    full, small = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert pretrained.Classifier.divergence(full, small).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert pretrained.Classifier.divergence(full, full).item() == 0
    assert pretrained.Classifier.agreement(torch.tensor([[1.0, 2]]), torch.tensor([[0.0, 2]])).item() == 100
    full, small = torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 2, 2), 0.25)
    expected = 1000 * (0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75))
    assert pretrained.TextDetector.divergence(full, small).item() == pytest.approx(expected)
    full = torch.tensor([[[[0.9, 0.9, 0.1, 0.1]]]])
    assert pretrained.TextDetector.agreement(full, torch.tensor([[[[0.9, 0.9, 0.9, 0.1]]]])).item() == pytest.approx(200 / 3)
