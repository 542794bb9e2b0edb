"""The command line ``tritonds``: its commands resize images, compare methods, draw a batch, and say what would run here."""

import contextlib
import copy
import io
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from torch import Tensor

from . import __version__, allocation, files, folders, methods, ops, outputs, pipeline, pretrained
from .files import shown
from .module import DownsizeNet

if TYPE_CHECKING:
    from .drawing import Canvas

app = typer.Typer(help="Learned image downsizing.", no_args_is_help=True, add_completion=False)
console = Console()
PICTURES = (".jpeg", ".jpg", ".pdf", ".png", ".svg")
SAMPLE = "coffee"
"""A photograph inside scikit-image that the shipped networks were not trained on."""
SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")
"""Photographs inside scikit-image, each of another size."""
MAX_SIDE = 65_535
"""Longest side of a result, in pixels: what JPEG and most other formats allow."""
QUALITY = 90
"""The quality of JPEG and WebP files, out of 100, where none is given."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

Format = Literal["png", "jpg", "webp"]
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
    out: Annotated[Path, typer.Option(help="folder for the results, under the inputs' names")],
    method: Method = None,
    weights: Weights = None,
    letterbox: Annotated[
        bool, typer.Option("--letterbox", help="keep the aspect, black around it; else images stretch")
    ] = False,
    suffix: Annotated[Format, typer.Option("--format", help="of the results")] = "png",
    quality: Annotated[int | None, typer.Option(min=1, max=100, help=f"of jpg and webp; {QUALITY} if not given")] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="go on with a folder: leave results of the same options that are up to date")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="images in work at once; as many as cores if not given")] = None,
) -> None:
    """Resize images as 8-bit RGB (transparency dropped, first frame), honouring EXIF orientation.

    What lies in a folder keeps its place below it. Nothing is written over but an earlier result for the same input: a.jpg
    becomes a.jpg.png where a.png is taken. What cannot be read is reported, and the rest goes on.
    """
    target = _parse_size(size)
    if quality is not None and suffix == "png":
        raise typer.BadParameter("quality: expected with --format jpg or webp; png keeps every pixel")
    with _bad_parameter():
        function = methods.get(method or _learned(weights), weights)
    device = _device()
    if isinstance(function, DownsizeNet):
        function.to(device)
    sources = files.find(inputs, out)
    first = next(sources, None)
    if first is None:
        _print(f"no images found (in folders: {', '.join(sorted(files.SUFFIXES))}; earlier results in {out} do not count)")
        raise typer.Exit(1)
    with _bad_parameter("out: "):
        out.mkdir(parents=True, exist_ok=True)
    options = folders.Options(target, letterbox, suffix, quality or QUALITY, skip_existing, jobs or _cores())
    folder = folders.Folder(out, function, options, device)
    interrupted = False
    try:
        with contextlib.closing(folder.resize(itertools.chain([first], sources))) as steps:
            for _ in track(steps, "resizing", console=console):
                pass
    except KeyboardInterrupt:
        interrupted = True
    for line in folder.renamed:
        _print(line)
    _print(f"{'interrupted: ' if interrupted else ''}{folder.summary()}")
    for failure in folder.failures:
        _print(f"failed: {failure}", style="red")
    if interrupted or folder.failures:
        raise typer.Exit(INTERRUPTED if interrupted else 1)


@app.command()
def compare(
    photo: Annotated[Path | None, typer.Argument(help="image file; without one, a sample photograph of scikit-image")] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the results; the photograph's size over 1.9 if not given")] = "",
    out: Annotated[Path | None, typer.Option(help="the picture to write; compare.png, or a free name, if not given")] = None,
    weights: Weights = None,
) -> None:
    """Draw where methods differ most, magnified, with the differences to area averaging and coefficients; print times."""
    out = _picture(out, "compare", [photo] if photo else [])
    with _bad_parameter():
        image = _sample(SAMPLE) if photo is None else files.read(photo).pixels
        names = methods.NAMES if weights is None else (*methods.NAMES, methods.OWN)
        functions = {name: methods.get(name, weights if name == methods.OWN else None) for name in names}
    target = _parse_size(size) if size else (max(1, int(image.shape[2] / 1.9)), max(1, int(image.shape[3] / 1.9)))
    device = _device()
    with _failing():
        image = image.to(device)
        results, titles, coefficients = {}, {}, {}
        table = Table("method", "weights", "ms", "largest difference of the Triton kernels to the reference")
        for name, function in functions.items():
            origin, difference = "", ""
            if isinstance(function, DownsizeNet):
                function.to(device)
                origin = (
                    name if name in methods.SHIPPED else Path(weights).name if weights and name == methods.OWN else "untrained"
                )
                difference = _triton_difference(function, image, target)
                coefficients[name] = (function.coefficients(image, target), _prior(function).coefficients(image, target))
            titles[name] = f"{name} ({origin})" if name == methods.OWN else name
            result, milliseconds = _timed(partial(function, image, target), device)
            results[name] = _finite(result)
            table.add_row(name, escape(shown(origin)), f"{milliseconds:.2f}", difference)
        from . import drawing

        _save(drawing.draw_comparison(image, results, titles, coefficients), out, "compare")
    height, width = image.shape[2:]
    table.title = f"{width}x{height} to {target[1]}x{target[0]}, float32, {_where(device)}"
    console.print(table)
    _print(f"wrote {out}")


@app.command()
def batch(
    photos: Annotated[list[Path] | None, typer.Argument(help="image files; without any, photographs of scikit-image")] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the batch")] = "224x224",
    out: Annotated[Path | None, typer.Option(help="the picture to write; batch.png, or a free name, if not given")] = None,
    weights: Weights = None,
) -> None:
    """Downsize images of different sizes to one letterboxed batch, in one call as a detector's input, and draw it."""
    photos = photos or []
    out = _picture(out, "batch", photos)
    target = _parse_size(size)
    device = _device()
    with _bad_parameter():
        images = [_to_uint8(files.read(photo).pixels) for photo in photos] or [_to_uint8(_sample(name)) for name in SAMPLES]
        network = methods.network(_learned(weights), weights).to(device)
    with _failing():
        images = [image.to(device) for image in images]
        result, milliseconds = _timed(partial(network, images, target, letterbox=True), device)
        _finite(result.images)
        table = Table("image", "pixels", "scale", "offset")
        names = [shown(photo.name) for photo in photos] or list(SAMPLES)
        for name, image, scale, offset in zip(names, images, result.scale.tolist(), result.offset.tolist(), strict=True):
            table.add_row(
                escape(name), f"{image.shape[2]}x{image.shape[1]}", f"{scale[0]:.4f}", f"{offset[0]:.0f}, {offset[1]:.0f}"
            )
        from . import drawing

        title = f"{len(images)} images in one call, each with its aspect kept; {weights or methods.DEFAULT}"
        _save(drawing.draw_batch(images, result, title), out, "batch")
    table.title = f"{len(images)} uint8 images to {tuple(result.images.shape)} in {milliseconds:.1f} ms, {_where(device)}"
    console.print(table)
    _print(f"wrote {out}")


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
        if reason is None:
            wrong = ops.why_not_in(torch.bfloat16, torch.device(device_type))
            answer = "runs" if wrong is None else f"runs, but not in bfloat16: {wrong}"
        else:
            answer = f"cannot run: {reason}"
        table.add_row(f'backend "triton", {device_type} tensors', answer)
    console.print(table)


