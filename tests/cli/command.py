"""The command line as a user calls it, and what its tests share. ``conftest.py`` imports it before pytest is configured."""

import contextlib
import resource

import numpy as np
from PIL import Image
from typer.testing import CliRunner


def run(*arguments):
    from tritonds.cli import app  # imports Triton, once it is decided how kernels run

    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def pixels_of(path):
    with Image.open(path) as file:
        return np.array(file)


def oriented(orientation):
    """EXIF data of an image that is stored in one of eight ways; 6 is by a quarter turn."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@contextlib.contextmanager
def limited(kind, value):
    """With a lower limit of this process's resources: ``resource.RLIMIT_...``."""
    limits = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, limits)
