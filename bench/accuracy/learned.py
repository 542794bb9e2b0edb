"""What trained downsizers learned: how far their coefficients choose one pixel, and how far the image has a say in them."""

import dataclasses
import datetime
import itertools
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench import measure
from tritonds import DownsizeNet

from . import data, downsizers
from .pipelines import PIPELINES
from .plan import PROFILES, Run
from .samples import batches
from .train import trained

METHODS = ("downsizenet-k2", "downsizenet-k4", "downsizenet-k2-texture2", "downsizenet-k4-texture2")
NUMBERS = {"largest": "trained: largest coefficient", "by_image": "deviation over images"}
"""Numbers that describe coefficients, with their titles."""
IMAGES = 32
"""Images of the test split for which coefficients are inferred."""


@torch.no_grad()
def summarize(result: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """Describe the coefficients of every downsizer that was trained into the folder of a result, and is still there."""
    rows = []
    for row in result["rows"]:
        run = Run(row["pipeline"], row["method"], row["seed"])
        if run.method in METHODS and trained(folder, run).exists():
            images, size = _images(result, run.pipeline)
            net = DownsizeNet.from_pretrained(trained(folder, run))
            prior = describe(downsizers.LEARNED[run.method]().coefficients(images, size))["largest"]
            numbers = {"prior": prior} | describe(net.coefficients(images, size))
            rows.append({"pipeline": run.pipeline, "method": run.method, "seed": run.seed} | numbers)
    machine = measure.machine(torch.device("cpu"))
    return {"machine": machine, "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}", "images": IMAGES, "rows": rows}


def describe(coefficients: Tensor) -> dict[str, float]:
    """:data:`NUMBERS` about coefficients (N, K*K, h, w) of N images, each the mean over all places.

    - ``largest``: the largest coefficient of a place; 1 where one pixel is taken as it is.
    - ``by_image``: the standard deviation over images of the coefficient that varies most; 0 where the image has no say.
    """
    largest = coefficients.amax(dim=1).mean()
    by_image = coefficients.std(dim=0, correction=0).amax(dim=0).mean()
    return {"largest": largest.item(), "by_image": by_image.item()}


def _images(result: dict[str, Any], pipeline: str) -> tuple[Tensor, tuple[int, int]]:
    """The first test images of a pipeline, (N, 3, H, W) of uint8, and its network's (h, w)."""
    profile = dataclasses.replace(PROFILES["tiny"], width=result["settings"]["width"], test=IMAGES)
    test = data.load(result["data"], pipeline, profile, data.TEST_SEED).test
    size = PIPELINES[pipeline].sizes[profile.width].network
    return next(batches(test, size, IMAGES)).images, size


def lines(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table, mean ± deviation over seeds."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        found.setdefault((row["pipeline"], row["method"]), []).append(row)
    rows = []
    for pipeline, method in itertools.product(PIPELINES, METHODS):
        seeds = found.get((pipeline, method))
        if seeds:
            trained_to = [_mean([row[name] for row in seeds]) for name in NUMBERS]
            rows.append([pipeline, method, f"{seeds[0]['prior']:.3f}", *trained_to])
    return ["pipeline", "downsizer", "untrained: largest coefficient", *NUMBERS.values()], rows


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def origin(result: dict[str, Any]) -> str:
    """What a result is of, and where and when it was made."""
    machine = result["machine"]
    what = f"{result['images']} test images; CPU: {machine['device']}, PyTorch {machine['torch']}"
    return f"{what}; commit {machine['commit']}; {result['date'][:10]}; `python -m bench accuracy learned`."
