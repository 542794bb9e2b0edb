"""What trained downsizers learned: how far they choose one pixel or sharpen, and how far the image has a say in it."""

import copy
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
from tritonds.coefficient_weights import SHARPENING

from . import data, downsizers
from .pipelines import PIPELINES
from .plan import PROFILES, Run
from .samples import batches
from .train import trained

NUMBERS = {
    "largest": "largest coefficient",
    "by_image": "its deviation over images",
    "strength": "g",
    "strength_by_image": "its deviation over images",
    "strength_by_place": "and over places",
}
"""Numbers that describe coefficients, with their titles; the last three of layers that sharpen."""
IMAGES = 32
"""Images of the test split for which coefficients are inferred."""


@torch.no_grad()
def summarize(result: dict[str, Any], folder: pathlib.Path, earlier: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Describe the coefficients of every downsizer of a result that was trained into the folder, and is still there.

    Of those that are there no more, rows of an ``earlier`` summary are kept.
    """
    machine = measure.machine(torch.device("cpu"))
    where = {"device": machine["device"], "commit": machine["commit"], "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}"}
    kept = {_run(row): row for row in earlier}
    rows = []
    for run in map(_run, result["rows"]):
        if run.method in downsizers.LEARNED and trained(folder, run).exists():
            net = DownsizeNet.from_pretrained(trained(folder, run)).float().eval()
            rows.append(dataclasses.asdict(run) | describe(net, *_images(result, run.pipeline)) | where)
        elif run in kept:
            rows.append(kept[run])
    return {"machine": machine, "images": IMAGES, "rows": rows}


def _run(row: dict[str, Any]) -> Run:
    return Run(row["pipeline"], row["method"], row["seed"])


def describe(net: DownsizeNet, images: Tensor, size: tuple[int, int]) -> dict[str, float]:
    """:data:`NUMBERS` about the coefficients of N images, each the mean over all places.

    - ``largest``: the largest coefficient of a place; 1 where one pixel is taken as it is.
    - ``by_image``: the standard deviation over images of the coefficient that varies most; 0 where the image has no say.
    - ``strength``: g; ``strength_by_image``: its standard deviation over images at a place; ``strength_by_place``: that over
      places of its mean over images.
    """
    coefficients = net.coefficients(images, size)
    numbers = {
        "largest": coefficients.amax(dim=1).mean(),
        "by_image": coefficients.std(dim=0, correction=0).amax(dim=0).mean(),
    }
    if net.prior in SHARPENING:
        g = strength(net, images, size)
        over_images = g.std(dim=0, correction=0).mean()
        numbers |= {
            "strength": g.mean(),
            "strength_by_image": over_images,
            "strength_by_place": g.mean(dim=0).std(correction=0),
        }
    return {name: value.item() for name, value in numbers.items()}


def strength(net: DownsizeNet, images: Tensor, size: tuple[int, int]) -> Tensor:
    """g of every place, (N, h, w): how often the coefficients hold what those of strength 1 have beyond those of strength 0."""
    found = [_with_strength(net, g).coefficients(images, size).double() for g in (0.0, 1.0)]
    whole, convex, unit = net.coefficients(images, size).double(), found[0], found[1] - found[0]
    return ((whole - convex) * unit).sum(dim=1) / unit.square().sum(dim=1)


def _with_strength(net: DownsizeNet, g: float) -> DownsizeNet:
    """A copy whose strength is ``g`` everywhere."""
    fixed = copy.deepcopy(net)
    fixed.out.weight[-1] = 0
    fixed.out.bias[-1] = g
    return fixed


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
    for pipeline, method in itertools.product(PIPELINES, downsizers.LEARNED):
        seeds = found.get((pipeline, method))
        if seeds:
            rows.append([pipeline, method, *(_mean([row[name] for row in seeds if name in row]) for name in NUMBERS)])
    return ["pipeline", "downsizer", *NUMBERS.values()], rows


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def origin(result: dict[str, Any]) -> str:
    """What a result is of, and where and when it was made."""
    devices, commits, days = (
        sorted({row[name] or "unknown" for row in result["rows"]}) for name in ("device", "commit", "date")
    )
    days = list(dict.fromkeys((days[0][:10], days[-1][:10])))
    where = f"CPU: {' and '.join(devices)}, PyTorch {result['machine']['torch']}"
    what = f"{result['images']} test images; {where}"
    return f"{what}; commit {', '.join(commits)}; {' to '.join(days)}; `python -m bench accuracy learned`."
