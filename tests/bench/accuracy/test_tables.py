"""What comes of results: differences and their intervals, tables, plots, documents."""

import math

import numpy as np
import pytest
from scipy import stats
from training import CPU, append, rows_of

from bench import measure
from bench.accuracy import natural, plan, report, runner, scenes, scores, timing


def test_differences_and_intervals_are_students():
    a, b = np.random.default_rng(0).normal(50, 3, (2, 4))
    found = scores.scores(rows_of({("segformer", "downsizenet-k2"): a, ("segformer", "bilinear"): b[:3]}))
    value = scores.difference(found, "segformer", "downsizenet-k2", "bilinear")
    low, high = stats.ttest_rel(a[:3], b[:3]).confidence_interval(0.95)
    assert (value.mean - value.half, value.mean + value.half) == (pytest.approx(low), pytest.approx(high))
    assert value.seeds == 3


def test_mean_over_pipelines_is_by_seed():
    rows = rows_of(
        {
            ("segformer", "downsizenet-k2"): [2, 4, 9],
            ("segformer", "bilinear"): [1, 1, 1],
            ("resnet-dense", "downsizenet-k2"): [5, 5],
            ("resnet-dense", "bilinear"): [2, 2],
        }
    )
    peers = {"segformer": "bilinear", "resnet-dense": "bilinear"}
    value = scores.mean_difference(scores.scores(rows), "downsizenet-k2", peers)
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
    value = scores.interval(values)
    assert str(value) == text
    assert value.seeds == len(values)


def test_what_is_not_finite_spoils_its_own_cells_alone():
    found = {
        ("segformer", "downsizenet-k2"): [math.nan, 61],
        ("segformer", "bilinear"): [60, 60],
        ("segformer", "area"): [59, 60.5],
        ("reconstruction", "downsizenet-k2"): [math.inf, math.inf],
        ("reconstruction", "bilinear"): [30, math.inf],
    }
    written = {cell for _, lines in scores.tables({"rows": rows_of(found)}).values() for line in lines for cell in line}
    assert {"nan", "inf", "60.00 ± 0.00", "59.75 ± 1.06"} <= written


def lines_of(rows, title):
    """The lines of the table whose title begins so, each by its columns' names."""
    (table,) = (table for name, table in scores.tables({"rows": rows}).items() if name.startswith(title))
    return {line[0]: dict(zip(table[0], line, strict=True)) for line in table[1]}


def test_cells_say_where_they_are_of_other_seeds():
    k2 = {(pipeline, "downsizenet-k2"): [3, 4, 6] for pipeline in ("resnet-dense", "segformer")}
    peers = {("resnet-dense", "bilinear"): [1, 2, 3], ("segformer", "bilinear"): [1, 2], ("resnet-dense", "area"): [1, 1, 2]}
    rows = rows_of(k2 | peers)
    means = lines_of(rows, "Mean")["bilinear"]
    assert (means["segformer, mIoU"], means["resnet-dense, mAP"]) == ("1.50 ± 0.71 (2)", "2.00 ± 1.00")
    assert not any("classifier" in name for name in means)
    k2 = lines_of(rows, "Less bilinear,")["downsizenet-k2"]
    assert k2["segformer"] == "**+2.00 ± 0.00** (2)"
    assert list(k2) == ["", "resnet-dense", "segformer", "mean of networks"]  # no column of a pipeline without results
    assert k2["mean of networks"].endswith("(2)")
    assert lines_of(rows, "Less bilinear,")["area"]["mean of networks"] == ""  # of one network alone


def test_the_mean_of_networks_is_without_reconstruction_whose_metric_is_another():
    names = ("resnet-dense", "segformer", "reconstruction")
    found = {(name, "lanczos"): [100 if name == "reconstruction" else 3] for name in names}
    found |= {(name, "bilinear"): [1] for name in names}
    assert lines_of(rows_of(found), "Less bilinear,")["lanczos"]["mean of networks"] == "+2.00"
    of_one = {key: values for key, values in found.items() if key[0] != "segformer"}
    assert lines_of(rows_of(of_one), "Less bilinear,")["lanczos"]["mean of networks"] == ""


def test_the_images_say_is_paired():
    values = {("segformer", "downsizenet-k4"): [5, 6, 8], ("segformer", "distance-only-k4"): [1, 2, 3.1]}
    assert lines_of(rows_of(values), "The image's say")["downsizenet-k4 - distance-only-k4"]["segformer"] == "**+4.30 ± 1.29**"


def empty_document():
    """With every section, none of which has a table."""
    names = [f"{name}:{folder}" for folder in report.FOLDERS for name in ("accuracy", "learned")]
    names += ["time:cpu", "time:gpu", "pretrained:natural-cpu", "pretrained:natural-gpu"]
    return "a\n" + "b\n".join(f"<!-- {name} -->\nOUTDATED\n<!-- /{name} -->\n" for name in names)


