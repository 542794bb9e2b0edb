"""Results of the command line: formats, marks and names, and how they are written so that nothing is lost.

A result is written whole or not at all, and over nothing but an earlier result for the same input. Results bear a mark: in PNG
files the text chunk "tritonds", in JPEG and WebP files the Software tag of EXIF. It begins with the command that wrote the
file. The mark of ``resize`` goes on with three words: how many folders deep the file lies below ``--out``; a hash of the
relative path from its folder to the input, since a path would name folders of the user's; and a hash of the settings.
"""

import contextlib
import hashlib
import io
import itertools
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from .files import Source

KEY = "tritonds"
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
"""Pillow's names of the formats, by the suffixes of results."""
COMPRESS_LEVEL = 1
"""The level for PNG files. Pillow's default, 6, takes more than twice as long and saves 5 % of a photograph."""


def encode(pixels: np.ndarray, mark: str, suffix: str, quality: int, profile: bytes | None) -> bytes:
    """The bytes of a file that bears the mark, from pixels (h, w, 3), uint8.

    Raises:
        OSError, ValueError: the format does not hold so large an image.
    """
    options: dict[str, Any] = {"icc_profile": profile} if profile else {}
    if suffix == "png":
        options |= {"compress_level": COMPRESS_LEVEL, "pnginfo": PngInfo()}
        options["pnginfo"].add_text(KEY, mark)
    else:
        options |= {"quality": quality, "exif": Image.Exif()}
        options["exif"][ExifTags.Base.Software] = f"{KEY} {mark}"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, FORMATS[suffix], **options)
    return file.getvalue()


def mark_for(source: "Source", out: Path, settings: str) -> str:
    """The mark of the result for ``source``. ``settings`` is a hash of all else that the result depends on."""
    way = os.path.relpath(source.path.absolute(), (out / source.name).parent.absolute())
    return f"resize {len(source.name.parts) - 1} {hashlib.sha256(os.fsencode(way)).hexdigest()[:16]} {settings}"


def save(data: bytes, mark: str, source: "Source", out: Path, suffix: str) -> Path:
    """Write the result for ``source`` below ``out``. Return where it lies.

    For ``below/a.jpg`` and PNG that is the first of ``below/a.png``, ``below/a.jpg.png``, ``below/a.jpg.2.png`` and so on that
    does not exist or is an earlier result for the same input.

    Raises:
        OSError: it cannot be written. No part of it is left.
    """
    destination = free(_candidates(source, out, suffix), mark)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with replacing(destination) as file:
        file.write(data)
    return destination


def is_done(source: "Source", out: Path, suffix: str, mark: str) -> bool:
    """Whether there is a result for ``source`` with the same settings that is no older than the input."""
    candidates = _candidates(source, out, suffix)
    first = itertools.islice(candidates, 2)
    for path in itertools.chain(first, itertools.takewhile(os.path.lexists, candidates)):
        if _read_mark(path) == mark:
            with contextlib.suppress(OSError):  # the input is gone, as reading it will say
                return path.stat().st_mtime >= source.path.stat().st_mtime
    return False


def _candidates(source: "Source", out: Path, suffix: str) -> Iterator[Path]:
    path = out / source.name
    yield path.with_suffix(f".{suffix}")
    yield path.with_name(f"{path.name}.{suffix}")
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}.{number}.{suffix}")


def free(candidates: Iterator[Path], mark: str) -> Path:
    """The first candidate that does not exist, or whose mark is this one but for the settings."""
    return next(path for path in candidates if not os.path.lexists(path) or _words(_read_mark(path))[:3] == _words(mark)[:3])


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` once it is written whole. If it is not, nothing of it is left.

    If ``path`` was a hard link or a symbolic one, the file under its other name keeps its content.
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


def is_result_in(path: Path, out: Path) -> bool:
    """Whether ``tritonds resize`` wrote the file, for this ``out``."""
    words = _words(_read_mark(path))
    if len(words) < 3 or words[0] != "resize" or not words[1].isdecimal():
        return False
    parents = path.absolute().parents
    return int(words[1]) < len(parents) and same_file(parents[int(words[1])], out)


def _words(mark: str | None) -> list[str]:
    return (mark or "").split()


def _read_mark(path: Path) -> str | None:
    """What the file says of itself, if it is a result of ``tritonds``."""
    if path.suffix.lower()[1:] not in FORMATS or not os.path.isfile(path):
        return None
    try:
        with Image.open(path, formats=list(FORMATS.values())) as file:
            if file.format == "PNG":
                mark = file.info.get(KEY)
                return mark if isinstance(mark, str) else None
            key, _, mark = str(file.getexif().get(ExifTags.Base.Software)).partition(" ")
            return mark if key == KEY else None
    except Exception:  # decoders fail on damaged files in every way, and those are no results
        return None
