"""What loops over bins do in lists of images: the bands of rows that the kernels convolve in each step."""

import collections
from collections.abc import Iterator

from bench.workloads import Workload
from tritonds import geometry
from tritonds.kernels.area_pool import bin_width
from tritonds.kernels.convolution import BAND

Span = tuple[int, int]
"""First and last row that a bin overlaps."""


def bands(workload: Workload, letterbox: bool, rows: int, completed: bool) -> collections.Counter[tuple[int, int]]:
    """How often a step of a strip of ``rows`` rows has so many bands and columns of bins; a tile is a part of a row.

    ``completed`` for the gradient to the convolution's weights, where a bin's last band waits for the next bin.
    """
    found: collections.Counter[tuple[int, int]] = collections.Counter()
    for size_in in workload.sizes or (workload.image,):
        (region_h, region_w), (top, _) = geometry.place(size_in, workload.size, letterbox)
        width = bin_width(size_in[1], region_w)
        for start in range(0, workload.size[0], rows):
            inside = [row - top if top <= row < top + region_h else None for row in range(start, start + rows)]
            spans = [row if row is None else _rows(row, size_in[0], region_h) for row in inside]
            found.update((count, width) for count in _counts(spans, BAND.value, int(completed)))
    return found


def _rows(row: int, n_in: int, n_out: int) -> Span:
    return geometry.bin_first(row, n_in, n_out), geometry.bin_last(row, n_in, n_out)


def _counts(spans: list[Span | None], band: int, waiting: int) -> Iterator[int]:
    """How many bands a strip convolves in each step, given the bins' rows; None outside of the image.

    ``waiting``: how many of a bin's bands wait for the next bin, 0 or 1; those of the last bin take a step more.
    """
    done: int | None = None
    for span in spans:
        if span is None:
            yield 0
            continue
        done = span[0] // band if done is None else done
        end = span[1] // band + 1 - waiting
        yield end - done
        done = end
    if waiting:
        yield waiting
