"""One run: a network and a downsizer trained together, resumed where they were left, and measured on test data."""

import hashlib
import itertools
import math
import pathlib
import time
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tritonds import DownsizeNet

from . import downsizers, pipelines
from .metrics import Metrics
from .plan import SHIPPED, Profile, Run, settings
from .samples import Batch, Dataset, batches, collate

CURVE = 100
"""Points of a loss curve that are kept, each the mean of the steps up to it."""
CLIP = 1.0
"""Largest norm of the gradients, the network's and the downsizer's."""

Row = dict[str, Any]


class Data(NamedTuple):
    """What a run is trained on, what it is measured on, and what its settings are chosen on, where there is such a split."""

    train: Dataset
    test: Dataset
    validation: Dataset | None = None

    def for_validation(self) -> "Data":
        """The same with the validation split in place of the test split.

        Raises:
            ValueError: there is none.
        """
        if self.validation is None:
            raise ValueError("data: expected some with a validation split")
        return self._replace(test=self.validation, validation=None)


class _State:
    """Network and downsizer, their optimizer, and how far they are."""

    def __init__(self, run: Run, profile: Profile, data: Data, backend: str, device: torch.device) -> None:
        spec = pipelines.PIPELINES[run.pipeline]
        self.profile = profile
        self.steps = profile.steps * spec.longer
        self.device = device
        self.size = spec.sizes[profile.width].network
        self.step = 0
        self.seconds = 0.0
        self.losses: list[Tensor] = []
        # The same numbers for network and training, some of which draw more, whatever the downsizer drew.
        torch.manual_seed(run.seed)
        self.network = pipelines.build(run.pipeline, len(data.train.classes), profile.width).to(device)
        lr = spec.lr(profile.width)
        self.start = _digest(self.network, lr, self.steps, spec.sizes[profile.width], len(data.train), len(data.test))
        self.downsizer = _downsizer(run, backend).to(device)
        torch.manual_seed(run.seed)
        learned = [parameter for parameter in self.downsizer.parameters() if parameter.requires_grad]
        groups = [{"params": list(self.network.parameters()), "weight_decay": 0.01, "peak": lr}]
        groups += [{"params": learned, "weight_decay": 0.0, "peak": profile.downsizer_lr}] if learned else []
        self.optimizer = torch.optim.AdamW(groups)

    def advance(self, batch: Batch) -> None:
        """One step of training; the learning rates follow from how many were done."""
        share = (self.step + 1) / self.steps
        loss = self.network.loss(self.downsizer(batch.images, self.size), batch)
        descend(self.optimizer, loss, share, self.profile.warmup)
        self.losses.append(loss.detach())
        self.step += 1

    def save(self, path: pathlib.Path) -> None:
        """Replace ``path`` at once: being killed here loses nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = {name: getattr(self, name).state_dict() for name in ("network", "downsizer", "optimizer")}
        losses = torch.stack(self.losses).cpu()
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        content = {
            "step": self.step,
            "seconds": self.seconds,
            "losses": losses,
            "generators": generators,
            "settings": settings(self.profile),
            "start": self.start,
        }
        temporary = path.with_suffix(".part")
        torch.save(parts | content, temporary)
        temporary.replace(path)

    def resume(self, path: pathlib.Path) -> None:
        """Go on from what :meth:`save` wrote, unless it was under other settings, or is damaged."""
        if not path.exists():
            return
        try:
            content = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # damaged files fail in many ways
            warnings.warn(f"{path} cannot be read, and its run begins anew: {error}", stacklevel=2)
            return
        if (content["settings"], content.get("start")) != (settings(self.profile), self.start):
            return
        for name in ("network", "downsizer", "optimizer"):
            getattr(self, name).load_state_dict(content[name])
        self.step, self.seconds = content["step"], content["seconds"]
        self.losses = list(content["losses"].to(self.device))
        torch.set_rng_state(content["generators"]["cpu"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(content["generators"]["cuda"].cpu(), self.device)


def train(
    run: Run,
    profile: Profile,
    data: Data,
    folder: pathlib.Path,
    device: torch.device,
    *,
    backend: str = "auto",
    deadline: float = math.inf,
    peer: str | None = None,
) -> Row | None:
    """Train, and return what was measured. Goes on where a run that was stopped or killed was last saved.

    Schedule, data order, seeds and the network's first weights are the same for all methods.

    Args:
        run: what to train.
        profile: for how long.
        data: on what.
        folder: for the checkpoint, which the caller removes, and the trained downsizer.
        device: where.
        backend: of DownsizeNet.
        deadline: of :func:`time.time`, after which a run is saved and stopped.
        peer: what rows that this one is to be compared with have as their ``start``.

    Returns:
        A row of the results, or None if the run was stopped.

    Raises:
        ValueError: those rows are of another network, or one trained otherwise or on more or fewer images.
    """
    state = _State(run, profile, data, backend, device)
    if peer not in (None, state.start):
        raise ValueError(f"{run.pipeline}: the results are of other settings of this network, or other data; remove its rows")
    path = checkpoint(folder, run)
    state.resume(path)
    if not _train_to_the_end(state, data.train, run.seed, path, deadline):
        return None
    metrics = evaluate(state.network, state.downsizer, data.test, state.size, profile.batch, device)
    if isinstance(state.downsizer, DownsizeNet) and run.method in downsizers.LEARNED:
        state.downsizer.save_pretrained(trained(folder, run))
    curve = torch.stack(state.losses).tolist()
    row = {"pipeline": run.pipeline, "method": run.method, "seed": run.seed, "metrics": metrics}
    return row | {"losses": _thinned(curve), "train_s": state.seconds, "start": state.start}


def _train_to_the_end(state: _State, data: Dataset, seed: int, path: pathlib.Path, deadline: float) -> bool:
    """Take all steps that are left, and save to ``path`` now and then. False if the deadline came before the end."""
    profile = state.profile
    order = _order(len(data), state.steps * profile.batch, seed)
    before, start, saved = state.seconds, time.perf_counter(), time.perf_counter()
    while state.step < state.steps:
        chosen = order[state.step * profile.batch : (state.step + 1) * profile.batch].tolist()
        state.advance(collate([data[i] for i in chosen], state.size).to(state.device))
        now = time.perf_counter()
        state.seconds = before + now - start
        late = time.time() > deadline
        if late or now - saved > profile.checkpoint_s:
            state.save(path)
            saved = time.perf_counter()
        if late:
            return False
    return True


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, share: float, warmup: float) -> None:
    """One step, with gradients clipped and learning rates as they are after a ``share`` of the training.

    Each group's rises to its ``peak`` over the share ``warmup``, and falls to 0 as a cosine.
    """
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * min(1.0, share / warmup) * 0.5 * (1 + math.cos(math.pi * share))
        nn.utils.clip_grad_norm_(group["params"], CLIP)
    optimizer.step()


@torch.no_grad()
def evaluate(
    network: pipelines.Pipeline, downsizer: nn.Module, data: Dataset, size: tuple[int, int], batch: int, device: torch.device
) -> dict[str, float]:
    """Every metric of the network's task over the whole of ``data``."""
    network.eval()
    downsizer.eval()
    metrics = Metrics(network.task, len(data.classes))
    for part in batches(data, size, batch):
        part = part.to(device)
        source = (part.images.shape[2], part.images.shape[3])
        metrics.update(network.predict(downsizer(part.images, size), source), part)
    return metrics.compute()


