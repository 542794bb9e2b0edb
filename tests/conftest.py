"""Where the tests run: on a GPU if there is one, else the same tests in Triton's interpreter."""

import dataclasses
import functools
import inspect
import os
import zlib

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which some versions warn that cuBLAS may vary

import hypothesis
import pytest


def quicken_the_interpreter():
    """Spare Triton's interpreter work that comes to nothing, which is most of its time."""
    from triton.runtime import interpreter

    # It repeats whatever it computes in 32 bits in 64, and compares, for an assertion that it makes with ``debug`` alone.
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)

    # At every call inside a kernel, it looks through the whole of triton.language for what is not yet its own.
    @functools.cache
    def builtins(package):
        return [(name, member) for name, member in inspect.getmembers(package) if interpreter.tl.core.is_builtin(member)]

    def patch(package, *rest):
        for name, member in builtins(package):
            if getattr(package, name) is member:
                interpreter._patch_attr(package, name, member, *rest)

    interpreter._patch_builtin = patch


if "TRITON_INTERPRET" in os.environ:
    quicken_the_interpreter()

# New examples every time on a developer's machine; in CI always the same, so that a change is judged by itself.
hypothesis.settings.register_profile("tritonds", deadline=None, print_blob=True, derandomize="CI" in os.environ)
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
def poison():
    """Have PyTorch fill all memory that it allocates with NaN: an element that no kernel writes shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU: the interpreter cannot run it"))
