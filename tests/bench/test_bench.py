"""The speed instrument: what it refuses to time, what it writes, and what is made of that. Sizes are tiny, times irrelevant."""

import copy
import dataclasses
import itertools
import json
import math
import pathlib
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("matplotlib")

from bench import __main__ as cli
from bench import measure, providers, report, workloads
from bench.providers import Provider
from bench.workloads import Case, Workload

TINY = Workload("poster160", 2, (20, 24), (9, 11))
RAGGED = Workload("ragged32", 3, (31, 40), (9, 11), sizes=((31, 22), (20, 40), (17, 12)))
QUICK = ("--quick", "--budget", "inf")  # however busy the machine is, nothing is left out
ROW_FIELDS = {
    "workload", "mode", "provider", "status", "reason", "error", "gradient_error", "median_ms", "p20_ms", "p80_ms",
    "necessary_bytes", "gb_per_s", "copy_share", "peak_bytes", "launches", "host_us",
}  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """Everything small, and written below ``tmp_path``."""
    torch.use_deterministic_algorithms(False)  # PyTorch's interpolations on a GPU have no deterministic gradients
    monkeypatch.setitem(workloads.NAMED, "poster160", TINY)
    monkeypatch.setitem(workloads.NAMED, "ragged32", RAGGED)
    monkeypatch.setattr(measure, "COPY_BYTES", {"cpu": 2**20, "cuda": 2**20})
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setattr(cli, "RESULTS", tmp_path / "results")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The result of two providers in both modes, as read from its file."""
    out = tmp_path_factory.mktemp("bench") / "result.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(workloads.NAMED, "poster160", TINY)
        patch.setattr(measure, "COPY_BYTES", {"cpu": 2**20, "cuda": 2**20})
        outcome = run(*QUICK, "--dtype", "fp32", "--provider", "reference", "--provider", "bilinear-aa", "--out", out)
    assert outcome.exit_code == 0, outcome.output
    return json.loads(out.read_text())


def rows_of(out):
    return {(row["provider"], row["mode"]): row for row in json.loads(out.read_text())["rows"]}


def implement(monkeypatch, name, prepare, kind="operator"):
    monkeypatch.setitem(providers.PROVIDERS, name, Provider(kind, prepare))


def test_a_quick_run_measures_every_uncompiled_provider(tmp_path):
    outcome = run("run", *QUICK)
    assert outcome.exit_code == 0, outcome.output
    (out,) = (tmp_path / "results").glob("quick-*.json")
    rows = rows_of(out)
    assert {row["status"] for row in rows.values()} == {"measured"}
    assert not any("compiled" in name for name, _ in rows)
    assert {mode for _, mode in rows} == set(workloads.MODES)
    assert all(name in outcome.output for name, _ in rows)


def test_the_result_says_all_that_the_figures_depend_on(measured):
    assert measured.keys() == {"schema", "date", "command", "quick", "machine", "copy_gb_per_s", "first_call_s", "rows"}
    machine = measured["machine"]
    assert machine["torch"] == torch.__version__
    assert machine["device"]
    assert machine.keys() > {"driver", "cpu", "cores", "threads", "triton", "cuda", "python", "commit"}
    for row in measured["rows"]:
        assert row.keys() == ROW_FIELDS
        assert report.workload_of(row) == dataclasses.replace(TINY, dtype="fp32")
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["gb_per_s"] == pytest.approx(row["necessary_bytes"] / row["median_ms"] / 1e6)
        assert (row["gradient_error"] is None) == (row["mode"] == "forward")


def test_a_wrong_result_is_reported_and_not_timed(monkeypatch, tmp_path):
    right = providers.PROVIDERS["reference"].prepare

    def prepare(problem):
        function, inputs = right(problem)
        return lambda: function() * 1.05, inputs

    implement(monkeypatch, "wrong-one", prepare)
    outcome = run(*QUICK, "--provider", "wrong-one", "--provider", "reference", "--out", tmp_path / "r.json")
    assert outcome.exit_code == 1
    assert "errors of output and gradients" in outcome.output
    rows = rows_of(tmp_path / "r.json")
    for mode in workloads.MODES:
        assert rows["wrong-one", mode]["status"] == "wrong"
        assert rows["wrong-one", mode]["error"] == pytest.approx(0.05, rel=0.2)
        assert "median_ms" not in rows["wrong-one", mode]
        assert rows["reference", mode]["status"] == "measured"


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


def test_an_error_fails_its_row_alone(monkeypatch, tmp_path):
    def prepare(problem):
        raise RuntimeError("out of memory:\nno such luck")

    implement(monkeypatch, "broken-one", prepare)
    outcome = run(*QUICK, "--provider", "broken-one", "--provider", "copy", "--out", tmp_path / "r.json")
    assert outcome.exit_code == 1
    assert "broken-one: RuntimeError: out of memory: no such luck" in outcome.output
    statuses = [row["status"] for row in rows_of(tmp_path / "r.json").values()]
    assert statuses == ["failed", "measured"] * 2


def test_what_the_budget_cuts_is_recorded(tmp_path):
    outcome = run("--quick", "--budget", "0", "--out", tmp_path / "r.json")
    assert outcome.exit_code == 0
    assert "not measured (time budget)" in outcome.output
    assert {row["reason"] for row in rows_of(tmp_path / "r.json").values()} == {"time budget"}


def test_the_file_is_whole_after_every_row(tmp_path):
    cases = [Case(TINY, mode, name) for mode in workloads.MODES for name in ("bilinear", "copy")]
    out = tmp_path / "below" / "r.json"
    for count, row in enumerate(measure.run(cases, torch.device("cpu"), out, quick=True, budget=math.inf), start=1):
        rows = report.read(out)["rows"]
        assert len(rows) == count
        assert rows[-1]["provider"] == row["provider"]
        assert list(out.parent.iterdir()) == [out]


def test_a_row_that_kills_the_process_is_known_by_the_file(monkeypatch, tmp_path):
    def prepare(problem):
        assert report.read(tmp_path / "r.json")["rows"][-1]["reason"] == measure.DIED["reason"]
        return providers.PROVIDERS["reference"].prepare(problem)

    implement(monkeypatch, "reading-one", prepare)
    outcome = run(*QUICK, "--provider", "reading-one", "--out", tmp_path / "r.json")
    assert outcome.exit_code == 0, outcome.output
    assert {row["status"] for row in rows_of(tmp_path / "r.json").values()} == {"measured"}


def test_necessary_bytes():
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


def test_flops():
    """hdx8: pooling, four layers' products, K*K taps of three channels; and the texture's convolution."""
    w = workloads.NAMED["hdx8"]
    source, target = 8 * 1080 * 1920, 8 * 540 * 960
    operator = 2 * 16 * source + 2 * target * (16 * 4 + 16 * 32 + 4 * 16 + 4 * 3)
    assert w.flops("operator") == operator
    assert w.flops("network") == operator + 2 * 9 * 3 * 16 * source


@pytest.mark.parametrize("mode", workloads.MODES)
@pytest.mark.parametrize(("name", "kind", "workload"), [("copy", "operator", TINY), ("image-copy", "image", RAGGED)])
def test_a_copy_moves_the_bytes_of_its_kind(name, kind, workload, mode, device):
    function, _ = providers.build(name, providers.Problem(workload, mode, device))
    assert 2 * function().nbytes == pytest.approx(workload.necessary_bytes(kind, mode), abs=2 * 4 * workload.batch)


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


def test_images_on_a_cpu():
    cases = {(case.workload.name, case.mode, case.provider) for case in workloads.plan("cpu")}
    assert {("hd", "forward", "image-eager"), ("hd", "forward", "image-bilinear-aa")} <= cases
    assert "ragged32" not in {name for name, _, _ in cases}
    asked = workloads.plan("cpu", workloads=["ragged32"])
    assert {case.provider for case in asked} == {"image-eager", "image-bilinear-aa", "image-copy"}


def test_images_of_different_sizes_are_measured(tmp_path):
    out = tmp_path / "r.json"
    outcome = run(*QUICK, "--workload", "ragged32", "--dtype", "fp32", "--out", out)
    assert outcome.exit_code == 0, outcome.output
    assert "ragged32 (3x3x(up to 31x40) to 9x11" in outcome.output
    rows = report.read(out)["rows"]
    assert {row["status"] for row in rows} == {"measured"}
    assert {report.workload_of(row) for row in rows} == {RAGGED}
    assert run("plot", out, "--out", tmp_path / "plots").exit_code == 0


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


PAGE = (
    "before\n<!-- speed:cpu -->\n<!-- /speed:cpu -->\nbetween\n<!-- speed:gpu -->\nold\n<!-- /speed:gpu -->\n"
    "<!-- speed:predicted -->\n<!-- /speed:predicted -->\nafter\n"
)


@pytest.fixture
def results(measured, tmp_path):
    """A folder with a CPU's result and one as a GPU's would look."""
    folder = tmp_path / "results"
    cpu = copy.deepcopy(measured) | {"quick": False}
    cpu["machine"]["device_type"] = "cpu"
    measure.write(cpu, folder / "cpu.json")
    gpu = copy.deepcopy(cpu)
    gpu["machine"] |= {"device_type": "cuda", "device": "A GPU", "driver": "1.2"}
    for row in gpu["rows"]:
        row["workload"]["dtype"] = "bf16"
        row |= {"peak_bytes": 3 * 2**20, "launches": 7, "host_us": 12.5}
    for row in [row for row in gpu["rows"] if row["provider"] == "reference"]:
        halved = {key: row[key] / 2 for key in ("median_ms", "p20_ms", "p80_ms")}
        gpu["rows"] += [row | halved | {"provider": "fused"}, row | halved | {"provider": "net-fused"}]
    measure.write(gpu, folder / "gpu.json")
    return folder


def test_tables_in_the_page(results):
    (results / "plots" / "cpu").mkdir(parents=True)
    text = report.with_tables(PAGE, results)
    assert report.with_tables(text, results) == text
    assert text.count(f"[Plots]({report.PLOTS}/plots/cpu).") == text.count("[Plots]") == 1  # none drawn of the GPU's
    cpu, gpu = text.partition("between")[::2]
    assert "| poster160, K=2, channels-last | " in cpu
    assert "| poster160, forward | " in gpu
    assert "| 2.00x |" in gpu
    assert "| 3.00 | 7 | 12.5 |" in gpu
    assert "A GPU; PyTorch" in gpu
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_images_in_the_page(results):
    for name, provider in (("cpu", "image-eager"), ("gpu", "image-fused")):
        result = report.read(results / f"{name}.json")
        like = next(row for row in result["rows"] if row["provider"] == "reference" and row["mode"] == "forward")
        milliseconds = {provider: 2.0, "image-composed": 6.0, "image-bilinear-aa": 4.0, "image-copy": 0.5}
        result["rows"] += [like | {"provider": p, "median_ms": ms} for p, ms in milliseconds.items()]
        measure.write(result, results / f"{name}.json")
    cpu, gpu = report.with_tables(PAGE, results).partition("between")[::2]
    assert "| ms, forward | image-eager | image-bilinear-aa | image-copy |" in cpu
    assert "| poster160, K=2, channels-last | 2.00 | 4.00 | 0.500 |" in cpu
    assert "| poster160, forward | 2.00 | 4.00x | 3.00x | 2.00x | 3.00 | 3.00 | 7 | 12.5 |" in gpu
    assert report.IMAGES in cpu
    assert report.IMAGES in gpu
    for name in ("cpu", "gpu"):
        assert report.plot(report.read(results / f"{name}.json"), results / "plots" / name)


def test_predictions_in_the_page(tmp_path):
    """A pass of two kernels: each takes its own slowest floor."""

    def row(operator, name, issue, memory, **variant):
        cost = {"instructions_per_pixel": 10.0, "issue_us": issue, "pipe_us": 1.0, "bandwidth_us": memory}
        fastest = {"dtype": "bf16", "channels_last": True, "workload": "hd", "taps": 2}
        return {"operator": operator, "name": name, "variant": fastest | variant, "cost": cost}

    rows = [
        row("downsize", "downsize_kernel", 3.0, 5.0),
        row("downsize", "downsize_kernel", 100.0, 100.0, dtype="fp32"),
        row("downsize_backward", "downsize_backward_kernel", 7.0, 2.0),
        row("downsize_backward", "area_pool_kernel", 4.0, 6.0),
        row("downsize_backward, to the image too", "weighted_gather_grad_image_kernel", 100.0, 100.0),
        row("area_pool2d", "area_pool_kernel", 100.0, 100.0),
        row("downsize_image", "downsize_kernel", 6.0, 1.0, image="u8", letterbox=False),
        row("downsize_image_backward", "downsize_backward_kernel", 7.0, 2.0, image="u8", letterbox=False),
        row("downsize_image_backward", "texture_grad_filter_kernel", 4.0, 2.0, image="u8", letterbox=False),
        row("downsize_image", "downsize_kernel", 100.0, 100.0, image="u8", letterbox=True),
        row("downsize_image", "downsize_kernel", 100.0, 100.0, image="bf16", letterbox=False),
    ]
    measure.write({"triton": "9.9", "date": "2030-01-02", "rows": rows}, tmp_path / "kernels" / "sm_90.json")
    text = report.with_tables(PAGE, tmp_path)
    assert "| hd, K=2, forward | 10.0 | 3.00 | 1.00 | 5.00 | 5.00 |" in text
    assert "| hd, K=2, backward | 20.0 | 11.0 | 2.00 | 8.00 | 13.0 |" in text
    assert "Triton 9.9, sm_90, 2030-01-02" in text
    assert "| hd, uint8 images, K=2, forward | 10.0 | 6.00 | 1.00 | 1.00 | 6.00 |" in text
    assert "| hd, uint8 images, K=2, backward | 20.0 | 11.0 | 2.00 | 4.00 | 11.0 |" in text
    assert text.count("| hd") == 4


def test_tables_without_results(tmp_path):
    text = report.with_tables(PAGE, tmp_path)
    assert report.NOT_MEASURED["cpu"] in text
    assert report.NOT_MEASURED["gpu"] in text
    assert report.NOT_MEASURED["predicted"] in text
    with pytest.raises(ValueError, match="speed:predicted"):
        report.with_tables("no sections", tmp_path)


def test_tables_check_finds_an_outdated_page(results, tmp_path):
    page = tmp_path / "docs" / "results" / "speed.md"
    page.parent.mkdir(parents=True)
    page.write_text(PAGE)
    assert run("tables", "--check").exit_code == 1
    assert page.read_text() == PAGE
    assert run("tables").exit_code == 0
    assert run("tables", "--check").exit_code == 0
    (results / "gpu.json").unlink()
    assert run("tables", "--check").exit_code == 1


def test_quick_results_stay_out_of_the_page(measured, tmp_path):
    measure.write(copy.deepcopy(measured), tmp_path / "quick.json")
    assert report.with_tables(PAGE, tmp_path) == report.with_tables(PAGE, tmp_path / "empty")


def test_plot(results, tmp_path):
    result = report.read(results / "gpu.json")
    for name, provider in itertools.product(("pixels-1", "pixels-4", "layers-0"), ("fused", "copy")):
        row = copy.deepcopy(result["rows"][0]) | {"provider": provider}
        row["workload"]["name"] = name
        result["rows"].append(row)
    measure.write(result, tmp_path / "r.json")
    outcome = run("plot", tmp_path / "r.json", "--out", tmp_path / "plots")
    assert outcome.exit_code == 0, outcome.output
    pictures = {path.stem for path in (tmp_path / "plots" / "r").glob("*.png")}
    assert pictures == {"sweep-pixels-forward", "sweep-layers-forward"} | {
        "headline-forward", "headline-forward+backward", "roofline-forward",
    }  # fmt: skip


def test_a_result_of_another_format_is_refused(tmp_path):
    (tmp_path / "r.json").write_text('{"schema": 0}')
    with pytest.raises(ValueError, match="schema 1"):
        report.read(tmp_path / "r.json")


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
