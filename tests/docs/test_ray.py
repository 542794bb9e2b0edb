"""examples/ray_resize.py on a cluster of two machines' worth of processes, where the actor is killed at work."""

import collections
import io
import os
import subprocess
import sys

import numpy as np
import pyarrow.dataset
import pytest
import torch
from PIL import Image

import tritonds
from bench.measure import ROOT

SCRIPT = """
import os, pathlib, runpy, signal, sys

import ray.cluster_utils

node = {"num_cpus": 1, "object_store_memory": 80_000_000}
path, folder, results, calls, gpus = sys.argv[1:]
cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
cluster.add_node(**node, num_gpus=int(gpus))
os.environ["RAY_ADDRESS"] = cluster.address
example = runpy.run_path(path)


class Killed(example["Downsizer"]):
    \"\"\"By the machine, once its first batch has been handed on, and before it answers to the second.\"\"\"

    def __call__(self, batch):
        result = super().__call__(batch)
        with open(calls, "a") as file:
            file.write(f"{os.getpid()}\\n")
        if len(pathlib.Path(calls).read_text().split()) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


example["main"].__globals__["Downsizer"] = Killed
context = ray.data.DataContext.get_current()
context.read_op_min_num_blocks = 1  # several batches a task
context.target_max_block_size = 1  # each row is handed on at once
example["main"](folder, results)
ray.shutdown()
cluster.shutdown()
"""


def photographs(folder, seed):
    """Photographs of mixed sizes and modes in a folder and one below it; pixels by path."""
    rng = np.random.default_rng(seed)
    (folder / "below").mkdir(parents=True)
    pixels = {}
    for index in range(24):
        path = folder / ("below" if index % 2 else "") / f"{index}.png"
        image = Image.fromarray(rng.integers(0, 256, (*rng.integers(1, 300, 2), 3), dtype=np.uint8))
        image = image.convert("L") if index % 5 == 0 else image
        image.save(path)
        pixels[str(path)] = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return pixels


@pytest.mark.long
@pytest.mark.parametrize("gpus", [0, 1])  # as Ray is told, which then schedules otherwise; CPUs compute
def test_an_actors_death_loses_and_doubles_nothing(gpus, tmp_path, seed):
    photos, results, calls = tmp_path / "photos", tmp_path / "results", tmp_path / "calls"
    pixels = photographs(photos, seed)
    (photos / "text.jpg").write_text("no image")
    whole = next(photos.glob("*.png")).read_bytes()
    (photos / "below" / "cut.png").write_bytes(whole[: len(whole) // 2])
    command = [sys.executable, "-c", SCRIPT, ROOT / "examples" / "ray_resize.py", photos, results, calls, str(gpus)]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        out, _ = process.communicate(timeout=300)
    finally:
        process.terminate()  # which ends the cluster, too
    assert process.returncode == 0, out[-4000:]
    dead, *others = collections.Counter(calls.read_text().split()).items()
    assert dead[1] == 2
    assert others

    rows = pyarrow.dataset.dataset(results).to_table().to_pylist()
    by_path = {row["path"]: row for row in rows}
    bad = {str(photos / "text.jpg"), str(photos / "below" / "cut.png")}
    assert sorted(row["path"] for row in rows) == sorted({*pixels, *bad})  # each once
    for path in bad:
        assert by_path[path]["image"] == b""
        assert f"{path}: {by_path[path]['error']}" in out
    assert f"24 of 26 files to {results}" in out

    net = tritonds.DownsizeNet.from_pretrained("natural-k4", size=(224, 224))
    with torch.inference_mode():
        expected = net(list(pixels.values()), letterbox=True)
    for path, image, scale, offset in zip(pixels, expected.images, expected.scale, expected.offset, strict=True):
        row = by_path[path]
        assert row["error"] == ""
        assert (row["scale"], row["offset"]) == (scale.tolist(), offset.tolist())
        got = torch.from_numpy(np.array(Image.open(io.BytesIO(row["image"])))).permute(2, 0, 1)
        assert (got.float() - 255 * image).abs().max() < 0.51  # one rounding
