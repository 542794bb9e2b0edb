"""Passes as ``bench.compile`` predicts them, each the sum of its kernels, beside what ``python -m bench`` measured of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tritonds.coefficient_weights import SHARPENING

from .cost import Cost
from .latency import LATENCIES

PASSES = {
    "downsize": ("operator", "forward"),
    "downsize_backward": ("operator", "backward"),
    "downsize_image": ("image", "forward"),
    "downsize_image_backward": ("image", "backward"),
}
"""What is measured as a whole, by launcher: kind and pass."""
FUSED = {"fused": "operator", "image-fused": "image"}
"""The providers that run these kernels alone, and their kinds."""


class Pass(NamedTuple):
    workload: str
    kind: str
    taps: int
    prior: str
    """"none" if there is none."""
    dtype: str
    channels_last: bool
    mode: str
    """"forward" or "backward"."""

    @property
    def name(self) -> str:
        images = ", uint8 images" if self.kind == "image" else ""
        sharpening = f", {self.prior}" if self.prior in SHARPENING else ""
        return f"{self.workload}{images}, K={self.taps}{sharpening}, {self.mode}"


def passes(rows: Sequence[Mapping[str, Any]]) -> dict[Pass, list[Cost]]:
    """The kernels of every pass among ``rows``, of :class:`bench.compile.Compiled` as JSON, that can be measured."""
    found: dict[Pass, list[Cost]] = {}
    for row in rows:
        variant = row["variant"]
        measurable = variant["image"] in ("", "u8") and variant["texture"]
        measurable = measurable and not (variant["letterbox"] or variant["tf32"] or variant["out"])
        if measurable and row["operator"] in PASSES:
            kind, mode = PASSES[row["operator"]]
            form = variant["taps"], variant["prior"], variant["dtype"], variant["channels_last"]
            which = Pass(variant["workload"], kind, *form, mode)
            found.setdefault(which, []).append(Cost(**row["cost"]))
    return found


def measured(rows: Sequence[Mapping[str, Any]]) -> dict[Pass, float]:
    """Microseconds of every pass that was measured. The backward pass is what both take longer than the forward one."""
    both: dict[Pass, dict[str, float]] = {}
    for row in rows:
        if row["provider"] in FUSED and row["status"] == "measured":
            w = row["workload"]
            form = w["taps"], w["prior"] or "none", w["dtype"], w["channels_last"]
            which = Pass(w["name"], FUSED[row["provider"]], *form, "forward")
            both.setdefault(which, {})[row["mode"]] = 1000 * row["median_ms"]
    found: dict[Pass, float] = {}
    for which, times in both.items():
        if "forward" in times:
            found[which] = times["forward"]
            if "forward+backward" in times:
                found[which._replace(mode="backward")] = times["forward+backward"] - times["forward"]
    return found


def guess_us(kernels: Sequence[Cost], latencies: Mapping[str, float] = LATENCIES) -> float:
    """The guess for a pass."""
    return sum(kernel.guess_us(latencies) for kernel in kernels)


COLUMNS = {
    "instructions per output pixel": "instructions_per_pixel",
    "issue µs": "issue_us",
    "busiest pipe µs": "pipe_us",
    "bytes µs": "bandwidth_us",
    "latency µs": "latency_us",
}
"""Fields of :class:`Cost`, summed over a pass's kernels, by heading."""


def lines(compiled: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str | float | None]]:
    """A table of the passes in the fastest form, by heading; measured ones have a time from ``rows``."""
    times = measured(rows)
    table: list[dict[str, str | float | None]] = []
    for which, kernels in passes(compiled).items():
        if which.dtype == "bf16" and which.channels_last:
            fields = [dataclasses.asdict(kernel) for kernel in kernels]
            sums = {heading: sum(kernel[field] for kernel in fields) for heading, field in COLUMNS.items()}
            warps = ", ".join(str(kernel.resident_warps) for kernel in kernels)
            guess = guess_us(kernels)
            table.append(
                {"workload, pass": which.name, "warps": warps, **sums, "guess µs": guess, "measured µs": times.get(which)}
            )
    return table
