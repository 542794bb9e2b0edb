"""The command line ``tritonds``: resize images, compare methods on one, say what would run here."""

import copy
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image, ImageOps
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from torch import Tensor

from . import __version__, labels, methods, ops, pretrained
from .batches import Letterboxed
from .module import DownsizeNet

app = typer.Typer(help="Learned image downsizing.", no_args_is_help=True, add_completion=False)
console = Console()
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
PICTURES = {".jpeg", ".jpg", ".pdf", ".png", ".svg"}
SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")
"""Photographs inside scikit-image, each of another size."""
MAX_SIDE = 65_535
"""Of a result, in pixels: what JPEG and most other formats allow."""

Size = Annotated[str, typer.Option(help="WIDTHxHEIGHT of the result, in pixels")]
Weights = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(pretrained.SHIPPED)}, or the file or folder of a network saved with save_pretrained"),
]
Method = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(methods.NAMES)}; {methods.DEFAULT} if not given, or with weights {methods.OWN}"),
]


@app.command()
def resize(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="image files, or folders to search for them")],
    size: Size,
    out: Annotated[Path, typer.Option(help="folder for the results, PNG files under the inputs' names")],
    method: Method = None,
    weights: Weights = None,
) -> None:
    """Resize images as 8-bit RGB (transparency dropped, first frame), honouring EXIF orientation.

    What cannot be read is reported, and the rest goes on.
    """
    target = _parse_size(size)
    try:
        function = methods.get(method or _learned(weights), weights)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    device = _device()
    if isinstance(function, DownsizeNet):
        function.to(device)
    failures = []
    sources = list(_images(inputs, out))
    # An input is never written over, nor one result over another.
    taken = {source.resolve() for source, _ in sources}
    written = 0
    for source, name in track(sources, "resizing", console=console):
        destination = out / name.with_suffix(".png")
        try:
            if destination.resolve() in taken:
                raise ValueError(f"{destination} is an input, or already the result of another")
            _resize_file(source, destination, function, target, device)
            taken.add(destination.resolve())
            written += 1
        except (OSError, ValueError) as error:
            failures.append(f"{source}: {error}")
    console.print(f"{written} written to {out}", markup=False, soft_wrap=True)
    if not sources:
        console.print(f"no images found (in folders: {', '.join(sorted(SUFFIXES))})")
    for failure in failures:
        console.print(f"failed: {failure}", style="red", markup=False, soft_wrap=True)
    if failures or not sources:
        raise typer.Exit(1)


@app.command()
def compare(
    photo: Annotated[Path | None, typer.Argument(help="image file; without one, a sample photograph of scikit-image")] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the results; the photograph's size over 1.9 if not given")] = "",
    out: Annotated[Path, typer.Option(help="the picture to write")] = Path("compare.png"),
    weights: Weights = None,
) -> None:
    """Draw every method side by side, with the coefficient map and the difference to area averaging, and print times."""
    if out.suffix.lower() not in PICTURES:
        raise typer.BadParameter(f"out: expected a .png, .jpg, .pdf or .svg file, got {out}")
    try:
        image = _sample() if photo is None else _read(photo)
        names = methods.NAMES if weights is None else (*methods.NAMES, methods.OWN)
        functions = {name: methods.get(name, weights if name == methods.OWN else None) for name in names}
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    target = _parse_size(size) if size else (max(1, int(image.shape[2] / 1.9)), max(1, int(image.shape[3] / 1.9)))
    device = _device()
    image = image.to(device)
    results, titles = {}, {}
    table = Table("method", "weights", "ms", "largest difference of the Triton kernels to the reference")
    for name, function in functions.items():
        origin, difference = "", ""
        if isinstance(function, DownsizeNet):
            function.to(device)
            origin = name if name in methods.SHIPPED else str(weights) if name == methods.OWN else "untrained"
            difference = _triton_difference(function, image, target)
        origin = Path(origin).name
        titles[name] = f"{name}\n{origin}"
        results[name], milliseconds = _timed(partial(function, image, target), device)
        table.add_row(name, escape(origin), f"{milliseconds:.2f}", difference)
    out.parent.mkdir(parents=True, exist_ok=True)
    learned = functions[_learned(weights)]
    assert isinstance(learned, DownsizeNet)
    _draw(image, results, titles, learned.coefficients(image, target), _learned(weights), out)
    height, width = image.shape[2:]
    table.title = f"{width}x{height} to {target[1]}x{target[0]}, float32, {_where(device)}"
    console.print(table)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


