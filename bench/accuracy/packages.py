"""Pictures out of Debian's packages: downloaded, checked and unpacked without Debian's tools."""

import hashlib
import http.client
import io
import os
import pathlib
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

MIRROR = "https://deb.debian.org/debian"
FOLDER = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tritonds" / "natural"
"""Where packages are unpacked if no other folder is given."""
TIMEOUT = 60
"""Seconds without an answer after which a server is given up."""
COPYRIGHT = "copyright"
"""The file beside a package's pictures that says whose they are."""


@dataclass(frozen=True)
class Package:
    """A package of one version, and which of its pictures are wanted."""

    name: str
    version: str
    path: str
    """Of the .deb below a mirror."""
    size: int
    """Of the .deb, in bytes."""
    sha256: str
    """Of the .deb."""
    licences: tuple[str, ...]
    """Of the wanted pictures, by the names in the package's own copyright file."""
    root: str
    """The folder within the package that names of pictures begin in."""
    pictures: tuple[str, ...]

    def lacking(self, folder: pathlib.Path) -> list[str]:
        """The files that are not in ``folder``, which is that of all packages."""
        return [name for name in (*self.pictures, COPYRIGHT) if not (folder / self.name / name).is_file()]


def fetch(
    package: Package, folder: pathlib.Path, mirror: str = MIRROR, progress: Callable[[int], None] = lambda n: None
) -> None:
    """Have a package's pictures and its copyright file in ``folder``/``package.name``; download what was begun to the end.

    The folder appears at once and whole. Until then there are only names that end in ``.part``, which a later call goes on
    with.

    Args:
        package: which.
        folder: of all packages; made if it is not there.
        mirror: of Debian, or another server with the same paths.
        progress: called with how many bytes are there, now and then.

    Raises:
        OSError: a server that does not answer, or a download that was cut off.
        ValueError: the server gave another file. It is removed.
    """
    if not package.lacking(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{package.name}.deb.part"
    _download(f"{mirror}/{package.path}", archive, package.size, progress)
    with open(archive, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        archive.unlink()
        raise ValueError(f"{mirror}/{package.path}: SHA-256 is {digest}, expected {package.sha256}; the file was removed")
    unpacked = folder / f"{package.name}.part"
    shutil.rmtree(unpacked, ignore_errors=True)
    _unpack(archive, package, unpacked)
    shutil.rmtree(folder / package.name, ignore_errors=True)
    unpacked.rename(folder / package.name)
    archive.unlink()


def _download(url: str, path: pathlib.Path, size: int, progress: Callable[[int], None]) -> None:
    """Go on with ``path`` up to ``size`` bytes."""
    done = path.stat().st_size if path.exists() else 0
    if done >= size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            resumed = response.status == 206
            with open(path, "ab" if resumed else "wb") as file:
                while chunk := response.read(1 << 20):
                    file.write(chunk)
                    progress(file.tell())
                done = file.tell()
    except (urllib.error.URLError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise OSError(f"{url}: {error}") from error
    if done < size:
        raise OSError(f"{url}: cut off after {done} of {size} bytes; the same command goes on there")


def _unpack(archive: pathlib.Path, package: Package, folder: pathlib.Path) -> None:
    copyright_file = f"usr/share/doc/{package.name}/copyright"
    wanted = {f"{package.root}/{name}": name for name in package.pictures} | {copyright_file: COPYRIGHT}
    with tarfile.open(fileobj=_data(archive), mode="r:xz") as tar:
        for member in tar:
            name = wanted.get(member.name.removeprefix("./"))
            if name is None or (content := tar.extractfile(member)) is None:
                continue
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
    lacking = [name for name in wanted.values() if not (folder / name).is_file()]
    if lacking:
        raise ValueError(f"{package.name} {package.version} holds no {', '.join(lacking)}")


def _data(archive: pathlib.Path) -> io.BytesIO:
    """The compressed tar in a .deb, which is an archive of ``ar``: members behind headers of 60 bytes, at even places."""
    with open(archive, "rb") as file:
        if file.read(8) == b"!<arch>\n":
            while len(header := file.read(60)) == 60:
                size = int(header[48:58])
                if header[:16].rstrip(b" /") == b"data.tar.xz":
                    return io.BytesIO(file.read(size))
                file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError(f"{archive}: not a package with data.tar.xz")
