"""What the command line prints, where it cannot be printed: in processes of their own, since it is of their streams."""

import os
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-c", "from tritonds.cli import main; main()"]


def command(*arguments, stdout, **environment):
    arguments = [str(argument) for argument in arguments]
    return subprocess.run([*COMMAND, *arguments], stdout=stdout, stderr=subprocess.PIPE, env=os.environ | environment)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
@pytest.mark.parametrize("name", ["doctor", "resize", "--help"])
def test_output_that_cannot_be_written_is_one_line(name, photos, tmp_path):
    """Results are there all the same."""
    options = [photos, "--size", "5x4", "--out", tmp_path / "out", "--method", "area"] if name == "resize" else []
    with open("/dev/full", "wb") as full:
        result = command(name, *options, stdout=full)
    assert result.returncode == 1
    assert result.stderr == b"failed: the output cannot be written: [Errno 28] No space left on device\n"
    assert name != "resize" or len(list((tmp_path / "out").rglob("*.*"))) == 3


def test_names_are_printed_in_every_encoding(photos, tmp_path):
    missing = tmp_path / "nix\u65e5\u672c.png"
    options = ("--size", "5x4", "--out", tmp_path / "out", "--method", "area")
    result = command("resize", photos, missing, *options, stdout=subprocess.PIPE, PYTHONIOENCODING="latin1", PYTHONUTF8="1")
    assert result.returncode == 1, result.stderr[-500:]
    assert b"3 written" in result.stdout
    assert rb"nix\u65e5\u672c.png: [Errno 2]" in result.stdout
