"""Every implementation is compared with float64, and wrong ones are found."""

import dataclasses

import pytest
import torch

pytest.importorskip("matplotlib")

from speed import RAGGED, TINY, implement

from bench import providers, workloads

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize("factor", [0.0, 1.5, float("nan")])
def test_a_wrong_gradient_is_found_behind_a_right_result(monkeypatch, device, factor):
    right = providers.PROVIDERS["reference"].prepare

    def prepare(problem):
        function, inputs = right(problem)

        def run():
            output = function()
            return output.detach() + factor * (output - output.detach())

        return run, inputs

    implement(monkeypatch, "wrong-one", prepare)
    problem = providers.Problem(TINY, "forward+backward", device)
    errors = providers.errors("wrong-one", problem, *providers.build("wrong-one", problem))
    assert not errors.acceptable
    assert errors.output <= errors.output_tolerance or factor != factor


def test_a_gradient_that_reaches_another_image_is_found(monkeypatch, device):
    right = providers.PROVIDERS["reference"].prepare

    def prepare(problem):
        function, inputs = right(problem)

        def run():
            output = function()
            mixed = problem.texture[0].mean()
            return output + (mixed - mixed.detach())

        return run, inputs

    implement(monkeypatch, "wrong-one", prepare)
    problem = providers.Problem(TINY, "forward+backward", device)
    assert not providers.errors("wrong-one", problem, *providers.build("wrong-one", problem)).acceptable


@pytest.mark.parametrize("name", ["reference", "net-eager", "image-eager"])
def test_what_is_expected_does_not_come_from_strips(name, monkeypatch):
    """On a CPU the PyTorch backend works in strips, which are measured themselves."""

    def strips(*_):
        raise AssertionError

    monkeypatch.setattr("tritonds.strips.strips", strips)
    problem = providers.Problem(TINY, "forward", torch.device("cpu"))
    assert problem.expected(name)[0].isfinite().all()


@pytest.mark.parametrize("name", ["fused", "net-fused"])
@pytest.mark.parametrize(
    ("mode", "change"),
    [
        ("forward", {"taps": 4, "prior": "antialias"}),
        ("forward+backward", {}),
        ("forward+backward", {"layers": 0, "channels_last": False}),
    ],
)
def test_the_fused_providers_pass(name, mode, change, device):
    problem = providers.Problem(dataclasses.replace(TINY, **change), mode, device)
    errors = providers.errors(name, problem, *providers.build(name, problem))
    assert errors.acceptable, errors


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("image-fused", "forward+backward"),
        ("image-composed", "forward+backward"),
        ("image-eager", "forward+backward"),
        ("image-bilinear-aa", "forward"),
        ("image-copy", "forward"),
    ],
)
@pytest.mark.parametrize("workload", [TINY, RAGGED], ids=["batch", "ragged"])
def test_the_image_providers_pass(name, mode, workload, device):
    problem = providers.Problem(workload, mode, device)
    errors = providers.errors(name, problem, *providers.build(name, problem))
    assert errors.acceptable, errors
    assert (errors.gradient is not None) == (mode == "forward+backward")


def test_images_are_as_decoders_give_them(device):
    batch = providers.Problem(TINY, "forward", device).pictures
    images = providers.Problem(RAGGED, "forward", device).pictures
    assert (batch.dtype, batch.shape, batch.stride()) == (torch.uint8, (2, 3, 20, 24), (20 * 24 * 3, 1, 24 * 3, 3))
    assert [(image.dtype, image.shape) for image in images] == [(torch.uint8, (3, *size)) for size in RAGGED.sizes]
    assert all(image.stride() == (1, 3 * image.shape[2], 3) for image in images)


@pytest.mark.parametrize("mode", workloads.MODES)
@pytest.mark.parametrize("workload", [TINY, RAGGED], ids=["batch", "ragged"])
def test_a_wrong_normalisation_is_found(monkeypatch, workload, mode, device):
    right = providers.PROVIDERS["image-eager"].prepare

    def prepare(problem):
        function, inputs = right(problem)
        function.func.mean = [mean + 0.01 for mean in workloads.MEAN]  # of the layer, a copy of the problem's
        return function, inputs

    implement(monkeypatch, "wrong-one", prepare, "image")
    problem = providers.Problem(workload, mode, device)
    assert not providers.errors("wrong-one", problem, *providers.build("wrong-one", problem)).acceptable
    assert providers.errors("image-eager", problem, *providers.build("image-eager", problem)).acceptable


def test_images_in_another_order_are_found(monkeypatch, device):
    right = providers.PROVIDERS["image-eager"].prepare

    def prepare(problem):
        function, inputs = right(problem)
        return lambda: function().roll(1, 0), inputs

    implement(monkeypatch, "wrong-one", prepare, "image")
    problem = providers.Problem(RAGGED, "forward", device)
    assert not providers.errors("wrong-one", problem, *providers.build("wrong-one", problem)).acceptable


def test_the_interpreter_is_never_timed(device):
    for name in ("fused", "net-fused", "net-fused-compiled", "image-fused", "image-composed"):
        assert (providers.unavailable(name, torch.device("cpu")) or "").startswith("the Triton kernels need a GPU")
        assert (providers.unavailable(name, device) is None) == (device.type == "cuda")


@pytest.mark.parametrize("mode", workloads.MODES)
@pytest.mark.parametrize(("name", "kind", "workload"), [("copy", "operator", TINY), ("image-copy", "image", RAGGED)])
def test_a_copy_moves_the_bytes_of_its_kind(name, kind, workload, mode, device):
    function, _ = providers.build(name, providers.Problem(workload, mode, device))
    assert 2 * function().nbytes == pytest.approx(workload.necessary_bytes(kind, mode), abs=2 * 4 * workload.batch)
