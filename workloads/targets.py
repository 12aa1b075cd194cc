"""Frozen targets: `targets/<workload>.yaml`, written by `slimperf target` with where the value comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workloads.base import Target
from workloads.shards import replace_file

FOLDER = Path(__file__).parent / "targets"
FIELDS = ("metric", "value", "mode", "provisional", "provenance")


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
    path = folder / f"{workload}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, yaml.safe_dump(row, sort_keys=False, width=120))
    return path


def data_mismatch(workload: str, data_sha256: str, folder: Path = FOLDER) -> str | None:
    """One sentence if the target was set on other data than these (another Python has another corpus), else None."""
    row = _read(workload, folder)
    if row is None or row["provenance"].get("data_sha256") in (None, data_sha256):
        return None
    was, python = row["provenance"]["data_sha256"], row["provenance"].get("python")
    return (
        f"the target of {workload} was set on other data ({was[:12]}, Python {python}) than these ({data_sha256[:12]}): "
        f"times to target are comparable among runs on these data only; to set it anew, run: slimperf target {workload}"
    )


def _read(workload: str, folder: Path) -> dict[str, Any] | None:
    path = folder / f"{workload}.yaml"
    if not path.exists():
        return None
    import yaml

    row: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    whole = isinstance(row, dict) and set(row) == set(FIELDS) and row["mode"] in ("min", "max")
    if not whole or not isinstance(row["value"], float | int):
        raise ValueError(f"{path} is not a target file: expected {', '.join(FIELDS)}; write it with: slimperf target {workload}")
    return dict(row)
