"""Draw the pictures of README and docs, from photographs of scikit-image and the shipped weights: python -m bench.pictures."""

import pathlib
from typing import Any

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from tritonds import DownsizeNet, geometry, methods

from .measure import ROOT

FOLDER = ROOT / "docs" / "images"
Box = tuple[int, int, int, int]
"""Top, left, bottom and right of a part of a photograph, in its pixels."""

SCALE = 2.5
"""Source pixels per result pixel: the largest scale that the shipped weights were trained at."""
WORDS: Box = (66, 70, 118, 160)
"""A part of scikit-image's ``page``, which no training saw."""
SHOWN = {
    "bilinear": "bilinear",
    "bilinear-aa": "antialiased bilinear",
    "natural-k4": "DownsizeNet (natural-k4)",
    "natural-k8": "DownsizeNet (natural-k8)",
}


def detail() -> Figure:
    """Words of a scanned page, pixel for pixel; below, the coefficients of one pixel of each result.

    It is the pixel of the words whose learned coefficients differ most from those that training began with.
    """
    image = _photograph("page")
    size_in = (image.shape[2], image.shape[3])
    size = (round(size_in[0] / SCALE), round(size_in[1] / SCALE))
    net = methods.network("natural-k4")
    start = DownsizeNet(taps=4, prior="antialias").coefficients(image, size)
    learned = net.coefficients(image, size)
    row, column = _largest((learned - start).abs().sum(dim=1)[0], WORDS, SCALE)
    first = [geometry.first_tap(j, n_in, n, 4) for j, n_in, n in zip((row, column), size_in, size, strict=True)]
    networks = {"bilinear": DownsizeNet(prior="bilinear"), "bilinear-aa": DownsizeNet(taps=6, prior="antialias")}
    grids = {name: _middle(network.coefficients(image, size)[0, :, row, column]) for name, network in networks.items()}
    grids["natural-k4"] = _middle(learned[0, :, row, column])
    grids["natural-k8"] = _middle(methods.network("natural-k8").coefficients(image, size)[0, :, row, column])

    figure = Figure(figsize=(15, 4.8), layout="constrained")
    axes = figure.subplots(2, 1 + len(SHOWN), height_ratios=(1, 0.95))
    _show(axes[0, 0], image, WORDS, size_in)
    _outline(axes[0, 0], first[1], first[0], 4)
    axes[0, 0].set_title(f"source, {size_in[1]}x{size_in[0]}")
    axes[1, 0].imshow(image[0, 0, first[0] : first[0] + 4, first[1] : first[1] + 4].numpy(), cmap="gray", vmin=0, vmax=1)
    axes[1, 0].set_title("4x4 source pixels of one result pixel", fontsize="medium")
    for at, (name, title) in enumerate(SHOWN.items(), start=1):
        result = methods.get(name)(image, size)
        restored = F.interpolate(result, size_in, mode="bicubic")
        _show(axes[0, at], result, WORDS, size_in)
        _outline(axes[0, at], column, row, 1)
        axes[0, at].set_title(f"{title}\n{size[1]}x{size[0]}, {_psnr(restored, image):.1f} dB")
        axes[1, at].imshow(grids[name].numpy(), vmin=-0.3, vmax=0.3, cmap="RdBu")
        for (y, x), value in np.ndenumerate(grids[name].numpy()):
            axes[1, at].text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if abs(value) > 0.2 else "black")
        beyond = {"bilinear-aa": " (it reads 6x6)", "natural-k8": " (it reads 8x8)"}.get(name, "")
        axes[1, at].set_title(f"their coefficients{beyond}", fontsize="medium")
    return figure


def decibels() -> dict[str, float]:
    """How near every method's shrunken page, enlarged again by bicubic interpolation, comes to the page: PSNR by method."""
    image = _photograph("page")
    size = (round(image.shape[2] / SCALE), round(image.shape[3] / SCALE))
    results = {name: methods.get(name)(image, size) for name in methods.NAMES}
    return {name: _psnr(F.interpolate(result, image.shape[2:], mode="bicubic"), image) for name, result in results.items()}


