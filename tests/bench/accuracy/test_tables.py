"""What comes of results: differences and their intervals, tables, plots, documents."""

import math

import numpy as np
import pytest
from scipy import stats
from training import CPU, append, rows_of

from bench import measure
from bench.accuracy import plan, report, runner, scenes, timing
from bench.accuracy.pipelines import PIPELINES


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
            ("rtdetr", "downsizenet-k2"): [5, 5],
            ("rtdetr", "bilinear"): [2, 2],
            ("segformer", "bilinear"): [2, 2],
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


def test_the_mean_of_networks_is_without_reconstruction_whose_metric_is_another():
    names = ("dpt", "segformer", "reconstruction")
    found = {(name, "downsizenet-k2"): [100 if name == "reconstruction" else 3] for name in names}
    found |= {(name, "bilinear"): [1] for name in names}
    _, (_, lines), *_ = report.tables({"rows": rows_of(found)}).values()
    assert lines[-1][:2] == ["mean of 2, without reconstruction", "+2.00 (1)"]
    of_one = {key: values for key, values in found.items() if key[0] != "dpt"}
    _, (_, lines), *_ = report.tables({"rows": rows_of(of_one)}).values()
    assert lines[-1][0] == "reconstruction"


def empty_document():
    """With every section, none of which has a table."""
    names = [f"{name}:{profile}" for name in ("accuracy", "time", "learned") for profile in ("cpu", "gpu")]
    return "a\n" + "b\n".join(f"<!-- {name} -->\nOUTDATED\n<!-- /{name} -->\n" for name in names)


def test_networks_that_left_the_study_are_not_reported(tmp_path):
    job = runner.Job(plan.PROFILES["cpu"], "scenes", tmp_path / "cpu", CPU, 1)
    for row in rows_of({("dpt", "bilinear"): [60]}):
        append(job, row | {"commit": "a"}, "2026-11-22 10:00")
        append(job, row | {"pipeline": "yolos"}, "2026-11-21 10:00")
    assert [row["pipeline"] for row in runner.read(job.results)["rows"]] == ["dpt", "yolos"]
    text = report.readme(empty_document(), tmp_path)
    assert "| dpt, mIoU | 60.00 (1) |" in text
    assert "2026-11-21" not in text
    assert "yolos" not in text


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
    rows = rows_of({("dpt", "bilinear"): [1], ("rtdetr", "area"): [2], ("rtdetr", "downsizenet-k2"): [3]})
    rows += rows_of({("rtdetr", "bilinear"): [2]})
    figure = report._draw_losses(rows)
    assert [axis.get_title() for axis in figure.axes] == ["rtdetr", "dpt"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["bilinear", "area", "downsizenet-k2"]
    colours = [{line.get_label(): line.get_color() for line in axis.lines} for axis in figure.axes]
    assert colours[0]["bilinear"] == colours[1]["bilinear"]
    assert len(set(colours[0].values())) == 3
    axis = report._draw_differences(report.scores(rows)).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["rtdetr, mAP"]
    assert axis.lines[0].get_fillstyle() == "none"
    assert not axis.containers  # one seed has no interval
    rows = rows_of({("rtdetr", "downsizenet-k2"): [3, 5], ("rtdetr", "bilinear"): [2, 3]})
    assert len(report._draw_differences(report.scores(rows)).axes[0].containers) == 1


def test_tables_go_into_documents(tmp_path):
    document = empty_document()
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
    assert "not measured yet" in report.with_model_card(document, tmp_path)
    job = runner.Job(plan.PROFILES["cpu"], "scenes", tmp_path / "cpu", CPU, 1)
    where = plan.SHIPPED_IN[0]
    for row in rows_of({(where, "natural-k2"): [31.0, 33.0], (where, "bilinear"): [30.0, 31.0], (where, "area"): [1.0]}):
        append(job, row, "2026-11-22 10:00")
    text = report.with_model_card(document, tmp_path)
    assert f"| {where}, PSNR | natural-k2 | 32.00 ± 1.41 (2) | +1.50 ± 6.35 (2) |  |" in text
    assert "area" not in text


def test_learned_kernels_against_the_best_that_is_fixed_at_each_scale():
    """The best of all that have as many seeds as any: here not the one that has one."""
    values = {
        ("reconstruction-1.5", "bilinear"): [30, 31, 32],
        ("reconstruction-1.5", "lanczos-g2"): [34, 35, 36],
        ("reconstruction-1.5", "lanczos-g3"): [99],
        ("reconstruction-1.5", "distance-only-k8-bicubic"): [35, 36, 37.3],
        ("reconstruction-1.5", "downsizenet-k8-bicubic"): [33, 34, 35.1],
        ("reconstruction-3.3", "bilinear"): [30],
    }
    tables = report.tables({"rows": rows_of(values)})
    means, differences = (table for title, table in tables.items() if title.startswith("Sharpening"))
    assert means[0] == differences[0] == ["scale", "1.5", "1.875", "2.5", "3.304"]
    assert ["bilinear", "31.00 ± 1.00", "", "", "30.00 (1)"] in means[1]
    assert differences[1] == [
        ["distance-only-k8-bicubic - best", "**+1.10 ± 0.43**, lanczos-g2", "", "", ""],
        ["downsizenet-k8-bicubic - best", "**-0.97 ± 0.14**, lanczos-g2", "", "", ""],
        ["downsizenet-k8-bicubic - distance-only-k8-bicubic", "**-2.07 ± 0.29**", "", "", ""],
    ]


def test_other_data_are_not_taken_for_scenes(tmp_path):
    job = runner.Job(plan.PROFILES["cpu"], "voc:/x", tmp_path / "cpu", CPU, 1)
    append(job, rows_of({("dpt", "bilinear"): [60]})[0], "2026-11-22 10:00")
    text = report.origin(runner.read(job.results))
    assert text.startswith("voc:/x; 1000 steps of 16, reconstruction 4000; ")
    assert "images" not in text
    for written, name in ((report.readme, "accuracy:cpu"), (report.with_model_card, "accuracy:shipped")):
        with pytest.raises(ValueError, match="expected results of scenes, got 'voc:/x'"):
            written(f"<!-- {name} -->\n<!-- /{name} -->\n", tmp_path)


def test_time_table(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0.01)
    monkeypatch.setattr(timing, "ROUNDS", 2)
    monkeypatch.setattr(timing, "METHODS", {"bilinear": "bilinear", "4 layers": "downsizenet-k2-layers4"})
    result = timing.time(CPU)
    header, lines = timing.lines(result)
    assert [line[0] for line in lines] == ["bilinear", "4 layers"]
    assert lines[0][2] == "+0.00"
    assert float(lines[1][1]) > float(lines[1][3]) > 0
    assert len(header) == len(lines[0])
    assert "CPU: " in timing.origin(result)
