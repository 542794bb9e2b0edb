"""The scripts in examples/ run as a user runs them."""

import runpy

import numpy as np
import pytest
from PIL import Image

import tritonds
from bench.measure import ROOT


def main(name, *arguments):
    runpy.run_path(str(ROOT / "examples" / name))["main"](*map(str, arguments))


def test_train(tmp_path, capsys):
    main("train.py", tmp_path)
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert losses[-1] < 0.8 * losses[0]
    net = tritonds.DownsizeNet.from_pretrained(tmp_path)
    assert net.size == (16, 16)
    assert net.out.weight.abs().max() > 0  # it starts as zeros


# PyTorch says so of any weight that is channels-last, as the texture's is, and writes it whole.
@pytest.mark.filterwarnings("ignore:No complete tensor found in the group:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the exporters' own
@pytest.mark.parametrize("form", ["program", "onnx", pytest.param("aotinductor", marks=pytest.mark.long)])
def test_export(form, tmp_path, capsys):
    path = tmp_path / ("served.onnx" if form == "onnx" else "served.pt2")
    main("export.py", form, path)
    assert f"{path}: (3, 3, 150, 130) to (3, 10)" in capsys.readouterr().out
    assert path.exists()


def test_batch(tmp_path, capsys):
    for name, size in {"wide.png": (60, 30), "tall.jpg": (20, 40)}.items():
        Image.fromarray(np.zeros((size[1], size[0], 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not looked at")
    main("batch.py", tmp_path)
    out = capsys.readouterr().out
    assert "2 photographs to (2, 3, 224, 224)" in out
    assert "wide.png: 60x30, scale 3.733, from x = 0, y = 56" in out


def test_detect(capsys):
    main("detect.py")
    out = capsys.readouterr().out
    assert "its gradient reaches 8 tensors of the layer" in out
    assert "160x120: 8 boxes" in out
