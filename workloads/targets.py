"""Frozen targets: `targets/<workload>.yaml`, written by `slimperf target` with where the value comes from.

A workload in a user's file loads its own with `load_target("mine", Path(__file__).parent / "targets")`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from workloads.base import Target
from workloads.shards import replace_file

FOLDER = Path(__file__).parent / "targets"
FIELDS = ("metric", "value", "mode", "provisional", "provenance")
_MADE_ON = re.compile(r"\bdata_sha256 (?P<data>[0-9a-f]+)(?:.*\bpython (?P<python>[^;]+))?")
"""The data in `Target.source`, as `load_target` puts the provenance there."""


def load_target(workload: str, folder: Path = FOLDER) -> Target | None:
    """The frozen target of a workload; None if none was set.

    Raises:
        ValueError: the file is not a target file.
    """
    row = _read(workload, folder)
    if row is None:
        return None
    provenance = row["provenance"]
    source = "; ".join(f"{name} {value}" for name, value in provenance.items() if not isinstance(value, dict | list))
    return Target(metric=row["metric"], value=float(row["value"]), mode=row["mode"], provisional=row["provisional"], source=source)


def save_target(workload: str, target: Target, provenance: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Freezes a target. `provenance`: baseline, space, seeds, values, data_sha256, python, date (and what else matters)."""
    import yaml

    row = {"metric": target.metric, "value": target.value, "mode": target.mode, "provisional": target.provisional, "provenance": provenance}
    path = folder / file_name(workload)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, yaml.safe_dump(row, sort_keys=False, width=120))
    return path


def data_mismatch(target: Target | None, data_sha256: str | None) -> str | None:
    """A clause if a frozen target was set on other data than these (another Python has another corpus), else None."""
    made_on = _MADE_ON.search(target.source) if target else None
    if made_on is None or data_sha256 in (None, made_on["data"]):
        return None
    python = f" of Python {made_on['python']}" if made_on["python"] else ""
    return f"set on other data (sha256 {made_on['data'][:12]}{python}) than these ({str(data_sha256)[:12]})"


def on_data(target: Target | None, data_sha256: str | None) -> Target | None:
    """The target as it counts on these data: if it was set on others it is provisional, and says so."""
    if target is None or (why := data_mismatch(target, data_sha256)) is None:
        return target
    return replace(target, provisional=True, source=f"{target.source}; {why}")


def made_on(target: Target | None) -> str | None:
    """Hash of the data that a target was set on; None if nobody knows."""
    found = _MADE_ON.search(target.source) if target else None
    return found["data"] if found else None


def file_name(workload: str) -> str:
    """The file of a workload's target in a folder of them; a change may hold a path, as in `llama_nano[data=/texts/wiki]`."""
    return f"{workload.replace('/', '_')}.yaml"


def _read(workload: str, folder: Path) -> dict[str, Any] | None:
    path = folder / file_name(workload)
    if not path.exists():
        return None
    import yaml

    row: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    whole = isinstance(row, dict) and set(row) == set(FIELDS) and row["mode"] in ("min", "max")
    if not whole or not isinstance(row["value"], float | int):
        raise ValueError(f"{path} is not a target file: expected {', '.join(FIELDS)}; write it with: slimperf target {workload}")
    return dict(row)