def main() -> None:
    """Entry point. Where its output cannot be written, as on a full disk, one line says so, and the exit code is 1."""
    allocation.keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files, where the terminal has not all of Unicode
    try:
        app()
    except OSError as error:
        if error.filename is not None:  # what names a file is of no stream
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python writes as it ends, which would fail again
        sys.exit(f"failed: the output cannot be written: {folders.reason(error)}")


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


def _sample(name: str) -> Tensor:
    """A photograph of scikit-image."""
    from skimage import data

    return files.to_tensor(getattr(data, name)())


def _to_uint8(image: Tensor) -> Tensor:
    """(3, H, W), the channels last in memory, as decoders give them."""
    return (image * 255).round().to(torch.uint8, memory_format=torch.channels_last)[0]


def _finite(result: Tensor) -> Tensor:
    if not result.isfinite().all():
        raise ValueError("the result is not finite: the network's weights are too large")
    return result


def _print(line: str, style: str | None = None) -> None:
    console.print(shown(line), style=style, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _bad_parameter(prefix: str = "") -> Iterator[None]:
    try:
        yield
    except pipeline.FAILURES as error:
        raise typer.BadParameter(shown(prefix + folders.reason(error))) from error


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """Turn failures into one line and exit code 1."""
    try:
        yield
    except pipeline.FAILURES as error:
        _print(f"failed: {folders.reason(error)}", style="red")
        raise typer.Exit(1) from error


def _picture(out: Path | None, name: str, inputs: list[Path]) -> Path:
    """Where to write a picture: ``out``, if that can be, or else the first free name.

    That is the first of ``name``.png, ``name``-2.png and so on that does not exist or is a picture of the same command.
    """
    if out is None:
        out = outputs.free(itertools.chain([Path(f"{name}.png")], (Path(f"{name}-{n}.png") for n in itertools.count(2))), name)
    if out.suffix.lower() not in PICTURES:
        raise typer.BadParameter(shown(f"out: expected a .png, .jpg, .pdf or .svg file, got {out}"))
    if any(outputs.same_file(out, path) for path in inputs):
        raise typer.BadParameter(shown(f"out: {out} is an input"))
    if os.path.lexists(out) and not os.path.isfile(out):
        raise typer.BadParameter(shown(f"out: {out} is no file"))
    with _bad_parameter("out: "):
        out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(out.parent, os.W_OK):
            raise ValueError(f"{out.parent} cannot be written to")
    return out


def _save(canvas: "Canvas", out: Path, mark: str) -> None:
    with outputs.replacing(out) as file:
        canvas.save(file, out.suffix.lower(), {outputs.KEY: mark})


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _timed(run: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """The result and the median of up to five runs, within a second or so, in milliseconds, after one that does not count."""
    result = run()
    times: list[float] = []
    while not times or (len(times) < 5 and sum(times) < 1000):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return result, statistics.median(times)


def _prior(network: DownsizeNet) -> DownsizeNet:
    """The network before training."""
    network = copy.deepcopy(network)
    torch.nn.init.zeros_(network.out.weight)
    torch.nn.init.zeros_(network.out.bias)
    return network


def _triton_difference(network: DownsizeNet, image: Tensor, size: tuple[int, int]) -> str:
    """Largest absolute difference between the backends, with random logits, so that it is more than the prior's.

    On a CPU over a corner, since the interpreter is slow.
    """
    reason = ops.why_no_triton(image.device.type)
    if reason is not None:
        return f"not run: {reason}"
    note = ""
    if image.device.type == "cpu":
        image, size = image[:, :, :32, :32], (min(size[0], 17), min(size[1], 15))
        note = " (interpreter, 32x32 corner)"
    network = copy.deepcopy(network)
    torch.nn.init.normal_(network.out.weight)
    results = []
    for network.backend in ("triton", "torch"):
        results.append(network(image, size))
    triton, reference = results
    return f"{(triton - reference).abs().max().item():.1e}{note}"
