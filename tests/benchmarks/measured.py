"""What a benchmark found: rows of ratios, kept as CSV with the fingerprint of the machine in `results/performance/`."""

from __future__ import annotations

import csv
import json
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from runner import fingerprint

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


def of(name: str, values: list[float], unit: str, goal: float | None = None, note: str = "") -> Measured:
    """Median and range of the rounds' values."""
    middle = statistics.median(values)
    return Measured(name=name, median=middle, low=min(values), high=max(values), rounds=len(values), unit=unit, goal=goal, note=note)


def missed(rows: list[Measured]) -> int:
    """The exit code: 1 if a goal was missed."""
    return int(any(row.goal is not None and row.median < row.goal for row in rows))


def keep(file: str, rows: list[Measured], threads: int, device: str | None = None) -> int:
    """Writes the table and what it was measured on (None: the GPU if there is one); returns the exit code of `missed`."""
    columns = ["name", "median", "low", "high", "rounds", "unit", "goal", "note"]
    write(file, columns, [asdict(row) for row in rows], threads, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return missed(rows)


def write(file: str, columns: list[str], rows: list[dict[str, Any]], threads: int, device: str) -> None:
    """A table of any columns as CSV, numbers with four digits, and the fingerprint of the machine beside it."""
    machine = fingerprint.take(torch.device(device), threads=threads)
    load = round(os.getloadavg()[0], 1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{file}.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*columns, "fingerprint"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
            writer.writerow(values | {"fingerprint": machine["id"]})
    public = {key: value for key, value in machine.items() if key != "host"} | {"load_average": load}
    (FOLDER / f"{file}.fingerprint.json").write_text(json.dumps(public, indent=1) + "\n", encoding="utf-8")
