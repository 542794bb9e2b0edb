"""Ahead-of-time compilation, which needs no GPU. In a process of its own: this one's kernels are the interpreter's."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from importlib import metadata

import pytest

pytest.importorskip("allpairspy")

from bench.workloads import NAMED
from tritonds.coefficient_weights import SHARPENING

ROOT = pathlib.Path(__file__).parents[2]


def compiled(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.compile", "--json", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    # An error, too, if an operand of a matrix product may be multiplied wrongly.
    assert result.returncode == 0, result.stderr[-3000:]
    rows = json.loads(result.stdout)["rows"]
    assert rows
    return rows


TABLE = {"coefficient_table_kernel", "tabulated_sum_kernel"}
KERNELS = TABLE | {
    "area_pool_kernel",
    "downsize_backward_kernel",
    "downsize_kernel",
    "sum_rows_kernel",
    "texture_grad_weights_kernel",
    "texture_grad_image_kernel",
    "weighted_gather_grad_image_kernel",
    "weighted_gather_kernel",
}


EDGE = ("downsize_backward", "fp32", 4, False)
"""What takes all 255 registers; under Triton 3.6 a few more."""


def test_every_kernel_is_among_what_is_compiled():
    names = "lambda variants: sorted({l.kernel.fn.__name__ for v in variants() for l in c.launches_of(v, True)})"
    code = f"import bench.compile as c; f = {names}; print(f(c.default_variants), f(c.covering_variants), sep=chr(10))"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.stdout.splitlines() == [str(sorted(KERNELS))] * 2, result.stderr[-3000:]


COST = """
import json, re
import bench.compile as c
found = {}
for prior in ("antialias", "bicubic", "lanczos"):
    variant = c.Variant(taps=4, prior=prior, image="u8", texture=False)
    table, sums = c.launches_of(variant, False)[:2]
    binary = c.compile_launch(table, "sm_90", True)
    cost, functions = c._cost(table, variant, binary), re.findall(r"MUFU[.]([A-Z0-9]+)", binary.sass)
    moved = cost.bytes_per_pixel + c._cost(sums, variant, c.compile_launch(sums, "sm_90", True)).bytes_per_pixel
    found[prior] = moved * 8 * 540 * 960, cost.instructions_per_pixel, functions