def test_what_left_the_study_is_not_reported(tmp_path):
    job = runner.Job(plan.PROFILES["cpu"], "scenes", tmp_path / "cpu", CPU, 1)
    for row in rows_of({("segformer", "bilinear"): [60]}):
        append(job, row | {"commit": "a"}, "2026-11-22 10:00")
        append(job, row | {"pipeline": "yolos"}, "2026-11-21 10:00")
        append(job, row | {"method": "downsizenet-k99"}, "2026-11-21 10:00")
    assert [row["pipeline"] for row in runner.read(job.results)["rows"]] == ["segformer", "yolos", "segformer"]
    text = report.readme(empty_document(), tmp_path)
    assert "| bilinear | 60.00 |" in text
    assert "2026-11-21" not in text
    assert "yolos" not in text
    assert "k99" not in text


def test_other_metrics_are_in_the_terminal_alone():
    rows = rows_of({("segformer", "bilinear"): [1, 3], ("resnet-dense", "area"): [5], ("reconstruction", "bilinear"): [7]})
    for row in rows:
        row["metrics"] |= {"mAP50": 20.0, "accuracy": 10.0 + row["seed"], "SSIM": 0.98765}
    table = report.rich_tables({"rows": rows})[-1]
    assert str(table.title).startswith("Other metrics, mean")
    assert list(zip(*([column.header, *column.cells] for column in table.columns), strict=True)) == [
        ("", "resnet-dense, mAP50", "segformer, accuracy", "reconstruction, SSIM"),
        ("bilinear", "", "10.50 ± 0.71 (2)", "0.9877"),
        ("area", "20.00", "", ""),
    ]
    assert not any("SSIM" in cell for header, _ in scores.tables({"rows": rows}).values() for cell in header)