def checkpoint(folder: pathlib.Path, run: Run) -> pathlib.Path:
    """Where a run is saved while it lasts."""
    return folder / "checkpoints" / f"{run.key}.pt"


def trained(folder: pathlib.Path, run: Run) -> pathlib.Path:
    """Where a run leaves its downsizer, as DownsizeNet.from_pretrained reads it."""
    return folder / "downsizers" / run.key


def _downsizer(run: Run, backend: str) -> nn.Module:
    if run.method in SHIPPED:
        return DownsizeNet.from_pretrained(run.method, backend=backend).requires_grad_(False)
    return downsizers.build(run.method, backend)


def _digest(network: nn.Module, *facts: object) -> str:
    """A hash of what all methods have in common: the network, its first weights up to rounding, and facts of its training."""
    digest = hashlib.sha256(repr(facts).encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.double().norm():.3g}".encode())
    return digest.hexdigest()[:12]


def _order(count: int, needed: int, seed: int) -> Tensor:
    """The order of training: so many indices of images, each as often as any other, but for the last round."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(-(-needed // count))])[:needed]


def _thinned(curve: list[float]) -> list[float]:
    """At most :data:`CURVE` points, means of equal parts."""
    edges = [len(curve) * i // min(CURVE, len(curve)) for i in range(min(CURVE, len(curve)) + 1)]
    return [round(sum(curve[a:b]) / (b - a), 6) for a, b in itertools.pairwise(edges)]
