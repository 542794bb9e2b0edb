"""``tritonds resize``: inputs are resized into a folder, and what became of them is counted."""

import contextlib
import hashlib
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from . import methods, outputs, pipeline
from .files import Source
from .module import DownsizeNet


class Options(NamedTuple):
    """What results depend on beside method and inputs, and how the work is done."""

    size: tuple[int, int]
    letterbox: bool
    suffix: str
    quality: int
    skip_existing: bool
    jobs: int


class Folder:
    """One run into the folder ``out``. It counts results, and keeps the lines that the user has to see."""

    def __init__(self, out: Path, function: methods.Resize, options: Options, device: torch.device) -> None:
        self.out = out
        self.function = function
        self.options = options
        self.device = device
        self.settings = _settings(function, options)
        self.written = self.skipped = 0
        self.renamed: list[str] = []
        self.failures: list[str] = []
        self.start = time.perf_counter()

    def resize(self, sources: Iterable[Source]) -> Generator[None]:
        """Resize all, and yield after each image. Close this to stop: what was begun is written whole or not at all."""
        compute = pipeline.computation(self.function, self.options.size, self.options.letterbox, self.device)
        batched = self.device.type == "cuda"
        outcomes = pipeline.run(filter(self._is_wanted, sources), compute, self._encode, self.options.jobs, batched=batched)
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                self._save(outcome)
                yield

    def summary(self) -> str:
        """What was done, in one line."""
        seconds = time.perf_counter() - self.start
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.written} written to {self.out}{skipped}: {seconds:.1f} s, {self.written / seconds:.1f} images a second"

    def _mark(self, source: Source) -> str:
        return outputs.mark_for(source, self.out, self.settings)

    def _is_wanted(self, source: Source) -> bool:
        done = self.options.skip_existing and outputs.is_done(source, self.out, self.options.suffix, self._mark(source))
        self.skipped += done
        return not done

    def _encode(self, source: Source, pixels: np.ndarray, profile: bytes | None) -> bytes:
        return outputs.encode(pixels, self._mark(source), self.options.suffix, self.options.quality, profile)

    def _save(self, outcome: pipeline.Outcome) -> None:
        source, result = outcome
        try:
            if isinstance(result, Exception):
                raise result
            destination = outputs.save(result, self._mark(source), source, self.out, self.options.suffix)
        except pipeline.FAILURES as error:
            self.failures.append(f"{source.path}: {reason(error)}")
            return
        self.written += 1
        if destination.name != source.name.with_suffix(f".{self.options.suffix}").name:
            self.renamed.append(f"{source.path}: written as {destination}, since another name was taken")


def reason(error: BaseException) -> str:
    """The error in one line. PyTorch's may have many."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _settings(function: methods.Resize, options: Options) -> str:
    """A hash of all that results depend on beside their inputs."""
    size, letterbox, suffix, quality, *_ = options
    name = next((name for name, method in methods.INTERPOLATIONS.items() if method is function), repr(function))
    digest = hashlib.sha256(repr((name, size, letterbox, suffix, quality)).encode())
    if isinstance(function, DownsizeNet):
        for tensor in function.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]