print(json.dumps(found))
"""


@pytest.mark.long
def test_cost_of_priors_that_sharpen(tmp_path):
    """hdx8 from uint8, by distances alone: a row more of weights is read, no sine is taken and no exponential more."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)  # lines of code are those of whoever compiled first
    result = subprocess.run([sys.executable, "-c", COST], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    images = 8 * 3 * 1080 * 1920 + 2 * 8 * 3 * 540 * 960
    table = 4 * 3 * 3 * 16  # on edges, and between
    for prior, outputs in (("antialias", 16), ("bicubic", 17), ("lanczos", 17)):
        moved, instructions, functions = found[prior]
        weights = 16 * (8 + 1) + 16 * (16 + 1) + outputs * (16 + 1)
        assert moved == pytest.approx(images + 2 * weights + 2 * table, rel=0, abs=0.01)
        assert set(functions) == {"EX2", "RCP"}
        assert functions.count("EX2") == 16
        assert (instructions > found["antialias"][1]) == (prior != "antialias")


COMMITTED = ROOT / "bench" / "results" / "kernels" / "sm_90.json"


def identity(row):
    """Which kernel a row is about: the same in every run."""
    return row["operator"], row["name"], tuple(sorted(row["variant"].items()))


def slower(rows, committed):
    """What takes over 2 % more instructions, 8 more registers, 5 % more latency or any more stack than committed, or is new."""
    known = {identity(row): row for row in committed}
    for row in rows:
        old = known.get(identity(row))
        if old is None:
            yield f"{identity(row)} is not in the table"
            continue
        allowed = {"instructions": 0.02 * old["instructions"], "registers": 7, "stack_bytes": 0}
        for figure, more in allowed.items():
            if row[figure] > old[figure] + more:
                yield f"{identity(row)}: {row[figure]} {figure}, {old[figure]} in the table"
        now, before = (of["cost"]["latency_us"] for of in (row, old))
        if now > 1.05 * before:
            yield f"{identity(row)}: {now:.1f} us of latency, {before:.1f} in the table"


@pytest.mark.parametrize(("figure", "factor", "more"), [("instructions", 1.03, 1), ("registers", 1, 8), ("stack_bytes", 1, 8)])
def test_a_slower_kernel_is_seen(figure, factor, more):
    committed = json.loads(COMMITTED.read_text())["rows"]
    assert list(slower(committed, committed)) == []
    row = committed[5]
    worse = int(factor * row[figure]) + more
    (found,) = slower([*committed[:5], row | {figure: worse}], committed)
    assert found == f"{identity(row)}: {worse} {figure}, {row[figure]} in the table"
    assert list(slower([row], committed[:5])) == [f"{identity(row)} is not in the table"]


def test_more_latency_is_seen():
    committed = json.loads(COMMITTED.read_text())["rows"]
    row = committed[5]
    for factor, times in ((1.04, 0), (1.06, 1)):
        latency = factor * row["cost"]["latency_us"]
        worse = row | {"cost": row["cost"] | {"latency_us": latency}}
        expected = f"{identity(row)}: {latency:.1f} us of latency, {row['cost']['latency_us']:.1f} in the table"
        assert list(slower([worse], committed)) == [expected] * times


def test_a_row_waits_for_its_texture_once_and_for_its_channels_once():
    """What docs/design.md says of loads in flight together: the machine code of a strip of eight rows."""
    rows = {identity(row): row for row in json.loads(COMMITTED.read_text())["rows"]}
    strips = [
        row
        for (operator, _, variant), row in rows.items()
        if operator == "downsize" and dict(variant)["workload"] == "hdx8" and dict(variant)["dtype"] in ("bf16", "fp16")
    ]
    assert len(strips) == 6
    assert [row["cost"]["way"]["memory"] for row in strips if row["variant"]["taps"] == 2] == [2 * 8] * 4


@pytest.mark.long
@pytest.mark.parametrize("part", range(6))
def test_the_default_network_neither_spills_nor_loads_narrowly_nor_is_slower_than_committed(part):
    rows = compiled("--part", f"{part}/6")
    assert len(rows) > 8
    table = json.loads(COMMITTED.read_text())
    if metadata.version("triton") == table["triton"]:
        # Each part has the partial operators of its first variant; the table has them of its own first one alone.
        whole = ("downsize", "downsize_backward")
        both = [row for row in rows if part == 0 or row["variant"]["image"] or row["operator"] in whole]
        found = list(slower(both, table["rows"]))
        assert not found, "\n".join([*found, f"to accept: python -m bench.compile --json > {COMMITTED.relative_to(ROOT)}"])
    for row in rows:
        variant = row["variant"]
        edge = (row["operator"], variant["dtype"], variant["taps"], variant["channels_last"]) == EDGE
        # Gradients to 64 coefficients a pixel, or to coefficients of two kinds, never fit.
        if row["name"] != "downsize_backward_kernel" or (variant["taps"] < 8 and variant["prior"] not in SHARPENING):
            assert row["stack_bytes"] <= (24 if edge and metadata.version("triton").startswith("3.6.") else 0), row
        fastest = variant["dtype"] in ("fp16", "bf16") and variant["channels_last"]
        if fastest and not variant["image"] and row["name"].startswith("downsize"):
            # A program's tile of texture, 16 channels of 2 bytes a pixel, in loads of 16 bytes by each of its threads.
            assert row["wide_loads"] >= 32 * 16 * 2 // (16 * 32 * row["warps"]), row
        if row["operator"] == "downsize_image" and row["name"] != "coefficient_table_kernel":
            # What the cost model takes for moved: all images, also those that the launch has in a table alone.
            workload = dataclasses.replace(NAMED[variant["workload"]], dtype=variant["dtype"])
            moved = row["cost"]["bytes_per_pixel"] * workload.batch * workload.size[0] * workload.size[1]
            kind = "image" if variant["image"] == "u8" else "network"
            assert moved == pytest.approx(workload.necessary_bytes(kind, "forward"), rel=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("part", range(6))
def test_every_pair_of_choices_compiles_for_sm_90(part):
    assert {row["name"] for row in compiled("--cover", "--part", f"{part}/6")} >= {
        "downsize_kernel",
        "downsize_backward_kernel",
    }


# The first part has a table of images, the second an image's gradient and tables of coefficients. One process for two targets:
# starting takes seconds.
@pytest.mark.long
@pytest.mark.parametrize(("part", "targets"), [("0/18", {"sm_80", "gfx942"}), ("9/18", {"sm_100", "gfx942"})])
def test_some_of_each_kernel_compile_elsewhere(part, targets):
    rows = compiled("--cover", "--part", part, *(argument for target in sorted(targets) for argument in ("--target", target)))
    assert {row["target"] for row in rows} == targets
    for target in targets:
        names = {row["name"] for row in rows if row["target"] == target}
        rare = TABLE | {"texture_grad_image_kernel"}
        assert names >= KERNELS - rare
        assert names & rare == (rare if part == "9/18" else set())
