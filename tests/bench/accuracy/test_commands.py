"""The command line ``python -m bench accuracy``, from training to plots, and what it refuses."""

import json
import math

import pytest
from training import CPU, invoke

from bench import measure
from bench.accuracy import commands, data, plan, runner
from bench.accuracy.pipelines import PIPELINES

TRAINED = data.pipelines_of(data.SCENES)


@pytest.mark.long
def test_every_pipeline_end_to_end(tmp_path):
    """From the command line, each behind an interpolation and behind DownsizeNet; what is done is not done again."""
    chosen = ["--tiny", "--jobs", 1, "--out", tmp_path, "--method", "bilinear", "--method", "distance-only-k8-bicubic"]
    chosen += [argument for pipeline in TRAINED for argument in ("--pipeline", pipeline)]
    output = invoke(*chosen)
    result = runner.read(tmp_path / "results.json")
    done = {(row["pipeline"], row["method"]) for row in result["rows"]}
    assert done == {(pipeline, method) for pipeline in TRAINED for method in ("bilinear", "distance-only-k8-bicubic")}
    for row in result["rows"]:
        assert all(math.isfinite(value) for value in [*row["metrics"].values(), *row["losses"]])
        assert (row["commit"], row["device"]) == (result["machine"]["commit"], result["machine"]["device"])
        assert len(row["losses"]) == plan.PROFILES["tiny"].steps * PIPELINES[row["pipeline"]].longer
    assert "Less bilinear" in output
    before = (tmp_path / "results.json").read_bytes()
    invoke(*chosen)
    assert (tmp_path / "results.json").read_bytes() == before
    assert not list(tmp_path.rglob("*.pt"))
    invoke("plot", "--out", tmp_path)
    assert all((tmp_path / "plots" / f"{name}.png").stat().st_size > 10_000 for name in ("differences", "losses"))


def test_a_budget_stops_and_says_so(tmp_path):
    output = invoke("--tiny", "--out", tmp_path, "--budget", 0, code=1)
    every = plan.runs(plan.PROFILES["tiny"], TRAINED)
    assert output.splitlines()[-1] == f"{len(every)} runs are left: the same command goes on."
    assert runner.read(tmp_path / "results.json")["rows"] == []
    assert "no results yet in" in invoke("plot", "--out", tmp_path, code=2)


def test_refuses_what_does_not_fit(tmp_path):
    out = ("--tiny", "--out", tmp_path)
    assert "expected one of" in invoke(*out, "--pipeline", "unet", code=2)
    assert "expected one of" in invoke(*out, "--method", "sinc", code=2)
    assert "expected some that are trained in reconstruction" in invoke(
        *out, "--pipeline", "reconstruction", "--method", "nearest", code=2
    )
    assert "behind the command's name" in invoke(*out, "plot", code=2)
    assert "No such file" in invoke("plot", "--out", tmp_path, code=2)
    with runner._alone(tmp_path):
        assert "another process works" in invoke(*out, code=2)
    assert "expected a folder for results" in invoke("--tiny", "--data", f"voc:{tmp_path}", code=2)
    for name, message in (("coco:/x", "expected one of"), ("voc:", "expected one of"), ("voc:/nowhere", "is no folder")):
        assert message in invoke("--tiny", "--data", name, "--out", tmp_path, code=2)
    assert "JPEGImages" in invoke("--tiny", "--data", f"voc:{tmp_path}", "--out", tmp_path, code=2)
    detector = ("--data", f"cityscapes:{tmp_path}", "--pipeline", "resnet-dense", "--out", tmp_path)
    assert "expected one of" in invoke("--tiny", *detector, code=2)
    job = runner.Job(plan.PROFILES["tiny"], "scenes", tmp_path, CPU, 1)
    measure.write(job.origin() | {"rows": [], "data": "voc:/x"}, job.results)
    assert "is of other data" in invoke("--tiny", "--out", tmp_path, code=2)
    assert "is a file" in invoke("--tiny", "--out", job.results, code=2)
    assert "Not a directory" in invoke("--tiny", "--out", job.results / "below", code=2)
    assert "'--budget'" in invoke("--tiny", "--out", tmp_path, "--budget", -1, code=2)
    for text in ("[]", "{", "[1"):
        job.results.write_text(text)
        assert "results.json: " in invoke("plot", "--out", tmp_path, code=2)
    measure.write({"schema": 0}, job.results)
    with pytest.raises(ValueError, match="expected schema 1, got 0"):
        runner.remaining(job, [])


def test_the_documents_tables_are_up_to_date():
    invoke("tables", "--check")


def test_committed_results_are_whole():
    for path in commands.RESULTS.glob("*/results.json"):
        result = runner.read(path)
        keys = [(row["pipeline"], row["method"], row["seed"]) for row in result["rows"]]
        assert len(keys) == len(set(keys))
        assert result["settings"] == json.loads(json.dumps(plan.settings(plan.PROFILES[path.parent.name.rpartition("-")[2]])))
