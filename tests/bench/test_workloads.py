"""What is measured: bytes and operations by hand, plans and what options make of them."""

import dataclasses
import itertools
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("matplotlib")

from speed import RAGGED, run

from bench import __main__ as cli
from bench import providers, workloads

pytestmark = pytest.mark.usefixtures("tiny")


def test_necessary_bytes_count_each_tensor_once():
    hdx8 = dataclasses.replace(workloads.NAMED["hdx8"], dtype="bf16")
    image, texture, output = (8 * c * h * w * 2 for c, h, w in ((3, 1080, 1920), (16, 1080, 1920), (3, 540, 960)))
    assert (image, texture, output) == (99_532_800, 530_841_600, 24_883_200)
    assert hdx8.necessary_bytes("operator", "forward") == 655_257_600
    assert hdx8.necessary_bytes("operator", "forward+backward") == 2 * 655_257_600 + 530_841_600
    assert hdx8.necessary_bytes("copy", "forward") == 655_257_600
    for kind in ("network", "interpolation"):
        assert hdx8.necessary_bytes(kind, "forward") == 99_532_800 + 24_883_200
        assert hdx8.necessary_bytes(kind, "forward+backward") == 2 * (99_532_800 + 24_883_200)


def test_necessary_bytes_of_images():
    """uint8 in; out in the workload's dtype. Of hdx8: 8 * 3 * 1080 * 1920, and 2 * 8 * 3 * 540 * 960."""
    hdx8 = dataclasses.replace(workloads.NAMED["hdx8"], dtype="bf16")
    for kind in ("image", "image-interpolation", "image-copy"):
        assert hdx8.necessary_bytes(kind, "forward") == 49_766_400 + 24_883_200
        assert hdx8.necessary_bytes(kind, "forward+backward") == 2 * (49_766_400 + 24_883_200)
        # 3 * (31 * 22 + 20 * 40 + 17 * 12), and 4 * 3 * 3 * 9 * 11
        assert RAGGED.necessary_bytes(kind, "forward") == 5_058 + 3_564


def test_images_of_different_sizes_are_the_same_in_every_run(monkeypatch):
    monkeypatch.undo()
    w = workloads.NAMED["ragged32"]
    assert w.sizes[:3] == ((1300, 1373), (594, 1042), (1559, 1507))
    assert (len(w.sizes), w.batch, w.size) == (32, 32, (512, 512))
    assert all(512 <= side <= 2048 for size in w.sizes for side in size)
    assert w.image == (max(h for h, _ in w.sizes), max(w for _, w in w.sizes))
    assert w.pixels == sum(h * w for h, w in w.sizes)


@pytest.mark.parametrize(
    ("prior", "taps", "distances", "outputs"), [(None, 2, 4, 4), ("bicubic", 8, 16, 65), ("lanczos", 4, 8, 17)]
)
def test_flops_are_of_pooling_layers_taps_and_convolution(prior, taps, distances, outputs):
    """hdx8: pooling, three layers' products, K*K taps of three channels; and the texture's convolution."""
    w = dataclasses.replace(workloads.NAMED["hdx8"], prior=prior, taps=taps)
    source, target = 8 * 1080 * 1920, 8 * 540 * 960
    operator = 2 * 16 * source + 2 * target * (16 * distances + 16 * 32 + outputs * 16 + taps**2 * 3)
    assert w.flops("operator") == operator
    assert w.flops("network") == operator + 2 * 9 * 3 * 16 * source


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_plans_name_what_exists_and_nothing_twice(device_type):
    cases = workloads.plan(device_type)
    assert len(set(cases)) == len(cases)
    assert {case.provider for case in cases} <= providers.PROVIDERS.keys()
    assert {case.workload.name for case in cases if case.provider == workloads.AUTOTUNED} <= {"hdx8", "seg768"}
    fused = {name for name, provider in providers.PROVIDERS.items() if provider.fused}
    assert {case.provider for case in cases} & fused == (fused if device_type == "cuda" else set())


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_images_are_planned_where_they_can_be(device_type):
    names = ["poster160", "ragged32"]
    for case in workloads.plan(device_type) + workloads.plan(device_type, workloads=names, providers=providers.PROVIDERS):
        assert not case.workload.sizes or case.provider.startswith("image-")
        assert case.provider != "image-bilinear-aa" or case.mode == "forward"


def test_images_come_among_the_first_on_a_gpu():
    cases = workloads.plan("cuda")
    first = next(i for i, case in enumerate(cases) if case.provider.startswith("image-"))
    assert {case.workload.name for case in cases[:first]} == {"hdx8", "seg768", "poster160"}
    following = itertools.takewhile(lambda case: case.provider.startswith("image-"), cases[first:])
    both = ("image-fused", "image-composed", "image-copy")
    assert {(case.workload.name, case.mode, case.provider) for case in following} == {
        (name, *row)
        for name in ("hdx8", "ragged32")
        for row in [("forward", "image-bilinear-aa"), *itertools.product(workloads.MODES, both)]
    }


def test_a_cpu_measures_images_of_one_size_unless_asked():
    cases = {(case.workload.name, case.mode, case.provider) for case in workloads.plan("cpu")}
    assert {("hd", "forward", "image-eager"), ("hd", "forward", "image-bilinear-aa")} <= cases
    assert "ragged32" not in {name for name, _, _ in cases}
    asked = workloads.plan("cpu", workloads=["ragged32"])
    assert {case.provider for case in asked} == {"image-eager", "image-bilinear-aa", "image-copy"}


def test_options_that_leave_nothing_are_refused():
    outcome = run("--workload", "ragged32", "--provider", "fused")
    assert outcome.exit_code == 2
    assert "nothing is measured with all of these options" in outcome.output


def test_options_replace_their_axis():
    cases = workloads.plan("cuda", workloads=["taps", "hd"], providers=["fused"], dtypes=["fp16"], modes=["forward"])
    assert {(case.provider, case.workload.dtype, case.mode) for case in cases} == {("fused", "fp16", "forward")}
    assert {case.workload.name for case in cases} == {"hd", *(f"taps-{k}" for k in (1, 2, 3, 4, 6, 8))}
    asked = workloads.plan("cuda", workloads=["poster160"], providers=[workloads.AUTOTUNED])
    assert {case.provider for case in asked} == {workloads.AUTOTUNED}


@pytest.mark.parametrize("option", ["workload", "provider", "dtype", "mode"])
def test_an_unknown_name_is_refused_with_the_choices(option):
    outcome = run(f"--{option}", "nonsense")
    assert outcome.exit_code == 2
    assert "nonsense" in outcome.output
    known = {"workload": "seg513", "provider": "bicubic-aa", "dtype": "bf16", "mode": "forward+backward"}
    assert known[option] in outcome.output


def test_speed_needs_nothing_of_what_accuracy_needs():
    code = """
import runpy, sys
sys.modules |= dict.fromkeys(["faster_coco_eval", "scipy", "sklearn", "torchmetrics", "transformers"])
sys.argv = ["bench", "--help"]
runpy.run_module("bench", run_name="__main__", alter_sys=True)
"""
    root = pathlib.Path(cli.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "accuracy  Train networks" in result.stdout
