"""Copies of the package in one process: one loaded as the library ``kernels`` does, one inside another package."""

import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import pytest

import tritonds

LOADED, VENDORED = "_tritonds_1a2b3c4", "vendored.inside.resizing"
CODE = """
import importlib.util, json, pathlib, sys
loaded, vendored, folder, out = sys.argv[1:]
sys.path.insert(0, folder)

def load(name, path):  # as the library kernels does
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

# Copies import nothing of the package under its own name, and nothing that PyTorch does not bring.
for other in ("tritonds", "safetensors", "huggingface_hub"):
    sys.modules[other] = None
copies = {
    loaded: load(loaded, pathlib.Path(folder) / "build" / "torch-cpu" / "__init__.py"),
    vendored: importlib.import_module(vendored),
}
for other in ("tritonds", "safetensors", "huggingface_hub"):
    del sys.modules[other]
import torch, tritonds
from torch.utils.flop_counter import FlopCounterMode

def results(package):
    torch.manual_seed(0)
    net = package.DownsizeNet((3, 4), texture_channels=2, distance_channels=2, hidden_channels=3, backend="triton")
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    image = torch.rand(1, 3, 7, 9, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        output = net(image)
        output.square().sum().backward()
    gradients = [image.grad, *(parameter.grad for parameter in net.parameters())]
    shipped = package.DownsizeNet.from_pretrained("natural-k2", size=(3, 4), backend="torch")(image)
    operators = {str(call) for call in counter.get_flop_counts()["Global"] if "aten" not in str(call)}
    return [output, *gradients, shipped], sorted(operators)

expected, operators = results(tritonds)
found = {"tritonds": operators}
for name, copy in copies.items():
    assert copy.DownsizeNet is not tritonds.DownsizeNet
    got, found[name] = results(copy)
    assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True)), name
json.dump(found, open(out, "w"))
"""


@pytest.mark.long
def test_copies_run_side_by_side(tmp_path):
    """Forward, backward and counted, each under its own name: with the same results."""
    source = pathlib.Path(tritonds.__file__).parent
    shutil.copytree(source, tmp_path / VENDORED.replace(".", "/"), ignore=shutil.ignore_patterns("__pycache__"))
    runpy.run_path(str(source.parent / "examples" / "kernel_repository.py"))["main"](str(tmp_path), LOADED)
    for backend in ("cpu", "cuda", "rocm"):
        metadata = json.loads((tmp_path / "build" / f"torch-{backend}" / "metadata.json").read_text())
        assert (metadata["id"], metadata["backend"]) == (LOADED, {"type": backend})
        assert {"__init__.py", "kernels/forward.py", "weights/natural-k2.safetensors"} <= set(metadata["digest"]["files"])
    out = tmp_path / "found.json"
    command = [sys.executable, "-W", "error", "-c", CODE, LOADED, VENDORED, str(tmp_path), str(out)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(source.parent)}
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    for name, operators in json.loads(out.read_text()).items():
        namespace = name.replace(".", "_")
        assert operators == [f"{namespace}.downsize_image", f"{namespace}.downsize_image_backward"]
