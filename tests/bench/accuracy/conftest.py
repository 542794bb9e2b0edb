"""Every test of the accuracy benchmark computes in one thread, and some run in this process what is else run in others."""

import concurrent.futures

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Such small tensors are not worth a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_this_process(monkeypatch):
    """A runner without processes, each of which would take seconds to import PyTorch."""
    from bench.accuracy import runner  # not before pytest is configured: it imports Triton

    monkeypatch.setattr(runner, "_pool", concurrent.futures.ThreadPoolExecutor)
