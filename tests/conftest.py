"""Where the tests run: on a GPU if there is one; else in Triton's interpreter, or compiled and emulated.

pytest                          in the interpreter: fast to start, but not what a GPU executes
pytest --kernels emulated       what a GPU executes, in the emulator of tests/emulator; the tests that need it
"""

import importlib.util
import os
import zlib

# Workers share the cores; threads beyond those wait for each other by spinning. Set before PyTorch is imported.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))

import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which some versions warn that cuBLAS may vary

import hypothesis
import pytest

collect_ignore_glob = ["*conftest.py"]  # of doctests, which would import several modules of that one name


def pytest_addoption(parser):
    parser.addoption(
        "--kernels", choices=["interpreted", "emulated"], default="interpreted", help="how kernels run without a GPU"
    )
    parser.addoption(
        "--draws", type=int, help="of each test that has draws of random cases, how many, and no long tests; all if not given"
    )
    parser.addoption("--strict-skips", action="store_true", help="fail if a test was skipped for anything but a GPU or data")
    parser.addoption("--capability", type=int, choices=[80, 90], default=90, help="of the emulated GPU")


def pytest_configure(config):
    """Decide how kernels run, before anything imports Triton; leave out what needs torchvision, where it cannot be imported."""
    if importlib.util.find_spec("torchvision") is None:
        beside_torchvision = [config.rootpath / "tests" / "vision", config.rootpath / "tritonds" / "transforms.py"]
        config.option.ignore = [*(config.option.ignore or []), *map(str, beside_torchvision)]
    if torch.cuda.is_available():
        config.kernels = "gpu"
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # cuDNN's default is TF32, of 10 bits
    elif config.getoption("kernels") == "emulated":
        os.environ.pop("TRITON_INTERPRET", None)
        config.kernels = "emulated"
        config.unavailable = why_not_emulated(config)
        if config.unavailable and config.getoption("strict_skips"):
            raise pytest.UsageError(config.unavailable)
    else:
        os.environ["TRITON_INTERPRET"] = "1"
        config.kernels = "interpreted"
        import interpreter

        interpreter.quicken()


def why_not_emulated(config):
    """Set the emulator up; why that failed, if it did."""
    try:
        from emulator import device, driver
    except ImportError as error:
        return f"the emulator cannot start: {error}"
    capability = config.getoption("capability")
    try:
        device.use(capability, config.rootpath / ".pytest_cache" / f"emulated-sm_{capability}")
    except driver.UnavailableError as error:
        return str(error)
    return None


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


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A double of the Hugging Face Hub, without repositories, in place of the real one."""
    from hub_double import serving

    with serving(tmp_path / "cache", monkeypatch) as server:
        yield server


@pytest.fixture
def fresh_plans(monkeypatch):
    """Every launch is planned anew, for a test that changes what plans are made of."""
    from tritonds import repeats
    from tritonds.kernels import area_pool, gather, plan, table

    monkeypatch.setattr(repeats, "_key", lambda *_: None)
    for module in (area_pool, gather, plan, table):
        for name in [name for name in vars(module) if name.endswith("_plan")]:
            monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)


def pytest_collection_modifyitems(config, items):
    """What the interpreter cannot run is not of its session at all; what a machine lacks is reported as skipped, by name."""
    chosen, others, draws = [], [], config.getoption("draws")
    for item in items:
        compiled = item.get_closest_marker("compiled") is not None
        fits = {"gpu": True, "emulated": compiled, "interpreted": not compiled}[config.kernels]
        if item.get_closest_marker("sm_80") and config.kernels == "emulated":
            fits = fits and config.getoption("capability") == 80
        if draws is not None and item.get_closest_marker("long"):
            fits = False
        if draws is not None and "draw" in getattr(item, "fixturenames", ()):
            fits = fits and int(item.callspec.id.partition("-")[0]) < draws
        (chosen if fits else others).append(item)
        if item.get_closest_marker("gpu") and config.kernels != "gpu":
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
        if config.kernels == "emulated" and config.unavailable:
            item.add_marker(pytest.mark.skip(reason=config.unavailable))
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


def pytest_sessionfinish(session):
    """Skipped for want of a GPU or of downloads is as it should be; for want of anything else it is not, in CI."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None and session.config.getoption("strict_skips"):
        skipped = [str(report.longrepr) for report in reporter.stats.get("skipped", [])]
        if any("needs a GPU" not in reason and "not fetched" not in reason for reason in skipped):
            session.exitstatus = 1
