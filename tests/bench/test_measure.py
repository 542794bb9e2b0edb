"""What is timed and what is not, and that nothing measured is lost. Sizes are tiny, times irrelevant."""

import dataclasses
import json
import math

import pytest
import torch

pytest.importorskip("matplotlib")

from speed import QUICK, RAGGED, TINY, implement, rows_of, run

from bench import measure, providers, report, workloads
from bench.workloads import Case

pytestmark = pytest.mark.usefixtures("tiny")


ROW_FIELDS = {
    "workload", "mode", "provider", "status", "reason", "error", "gradient_error", "median_ms", "p20_ms", "p80_ms",
    "necessary_bytes", "gb_per_s", "copy_share", "peak_bytes", "launches", "host_us",
}  # fmt: skip


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


def test_lists_of_numbers_take_a_line_each_and_texts_stay_as_they_are(tmp_path):
    result = {"losses": [1.5, -2e-7, float("inf")], "rows": [{"name": "[1,  2]\n[3,   4]"}, [[1, 2], []]]}
    measure.write(result, tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text) == result
    assert '"losses": [1.5, -2e-07, Infinity]' in text


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


def test_images_of_different_sizes_are_measured(tmp_path):
    out = tmp_path / "r.json"
    outcome = run(*QUICK, "--workload", "ragged32", "--dtype", "fp32", "--out", out)
    assert outcome.exit_code == 0, outcome.output
    assert "ragged32 (3x3x(up to 31x40) to 9x11" in outcome.output
    rows = report.read(out)["rows"]
    assert {row["status"] for row in rows} == {"measured"}
    assert {report.workload_of(row) for row in rows} == {RAGGED}
    assert run("plot", out, "--out", tmp_path / "plots").exit_code == 0
