"""What the trained downsizers learned, and the weights that are shipped."""

import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from training import CPU, TINY

import tritonds
from bench.accuracy import downsizers, learned, plan, runner, train, weights
from bench.accuracy.plan import Run


class Coefficients:
    """A network that has these, whatever the image."""

    prior = None

    def __init__(self, coefficients):
        self.coefficients = lambda images, size: coefficients


def test_coefficients_are_described():
    """Of two images at two places, four taps: one place has the first pixel in both, the other one each."""
    chosen = torch.tensor([[0, 1], [0, 2]])
    one_pixel = F.one_hot(chosen, 4).double().movedim(2, 1)[..., None]
    expected = {"largest": 1.0, "by_image": 0.25}  # 0 and 1 deviate by a half
    assert learned.describe(Coefficients(one_pixel), None, (2, 1)) == expected
    mean = torch.full((2, 4, 2, 1), 0.25)
    assert learned.describe(Coefficients(mean), None, (2, 1)) == {"largest": 0.25, "by_image": 0.0}


@torch.no_grad()
def test_strength_is_what_the_last_row_gives():
    """Constant; by the place alone; and by the image."""
    net = tritonds.DownsizeNet(taps=4, prior="bicubic")
    images = torch.rand(3, 3, 22, 19)
    torch.nn.init.normal_(net.out.weight)
    net.out.weight[-1], net.out.bias[-1] = 0, 2.5
    found = learned.describe(net, images, (9, 8))
    assert found["strength"] == pytest.approx(2.5, abs=1e-4)
    assert max(found["strength_by_image"], found["strength_by_place"]) < 1e-4
    net.out.weight[-1] = torch.rand(16)
    g = learned.strength(net, images, (9, 8))
    found = learned.describe(net, images, (9, 8))
    assert found["strength_by_image"] == pytest.approx(g.std(dim=0, correction=0).mean().item())
    assert found["strength_by_image"] > 1e-3
    assert found["strength_by_place"] > 1e-3
    net.hidden[0].weight[:, net.distance_channels :] = 0  # deaf to texture
    assert learned.describe(net, images, (9, 8))["strength_by_image"] < 1e-4


def test_what_was_learned_is_told_apart_from_the_prior(tmp_path, in_this_process):
    job = runner.Job(TINY, "scenes", tmp_path, CPU, 1)
    runs = [Run("segformer", method, 1) for method in ("bilinear", "downsizenet-k2", "downsizenet-k4")]
    assert len(list(runner.run_job(job, runs, jobs=1, budget=math.inf))) == 3
    net = tritonds.DownsizeNet.from_pretrained(train.trained(tmp_path, runs[1]))
    with torch.no_grad():
        net.out.weight.zero_()
        net.out.bias.copy_(torch.tensor([0.0, 0.0, 99.0, 0.0]))  # the third pixel, whatever is there
    net.save_pretrained(train.trained(tmp_path, runs[1]))
    k2, k4 = learned.summarize(runner.read(job.results), tmp_path)["rows"]
    assert [row["method"] for row in (k2, k4)] == ["downsizenet-k2", "downsizenet-k4"]
    assert k2["largest"] > 0.95  # all but the few places where its prior is 0
    assert k2["by_image"] == pytest.approx(0, abs=1e-6)
    assert k4["by_image"] > 0
    assert k4["largest"] < 0.5
    shutil.rmtree(train.trained(tmp_path, runs[1]))  # as in another checkout, where the study goes on
    gone = [k2 | {"largest": 0.5}, k2 | {"seed": 2}, k4 | {"largest": 0.25}]
    again = learned.summarize(runner.read(job.results), tmp_path, gone)["rows"]
    assert again == [k2 | {"largest": 0.5}, k4 | {"date": again[1]["date"]}]


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
