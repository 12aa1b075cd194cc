"""The identity of hardware and software: times are compared only where it is equal."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

TIMING = ("cpu", "cores", "threads", "gpu", "gpus", "torch", "cuda", "system", "machine")
"""Fields that enter the `id`."""


def take(device: torch.device, *, threads: int, devices: int = 1) -> dict[str, Any]:
    """What this process runs on, with the `id` of everything that decides its speed."""
    cuda = device.type == "cuda"
    found: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": cores(),
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "gpus": devices if cuda else 0,
        "cuda": torch.version.cuda if cuda else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "host": socket.gethostname(),
        "slimperf": metadata.version("slimperf") if _installed() else None,
    }
    identity = json.dumps({name: found[name] for name in TIMING}, sort_keys=True)
    return {"id": hashlib.sha256(identity.encode()).hexdigest()[:12], **found}


@functools.cache
def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _installed() -> bool:
    try:
        metadata.version("slimperf")
    except metadata.PackageNotFoundError:
        return False
    return True