@app.command()
def batch(
    photos: Annotated[list[Path] | None, typer.Argument(help="image files; without any, photographs of scikit-image")] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the batch")] = "224x224",
    out: Annotated[Path, typer.Option(help="the picture to write")] = Path("batch.png"),
    weights: Weights = None,
) -> None:
    """Downsize images of different sizes to one letterboxed batch, in one call as a detector's input, and draw it."""
    if out.suffix.lower() not in PICTURES:
        raise typer.BadParameter(f"out: expected a .png, .jpg, .pdf or .svg file, got {out}")
    target = _parse_size(size)
    device = _device()
    try:
        images = [_to_uint8(_read(photo)) for photo in photos] if photos else _samples()
        network = methods.network(_learned(weights), weights).to(device)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    images = [image.to(device) for image in images]
    result, milliseconds = _timed(partial(network, images, target, letterbox=True), device)
    table = Table("image", "pixels", "scale", "offset")
    names = [photo.name for photo in photos] if photos else list(SAMPLES)
    for name, image, scale, offset in zip(names, images, result.scale.tolist(), result.offset.tolist(), strict=True):
        table.add_row(name, f"{image.shape[2]}x{image.shape[1]}", f"{scale[0]:.4f}", f"{offset[0]:.0f}, {offset[1]:.0f}")
    out.parent.mkdir(parents=True, exist_ok=True)
    _draw_batch(images, result, f"weights: {weights or methods.DEFAULT}", out)
    table.title = f"{len(images)} uint8 images to {tuple(result.images.shape)} in {milliseconds:.1f} ms, {_where(device)}"
    console.print(table)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


@app.command()
def doctor() -> None:
    """Show versions, devices, and which backend would run where, and why."""
    table = Table("what", "here", show_header=False)
    table.add_row("tritonds", __version__)
    table.add_row("Python", platform.python_version())
    table.add_row("PyTorch", torch.__version__)
    table.add_row("Triton", _version("triton"))
    for index in range(torch.cuda.device_count()):
        table.add_row(f"GPU {index}", torch.cuda.get_device_name(index))
    if not torch.cuda.is_available():
        table.add_row("GPU", "none that PyTorch can use")
    for device_type in ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",):
        reason = ops.why_no_triton(device_type)
        automatic = "triton" if device_type == "cuda" and reason is None else "torch"
        table.add_row(f'backend "auto", {device_type} tensors', automatic)
        table.add_row(f'backend "triton", {device_type} tensors', "runs" if reason is None else f"cannot run: {reason}")
    console.print(table)


def main() -> None:
    """Entry point."""
    app()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _learned(weights: str | None) -> str:
    """The learned method that is meant where none is named."""
    return methods.DEFAULT if weights is None else methods.OWN


def _parse_size(text: str) -> tuple[int, int]:
    """(height, width) from WIDTHxHEIGHT."""
    width, separator, height = text.lower().partition("x")
    sides = [int(side) if side.isdecimal() and len(side) < 9 else 0 for side in (height, width)]
    if not separator or not all(1 <= side <= MAX_SIDE for side in sides):
        raise typer.BadParameter(f"size: expected WIDTHxHEIGHT, such as 160x120, sides up to {MAX_SIDE}, got {text!r}")
    return sides[0], sides[1]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _where(device: torch.device) -> str:
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return f"{name}, PyTorch {torch.__version__}"


