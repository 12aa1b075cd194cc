"""Records to two tables: `trials`, one row per trial, and `points`, one row per measured value.

`trials.attrs["problems"]` lists, for a reader, every file that was left out or read in part. A value that was not
recorded is NaN (or None in a column of text). In `points`, `trial`, `name` and `param` are categorical.
"""

from __future__ import annotations

import gc
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import cache, parse
from analysis.parse import Attempt, Codes
from runner.record import FINISHED

NUMERIC = (
    "target_value", "budget_steps", "budget_seconds", "seconds", "steps", "reached_step", "reached_seconds",
    "reached_value", "lost_seconds",
)  # fmt: skip
"""Columns that are numbers even where nothing was recorded."""
NOT_FINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def study(folder: str | os.PathLike[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(trials, points) of all records in `folder` and below: a study, several, or a results root; or of one file.

    Raises:
        ValueError: there is no such folder, or no record in it that this version can read.
    """
    folder = Path(folder).absolute()
    files = _listing(folder)
    large = sum(stat.st_size for stat in files.values()) >= cache.SMALLEST
    key = cache.key(files) if large else ""
    if large and (kept := cache.read(folder, key)) is not None:
        return _frames(*kept)
    collecting = gc.isenabled()
    gc.disable()  # millions of short-lived dicts without cycles: the collector would only walk them
    try:
        arrays, plain = _read(folder, list(files))
    finally:
        if collecting:
            gc.enable()
    if large:
        cache.write(folder, key, arrays, plain)
    return _frames(arrays, plain)


def _listing(folder: Path) -> dict[str, os.stat_result]:
    """Record files by their path below `folder`, in order."""
    if folder.is_file():
        return {"": folder.stat()}
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a results folder, or a study inside one")
    files = dict(sorted(_walk(str(folder), "")))
    if not files:
        raise ValueError(f"{folder}: no record (*.jsonl) in it or below; `slimperf run` and `slimperf sweep` write them")
    return files


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".jsonl") and entry.is_file():
                yield prefix + entry.name, entry.stat()
            elif not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")


def _read(folder: Path, files: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays of the points, and plain data: trial columns, names, problems."""
    names, params, problems = Codes(), Codes(), list[str]()
    attempts: list[Attempt] = []
    for file in files:
        try:
            attempts.append(parse.attempt(folder / file, names, params))
        except (ValueError, OSError) as error:
            problems.append(f"{file or folder.name}: {error}; left out")
            continue
        if attempts[-1].problem:
            problems.append(f"{file or folder.name}: {attempts[-1].problem}")
    if not attempts:
        raise ValueError(f"{folder}: none of its {len(files)} files is a record that can be read; {problems[0]}")
    histories = _histories(attempts, folder, problems)
    floats, integers, counts = _stitched(histories)
    rows = [_row(history) for history in histories]
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    codes = np.repeat(np.arange(len(rows), dtype=np.int32), counts)
    arrays = {"trial": codes, "floats": floats, "integers": integers}
    return arrays, {"columns": columns, "names": names.names(), "params": params.names(), "problems": problems}


def _histories(attempts: list[Attempt], folder: Path, problems: list[str]) -> list[list[Attempt]]:
    """The attempts of each trial, oldest first; of a trial recorded in several places only one place counts."""
    places: dict[str, dict[Path, dict[int, Attempt]]] = defaultdict(lambda: defaultdict(dict))
    for attempt in attempts:
        trial, number = attempt.start.trial, attempt.start.attempt
        twins = places[trial][attempt.path.parent]
        if number not in twins:
            twins[number] = attempt
            continue
        if attempt.path.name == f"{trial}.{number}.jsonl":
            twins[number], attempt = attempt, twins[number]
        kept = twins[number].path.name
        problems.append(f"{_short(attempt, folder)}: attempt {number} of trial {trial} is also in {kept}; left out")
    histories = []
    for trial, found in places.items():
        candidates = [[twins[number] for number in sorted(twins)] for twins in found.values()]
        best = max(candidates, key=_standing)
        histories.append(best)
        for other in candidates:
            if other is not best:
                where = _short(best[-1], folder)
                problems.append(f"{_short(other[-1], folder)}: trial {trial} is also recorded in {where}; left out")
    return histories


def _standing(history: list[Attempt]) -> tuple[bool, str]:
    """Finished before unfinished, then the one that began last."""
    end = history[-1].end
    return end is not None and end.status in FINISHED, history[-1].start.time


def _short(attempt: Attempt, folder: Path) -> str:
    return os.path.relpath(attempt.path, folder)


def _stitched(histories: list[list[Attempt]]) -> tuple[Any, Any, list[int]]:
    """Points of all trials one after the other, and their number per trial.

    An attempt that was taken up again counts up to the step from which its successor went on.
    """
    floats, integers, counts = [], [], []
    for history in histories:
        last, count = float("inf"), 0
        kept = []
        for attempt in reversed(history):
            keep = slice(None) if last == float("inf") else attempt.integers[0] <= last
            kept.append((attempt.floats[:, keep], attempt.integers[:, keep]))
            count += kept[-1][0].shape[1]
            resumed = attempt.start.resumed_step
            last = min(last, -1 if resumed is None else resumed)
        floats += [pair[0] for pair in reversed(kept)]
        integers += [pair[1] for pair in reversed(kept)]
        counts.append(count)
    return np.concatenate(floats, axis=1), np.concatenate(integers, axis=1), counts


def _row(history: list[Attempt]) -> dict[str, Any]:
    """The columns of one trial; what was asked comes from its first attempt, how it went from its last."""
    start, last, end = history[0].start, history[-1], history[-1].end
    target, reached = start.target or {}, (end.reached if end else None) or {}
    row: dict[str, Any] = {
        "trial": start.trial, "study": start.study, "workload": start.workload, "base_workload": start.base_workload,
        "submission": start.submission, "seed": start.seed, "ruleset": start.ruleset,
        "tuning_study": start.tuning_study, "tuning_trial": start.tuning_trial,
        "status": end.status if end else "running", "reason": end.reason if end else None,
        "target_name": target.get("name"), "target_value": target.get("value"), "target_mode": target.get("mode"),
        "target_provisional": bool(target.get("provisional", False)), "target_source": target.get("source"),
        "budget_steps": start.budget.get("steps"), "budget_seconds": start.budget.get("seconds"), "stop": start.stop,
        "parameters": start.parameters, "tokens_per_step": start.tokens_per_step,
        "data_sha256": start.data.get("sha256"), "fingerprint": last.start.fingerprint.get("id"),
        "source_sha256": start.source.get("sha256"), "source_file": start.source.get("file"),
        **_cost(last),
        "reached_step": reached.get("step"), "reached_seconds": reached.get("seconds"),
        "reached_value": reached.get("value"),
        "attempts": len(history), "time": start.time, "path": str(last.path),
    }  # fmt: skip
    if end:
        row |= {f"seconds_{part}": value for part, value in end.seconds.items() if part != "total"}
        row |= {f"bytes_{part}": value for part, value in end.bytes.items()}
    # An object as its text, which can be grouped by and is how one types it.
    row |= {f"hp.{name}": json.dumps(value) if isinstance(value, dict) else value for name, value in start.hyperparameters.items()}
    row |= {f"settings.{name}": value for name, value in last.start.settings.items()}
    row |= {f"data.{name}": value for name, value in start.data.items() if name != "sha256"}
    row |= {f"fingerprint.{name}": value for name, value in last.start.fingerprint.items() if name != "id"}
    return row


def _cost(last: Attempt) -> dict[str, Any]:
    """On-clock seconds, steps and lost seconds; without an end, as far as the points go."""
    if last.end:
        return {
            "seconds": last.end.seconds.get("total"),
            "steps": last.end.step,
            "lost_seconds": last.end.lost_seconds,
        }
    if last.integers.shape[1]:
        return {"seconds": float(last.floats[0, -1]), "steps": int(last.integers[0, -1])}
    return {"steps": last.start.resumed_step or 0}


def _frames(arrays: dict[str, Any], plain: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    columns = {name: _cells(values) for name, values in plain["columns"].items()}
    measured = [name for name in columns if name in NUMERIC or name.startswith(("seconds_", "bytes_"))]
    # Copied into few blocks: many submissions have hundreds of columns, and pandas warns at each column added to so many pieces.
    trials = pd.DataFrame(columns).astype(dict.fromkeys(measured, np.float64)).copy()
    trials.attrs["problems"] = list(plain["problems"])
    step, tokens, name, param = arrays["integers"]
    points = pd.DataFrame(
        {
            "trial": pd.Categorical.from_codes(arrays["trial"], pd.Index(columns["trial"])),
            "step": step,
            "seconds": arrays["floats"][0],
            "tokens": tokens,
            "name": pd.Categorical.from_codes(name, pd.Index(plain["names"], dtype="str")),
            "value": arrays["floats"][1],
            "param": pd.Categorical.from_codes(param, pd.Index(plain["params"], dtype="str")),
        },
        copy=False,
    )
    return trials, points


def _cells(values: list[Any]) -> list[Any]:
    """Lists become tuples, which can be grouped by; "nan" and "inf" become numbers again."""
    kinds = set(map(type, values))
    if list in kinds:
        values = [_frozen(value) for value in values]
    if str in kinds:
        values = [NOT_FINITE.get(value, value) if isinstance(value, str) else value for value in values]
    return values


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
