"""What holds for every test: one thread, no network, a cache of its own that the whole session shares."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded, here and in every process that a test starts
os.environ["MPLBACKEND"] = "agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

OWNED_CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """The workers of pytest-xdist inherit the cache that the first process makes."""
    if not hasattr(config, "workerinput"):
        config.stash[OWNED_CACHE] = os.environ["SLIMPERF_CACHE"] = tempfile.mkdtemp(prefix="slimperf-cache-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if cache := config.stash.get(OWNED_CACHE, None):
        shutil.rmtree(cache, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Connections end at this machine; anything else is an error that names the address."""
    allowed = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        local = self.family == socket.AF_UNIX or str(address[0]) in ("127.0.0.1", "::1", "localhost")
        if not local:
            raise RuntimeError(f"a test tried to reach {address!r}: tests run without the network")
        return allowed(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        yield
