"""Latencies fitted to times that were made of known ones."""

import copy
import json
import random

import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from speed import run

from bench import __main__ as cli
from bench import measure
from bench.fit import fit
from bench.latency import LATENCIES
from bench.predicted import guess_us, measured, passes
from bench.workloads import NAMED

COMMITTED = json.loads((measure.ROOT / "bench" / "results" / "kernels" / "sm_90.json").read_text())
TRUE = LATENCIES | {"memory": 550.0, "shared": 29.0, "special": 40.0}


def rows_of(predicted, scale):
    """Rows as ``python -m bench`` writes them, of a GPU whose times are ``scale()`` times the guess with the latencies TRUE."""
    times = {which: guess_us(kernels, TRUE) * scale() / 1000 for which, kernels in predicted.items()}
    for which, forward in times.items():
        if which.mode == "forward":
            both = forward + times[which._replace(mode="backward")]
            prior = None if which.prior == "none" else which.prior
            workload = {"name": which.workload, "taps": which.taps, "prior": prior}
            workload |= {"dtype": which.dtype, "channels_last": which.channels_last}
            row = {"workload": workload, "provider": "image-fused" if which.kind == "image" else "fused", "status": "measured"}
            yield row | {"mode": "forward", "median_ms": forward}
            yield row | {"mode": "forward+backward", "median_ms": both}


def test_known_latencies_are_found_again():
    predicted = passes(COMMITTED["rows"])
    assert {which.workload for which in predicted} <= set(NAMED)
    times = measured(list(rows_of(predicted, lambda: 1.0)))
    found = fit(predicted, times)
    assert found["memory"] == pytest.approx(TRUE["memory"], rel=0.03)
    assert found["special"] == pytest.approx(TRUE["special"], rel=0.1)
    for which, time in times.items():
        assert guess_us(predicted[which], found) == pytest.approx(time, rel=0.02)


def test_noise_and_passes_that_are_far_off_move_them_little(seed):
    draw = random.Random(seed)
    predicted = passes(COMMITTED["rows"])
    times = measured(list(rows_of(predicted, lambda: draw.uniform(0.97, 1.03))))
    for which in draw.sample(list(times), 2):
        times[which] *= 10
    assert fit(predicted, times)["memory"] == pytest.approx(TRUE["memory"], rel=0.1)


def test_the_command_says_how_far_off_each_pass_is(tmp_path, monkeypatch):
    measure.write(copy.deepcopy(COMMITTED), tmp_path / "kernels" / "sm_90.json")
    monkeypatch.setattr(cli, "RESULTS", tmp_path)
    rows = list(rows_of(passes(COMMITTED["rows"]), lambda: 1.0))
    measure.write({"schema": measure.SCHEMA, "rows": rows}, tmp_path / "gpu.json")
    outcome = run("fit", tmp_path / "gpu.json")
    assert outcome.exit_code == 0, outcome.output
    assert len([line for line in outcome.output.splitlines() if "%" in line]) == len(rows)
    assert [line.split()[1] for line in outcome.output.splitlines() if line.strip().startswith("memory")] == ["800"]
    measure.write({"schema": measure.SCHEMA, "rows": []}, tmp_path / "none.json")
    outcome = run("fit", tmp_path / "none.json")
    assert outcome.exit_code == 2
    assert "no pass was both predicted and measured" in outcome.output
