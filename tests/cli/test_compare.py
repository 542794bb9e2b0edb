"""``tritonds compare``; and where it and ``tritonds batch`` write their pictures."""

import os
import resource
from pathlib import Path

import pytest
from command import limited, pixels_of, run

import tritonds
from tritonds import methods, pretrained


def test_compare_draws_a_picture_and_prints_a_table(photos, tmp_path):
    result = run("compare", photos / "turned.jpg", "--size", "9x14", "--out", tmp_path / "out" / "picture.png")
    assert result.exit_code == 0, result.output
    assert pixels_of(tmp_path / "out" / "picture.png").std() > 10
    for name in methods.NAMES:
        assert name in result.output
    assert "20x30 to 9x14" in result.output  # upright
    assert all(name in result.output for name in pretrained.SHIPPED)
    tritonds.DownsizeNet(taps=3).save_pretrained(tmp_path / "$^$ [bold]")  # what would be a formula in a title, and a style
    result = run("compare", photos / "a.png", "--out", tmp_path / "own.png", "--weights", tmp_path / "$^$ [bold]")
    assert result.exit_code == 0, result.output
    assert any(
        line.split()[1] == "downsizenet" and "$^$ [bold]" in line for line in result.output.splitlines() if line[:1] == "│"
    )
    assert run("compare", tmp_path / "missing.png").exit_code == 2
    assert "expected a .png" in run("compare", photos / "a.png", "--out", "c.xyz").output


@pytest.mark.parametrize("command", ["compare", "batch"])
def test_pictures_are_not_drawn_over_an_input(command, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / f"{command}.png"
    own.write_bytes((photos / "a.png").read_bytes())
    Path("hard.png").hardlink_to(own)
    Path("soft.png").symlink_to(own)
    for out in ("hard.png", "soft.png", own, f"photos/../{own.name}"):
        result = run(command, own.name, "--out", out, "--size", "9x9")
        assert result.exit_code == 2
        assert "is an input" in result.output
    for _ in range(2):
        result = run(command, own.name, "--size", "9x9")
        assert result.exit_code == 0, result.output
        assert f"wrote {command}-2.png" in result.output
    assert own.read_bytes() == (photos / "a.png").read_bytes()
    assert sorted(p.name for p in tmp_path.glob("*.p*")) == sorted([own.name, f"{command}-2.png", "hard.png", "soft.png"])


@pytest.mark.parametrize("command", ["compare", "batch"])
def test_pictures_that_cannot_be_written_are_refused(command, photos, tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (photos / "notes.txt").chmod(0o600)
    for out in ("folder.png", "pipe.png", photos / "notes.txt" / "x.png", "/proc/none/x.png"):
        result = run(command, photos / "a.png", "--out", tmp_path / out)
        assert result.exit_code == 2, result.output
        assert "out: " in result.output
    with limited(resource.RLIMIT_FSIZE, 1000):
        result = run(command, photos / "a.png", "--out", tmp_path / "x.png", "--size", "9x9")
    assert result.exit_code == 1
    assert "failed: [Errno 27] File too large" in result.output
    assert not list(tmp_path.glob("*x.png*")) + list(tmp_path.glob(".*"))
