"""The sdist, whose own tests run; and the wheel, installed where the sources are not, with Triton and without."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

from tritonds.pretrained import SHIPPED

ROOT = pathlib.Path(__file__).parents[2]


LEFT_OUT = shutil.ignore_patterns(".[!cp]*", ".pytest_cache", "__pycache__", "*.egg-info", "build", "dist", "demo")
"""What a clone does not have; of names with a dot, it has ``.ci`` and ``.pre-commit-config.yaml``."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with an sdist, and with a wheel that was built from it."""
    out, source = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("source") / "tritonds"
    shutil.copytree(ROOT, source, symlinks=True, ignore=LEFT_OUT)
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source], cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The folder of an unpacked sdist."""
    (path,) = built.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(path) as sdist:
        sdist.extractall(folder, filter="data")
    return folder / path.name.removesuffix(".tar.gz")


def run(command, cwd, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "PYTHONPATH")}
    result = subprocess.run(command, cwd=cwd, env=kept | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


def environment(folder, wheel, without):
    """An environment with the wheel and with this one's packages, but for tritonds itself and those named ``without``."""
    venv.create(folder, symlinks=True, with_pip=False)
    site = pathlib.Path(sysconfig.get_path("purelib", vars={"base": folder}))
    for package in pathlib.Path(sysconfig.get_path("purelib")).iterdir():
        name = package.name.lower()
        if not name.startswith(("__editable__", "tritonds", *without)):
            (site / package.name).symlink_to(package)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--quiet", "install", "--no-deps", "--no-index"]
    run([*pip, wheel], cwd=folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def without_triton(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("without_triton")
    return environment(folder, wheel, without=("triton-", "triton"))


@pytest.fixture(scope="module")
def with_triton(wheel, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("with_triton"), wheel, without=())


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"tritonds", next(top for top in tops if top.endswith(".dist-info"))}
    weights = {f"tritonds/weights/{name}.safetensors" for name in SHIPPED}
    assert {"tritonds/py.typed", "tritonds/kernels/__init__.py", "tritonds/cli.py"} | weights <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_index_takes_both(built):
    """Metadata is complete, README renders there, and the wheel installs nothing that it should not."""
    run([sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()], cwd=built)
    run([sys.executable, "-m", "check_wheel_contents", *built.glob("*.whl")], cwd=built)


def test_sdist_holds_what_its_tests_need(unpacked):
    needed = {"Makefile", "constraints.txt", ".ci/run", "tests/emulator/libcuda.c", "bench/results/kernels/sm_90.json"}
    assert not {name for name in needed if not (unpacked / name).is_file()}
    kernels = unpacked / "tritonds" / "kernels"
    assert not kernels.is_symlink()
    assert {path.name for path in kernels.glob("*.py")} == {path.name for path in (ROOT / "tritonds/kernels").glob("*.py")}


@pytest.mark.long
def test_sdist_runs_its_tests(unpacked):
    """Those of the geometry; all examples in docstrings, those of the kernels too, are collected."""
    chosen = ("tests/api/test_geometry.py", "tritonds", "-k", "geometry")
    assert " passed" in run([sys.executable, "-m", "pytest", "-q", "-n", "0", *chosen], cwd=unpacked)


def test_works_without_triton(without_triton, tmp_path):
    code = """
import importlib.util, pathlib, sys, torch, tritonds
assert importlib.util.find_spec("triton") is None
assert "site-packages" in tritonds.__file__, tritonds.__file__
net = tritonds.DownsizeNet((4, 5))
net(torch.rand(1, 3, 9, 9)).sum().backward()
tritonds.DownsizeNet.from_pretrained("natural-k4", size=(4, 5))(torch.rand(1, 3, 9, 9))
try:
    tritonds.area_pool2d(torch.rand(1, 1, 4, 4), (2, 2), backend="triton")
except RuntimeError as error:
    assert "Triton is not installed" in str(error)
    print("fine")
"""
    assert run([without_triton / "python", "-W", "error", "-c", code], cwd=tmp_path) == "fine\n"
    assert "not installed" in run([without_triton / "tritonds", "doctor"], cwd=tmp_path)


CODE_WITH_TRITON = """
import torch, tritonds
x = torch.rand(1, 2, 5, 5)
y = tritonds.area_pool2d(x, (2, 3), backend="triton")
assert torch.allclose(y, tritonds.area_pool2d(x, (2, 3), backend="torch"))
print("fine")
"""


def test_works_with_triton(with_triton, tmp_path):
    assert run([with_triton / "python", "-c", CODE_WITH_TRITON], cwd=tmp_path, TRITON_INTERPRET="1") == "fine\n"
    code = """
import sys, tritonds
assert "tritonds.kernels" not in sys.modules
"""
    run([with_triton / "python", "-c", code], cwd=tmp_path)


@pytest.mark.parametrize("where", ["installed", "from the sources"])
def test_works_beside_its_sources(where, with_triton):
    """Started in the repository's root, Python takes the sources for the package, whether or not one is installed."""
    python = with_triton / "python" if where == "installed" else sys.executable
    code = CODE_WITH_TRITON.replace("import torch", "import sys; sys.path.insert(0, ''); import torch")
    code += f"assert tritonds.__file__.startswith({str(ROOT)!r}), tritonds.__file__"
    assert run([python, "-c", code], cwd=ROOT, TRITON_INTERPRET="1") == "fine\n"


RESULTS = """
from typing import assert_type
from torch import Tensor
from tritonds import CoefficientWeights, DownsizeNet, Letterboxed, Warmup, downsize, downsize_image, geometry, labels, warmup

def results(image: Tensor, weights: CoefficientWeights, net: DownsizeNet, choice: bool) -> None:
    assert_type(net(image), Tensor)
    assert_type(net([image], (4, 5), letterbox=False), Tensor)
    assert_type(net([image], letterbox=True), Letterboxed)
    assert_type(net(image, letterbox=choice), Tensor | Letterboxed)
    assert_type(net.coefficients(image), Tensor)
    assert_type(net.weights(), CoefficientWeights)
    assert_type(DownsizeNet.from_pretrained("natural-k4"), DownsizeNet)
    assert_type(downsize(image, None, weights, 4), Tensor)
    assert_type(downsize_image(image, None, None, weights, 4), Tensor)
    assert_type(downsize_image([image], None, None, weights, (4, 5), letterbox=False), Tensor)
    assert_type(downsize_image(image, None, None, weights, (4, 5), letterbox=True), Letterboxed)
    assert_type(downsize_image(image, None, None, weights, (4, 5), letterbox=choice), Tensor | Letterboxed)
    assert_type(labels.map_boxes(image, (4, 5), (2, 3)), Tensor)
    assert_type(geometry.first_tap(0, 4, 2, 2), int)
    assert_type(geometry.first_tap(image, 4, 2, 2), Tensor)
    assert_type(warmup(net, (4, 5)), Warmup)
"""


@pytest.mark.long
def test_users_code_is_typed(with_triton, tmp_path):
    """Strictly, beside the installed package: the examples, and what calls return; a letterbox is another type."""
    (tmp_path / "results.py").write_text(RESULTS)
    files = [tmp_path / "results.py", *sorted((ROOT / "examples").glob("*.py"))]
    others = ["--ignore-missing-imports", "--untyped-calls-exclude=ray", "--untyped-calls-exclude=torch"]  # their own types
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\n[mypy-transformers.*]\nfollow_imports = skip\n")  # its types leave out half of what it accepts
    mypy = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        config,
        "--python-executable",
        with_triton / "python",
        "--strict",
        *others,
    ]
    run([*mypy, *files], cwd=tmp_path)


def test_transformers_imports_in_the_repository():
    """It asks for the version of a package called kernels."""
    run([sys.executable, "-c", "from transformers.activations import ACT2FN"], cwd=ROOT)


def test_importing_starts_nothing(tmp_path):
    """No CUDA context, no kernels, no compiler, nothing for files or the network; so it is not noticed beside PyTorch."""
    code = """
import sys, torch
before = set(sys.modules)
import tritonds
assert not torch.cuda.is_initialized()
late = {"tritonds.kernels", "torch._dynamo", "torch._inductor", "safetensors", "huggingface_hub"}
assert not late & (set(sys.modules) - before)
tritonds.DownsizeNet.from_pretrained("natural-k2")
assert "huggingface_hub" not in sys.modules
"""
    run([sys.executable, "-c", code], cwd=tmp_path)
