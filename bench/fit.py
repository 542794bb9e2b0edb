"""Fits the cost model's assumed latencies to what was measured on a GPU."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich.box import SIMPLE
from rich.table import Table
from scipy.optimize import least_squares

from .cost import Cost
from .latency import LATENCIES
from .predicted import Pass, guess_us

CLOSENESS = 0.05
"""How much less it costs to change a latency tenfold than to be tenfold off a pass. It keeps those that no pass depends on."""

TRUSTED = 0.1
"""Passes that are further off than this, a tenth, count less and less: something else is the matter with them."""


def fit(predicted: Mapping[Pass, Sequence[Cost]], measured: Mapping[Pass, float]) -> dict[str, float]:
    """The latencies at which the guess for every pass is nearest to what was measured, by the squares of logarithms.

    A warp's way through a kernel is taken as it is at the assumed latencies. If the fitted ones differ much, ``bench.compile``
    should look for it again with those.

    Raises:
        ValueError: no pass was both predicted and measured.
    """
    common = [which for which in predicted if which in measured]
    if not common:
        raise ValueError("no pass was both predicted and measured")
    assumed = np.log(list(LATENCIES.values()))

    def errors(logarithms: np.ndarray) -> np.ndarray:
        latencies = dict(zip(LATENCIES, np.exp(logarithms), strict=True))
        off = [np.log(guess_us(predicted[which], latencies) / measured[which]) for which in common]
        return np.array([*off, *(CLOSENESS * (logarithms - assumed))])

    found = least_squares(errors, assumed, loss="cauchy", f_scale=TRUSTED)
    return dict(zip(LATENCIES, map(float, np.exp(found.x)), strict=True))


def tables(predicted: Mapping[Pass, Sequence[Cost]], measured: Mapping[Pass, float]) -> list[Table]:
    """The latencies, assumed and fitted; and how far off each pass is with either."""
    latencies = fit(predicted, measured)
    first = Table("cycles until", "assumed", "fitted", box=SIMPLE)
    for name, value in LATENCIES.items():
        first.add_row(name, f"{value:.0f}", f"{latencies[name]:.0f}")
    second = Table("pass", "measured µs", "guess µs", "off", "fitted µs", "off", box=SIMPLE)
    for which, kernels in predicted.items():
        if which in measured:
            time, guesses = measured[which], (guess_us(kernels), guess_us(kernels, latencies))
            layout = "channels-last" if which.channels_last else "channels-first"
            cells = [cell for guess in guesses for cell in (f"{guess:.3g}", f"{guess / time - 1:+.0%}")]
            second.add_row(f"{which.name}, {which.dtype}, {layout}", f"{time:.3g}", *cells)
    return [first, second]
