"""Pictures of the command line: crops where methods differ most, magnified pixel by pixel.

Panels are placed in whole pixels, so that a magnified pixel is a square of whole pixels.
"""

from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from . import geometry, methods
from .batches import Letterboxed
from .files import shown, to_pixels

FORMATS = {".jpeg": "jpeg", ".jpg": "jpeg", ".pdf": "pdf", ".png": "png", ".svg": "svg"}
CROPS = 2
CROP = 32
"""Side of a crop, in pixels of the result."""
PANEL = 6 * CROP
"""Side of a panel with a crop, in pixels of the picture."""
GAP = 8
OVERVIEW = 2 * PANEL + GAP
TOP = 50
"""Where the first panels begin, in pixels, below their titles."""
COLORS = ("#ff2d95", "#00c2ff")
"""Colours of the crops' frames."""
MOSAIC = 8
"""Side of what is shown of coefficients, in pixels of the result."""
DRAWN = 8
"""The most images of a batch that are drawn."""
VISIBLE = 0.5 / 255
"""Results that differ by less are the same in 8 bits, up to rounding."""
DPI = 100


class Crop(NamedTuple):
    """A part of a result, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: Tensor) -> Tensor:
        """This part of ``image`` (..., h, w)."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]


class Canvas:
    """A figure whose panels are placed in pixels from its top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    def panel(self, left: float, top: float, width: float, height: float, title: str = "") -> Axes:
        """Axes without ticks, under the title."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box)
        axes.set_xticks([])
        axes.set_yticks([])
        self.text(left + width / 2, top - 4, title, horizontalalignment="center", verticalalignment="bottom")
        return axes

    def text(self, left: float, top: float, text: str, **options: Any) -> None:
        """Write ``text``, which may hold users' file names: neither formulas nor control characters take effect."""
        lines = "\n".join(shown(line) for line in text.split("\n"))
        self.figure.text(
            left / self.width,
            1 - top / self.height,
            lines,
            **{"fontsize": 10, "linespacing": 1.3, "parse_math": False, **options},
        )

    def save(self, file: BinaryIO, suffix: str, mark: dict[str, str]) -> None:
        """Write the figure in the suffix's format. PNG files bear the mark."""
        form = FORMATS[suffix]
        self.figure.savefig(file, format=form, dpi=DPI, metadata=mark if form == "png" else None)


def distinct(results: dict[str, Tensor]) -> dict[str, list[str]]:
    """Each method whose result no earlier one has, with the names of all that have it."""
    groups: dict[str, list[str]] = {}
    for name, result in results.items():
        twin = next((first for first in groups if (results[first] - result).abs().max() < VISIBLE), name)
        groups.setdefault(twin, []).append(name)
    return groups