def _middle(coefficients: Tensor) -> Tensor:
    """The 4x4 around the centre of K*K coefficients, K even; zeros where there are fewer."""
    taps = round(len(coefficients) ** 0.5)
    return F.pad(coefficients.view(taps, taps), [(4 - taps) // 2] * 4)


def _largest(values: Tensor, box: Box, scale: float) -> tuple[int, int]:
    """Row and column of the largest of ``values`` (h, w) within ``box``, which is in source pixels."""
    top, left, bottom, right = (round(edge / scale) for edge in box)
    part = values[top:bottom, left:right]
    row, column = divmod(int(part.argmax()), part.shape[1])
    return top + row, left + column


def _outline(axis: Axes, x: int, y: int, side: int) -> None:
    axis.add_patch(Rectangle((x - 0.5, y - 0.5), side, side, fill=False, color="red", linewidth=1.5))


def axis_of_pixels() -> Figure:
    """Nine source pixels to four: centres, the two taps and their distances, and the bin with its fractional edges."""
    n_in, n_out, j = 9, 4, 1
    first, den = geometry.first_tap(j, n_in, n_out, 2), 2 * n_out
    figure = Figure(figsize=(10, 3), layout="constrained")
    axis = figure.subplots()
    start, stop = j * n_in / n_out, (j + 1) * n_in / n_out
    for i in range(n_in):
        share = max(0.0, min(i + 1, stop) - max(i, start)) * n_out / n_in
        axis.add_patch(Rectangle((i, 1), 1, 0.6, facecolor=(0.2, 0.5, 0.8, 1.5 * share), edgecolor="black"))
        axis.text(i + 0.5, 1.3, f"{share:.2f}" if share else "", ha="center", va="center")
        axis.text(i + 0.5, 1.68, f"i = {i}", ha="center")
    for target in range(n_out):
        color = "tab:orange" if target == j else "white"
        axis.add_patch(Rectangle((target * n_in / n_out, 0), n_in / n_out, 0.6, facecolor=color, edgecolor="black"))
        axis.text((target + 0.5) * n_in / n_out, 0.12, f"j = {target}", ha="center")
    centre = (j + 0.5) * n_in / n_out
    for i in (first, first + 1):
        distance = geometry.distance_numerator(i, j, n_in, n_out) / den
        axis.annotate("", (i + 0.5, 1.0), (centre, 0.6), arrowprops={"arrowstyle": "->", "color": "tab:red"})
        axis.text(i + 0.5 + (0.1 if distance > 0 else -0.1), 0.8, f"d = {distance:+.2f}", color="tab:red", va="center",
                  ha="left" if distance > 0 else "right")  # fmt: skip
    axis.text(n_in + 0.1, 1.3, "source, share in the bin of j = 1", va="center")
    axis.text(n_in + 0.1, 0.8, "taps (K = 2), distances", va="center", color="tab:red")
    axis.text(n_in + 0.1, 0.3, "result", va="center")
    axis.set_xlim(-0.1, n_in + 3.2)
    axis.set_ylim(-0.1, 1.95)
    axis.set_axis_off()
    return figure


def batch() -> Figure:
    """Photographs of three sizes above the letterboxed batch that one call makes of them."""
    images = [
        torch.from_numpy(np.array(getattr(skimage.data, name)())).permute(2, 0, 1)
        for name in ("coffee", "chelsea", "astronaut")
    ]
    result = DownsizeNet.from_pretrained("natural-k4")(images, (224, 224), letterbox=True)
    figure = Figure(figsize=(5.6, 3.5), layout="constrained")
    axes = figure.subplots(2, len(images))
    for column, image in enumerate(images):
        axes[0, column].imshow(image.permute(1, 2, 0).numpy())
        axes[0, column].set_title(f"{image.shape[2]}x{image.shape[1]}, uint8", fontsize="small")
        axes[1, column].imshow(result.images[column].permute(1, 2, 0).clamp(0, 1).numpy())
        axes[1, column].set_title(f"[{column}]: 224x224, scale {result.scale[column, 0]:.2f}", fontsize="small")
    return figure


def _photograph(name: str) -> Tensor:
    """(1, 3, H, W), float32 between 0 and 1."""
    pixels = np.asarray(getattr(skimage.data, name)())
    pixels = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def _psnr(result: Tensor, image: Tensor) -> float:
    return float(-10 * (result - image).square().mean().log10())


def _show(axis: Axes, image: Tensor, box: Box, size_in: tuple[int, int], **options: Any) -> Any:
    """The pixels of ``image`` that hold ``box`` of the photograph of ``size_in`` that it was made of, each a square."""
    h, w = image.shape[2:]
    pixels = image[0].permute(1, 2, 0).clamp(0, 1) if image.shape[1] == 3 else image[0, 0]
    panel = axis.imshow(pixels.numpy(), interpolation="nearest", **options)
    top, left, bottom, right = box
    axis.set_xlim(left * w / size_in[1] - 0.5, right * w / size_in[1] - 0.5)
    axis.set_ylim(bottom * h / size_in[0] - 0.5, top * h / size_in[0] - 0.5)
    return panel


PICTURES = {"detail": detail, "axis": axis_of_pixels, "batch": batch}


@torch.no_grad()
def draw(folder: pathlib.Path) -> list[pathlib.Path]:
    """Every picture, as a PNG file in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, picture in PICTURES.items():
        figure = picture()
        for axis in figure.axes:
            if axis.get_label() != "<colorbar>":
                axis.set_xticks([])
                axis.set_yticks([])
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=100)
    return paths


if __name__ == "__main__":
    for path in draw(FOLDER):
        print(f"wrote {path.relative_to(ROOT)}")
    with torch.no_grad():
        print(", ".join(f"{name} {value:.1f} dB" for name, value in decibels().items()))
