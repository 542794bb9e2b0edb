"""Where the tests run: on a GPU if there is one, else the same tests in Triton's interpreter."""

import os
import zlib

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

import hypothesis
import pytest

from tritonds import ops

hypothesis.settings.register_profile("tritonds", deadline=None, print_blob=True)
hypothesis.settings.load_profile("tritonds")


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def seed(request):
    """Another seed for every test, printed when it fails."""
    value = zlib.crc32(request.node.nodeid.encode())
    print(f"torch.manual_seed({value})")
    torch.manual_seed(value)
    return value


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Fill what operators allocate with NaN: an element that no kernel writes shows."""
    for name in ("_empty_output", "_weight_grads"):
        monkeypatch.setattr(ops, name, _poisoned(getattr(ops, name)))


def _poisoned(allocate):
    def allocate_nan(*args):
        return allocate(*args).fill_(float("nan"))

    return allocate_nan


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU: the interpreter cannot run it"))