def largest(spread: Tensor, side: int, count: int) -> list[Crop]:
    """Up to ``count`` crops of (h, w) with the largest mean, far from each other."""
    height, width = spread.shape
    crop_height, crop_width = min(side, height), min(side, width)
    mean = torch.nn.functional.avg_pool2d(spread[None, None].double(), (crop_height, crop_width), stride=1)[0, 0]
    apart = max(side, min(height, width) // 3)
    crops: list[Crop] = []
    while len(crops) < count and mean.max() >= 0:
        top, left = divmod(int(mean.argmax()), mean.shape[1])
        crops.append(Crop(top, left, crop_height, crop_width))
        mean[max(0, top - apart + 1) : top + apart, max(0, left - apart + 1) : left + apart] = -1
    return crops


def draw_comparison(
    image: Tensor, results: dict[str, Tensor], titles: dict[str, str], coefficients: dict[str, tuple[Tensor, Tensor]]
) -> Canvas:
    """Crops where methods differ most, by every method, with the difference to area averaging below; some coefficients.

    Args:
        image: (1, 3, H, W).
        results: (1, 3, h, w) of each method, "area" among them.
        titles: of each method.
        coefficients: of the networks, and of their priors, (1, K², h, w) each.
    """
    results = {name: result.cpu() for name, result in results.items()}
    groups = distinct(results)
    headings = {name: _heading(names, titles) for name, names in groups.items()}
    spread = torch.cat([results[name] for name in groups]).var(dim=0, correction=0).mean(dim=0)
    crops = largest(spread, CROP, CROPS)
    maps = {titles[name]: (own[0].cpu(), prior[0].cpu()) for name, (own, prior) in coefficients.items() if not own.equal(prior)}
    aspect = min(1, spread.shape[0] / spread.shape[1]), min(1, spread.shape[1] / spread.shape[0])
    maps_top = TOP + round(OVERVIEW * aspect[0]) + 80
    map_rows = (len(maps) + 1) // 2
    map_height = round(PANEL * aspect[0]) + PANEL + 60
    crop_height = 2 * PANEL + 86
    canvas = Canvas(
        OVERVIEW + 40 + (len(groups) + 1) * (PANEL + GAP), max(TOP + crop_height * len(crops), maps_top + map_rows * map_height)
    )
    _draw_overview(canvas, image, results["area"], crops, aspect)
    _draw_maps(canvas, maps, crops[0], maps_top, map_height, aspect)
    differences = torch.stack([crop.of(results[name] - results["area"]).mean(dim=1).abs() for name in groups for crop in crops])
    limit = float(differences.quantile(0.998)) or 1.0  # a few larger ones would make all others pale
    for index, crop in enumerate(crops):
        rows = {heading: results[name] for name, heading in headings.items()}
        _draw_crop(canvas, crop, COLORS[index], TOP + index * crop_height, image.cpu(), rows, results["area"], limit)
    return canvas


def _heading(names: list[str], titles: dict[str, str]) -> str:
    first, *twins = names
    return titles[first] + (f"\n= {', '.join(twins)}" if twins else "")


def _draw_overview(canvas: Canvas, image: Tensor, small: Tensor, crops: list[Crop], aspect: tuple[float, float]) -> None:
    height, width = small.shape[2:]
    title = f"{image.shape[3]}x{image.shape[2]} to {width}x{height}, and where methods differ most"
    axes = canvas.panel(GAP, TOP, OVERVIEW * aspect[1], OVERVIEW * aspect[0], title)
    axes.imshow(to_pixels(small), aspect="auto")
    for color, crop in zip(COLORS, crops, strict=False):
        axes.add_patch(
            Rectangle((crop.left - 0.5, crop.top - 0.5), crop.width, crop.height, fill=False, color=color, linewidth=2)
        )


def _draw_maps(
    canvas: Canvas, maps: dict[str, tuple[Tensor, Tensor]], crop: Crop, top: int, height: int, aspect: tuple[float, float]
) -> None:
    """Two networks a row: how far each departs from its prior, and its coefficients where, in the crop, that is most."""
    if maps:
        explanation = (
            "how much of the coefficients differs from the prior;\nwhere that is most, they themselves: a tile for each pixel"
        )
        canvas.text(GAP, top - 24, explanation, verticalalignment="bottom")
    for index, (title, (coefficients, prior)) in enumerate(maps.items()):
        row, column = divmod(index, 2)
        left, first = GAP + column * (PANEL + GAP), top + row * height
        moved = (coefficients - prior).abs().sum(dim=0) / 2  # both sum to 1
        high = float(np.quantile(moved.numpy(), 0.99))
        axes = canvas.panel(left, first, PANEL * aspect[1], PANEL * aspect[0], f"{title}: 0 to {high:.0%}")
        axes.imshow(moved.numpy(), vmin=0, vmax=high or 1, cmap="viridis", aspect="auto")
        part = largest(crop.of(moved), MOSAIC, 1)[0]
        _draw_coefficients(canvas, part.of(crop.of(coefficients)), left, first + round(PANEL * aspect[0]) + 24)


def _draw_crop(
    canvas: Canvas, crop: Crop, color: str, top: int, image: Tensor, results: dict[str, Tensor], reference: Tensor, limit: float
) -> None:
    """Two rows: the source and each result; each difference to the reference."""
    zoom = PANEL // max(crop.height, crop.width)
    width, height = zoom * crop.width, zoom * crop.height
    left = OVERVIEW + 36
    source = canvas.panel(left, top, width, height, "source")
    scale_y, scale_x = image.shape[2] / reference.shape[2], image.shape[3] / reference.shape[3]
    source.imshow(to_pixels(image), aspect="auto", interpolation="nearest")
    source.set_xlim(crop.left * scale_x - 0.5, (crop.left + crop.width) * scale_x - 0.5)
    source.set_ylim((crop.top + crop.height) * scale_y - 0.5, crop.top * scale_y - 0.5)
    _frame(source, color)
    shades = None
    for column, (heading, result) in enumerate(results.items(), start=1):
        x = left + column * (PANEL + GAP)
        axes = canvas.panel(x, top, width, height, heading)
        axes.imshow(to_pixels(crop.of(result)), aspect="auto", interpolation="nearest")
        _frame(axes, color)
        if result is reference:
            canvas.text(x + width / 2, top + height + 24 + height / 2, "the reference\nof the differences",
                        horizontalalignment="center", verticalalignment="center")  # fmt: skip
            continue
        difference = crop.of(result - reference)[0].mean(dim=0)
        axes = canvas.panel(x, top + height + 24, width, height, f"- area: up to {difference.abs().max() * 255:.0f} of 255")
        shades = axes.imshow(
            (255 * difference).numpy(),
            vmin=-limit * 255,
            vmax=limit * 255,
            cmap="RdBu_r",
            aspect="auto",
            interpolation="nearest",
        )
    if shades is not None:
        bar = canvas.panel(left + 0.55 * PANEL, top + height + 24, 12, height)
        canvas.figure.colorbar(shades, cax=bar)
        bar.set_ylabel("darker   brighter", fontsize=10)
        bar.yaxis.set_label_position("left")


def _frame(axes: Axes, color: str) -> None:
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=2)


