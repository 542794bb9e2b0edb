"""Tables and plots of the speed benchmark."""

import copy
import itertools

import pytest

pytest.importorskip("matplotlib")

from speed import run

from bench import measure, report

pytestmark = pytest.mark.usefixtures("tiny")


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


def test_tables_of_each_machine_go_between_their_marks(results):
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


def test_images_have_tables_of_their_own(results):
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


def test_predicted_passes_are_sums_of_their_kernels(results):
    """A pass of two kernels: every floor is a sum, and the guess one of guesses."""

    def row(operator, name, issue, memory, **variant):
        cost = {
            "instructions_per_pixel": 10.0, "bytes_per_pixel": 9.0, "busiest_pipe": "memory", "resident_warps": 12,
            "issue_us": issue, "pipe_us": 1.0, "bandwidth_us": memory, "latency_us": 4.0,
            "way": {"issue": 1980.0, "memory": 0, "L1": 0, "shared": 0, "special": 0, "operands": 0}, "rounds": 4.0,
        }  # fmt: skip
        fastest = {"dtype": "bf16", "channels_last": True, "workload": "poster160", "taps": 2, "image": "", "out": ""}
        fastest |= {"prior": "none", "letterbox": False, "tf32": False, "texture": True}
        return {"operator": operator, "name": name, "variant": fastest | variant, "cost": cost}

    rows = [
        row("downsize", "downsize_kernel", 3.0, 5.0),
        row("downsize", "downsize_kernel", 100.0, 100.0, dtype="fp32"),
        row("downsize_backward", "downsize_backward_kernel", 7.0, 2.0),
        row("downsize_backward", "area_pool_kernel", 4.0, 6.0),
        row("downsize_backward, to the image too", "weighted_gather_grad_image_kernel", 100.0, 100.0),
        row("area_pool2d", "area_pool_kernel", 100.0, 100.0),
        row("downsize_image", "downsize_kernel", 6.0, 1.0, image="u8"),
        row("downsize_image_backward", "downsize_backward_kernel", 7.0, 2.0, image="u8"),
        row("downsize_image_backward", "texture_grad_weights_kernel", 4.0, 2.0, image="u8"),
        row("downsize_image", "downsize_kernel", 6.5, 1.5, image="u8", prior="bicubic"),
        row("downsize_image", "downsize_kernel", 100.0, 100.0, image="u8", letterbox=True),
        row("downsize_image", "tabulated_sum_kernel", 100.0, 100.0, image="u8", texture=False),
        row("downsize_image", "downsize_kernel", 100.0, 100.0, image="bf16", letterbox=False),
    ]
    measure.write({"triton": "9.9", "date": "2030-01-02", "rows": rows}, results / "kernels" / "sm_90.json")

    def line(name, *numbers):
        return f"| poster160{name} | {' | '.join(numbers)} |\n"

    one = (3**3 + 5**3 + 4**3) ** (1 / 3)
    two = (7**3 + 2**3 + 4**3) ** (1 / 3) + (4**3 + 6**3 + 4**3) ** (1 / 3)
    forward = ("12", "10.0", "3.00", "1.00", "5.00", "4.00", f"{one:.2f}")
    backward = ("12, 12", "20.0", "11.0", "2.00", "8.00", "8.00", f"{two:.1f}")
    text = report.with_tables(PAGE, results)
    assert text.partition("speed:predicted")[2].count("| poster160, ") == 5
    assert line(", K=2, forward", *forward, "") not in text  # it was measured
    assert line(", uint8 images, K=2, forward", "12", "10.0", "6.00", "1.00", "1.00", "4.00", "6.55", "") in text
    assert line(", uint8 images, K=2, bicubic, forward", "12", "10.0", "6.50", "1.00", "1.50", "4.00", "6.99", "") in text
    assert "Triton 9.9, sm_90, 2030-01-02" in text
    times = {mode: 1000 * row["median_ms"] for mode, row in fused(results).items()}
    assert line(", K=2, forward", *forward, report.digits(times["forward"])) in text
    assert line(", K=2, backward", *backward, report.digits(times["forward+backward"] - times["forward"])) in text
    (results / "gpu.json").unlink()
    text = report.with_tables(PAGE, results)
    assert line(", K=2, forward", *forward, "") in text
    assert line(", K=2, backward", *backward, "") in text


def fused(results):
    """What was measured of the kernels, by mode."""
    rows = report.read(results / "gpu.json")["rows"]
    return {row["mode"]: row for row in rows if row["provider"] == "fused"}


def test_tables_without_results_say_so(tmp_path):
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


def test_each_sweep_and_headline_has_a_plot(results, tmp_path):
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
