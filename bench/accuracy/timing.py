"""Time a frame, by how many layers infer the coefficients: the poster's table."""

import datetime
import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import benchmark

from bench import measure
from tritonds import methods

from . import downsizers, pipelines

PIPELINE = "resnet-dense"
CLASSES = 21
"""VOC's, the background included."""
METHODS: dict[str, Callable[[], nn.Module]] = {
    "bilinear": functools.partial(downsizers.build, "bilinear"),
    **{
        f"downsizenet-k2, {hidden + 1} layer{'s' * (hidden > 0)}": functools.partial(
            methods.ARCHITECTURES["downsizenet-k2"], hidden_layers=hidden
        )
        for hidden in range(4)
    },
}
ROUNDS = 7
SECONDS = 0.7
"""How long each is repeated in each round."""


@torch.inference_mode()
def time(device: torch.device) -> dict[str, Any]:
    """Milliseconds a frame, median over rounds: downsizer and network, one uint8 image at a time of 300x300 to 160x160."""
    size = pipelines.PIPELINES[PIPELINE].sizes["full"]
    torch.manual_seed(0)
    network = pipelines.build(PIPELINE, CLASSES, "full").to(device).eval()
    image = torch.randint(256, (1, 3, *size.source), dtype=torch.uint8, device=device)
    parts = {name: build().to(device).eval() for name, build in METHODS.items()}
    frames = {name: _Frame(downsizer, network) for name, downsizer in parts.items()}
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):  # one after the other, so that a machine that slows down slows all
        for name in METHODS:
            times.setdefault((name, "downsizer_ms"), []).append(_milliseconds(parts[name], image, size.network))
            times.setdefault((name, "frame_ms"), []).append(_milliseconds(frames[name], image, size.network))
    rows = [
        {"method": name} | {field: statistics.median(times[name, field]) for field in ("frame_ms", "downsizer_ms")}
        for name in METHODS
    ]
    date = f"{datetime.datetime.now():%Y-%m-%d %H:%M}"
    return {"pipeline": PIPELINE, "size": size, "machine": measure.machine(device), "date": date, "rows": rows}


class _Frame(nn.Module):
    """What a frame takes: the network's answer is not decoded, which takes as long for every downsizer."""

    def __init__(self, downsizer: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.downsizer, self.network = downsizer, network

    def forward(self, images: torch.Tensor, size: tuple[int, int]) -> Any:
        return self.network(self.downsizer(images, size))


def _milliseconds(module: nn.Module, image: torch.Tensor, size: tuple[int, int]) -> float:
    timer = benchmark.Timer(
        "module(image, size)", globals={"module": module, "image": image, "size": size}, num_threads=torch.get_num_threads()
    )
    return 1000 * timer.blocked_autorange(min_run_time=SECONDS).median


def lines(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table."""
    base = result["rows"][0]["frame_ms"]
    rows = [
        [r["method"], f"{r['frame_ms']:.2f}", f"{r['frame_ms'] - base:+.2f}", f"{r['downsizer_ms']:.2f}"]
        for r in result["rows"]
    ]
    return ["downsizer", "ms a frame", "more than bilinear", "downsizer alone"], rows


def origin(result: dict[str, Any]) -> str:
    """What was timed, where and when."""
    machine = result["machine"]
    source, network = (f"{h}x{w}" for h, w in result["size"])
    where = machine["device"] if machine["device_type"] == "cuda" else f"CPU: {machine['device']}, {machine['threads']} threads"
    what = f"{result['pipeline']}, {source} to {network}, one uint8 image at a time, eager, float32"
    when = f"commit {machine['commit']}; {result['date'][:10]}"
    return f"{what}; {where}, PyTorch {machine['torch']}; {when}; `python -m bench accuracy time`."
