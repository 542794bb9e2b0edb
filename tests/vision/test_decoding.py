"""Photographs by torchcodec; and the pages and the example that need it or torchvision, as a user runs them."""

import pathlib
import re
import runpy

import numpy as np
import pytest
import torch
from PIL import Image
from sybil import Document
from sybil.parsers.markdown import PythonCodeBlockParser
from torchcodec.decoders import decode_image

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
    path
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if re.search("^(from|import) torch(vision|codec)", path.read_text(), re.M)
]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Photographs of two sizes, one of them turned; the pixels of each."""
    monkeypatch.chdir(tmp_path)
    pixels = [np.random.default_rng().integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 30), (25, 60))]
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels[0]).save("a.png")
    Image.fromarray(pixels[1]).save("photo.jpg", exif=turned)
    return pixels


def test_pixels_are_those_of_the_file(files):
    assert np.array_equal(decode_image("a.png").permute(1, 2, 0), files[0])
    assert decode_image("photo.jpg").shape == (3, 60, 25)


def test_example(files, capsys):
    pathlib.Path("notes.txt").write_text("not looked at")
    runpy.run_path(str(ROOT / "examples" / "decode.py"))["main"](".")
    out = capsys.readouterr().out
    assert "2 photographs to (2, 3, 224, 224), torch.float32" in out
    assert "a.png: 30x40, 75% of its part" in out
    assert "photo.jpg: 25x60, 42% of its part" in out


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages(page, files):
    document = Document.parse(str(page), PythonCodeBlockParser())
    document.namespace["photos"] = [torch.randint(256, (*size, 3), dtype=torch.uint8).numpy() for size in ((40, 30), (25, 60))]
    examples = list(document.examples())
    assert len(examples) == page.read_text().count("```python")
    for example in examples:
        example.evaluate()
