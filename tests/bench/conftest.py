"""Fixtures of the speed benchmark's tests. Its modules import Triton, and are imported once pytest is configured."""

import json

import pytest
import torch
from speed import QUICK, RAGGED, TINY


def shrink(patch):
    from bench import measure, workloads

    patch.setitem(workloads.NAMED, "poster160", TINY)
    patch.setitem(workloads.NAMED, "ragged32", RAGGED)
    patch.setattr(measure, "COPY_BYTES", {"cpu": 2**20, "cuda": 2**20})


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Everything small, and written below ``tmp_path``."""
    from bench import __main__ as cli
    from bench import measure

    torch.use_deterministic_algorithms(False)  # PyTorch's interpolations on a GPU have no deterministic gradients
    shrink(monkeypatch)
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setattr(cli, "RESULTS", tmp_path / "results")


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """The result of two providers in both modes, as read from its file."""
    from speed import run

    out = tmp_path_factory.mktemp("bench") / "result.json"
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        outcome = run(*QUICK, "--dtype", "fp32", "--provider", "reference", "--provider", "bilinear-aa", "--out", out)
    assert outcome.exit_code == 0, outcome.output
    return json.loads(out.read_text())
