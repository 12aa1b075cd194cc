"""How far the trials of a study's folder are, from the first and the last line of each record."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import locks, record, slurm_ledger

TAIL = 16_384
"""Bytes read from the end of a record first: an `End` line nearly always fits."""
NARROWEST = 24
"""Characters to which a column of a table is folded at most."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial. `status` is that of its last attempt; without an end it is `running` or `killed`."""

    folder: Path
    trial: str
    study: str = ""
    workload: str = ""
    submission: str = ""
    seed: int = 0
    hyperparameters: dict[str, Any]
    status: str
    step: int = 0
    steps: int = 0
    """The step budget."""
    seconds: float = float("nan")
    """On-clock; NaN while it runs."""
    reached: dict[str, float] | None = None
    reason: str | None = None
    attempt: int = 0
    """The last one, counted from 0."""
    state_bytes: float = float("nan")
    peak_bytes: float = float("nan")


def studies(folder: Path, *, locked: bool = False) -> list[Path]:
    """The folders with records (or, if `locked`, with locks) at and below `folder`, one level deep.

    Raises:
        ValueError: there is no such folder, or no records are in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with records (`slimperf run` and `sweep` write them)")
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    marks = (".jsonl", slurm_ledger.FOLDER, *([locks.FOLDER] if locked else []))  # jobs may wait before anything is recorded
    found = [path for path in candidates if any(entry.name.endswith(marks) for entry in os.scandir(path))]
    if not found:
        raise ValueError(f"{folder}: no records in it (files TRIAL.ATTEMPT.jsonl, in it or one folder below)")
    return found


def scan(study: Path) -> Iterator[Row]:
    """A row for each trial of a study's folder, in the order of ids."""
    last: dict[str, int] = {}
    for entry in os.scandir(study):
        trial, dot, attempt = entry.name.removesuffix(".jsonl").partition(".")
        if dot and attempt.isdigit() and entry.name.endswith(".jsonl"):
            last[trial] = max(last.get(trial, 0), int(attempt))
    held = {path.stem for path in (study / locks.FOLDER).glob("*.lock")}
    for trial in sorted(last):
        alive = trial in held and locks.owner(study, trial) is not None
        yield _row(study, trial, last[trial], alive=alive)


def row(study: Path, trial: str) -> Row | None:
    """The row of one trial, or None if it was never started."""
    attempts = record.attempts(study, trial)
    if not attempts:
        return None
    return _row(study, trial, int(attempts[-1].name.split(".")[-2]), alive=locks.owner(study, trial) is not None)


def ends(path: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The first and the last whole line of a record, as plain data; None where there is none.

    Raises:
        ValueError: the record was written by another version of SlimPerf.
    """
    with path.open("rb") as file:
        head = file.readline()
        start = _decoded(head)
        size = file.seek(0, os.SEEK_END)
        window = min(TAIL, size)
        while True:
            file.seek(size - window)
            whole = file.read(window).rpartition(b"\n")[0]
            if b"\n" in whole or window == size:
                break
            window = min(window * 8, size)
    if start is not None and start.get("schema") != record.SCHEMA:
        raise ValueError(
            f"{path}: written with record schema {start.get('schema')!r}, this SlimPerf has {record.SCHEMA}; use another --results folder"
        )
    return start, _decoded(whole.rpartition(b"\n")[2] + b"\n")


def summary(rows: Iterable[Row]) -> list[list[str]]:
    """Cells of a table with one line per (study, workload, submission): counts by status, median time of those that reached."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for each in rows:
        groups.setdefault((each.study, each.workload, each.submission), []).append(each)
    table = [["study", "workload", "submission", "trials", "status"]]
    for (study, workload, submission), members in sorted(groups.items()):
        counts = Counter(member.status for member in members)
        told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        table.append([study, workload, submission, str(len(members)), told])
    return table


def details(rows: Iterable[Row]) -> list[list[str]]:
    """Cells of a table with one line per trial."""
    table = [["trial", "workload", "submission", "seed", "status", "step", "seconds", "target at", "state", "peak", "why"]]
    for each in rows:
        reached = "-" if each.reached is None else f"{each.reached['step']:.0f} / {each.reached['seconds']:.1f} s"
        step = f"{each.step}/{each.steps}" if each.steps else "-"
        sizes = [megabytes(each.state_bytes), megabytes(each.peak_bytes)]
        seconds = "-" if each.seconds != each.seconds else f"{each.seconds:.1f}"
        why = "" if each.status in ("reached", "running") else (each.reason or "")
        table.append([each.trial, each.workload, each.submission, str(each.seed), each.status, step, seconds, reached, *sizes, why])
    return table


def folded(table: list[list[str]], width: int | None = None) -> str:
    """The cells as text, columns aligned; the widest columns go on below themselves where a line would be too long.

    Args:
        width: characters in a line; by default the terminal's, and no limit when the text goes to a file or a pipe.
    """
    if width is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    while width and sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    out: list[list[str]] = []
    for line in table:
        pieces = [textwrap.wrap(cell, most) if len(cell) > most else [cell] for cell, most in zip(line, widths, strict=True)]
        out += map(list, itertools.zip_longest(*pieces, fillvalue=""))
    return aligned(out)


def aligned(table: list[list[str]]) -> str:
    """The cells as text, columns aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table)


def megabytes(count: float) -> str:
    """Bytes for people: `12.3 MiB`; a dash if unknown."""
    if count != count:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def _row(study: Path, trial: str, attempt: int, *, alive: bool) -> Row:
    start, end = ends(record.path_of(study, trial, attempt))
    unfinished = "running" if alive else "killed"
    common: dict[str, Any] = {"folder": study, "trial": trial, "attempt": attempt}
    if start is None:
        return Row(**common, hyperparameters={}, status=unfinished, reason="it wrote no whole line")
    if end is None:  # a foreign last line: what the loader of records reports with file and line
        end = {}
    known: dict[str, Any] = {
        "study": start["study"],
        "workload": start["workload"],
        "submission": start["submission"],
        "seed": start["seed"],
        "hyperparameters": start["hyperparameters"],
        "steps": int(start["budget"].get("steps", 0)),
        "step": end.get("step", 0),
    }
    if end.get("kind") != "end":
        reason = None if alive else "killed before its end; it resumes from its last checkpoint on the next call"
        return Row(**common, **known, status=unfinished, reason=reason)
    sizes: dict[str, Any] = {f"{name}_bytes": float(end["bytes"].get(name, "nan")) for name in ("state", "peak")}
    seconds = float(end["seconds"].get("total", "nan"))
    return Row(**common, **known, **sizes, status=end["status"], seconds=seconds, reached=end["reached"], reason=end["reason"])


def _decoded(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