def _images(inputs: list[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """Every input file with the name of its result; those in a folder keep their place below it. ``out`` is not searched."""
    for path in inputs:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                inside = path.resolve() != out.resolve() and file.resolve().is_relative_to(out.resolve())
                if file.suffix.lower() in SUFFIXES and file.is_file() and not inside:
                    yield file, file.relative_to(path)
        else:
            yield path, Path(path.name)


def _read(path: Path) -> Tensor:
    """An image file, upright, as (1, 3, H, W) between 0 and 1.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it cannot be decoded, or its values have no known range.
    """
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            if upright.mode.startswith("I;16"):
                grey = torch.from_numpy(np.asarray(upright).astype(np.float32) / 65_535)
                return grey.expand(1, 3, -1, -1).contiguous()
            if upright.mode in ("I", "F"):
                raise ValueError(f"pixels of mode {upright.mode} have no known range; convert the file to 8 or 16 bits")
            return _to_tensor(np.asarray(upright.convert("RGB")))
    except (OSError, ValueError):
        raise
    except Exception as error:  # decoders fail on damaged files in every way there is
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _sample() -> Tensor:
    """A photograph that the shipped networks were not trained on."""
    from skimage import data

    return _to_tensor(data.chelsea())


def _samples() -> list[Tensor]:
    """As decoders give them: (3, H, W) of uint8, the channels last in memory."""
    from skimage import data

    return [torch.from_numpy(np.array(getattr(data, name)())).permute(2, 0, 1) for name in SAMPLES]


def _to_uint8(image: Tensor) -> Tensor:
    return (image[0] * 255).round().to(torch.uint8)


def _to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


def _to_pixels(image: Tensor) -> np.ndarray:
    return (image[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def _resize_file(
    source: Path, destination: Path, function: methods.Resize, size: tuple[int, int], device: torch.device
) -> None:
    image = function(_read(source).to(device), size)
    destination.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_to_pixels(image)).save(destination)


def _timed(run: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """The result and the median of five runs, in milliseconds, after one that does not count."""
    result = run()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return result, statistics.median(times)


def _triton_difference(network: DownsizeNet, image: Tensor, size: tuple[int, int]) -> str:
    """Largest absolute difference between the backends, with random logits, so that it is more than the prior's.

    On a CPU over a corner, since the interpreter is slow.
    """
    reason = ops.why_no_triton(image.device.type)
    if reason is not None:
        return f"not run: {reason}"
    note = ""
    if image.device.type == "cpu":
        image, size = image[:, :, :64, :64], (min(size[0], 33), min(size[1], 31))
        note = " (interpreter, 64x64 corner)"
    network = copy.deepcopy(network)
    torch.nn.init.normal_(network.out.weight)
    results = []
    for network.backend in ("triton", "torch"):
        results.append(network(image, size))
    triton, reference = results
    return f"{(triton - reference).abs().max().item():.1e}{note}"


def _draw(
    image: Tensor, results: dict[str, Tensor], titles: dict[str, str], coefficients: Tensor, learned: str, out: Path
) -> None:
    """One panel a method, its difference to area averaging below, and what the coefficients of ``learned`` are like."""
    from matplotlib.figure import Figure

    columns = len(results) + 1
    figure = Figure(figsize=(3 * columns, 6.4), layout="constrained")
    axes = figure.subplots(2, columns)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(_to_pixels(image))
    axes[0, 0].set_title(f"source {image.shape[3]}x{image.shape[2]}")
    effective = 1 / coefficients[0].square().sum(dim=0)
    panel = axes[1, 0].imshow(effective.cpu(), vmin=1, vmax=coefficients.shape[1], cmap="viridis")
    axes[1, 0].set_title(f"{titles[learned]}:\ntaps in effect, 1 / sum of squares", parse_math=False)
    figure.colorbar(panel, ax=axes[1, 0], shrink=0.7)
    for column, (name, result) in enumerate(results.items(), start=1):
        axes[0, column].imshow(_to_pixels(result))
        axes[0, column].set_title(titles[name], parse_math=False)  # a file's name may hold dollars
        difference = (result - results["area"])[0].mean(dim=0).cpu()
        panel = axes[1, column].imshow(difference, vmin=-0.1, vmax=0.1, cmap="RdBu")
        axes[1, column].set_title(f"{name} - area\nlargest {difference.abs().max():.3f}")
    figure.colorbar(panel, ax=axes[1, -1], shrink=0.7)
    figure.savefig(out, dpi=110)


def _draw_batch(images: list[Tensor], result: Letterboxed, title: str, out: Path) -> None:
    """Each image above its part of the batch; around the latter a line where it lies."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(3 * len(images), 6.4), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    figure.suptitle(title, parse_math=False)
    size = (result.images.shape[2], result.images.shape[3])
    for column, image in enumerate(images):
        above, below = axes[:, column]
        above.imshow(image.permute(1, 2, 0).cpu().numpy())
        above.set_title(f"{image.shape[2]}x{image.shape[1]}")
        below.imshow(_to_pixels(result.images[column : column + 1]))
        below.set_title(f"{size[1]}x{size[0]}, scale {result.scale[column, 0]:.3f}")
        corners = torch.tensor([0.0, 0.0, image.shape[2], image.shape[1]])
        placed = labels.map_boxes(corners, (image.shape[1], image.shape[2]), size, letterbox=True)
        left, top, right, bottom = (placed - 0.5).tolist()  # a picture's coordinates are those of its pixels' centres
        below.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color="red"))
        for axis in (above, below):
            axis.set_axis_off()
    figure.savefig(out, dpi=110)