def _draw_coefficients(canvas: Canvas, coefficients: Tensor, left: int, top: int) -> None:
    """(K², h, w) as h times w tiles of K times K."""
    taps = int(len(coefficients) ** 0.5)
    tiles = coefficients.permute(1, 2, 0).unflatten(2, (taps, taps))
    framed = torch.nn.functional.pad(tiles, (0, 1, 0, 1), value=torch.nan)
    mosaic = framed.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)[:-1, :-1]
    zoom = PANEL // max(mosaic.shape)
    low, high = float(tiles.min().clamp(max=0)), float(tiles.max())
    title = f"{low:.2f} to {high:.2f}" if low else f"0 to {high:.2f}"
    axes = canvas.panel(left, top, zoom * mosaic.shape[1], zoom * mosaic.shape[0], title)
    axes.set_axis_off()
    # Coefficients that sharpen are negative in part: those in blue, and 0 in white.
    start, shades = (-high, "RdBu_r") if low else (0, "magma")
    axes.imshow(mosaic.numpy(), vmin=start, vmax=high, cmap=shades, aspect="auto", interpolation="nearest")


def draw_batch(images: list[Tensor], result: Letterboxed, title: str) -> Canvas:
    """Each image, its part of the batch, and where that differs most from bilinear interpolation, magnified.

    Args:
        images: (3, H, W) each, uint8.
        result: of the images in this order.
        title: above all.
    """
    shown_images = images[:DRAWN]
    left_out = f"; the first {DRAWN} of {len(images)}" if len(images) > DRAWN else ""
    side = 7 * CROP
    label = 130
    unit = side / max(max(image.shape[1:]) for image in shown_images)
    first = int(unit * max(image.shape[1] for image in shown_images))
    tops = [60, *(60 + first + 26 + row * (side + 26) for row in range(4))]
    canvas = Canvas(label + len(shown_images) * (side + 8), tops[-1] + side + 8)
    canvas.text(8, 10, title + left_out, verticalalignment="top")
    rows = ("source,\nall at one scale", "in the batch", "detail", "the same,\nbilinear", "detail - bilinear")
    for top, row_height, name in zip(tops, (first, *[side] * 4), rows, strict=True):
        canvas.text(8, top + row_height / 2, name, verticalalignment="center")
    for index, image in enumerate(shown_images):
        _draw_part(canvas, image.cpu(), result.images[index : index + 1].cpu(), unit, label + index * (side + 8), tops, side)
    return canvas


def _draw_part(canvas: Canvas, image: Tensor, part: Tensor, unit: float, left: int, tops: list[int], side: int) -> None:
    size_in, size_out = (image.shape[1], image.shape[2]), (part.shape[2], part.shape[3])
    (height, width), (y, x) = geometry.letterbox(size_in, size_out)
    source = canvas.panel(left, tops[0], size_in[1] * unit, size_in[0] * unit, f"{size_in[1]}x{size_in[0]}")
    source.imshow(image.permute(1, 2, 0).numpy(), aspect="auto")
    scale = side / max(size_out)
    whole = canvas.panel(
        left, tops[1], size_out[1] * scale, size_out[0] * scale, f"{width}x{height} of {size_out[1]}x{size_out[0]}"
    )
    whole.imshow(to_pixels(part), aspect="auto")
    whole.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, color="red"))
    inner = Crop(y, x, height, width).of(part)
    bilinear = methods.get("bilinear")(image[None].float() / 255, (height, width))
    difference = (inner - bilinear)[0].mean(dim=0)
    crop = largest(difference.abs(), CROP, 1)[0]
    whole.add_patch(
        Rectangle((x + crop.left - 0.5, y + crop.top - 0.5), crop.width, crop.height, fill=False, color=COLORS[0], linewidth=2)
    )
    zoom = side // max(crop.height, crop.width)
    for top, detail in zip(tops[2:4], (inner, bilinear), strict=True):
        axes = canvas.panel(left, top, zoom * crop.width, zoom * crop.height)
        axes.imshow(to_pixels(crop.of(detail)), aspect="auto", interpolation="nearest")
        _frame(axes, COLORS[0])
    values: np.ndarray = crop.of(difference).numpy()
    largest_one = float(np.abs(values).max())
    axes = canvas.panel(left, tops[4], zoom * crop.width, zoom * crop.height, f"up to {largest_one * 255:.0f} of 255")
    axes.imshow(values, vmin=-largest_one or -1, vmax=largest_one or 1, cmap="RdBu_r", aspect="auto", interpolation="nearest")
