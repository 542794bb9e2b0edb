"""Image files of the command line: found, read as RGB, and written so that nothing is lost.

A result is written whole or not at all, and over nothing but an earlier result for the same input. Results are recognised by a
text chunk of the PNG file, "tritonds". It holds the command that wrote the file, how many folders deep below ``--out``, and
a hash of the relative path from there to the input, so that it names no folder of the user's.
"""

import hashlib
import io
import itertools
import os
import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""What is looked at in a folder."""
KEY = "tritonds"
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF, and the value of the second that makes an image a negative."""


class Photograph(NamedTuple):
    """An image file, read."""

    pixels: Tensor
    """(1, 3, H, W), float32 between 0 and 1, upright."""
    profile: bytes | None
    """The ICC profile of its RGB values; None is sRGB."""


class Source(NamedTuple):
    """A file to resize."""

    path: Path
    name: Path
    """Relative: its place below the folder that was searched, or its name alone."""
    problem: str = ""
    """Why it cannot be read, if that is known."""


def find(inputs: Sequence[Path], out: Path) -> list[Source]:
    """Every input, folders searched with all below them, in a fixed order, each once; what cannot be read has its problem.

    Links are followed, except to a folder that holds the link. Earlier results in ``out`` are left out.
    """
    found: dict[Source, None] = {}
    for path in inputs:
        if os.path.isdir(path):
            found.update(dict.fromkeys(source for source in _search(path) if not _is_result_in(source.path, out)))
        else:
            found[Source(path, Path(path.name), _problem(path))] = None
    return list(found)


def _search(top: Path) -> Iterator[Source]:
    """The images of a folder, then those of the folders in it."""
    pending: list[tuple[Path, tuple[tuple[int, int], ...]]] = [(top, ())]
    while pending:
        folder, above = pending.pop()
        try:
            status = folder.stat()
            entries = sorted(folder.iterdir())
        except OSError as error:
            yield Source(folder, folder.relative_to(top), str(error))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue  # a loop of links
        folders = [entry for entry in entries if os.path.isdir(entry)]
        pending += [(entry, (*above, identity)) for entry in reversed(folders)]
        for entry in entries:
            if entry.suffix.lower() in SUFFIXES and not os.path.isdir(entry):
                yield Source(entry, entry.relative_to(top), _problem(entry))


def _problem(path: Path) -> str:
    """Of what is no regular file: opening a pipe would wait for ever."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"a link to {os.readlink(path)}, where there is nothing"
    if os.path.exists(path) and not os.path.isfile(path):
        return "neither a file nor a folder"
    return ""


def read(path: Path) -> Photograph:
    """An image file as RGB: its first frame, without transparency, turned upright as EXIF says.

    Grey values of more than 8 bits keep their precision. RGB values stay as they are, with their colour profile beside them;
    other values that have a profile are converted to sRGB.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it cannot be decoded, or its values have no known range.
        MemoryError: it is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large files, and of damage that decoders can cope with
            with Image.open(path) as file:
                return _decode(file)
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # decoders fail on damaged files in every way there is
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _decode(file: Image.Image) -> Photograph:
    white, negative = _white(file)
    upright = ImageOps.exif_transpose(file)
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
    return Photograph(to_tensor(np.asarray(upright.convert("RGB"))), profile)


def _white(file: Image.Image) -> tuple[float | None, bool]:
    """The largest value, where grey has more than 8 bits, else None; and whether that is black, which Pillow leaves so."""
    if file.mode == "I" and file.format == "PPM":
        return 65_535, False  # Pillow has scaled it from the file's maximum
    if not file.mode.startswith("I;16"):
        return None, False
    tags = getattr(file, "tag_v2", None)
    if tags is None:
        return 65_535, False
    return 2 ** tags[BITS_PER_SAMPLE][0] - 1, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """By the file's profile; a profile that does not fit the pixels is ignored, as viewers do."""
    if image.mode == "LA":
        image = image.convert("L")
    try:
        converted = ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return image
    assert converted is not None  # it is in place that there is no result
    return converted


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(1, 3, H, W) of float32 between 0 and 1 from (H, W, 3) of uint8."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


def to_pixels(image: Tensor) -> np.ndarray:
    """(H, W, 3) of uint8 from (1, 3, H, W)."""
    return (image[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def save(image: Tensor, profile: bytes | None, source: Source, out: Path) -> Path:
    """Write the result for ``source`` below ``out`` as PNG; where it lies.

    For ``below/a.jpg`` that is the first of ``below/a.png``, ``below/a.jpg.png``, ``below/a.jpg.2.png`` and so on that does not
    exist or is an earlier result for the same input.

    Raises:
        OSError: it cannot be written; then nothing is there.
    """
    path = out / source.name
    numbered = (path.with_name(f"{path.name}.{number}.png") for number in itertools.count(2))
    candidates = itertools.chain([path.with_suffix(".png"), path.with_name(f"{path.name}.png")], numbered)
    mark = _mark(source, path.parent)
    destination = free(candidates, mark)
    info = PngInfo()
    info.add_text(KEY, mark)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with replacing(destination) as file:
        Image.fromarray(to_pixels(image)).save(file, "PNG", pnginfo=info, icc_profile=profile)
    return destination


def free(candidates: Iterator[Path], mark: str) -> Path:
    """The first that does not exist, or that bears the mark."""
    return next(path for path in candidates if not os.path.lexists(path) or _read_mark(path) == mark)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` once it is written whole, and is gone if it is not.

    Another name of the file that was there, a hard link or where a link points to, keeps its content.
    """
    temporary = path.with_name(f".tritonds-{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def same_file(path: Path, other: Path) -> bool:
    """Whether both name one file, also by links."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def shown(text: object) -> str:
    """In one line, with escapes for what a terminal cannot show or would obey, and for bytes of a name that are no UTF-8."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def _mark(source: Source, folder: Path) -> str:
    way = os.path.relpath(source.path.absolute(), folder.absolute())
    return f"resize {len(source.name.parts) - 1} {hashlib.sha256(os.fsencode(way)).hexdigest()[:16]}"


def _read_mark(path: Path) -> str | None:
    """What the file says of itself, if it is a result of ``tritonds``."""
    if path.suffix.lower() != ".png" or not path.is_file():
        return None
    try:
        with Image.open(path, formats=["PNG"]) as file:
            mark = file.info.get(KEY)
            return mark if isinstance(mark, str) else None
    except Exception:  # whatever a damaged file is, it is not a result
        return None


def _is_result_in(path: Path, out: Path) -> bool:
    """Whether ``tritonds resize`` wrote it, for this ``out``."""
    words = (_read_mark(path) or "").split()
    if len(words) != 3 or words[0] != "resize" or not words[1].isdecimal():
        return False
    parents = path.absolute().parents
    return int(words[1]) < len(parents) and same_file(parents[int(words[1])], out)
