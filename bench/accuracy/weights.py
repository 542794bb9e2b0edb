"""Trains the weights that tritonds ships: one downsizer in front of several networks at once, at many scales."""

import math
import pathlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tritonds import DownsizeNet

from . import downsizers, pipelines, scenes
from .plan import SHIPPED
from .samples import Dataset, collate
from .train import descend

TASKS = {"reconstruction": 600.0, "segformer": 1.0, "resnet-dense": 0.3}
"""The networks behind it, and the weight of each one's loss: the gradient of the first is some ten times the others'."""


@dataclass(frozen=True)
class Training:
    """How the shipped weights are trained."""

    steps: int = 3000
    batch: int = 8
    source: int = 75
    """Side of the source images, in pixels."""
    scales: tuple[float, float] = (1.5, 2.5)
    """Each step's scale is drawn from these, evenly in its logarithm."""
    images: int = 4000
    lr: float = 2e-3
    downsizer_lr: float = 5e-3
    warmup: float = 0.05
    seed: int = 0


def make(name: str, training: Training, device: torch.device, report: Callable[[int, dict[str, float]], object]) -> DownsizeNet:
    """Train the weights called ``name``; ``report`` gets each step's number and losses."""
    torch.manual_seed(training.seed)
    downsizer = downsizers.LEARNED[SHIPPED[name]]().to(device)
    data = {task: _data(task, training) for task in TASKS}
    networks = nn.ModuleDict({task: pipelines.build(task, len(data[task].classes), "small") for task in TASKS}).to(device)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(networks.parameters()), "peak": training.lr, "weight_decay": 0.01},
            {"params": list(downsizer.parameters()), "peak": training.downsizer_lr, "weight_decay": 0.0},
        ]
    )
    generator = torch.Generator().manual_seed(training.seed)
    for step in range(training.steps):
        losses = {task: _loss(task, networks[task], downsizer, data[task], training, generator, device) for task in TASKS}
        total = torch.stack([TASKS[task] * loss for task, loss in losses.items()]).sum()
        descend(optimizer, total, (step + 1) / training.steps, training.warmup)
        report(step + 1, {task: loss.item() for task, loss in losses.items()})
    return downsizer.cpu()


def _loss(
    task: str,
    network: nn.Module,
    downsizer: DownsizeNet,
    data: Dataset,
    training: Training,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """The loss of one batch, at a scale of its own."""
    low, high = (math.log(scale) for scale in training.scales)
    side = _side(training, math.exp(low + (high - low) * torch.rand(1, generator=generator).item()))
    chosen = torch.randint(len(data), (training.batch,), generator=generator).tolist()
    batch = collate([data[index] for index in chosen], (side, side)).to(device)
    assert isinstance(network, pipelines.Pipeline)
    return network.loss(downsizer(batch.images, (side, side)), batch)


def _side(training: Training, scale: float) -> int:
    return round(training.source / scale)


def _data(task: str, training: Training) -> Dataset:
    source = scenes.Photographs if pipelines.PIPELINES[task].task == "reconstruction" else scenes.Scenes
    return source("train", training.source, training.images, training.seed)


def save(net: DownsizeNet, path: pathlib.Path) -> None:
    """As one file, which DownsizeNet.from_pretrained reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        net.save_pretrained(folder)
        (pathlib.Path(folder) / "model.safetensors").replace(path)
