"""A folder of a million photographs, letterboxed to 224 x 224 on a Ray cluster: python examples/ray_resize.py FOLDER RESULTS

Every machine has to see FOLDER and RESULTS: on a shared disk, or as s3:// or gs:// addresses. RESULTS, which must not exist,
becomes parquet files with a row for each file of FOLDER and all below: its path; the image as PNG; the scale and offset of its
letterbox; and an error instead, if it could not be read. Needs Pillow and Ray Data, which come with tritonds[ray].
"""

import functools
import io
import os
import sys
from typing import Any

import numpy as np
import pyarrow.dataset
import ray.data
import torch
from PIL import Image, ImageOps
from pyarrow.fs import FileSelector, FileSystem

from tritonds import DownsizeNet

SIZE = (224, 224)
Row = dict[str, Any]
Batch = dict[str, np.ndarray]


def find(folder: str) -> tuple[FileSystem, list[str]]:
    """What opens the files below ``folder``, and their paths."""
    files, path = FileSystem.from_uri(folder)
    return files, [info.path for info in files.get_file_info(FileSelector(path, recursive=True)) if info.is_file]


def read(row: Row, files: FileSystem) -> Row:
    """The pixels (H, W, 3) of a path, uint8; or none of them, and the error."""
    try:
        with files.open_input_stream(row["path"]) as file, Image.open(io.BytesIO(file.read())) as image:
            return row | {"image": np.array(ImageOps.exif_transpose(image).convert("RGB")), "error": ""}
    except Exception as error:  # decoders fail on damaged files in every way there is
        return row | {"image": np.empty((0, 0, 3), np.uint8), "error": f"{type(error).__name__}: {error}"}


class Downsizer:
    """An actor, which holds the network."""

    def __init__(self) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.downsize = DownsizeNet.from_pretrained("natural-k4", size=SIZE).to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Batch:
        """Resize the images that could be read, in one call."""
        read = np.flatnonzero(batch["error"] == "")
        images = [torch.from_numpy(batch["image"][i]).permute(2, 0, 1).to(self.device) for i in read]
        small = np.zeros((len(batch["error"]), *SIZE, 3), np.uint8)
        scale, offset = np.zeros((2, len(small), 2), np.float32)
        if images:
            result = self.downsize(images, letterbox=True)
            small[read] = (255 * result.images).round().byte().permute(0, 2, 3, 1).cpu()
            scale[read], offset[read] = result.scale.cpu(), result.offset.cpu()
        return batch | {"image": small, "scale": scale, "offset": offset}


def encode(row: Row) -> Row:
    """The image as PNG; empty if it could not be read."""
    file = io.BytesIO()
    if not row["error"]:
        Image.fromarray(row["image"]).save(file, "PNG")
    return row | {"image": file.getvalue()}


def main(folder: str, results: str) -> None:
    folder, results = (path if "://" in path else os.path.abspath(path) for path in (folder, results))
    ray.init()
    files, paths = find(folder)
    gpus, cpus = (int(ray.cluster_resources().get(name, 0)) for name in ("GPU", "CPU"))
    actors = ray.data.ActorPoolStrategy(min_size=1, max_size=gpus or max(1, cpus - 1))
    held = 0 if gpus or cpus == 1 else 1  # CPUs of an actor: one is left for what reads, encodes and writes
    data = ray.data.from_items([{"path": path} for path in paths]).map(functools.partial(read, files=files))
    data = data.map_batches(Downsizer, batch_size=16, compute=actors, num_cpus=held, num_gpus=min(gpus, 1))
    data.map(encode).write_parquet(results, mode=ray.data.SaveMode.ERROR)
    files, path = FileSystem.from_uri(results)
    rows = pyarrow.dataset.dataset(path, filesystem=files).to_table(columns=["path", "error"]).to_pylist()
    failed = [row for row in rows if row["error"]]
    for row in failed:
        print(f"{row['path']}: {row['error']}")
    print(f"{len(rows) - len(failed)} of {len(paths)} files to {results}")


if __name__ == "__main__":
    main(*sys.argv[1:])
