"""Ahead-of-time compilation, which needs no GPU. In a process of its own: this one's kernels are the interpreter's."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("allpairspy")
ROOT = pathlib.Path(__file__).parents[1]


def compiled(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.compile", "--json", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = json.loads(result.stdout)["rows"]
    assert rows
    return rows


@pytest.mark.parametrize("part", ["0/4", "1/4", "2/4", "3/4"])
def test_every_pair_of_choices_compiles_for_sm_90(part):
    names = {row["name"] for row in compiled("--cover", part)}
    assert names == {
        "area_pool_kernel",
        "downsize_backward_kernel",
        "downsize_kernel",
        "weighted_gather_grad_image_kernel",
        "weighted_gather_kernel",
    }


@pytest.mark.parametrize("target", ["sm_80", "sm_100", "gfx942"])
def test_some_of_each_kernel_compile_elsewhere(target):
    assert len(compiled("--cover", "0/14", "--target", target)) >= 8


def test_the_default_network_neither_spills_nor_loads_narrowly():
    rows = compiled()
    assert len(rows) > 40
    for row in rows:
        variant = row["variant"]
        # For the coefficients' own gradient, ptxas trades a few registers for more warps at once.
        assert row["stack_bytes"] <= (32 if row["operator"] == "coefficients_backward" else 0), row
        if variant["dtype"] in ("fp16", "bf16") and variant["channels_last"] and row["name"].startswith("downsize"):
            # A program's tile of texture, 16 channels of 2 bytes a pixel, in loads of 16 bytes by each of its threads.
            assert row["wide_loads"] >= 32 * 16 * 2 // (16 * 32 * row["warps"]), row
