"""The one command for a GPU that one has for ten minutes, rehearsed: it starts, writes as it goes, and ends."""

import json
import pathlib
import subprocess
import sys
import time

import pytest

from bench import gpu

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.long
def test_make_gpu_rehearsed(tmp_path):
    command = ["make", "gpu", f"PYTHON={sys.executable}", f"RESULTS={tmp_path}", "REHEARSE=--rehearse"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    outcomes = {outcome["name"]: outcome["status"] for outcome in json.loads((tmp_path / "gpu-steps.json").read_text())}
    tool = {0, "compute-sanitizer is not there"}
    assert outcomes.pop("memcheck") in tool
    assert outcomes.pop("racecheck") in tool
    graphs = "CUDA graphs, torch.compile, large batches"
    assert outcomes == dict.fromkeys(["parity of uint8 images", "benchmark", "plots", "parity of the rest", graphs], 0)
    assert "1 passed" in (tmp_path / "gpu-parity-of-uint8-images.txt").read_text()
    assert json.loads((tmp_path / "gpu.json").read_text())["rows"]


def test_a_step_that_takes_too_long_is_stopped_and_the_next_runs(tmp_path):
    slow = gpu.Step("slow", 1, (sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"))
    assert gpu.run(slow, tmp_path).status == "stopped after 1 s"
    assert (tmp_path / "gpu-slow.txt").read_text() == "begun\n"
    orphan = "import subprocess, sys; subprocess.run(['sh', '-c', 'sleep 3; echo late'])"
    assert gpu.run(gpu.Step("with a child", 1, (sys.executable, "-c", orphan)), tmp_path).status == "stopped after 1 s"
    time.sleep(3)
    assert (tmp_path / "gpu-with-a-child.txt").read_text() == ""
    assert gpu.run(gpu.Step("missing", 1, ("no-such-tool",)), tmp_path).status == "no-such-tool is not there"
    assert gpu.run(gpu.Step("failing", 9, (sys.executable, "-c", "raise SystemExit(3)")), tmp_path).status == 3


def test_all_steps_end_within_eight_minutes(tmp_path):
    steps = gpu.steps(tmp_path, rehearse=False)
    assert sum(step.seconds for step in steps) <= 480
    assert steps[0].name == "parity of uint8 images"
    assert steps[0].seconds <= 90
    assert steps[1].name == "benchmark"
