"""Image files of the command line: found, and read as RGB."""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from torch import Tensor

from . import outputs

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Names with which files in a folder are taken for images."""
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF, and the value of the second that makes an image a negative."""


class Photograph(NamedTuple):
    """An image file, read."""

    pixels: Tensor
    """(1, 3, H, W), upright: uint8, or float32 between 0 and 1. ``decode`` may add a fourth channel of no meaning."""
    profile: bytes | None
    """The ICC profile of its RGB values; None is sRGB."""


class Source(NamedTuple):
    """A file to resize."""

    path: Path
    name: Path
    """The path below the folder that was searched, or the file's name alone."""
    problem: str = ""
    """Why it cannot be read, if that is known."""


def find(inputs: Sequence[Path], out: Path) -> Iterator[Source]:
    """Every input once, in a fixed order. Folders are searched with all below them. What cannot be read has its problem.

    Links are followed, except to a folder that holds the link. Earlier results in ``out`` are left out. Memory holds the names
    in one folder, and the folders not yet searched.
    """
    before: set[Path] = set()
    for path in inputs:
        if path in before:
            continue
        if os.path.isdir(path):
            for source in _search(path, out):
                if source.path not in before or source.name != Path(source.path.name):
                    yield source
        elif path.parent not in before or not _is_found(path, out):
            yield Source(path, Path(path.name), _problem(path))
        before.add(path)


def _search(top: Path, out: Path) -> Iterator[Source]:
    """The images of a folder, then those of the folders in it."""
    pending: list[tuple[Path, tuple[tuple[int, int], ...]]] = [(top, ())]
    while pending:
        folder, above = pending.pop()
        try:
            status = folder.stat()
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError as error:
            yield Source(folder, folder.relative_to(top), str(error))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue  # a loop of links
        folders = [folder / name for name in names if os.path.isdir(folder / name)]
        pending += [(entry, (*above, identity)) for entry in reversed(folders)]
        below_out = any(outputs.same_file(parent, out) for parent in (folder / "any").absolute().parents)
        for name in names:
            entry = folder / name
            if _is_image(entry) and not (below_out and outputs.is_result_in(entry, out)):
                yield Source(entry, entry.relative_to(top), _problem(entry))


def _is_found(path: Path, out: Path) -> bool:
    """Whether a search of the file's folder finds it."""
    listed = os.path.lexists(path) and os.access(path.parent, os.R_OK)
    return listed and _is_image(path) and not outputs.is_result_in(path, out)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not os.path.isdir(path)


def _problem(path: Path) -> str:
    """Why a path is no file to read, or nothing. Pipes are refused because opening one would wait for ever."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"a link to {os.readlink(path)}, where there is nothing"
    if os.path.exists(path) and not os.path.isfile(path):
        return "neither a file nor a folder"
    return ""


def read(path: Path) -> Photograph:
    """As :func:`decode`, in float32, and without decoders' warnings of large files and of damage that they can cope with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        photograph = decode(path)
    pixels = photograph.pixels[:, :3]
    return photograph._replace(pixels=pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels)


def decode(path: Path) -> Photograph:
    """An image file as RGB: its first frame, without transparency, turned upright as EXIF says.

    Pixels are of uint8; grey values of more than 8 bits keep their precision, in float32. RGB values stay as they are, with
    their colour profile beside them; other values that have a profile are converted to sRGB. Do not write to the pixels: they
    may be Pillow's own memory, with four bytes for each. Copying them would take a fifth of the time that decoding takes, while
    no other thread runs.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it cannot be decoded, or its values have no known range.
        MemoryError: it is too large.
    """
    try:
        with Image.open(path) as file:
            return _decode(file)
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # decoders fail on damaged files in every way there is
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _decode(file: Image.Image) -> Photograph:
    white, negative = _white(file)
    file.load()
    turned = file.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(file) if turned else file  # exif_transpose would copy an upright image, too
    if white is not None:
        grey = torch.from_numpy(np.asarray(upright).astype(np.float32) / white)
        return Photograph((1 - grey if negative else grey).clamp(0, 1).expand(1, 3, -1, -1).contiguous(), None)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;"):
        raise ValueError(f"pixels of mode {upright.mode} have no known range; convert the file to 8 or 16 bits")
    profile = file.info.get("icc_profile")
    if upright.mode == "P":
        upright = upright.convert("RGBA")
    if profile and not upright.mode.startswith("RGB"):
        upright, profile = _to_srgb(upright, profile), None
    rgb = upright if upright.mode == "RGB" else upright.convert("RGB")
    return Photograph(_view(rgb).permute(2, 0, 1)[None], profile)


def _view(image: Image.Image) -> Tensor:
    """(H, W, 4) of an RGB image; (H, W, 3), copied, of one whose rows Pillow does not keep in one piece (above 16 MB)."""
    import pyarrow as pa  # not at the top, for commands that read no file

    try:
        numbers = pa.array(image).buffers()[-1]
    except ValueError:
        return torch.from_numpy(np.asarray(image))
    return torch.from_numpy(np.frombuffer(numbers, np.uint8).reshape(image.height, image.width, -1))


def _white(file: Image.Image) -> tuple[float | None, bool]:
    """(The largest value of grey of more than 8 bits, or None; whether that value is black, which Pillow leaves as it is)."""
    if file.mode == "I" and file.format == "PPM":
        return 65_535, False  # Pillow has scaled it from the file's maximum
    if not file.mode.startswith("I;16"):
        return None, False
    tags = getattr(file, "tag_v2", None)
    if tags is None:
        return 65_535, False
    return 2 ** tags[BITS_PER_SAMPLE][0] - 1, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The image converted by its profile. A profile that does not fit the pixels is ignored, as by viewers."""
    if image.mode == "LA":
        image = image.convert("L")
    try:
        converted = ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return image
    assert converted is not None  # only conversion in place returns None
    return converted


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(1, 3, H, W) of float32 between 0 and 1 from (H, W, 3) of uint8."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


def to_pixels(image: Tensor) -> np.ndarray:
    """(H, W, 3) of uint8 from (1, 3, H, W)."""
    return (image[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def shown(text: object) -> str:
    """``text`` in one line. What a terminal cannot show or would obey is escaped, and bytes of a name that are no UTF-8."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
