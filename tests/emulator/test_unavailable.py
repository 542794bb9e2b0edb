"""What a machine lacks for the emulator: said in one line, reported as skipped, and a failure where that is asked for."""

import os
import pathlib
import subprocess
import sys

import pytest

from emulator import device, driver

ROOT = pathlib.Path(__file__).parents[2]


def collected(*options, **environment):
    """Output and exit status of two of the compiled kernels' tests."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--kernels",
        "emulated",
        "tests/kernels/test_compiled.py",
        "-k",
        "expanded_gradients",
        "-rs",
    ]
    result = subprocess.run([*command, *options], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    return result.stdout + result.stderr, result.returncode


@pytest.mark.long
def test_without_a_compiler_tests_are_skipped_by_name_or_fail():
    output, status = collected(CC="no-such-compiler")
    assert status == 0
    assert "2 skipped" in output
    assert "needs a C compiler: install gcc" in output
    output, status = collected("--strict-skips", CC="no-such-compiler")
    assert status != 0
    assert "needs a C compiler: install gcc" in output


def test_a_compiler_that_cannot_build_the_stub(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "false")
    with pytest.raises(driver.UnavailableError, match="cannot build the stub of libcuda"):
        driver._build(tmp_path, tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(driver.UnavailableError, match="the folder for compiled kernels cannot be written"):
        device.use(90, tmp_path / "file")


def test_a_triton_that_the_stub_does_not_know(monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", "9.9.0")
    with pytest.raises(driver.UnavailableError, match=r"not known to serve Triton 9\.9\.0: install one of 3\.6, 3\.7, 3\.8"):
        driver.install(90, lambda names, arguments: [])
