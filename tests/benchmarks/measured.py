"""What a benchmark found: rows of ratios, kept as CSV with the fingerprint of the machine in `results/performance/`."""

from __future__ import annotations

import csv
import json
import os
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from runner import fingerprint, local

FOLDER = Path(__file__).resolve().parents[2] / "results" / "performance"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number of a benchmark with its spread over rounds."""

    name: str
    median: float
    low: float
    high: float
    rounds: int
    unit: str
    goal: float | None = None
    """At least this; None if there is none."""
    note: str = ""

    def __str__(self) -> str:
        word = "    " if self.goal is None else "ok  " if self.median >= self.goal else "MISS"
        goal = "" if self.goal is None else f", goal {self.goal:g}"
        spread = f"({self.low:.4g} to {self.high:.4g} in {self.rounds} rounds{goal})"
        return f"{word} {self.name}: {self.median:.4g} {self.unit} {spread} {self.note}".rstrip()


def as_trials_run(threads: int) -> None:
    """Starts the script again with the allocator's settings and the thread budget that trials have, unless it has them."""
    if not local.KEEP.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**local.KEEP, **os.environ, "OMP_NUM_THREADS": str(threads)})


def of(name: str, values: list[float], unit: str, goal: float | None = None, note: str = "") -> Measured:
    """Median and range of the rounds' values."""
    middle = statistics.median(values)
    return Measured(name=name, median=middle, low=min(values), high=max(values), rounds=len(values), unit=unit, goal=goal, note=note)


def missed(rows: list[Measured]) -> int:
    """The exit code: 1 if a goal was missed."""
    return int(any(row.goal is not None and row.median < row.goal for row in rows))


def keep(file: str, rows: list[Measured], threads: int, device: str | None = None) -> int:
    """Writes the table and what it was measured on (None: the GPU if there is one); returns the exit code of `missed`."""
    write(file, ["name"], [asdict(row) for row in rows], threads, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return missed(rows)


def write(file: str, key: list[str], rows: list[dict[str, Any]], threads: int, device: str) -> None:
    """Puts rows of any columns into a CSV, numbers with four digits, and the fingerprints of their machines beside it.

    They replace rows with the same values of `key`; other rows stay, so that a part can be measured anew.
    """
    if not rows:
        return
    machine = fingerprint.take(torch.device(device), threads=threads)
    public = {name: value for name, value in machine.items() if name != "host"} | {"load_average": round(os.getloadavg()[0], 1)}
    FOLDER.mkdir(parents=True, exist_ok=True)
    table, machines = FOLDER / f"{file}.csv", FOLDER / f"{file}.fingerprint.json"
    kept: dict[tuple[str, ...], dict[str, Any]] = {}
    if table.exists():
        with table.open(newline="", encoding="utf-8") as stream:
            kept = {tuple(row[name] for name in key): row for row in csv.DictReader(stream)}
    for row in rows:
        values = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
        kept[tuple(str(row[name]) for name in key)] = values | {"fingerprint": machine["id"]}
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "fingerprint"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept.values())
    known = json.loads(machines.read_text(encoding="utf-8")) if machines.exists() else {}
    known[machine["id"]] = public
    named = {row["fingerprint"] for row in kept.values()}
    machines.write_text(json.dumps({name: known[name] for name in known if name in named}, indent=1) + "\n", encoding="utf-8")
