"""Photographs for the tests of the command line."""

import numpy as np
import pytest
from command import oriented
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    """A folder with a photograph, one in a folder below it, one that lies on its side, and a file that is no image."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[:, :, 0]).save(folder / "below" / "grey.PNG")
    Image.fromarray(pixels).save(folder / "turned.jpg", exif=oriented(6))
    (folder / "notes.txt").write_text("not looked at")
    return folder
