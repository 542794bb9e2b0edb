"""How fast `tritonds resize` is on folders, and how much memory it takes.

    python -m bench.folders             a table; five minutes on an idle machine
    python -m bench.folders --write     the same, into docs/command-line.md

JPEG files of 1920x1080, mosaics of scikit-image's photographs, become 160x160. Some rows are parts: Pillow's decoder alone,
in as many threads; the pipeline as a GPU has it, around a stand-in that only cuts a corner out. The others are the command
itself, in a process each, whose start images a second leave out.
"""

import datetime
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated

import numpy as np
import PIL
import torch
import typer
from PIL import Image
from torch import Tensor

from bench import measure, report
from tritonds import allocation, files, outputs, pipeline
from tritonds.cli import SAMPLES

PAGE = measure.ROOT / "docs" / "command-line.md"
SIZE = (160, 160)
PROGRAM = """
import atexit, pathlib
atexit.register(lambda: print(pathlib.Path("/proc/self/status").read_text()))
from tritonds.cli import main
main()
"""
HEADER = ("what", "images", "images a second", "peak memory, MB")
Row = tuple[str, int, float, float | None]


def photographs(folder: pathlib.Path, count: int, size: tuple[int, int], different: int = 8) -> pathlib.Path:
    """A folder of so many JPEG files, (height, width) in pixels, of which so many are different and the others hard links."""
    from skimage import data

    folder.mkdir()
    tiles = [np.tile(getattr(data, name)(), (4, 5, 1)) for name in SAMPLES]
    for number in range(count):
        path = folder / f"{number:05d}.jpg"
        if number >= different:
            path.hardlink_to(folder / f"{number % different:05d}.jpg")
            continue
        tile = tiles[number % len(tiles)]
        top, left = 17 * number, 29 * number
        Image.fromarray(tile[top : top + size[0], left : left + size[1]]).save(path, quality=90)
    return folder


def decoding(folder: pathlib.Path, jobs: int) -> float:
    """Images a second of Pillow alone."""

    def decode(path: pathlib.Path) -> None:
        with Image.open(path) as file:
            file.load()

    paths = sorted(folder.iterdir())
    start = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(decode, paths))
    return len(paths) / (time.perf_counter() - start)


def piping(folder: pathlib.Path, compute: pipeline.Compute, jobs: int, *, batched: bool) -> float:
    """Images a second of the pipeline around ``compute``; JPEG results are written as the command does."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        encode = partial(_encode, pathlib.Path(out))
        outcomes = list(pipeline.run(files.find([folder], pathlib.Path(out)), compute, encode, jobs, batched=batched))
        for source, data in outcomes:
            assert isinstance(data, bytes), data
            outputs.save(data, "stand-in", source, pathlib.Path(out), "jpg")
        return len(outcomes) / (time.perf_counter() - start)


def _encode(out: pathlib.Path, source: files.Source, pixels: np.ndarray, profile: bytes | None) -> bytes:
    return outputs.encode(pixels, outputs.mark_for(source, out, ""), "jpg", 90, profile)


def corners(images: list[Tensor]) -> Tensor:
    """The stand-in: next to no time, whatever the images."""
    return torch.cat([x[:, :3, : SIZE[0], : SIZE[1]] / 255 for x in images])


def commanding(folder: pathlib.Path, *options: str) -> tuple[float, float]:
    """Images a second that `tritonds resize` reports, and the peak of its memory in MB."""
    with tempfile.TemporaryDirectory() as out:
        command = (
            sys.executable,
            "-c",
            PROGRAM,
            "resize",
            str(folder),
            "--size",
            f"{SIZE[1]}x{SIZE[0]}",
            "--out",
            out,
            *options,
        )
        said = subprocess.run(command, cwd=measure.ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    speed, peak = re.search(r"(\S+) images a second", said), re.search(r"VmHWM:\s+(\d+) kB", said)
    assert speed is not None, said
    assert peak is not None, said
    return float(speed[1]), int(peak[1]) / 1024


def rows(jobs: int, count: int, growth: list[int]) -> Iterator[Row]:
    """What is measured, one row after the other."""
    with tempfile.TemporaryDirectory() as temporary:
        place = pathlib.Path(temporary)
        photos = photographs(place / "photos", count, (1080, 1920))
        warm = photographs(place / "warm", 16, (1080, 1920))
        piping(warm, corners, jobs, batched=True)  # the memory of a first batch, which is kept, and imports
        yield "decoding alone, Pillow", count, decoding(photos, jobs), None
        yield "pipeline, stand-in for a network on a GPU", count, piping(photos, corners, jobs, batched=True), None
        for name in ("bilinear-aa", "natural-k4"):
            yield f"the command, {name}", count, *commanding(photos, "--method", name, "--jobs", str(jobs))
        for number in growth:
            small = photographs(place / str(number), number, (96, 128))
            yield "the command, bilinear-aa, 128x96", number, *commanding(small, "--method", "bilinear-aa", "--jobs", str(jobs))


def markdown(done: list[Row], caption: str) -> str:
    """The table, as it is in the document."""
    cells = [(what, f"{images:,}", f"{speed:.1f}", "" if peak is None else f"{peak:.0f}") for what, images, speed, peak in done]
    lines = [HEADER, ("---",) * len(HEADER), *cells]
    return "\n".join([caption, "", *("| " + " | ".join(line) + " |" for line in lines)])


def main(
    jobs: Annotated[int, typer.Option(help="workers")] = os.cpu_count() or 1,
    count: Annotated[int, typer.Option(help="photographs of 1920x1080")] = 200,
    growth: Annotated[str, typer.Option(help="sizes of folders of small images, for the memory")] = "100,1000,10000",
    write: Annotated[bool, typer.Option("--write", help="into docs/command-line.md; on an idle machine alone")] = False,
) -> None:
    """Measure `tritonds resize` and its parts."""
    load = os.getloadavg()[0]
    machine = measure.machine(torch.device("cpu"))
    allocation.keep_freed_memory()
    caption = (
        f"{machine['cpu']}, {machine['cores']} cores, load {load:.1f} before; {jobs} jobs; PyTorch {machine['torch']}, "
        f"Pillow {PIL.__version__}; {datetime.date.today()}, commit {machine['commit']}."
    )
    print(caption)
    done = []
    for row in rows(jobs, count, [int(number) for number in growth.split(",") if number]):
        done.append(row)
        print(*row, sep=" | ", flush=True)
    if write:
        PAGE.write_text(report.with_section(PAGE.read_text(), "folders", markdown(done, caption)))


if __name__ == "__main__":
    typer.run(main)