def test_plots_show_every_pipeline_with_results():
    rows = rows_of({("segformer", "bilinear"): [1], ("resnet-dense", "lanczos"): [2], ("resnet-dense", "downsizenet-k2"): [3]})
    rows += rows_of({("resnet-dense", "bilinear"): [2]})
    figure = report._draw_losses(rows)
    assert [axis.get_title() for axis in figure.axes] == ["resnet-dense", "segformer"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["bilinear", "lanczos", "downsizenet-k2"]
    colours = [{line.get_label(): line.get_color() for line in axis.lines} for axis in figure.axes]
    assert colours[0]["bilinear"] == colours[1]["bilinear"]
    assert len(set(colours[0].values())) == 3
    figure = report._draw_differences(scores.scores(rows))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["resnet-dense, mAP"]
    assert "downsizenet-k2" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_tables_go_into_documents(tmp_path):
    document = empty_document()
    count = document.count("OUTDATED")
    assert report.readme(document, tmp_path).count("not measured yet") == count
    job = runner.Job(plan.PROFILES["cpu"], "scenes", tmp_path / "cpu", CPU, 1)
    measure.write(job.origin() | {"machine": measure.machine(CPU), "rows": []}, job.results)  # as before the first run ends
    assert report.readme(document, tmp_path).count("not measured yet") == count
    append(job, rows_of({("segformer", "downsizenet-k2"): [61.5]})[0], "2026-11-22 10:00")
    append(job, rows_of({("segformer", "bilinear"): [60]})[0], "2026-11-23 10:00")
    times = {"pipeline": "resnet-dense", "size": [[4, 4], [2, 2]], "machine": measure.machine(CPU), "date": "2026-11-24 10:00"}
    rows = [{"method": "bilinear", "frame_ms": 3.0, "downsizer_ms": 0.5}, {"method": "x", "frame_ms": 4.5, "downsizer_ms": 2.0}]
    measure.write(times | {"rows": rows}, tmp_path / "cpu" / "time.json")
    run, where = {"pipeline": "segformer", "method": "downsizenet-k2"}, {"device": "A", "commit": None}
    rows = [
        run | where | {"seed": seed, "largest": largest, "by_image": 0.25, "date": f"2026-11-2{seed} 10:00"}
        for seed, largest in enumerate((0.75, 0.85))
    ]
    rows[1] |= {"device": "B", "commit": "c"}
    measure.write({"machine": times["machine"], "images": 7, "rows": rows}, tmp_path / "cpu" / "learned.json")
    text = report.readme(document, tmp_path)
    assert "| x | 4.50 | +1.50 | 2.00 |" in text
    assert "| downsizenet-k2 | 61.50 |" in text
    assert "| downsizenet-k2 | +1.50 |" in text
    assert "2026-11-22 to 2026-11-23" in text
    assert f"scenes, version {scenes.VERSION}, 3000 images to train, 300 to test; 1000 steps of 16; " in text
    assert "| segformer | downsizenet-k2 | 0.80 ± 0.07 | 0.25 ± 0.00 |  |  |  |" in text
    assert "7 test images; CPU: A and B, PyTorch " in text
    assert "; commit c, unknown; 2026-11-20 to 2026-11-21; `python -m bench accuracy learned`." in text
    assert text.count("OUTDATED") == 0
    assert text.count("not measured yet") == count - 3
    with pytest.raises(ValueError, match="expected a section between <!-- accuracy:natural-cpu -->"):
        report.readme("", tmp_path)


def test_the_model_card_has_the_shipped_weights_alone(tmp_path):
    document = "<!-- accuracy:shipped -->\n<!-- /accuracy:shipped -->\n"
    assert "not measured yet" in report.with_model_card(document, tmp_path)
    job = runner.Job(plan.PROFILES["cpu"], "scenes", tmp_path / "cpu", CPU, 1)
    values = {("reconstruction", "natural-k2"): [31.0, 33.0], ("reconstruction", "bilinear"): [30.0, 31.0]}
    for row in rows_of(values | {("segformer", "area"): [1.0, 1.0]}):
        append(job, row, "2026-11-22 10:00")
    job = runner.Job(plan.PROFILES["cpu"], "natural", tmp_path / "natural-cpu", CPU, 1)
    for row in rows_of({("resnet-classifier", "natural-k4"): [25.0], ("resnet-classifier", "bilinear-aa"): [20.0]}):
        append(job, row, "2026-11-23 10:00")
    text = report.with_model_card(document, tmp_path)
    assert "| reconstruction, PSNR | natural-k2 | 32.00 ± 1.41 | +1.50 ± 6.35 |  | +1.50 ± 6.35, bilinear |" in text
    assert "| resnet-classifier, accuracy | natural-k4 | 25.00 |  | +5.00 | +5.00, bilinear-aa |" in text
    assert f"natural, version {natural.VERSION}, 3000 images to train, 1200 to test; 1000 steps" in text
    assert "area" not in text


def test_learned_kernels_against_the_best_that_is_fixed():
    """The best over the seeds of what learned: neither the one with one of these, nor worse for having more."""
    values = {
        ("reconstruction-1.5", "bilinear"): [30, 31, 32, 33],
        ("reconstruction-1.5", "lanczos-g2"): [34, 35, 36],
        ("reconstruction-1.5", "lanczos-g3"): [99],
        ("reconstruction-1.5", "distance-only-k8-bicubic"): [35, 36, 37.3],
        ("reconstruction-1.5", "downsizenet-k8-bicubic"): [33, 34, 35.1],
        ("reconstruction-3.3", "bilinear"): [30],
        ("segformer", "area"): [3, 4, 5],
        ("segformer", "downsizenet-k8-bicubic"): [1, 2, 3.1],
        ("segformer", "downsizenet-k4"): [2, 3, 4],
    }
    rows = rows_of(values)
    assert lines_of(rows, "Photographs by scale, PSNR")["bilinear"] == {
        "": "bilinear", "1.5": "31.50 ± 1.29 (4)", "1.875": "", "2.5": "", "3.304": "30.00 (1)",
    }  # fmt: skip
    lines = lines_of(rows, "Photographs by scale: learned")
    assert lines["distance-only-k8-bicubic - the best that is fixed"]["1.5"] == "**+1.10 ± 0.43**, lanczos-g2"
    assert lines["downsizenet-k8-bicubic - the best that is fixed"]["1.5"] == "**-0.97 ± 0.14**, lanczos-g2"
    assert lines["downsizenet-k8-bicubic - distance-only-k8-bicubic"]["1.5"] == "**-2.07 ± 0.29**"
    lines = lines_of(rows, "Sharpening")
    assert lines["downsizenet-k8-bicubic - the best that is fixed"]["segformer"] == "**-1.97 ± 0.14**, area"
    assert lines["downsizenet-k8-bicubic - downsizenet-k4"]["segformer"] == "**-0.97 ± 0.14**"
    assert set(lines) == {"downsizenet-k8-bicubic - the best that is fixed", "downsizenet-k8-bicubic - downsizenet-k4"}


def test_other_data_are_not_taken_for_scenes(tmp_path):
    job = runner.Job(plan.PROFILES["cpu"], "voc:/x", tmp_path / "cpu", CPU, 1)
    append(job, rows_of({("segformer", "bilinear"): [60]})[0], "2026-11-22 10:00")
    text = report.origin(runner.read(job.results))
    assert text.startswith("voc:/x; 1000 steps of 16; ")
    append(job, rows_of({("reconstruction", "bilinear"): [30]})[0], "2026-11-22 10:00")
    assert report.origin(runner.read(job.results)).startswith("voc:/x; 1000 steps of 16, reconstruction 4000; ")
    assert "images" not in text
    for written, document in (
        (report.readme, empty_document()),
        (report.with_model_card, "<!-- accuracy:shipped -->\n<!-- /accuracy:shipped -->\n"),
    ):
        with pytest.raises(ValueError, match="expected results of scenes, got 'voc:/x'"):
            written(document, tmp_path)


def test_time_table(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0.01)
    monkeypatch.setattr(timing, "ROUNDS", 2)
    monkeypatch.setattr(timing, "METHODS", dict(list(timing.METHODS.items())[:2]))
    result = timing.time(CPU)
    header, lines = timing.lines(result)
    assert [line[0] for line in lines] == ["bilinear", "downsizenet-k2, 1 layer"]
    assert lines[0][2] == "+0.00"
    assert float(lines[1][1]) > float(lines[1][3]) > 0
    assert len(header) == len(lines[0])
    assert "CPU: " in timing.origin(result)
