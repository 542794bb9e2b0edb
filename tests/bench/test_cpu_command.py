"""`python -m bench.cpu`: what it measures of each function, and that it runs."""

import torch
import typer.testing

from bench import cpu, workloads


def test_what_is_allocated_at_once_is_counted():
    found = cpu.measure({"one": lambda: torch.ones(1000), "two": lambda: torch.ones(1000) + torch.ones(1000)}, rounds=2)
    assert found["one"]["memory"] == 4000
    assert found["two"]["memory"] == 12000
    assert all(0 < row["cpu"] < float("inf") and row["wall"] > 0 for row in found.values())


def test_the_command_prints_multiples(monkeypatch):
    tiny = workloads.Workload("tiny", 1, (20, 24), (10, 12))
    monkeypatch.setitem(workloads.NAMED, "hd", tiny)
    app = typer.Typer()
    app.command()(cpu.main)
    outcome = typer.testing.CliRunner().invoke(app, ["--rounds", "1", "--only", "forward"])
    assert outcome.exit_code == 0, outcome.output
    assert "interpolation, forward" in outcome.output
    assert "compiled, forward" in outcome.output
    assert "backward" not in outcome.output
