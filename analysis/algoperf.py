"""AlgoPerf's result tree as the table of runs that `analysis.times` makes of our own records.

Layout: `<submission>/[study_<k>/]<workload>[_jax|_pytorch]/[trial_<i>/]eval_measurements.csv`, with columns `score`
(submission seconds), `global_step` and one per metric. Only two columns of a file are parsed. The targets file follows
the leaderboard's (github.com/mlcommons/submissions_algorithms, scoring/config.py): of v0.5, where the metric's name says
which way is better, and of v0.6, which says it itself.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import notes
from analysis.times import Measure

Column = NDArray[np.float64]

Rule = Literal["time", "index"]
LOG, PACKED = "eval_measurements.csv", "eval_measurements.csv.gz"
CLOCK = {"seconds": "score", "steps": "global_step"}
"""The column of a log that counts what a time to target is measured in."""
MODE: dict[str, Literal["min", "max"]] = {"minimize": "min", "maximize": "max"}
STUDY, TRIAL = re.compile(r"study_\d+"), re.compile(r"trial_\d+")
FRAMEWORK = re.compile(r"_(jax|pytorch)$")
MINIMISED = {"loss", "error", "wer", "cer", "perplexity", "ppl", "mse", "mae", "mape", "rmse", "nll"}
MAXIMISED = {
    "accuracy", "acc", "ssim", "psnr", "precision", "recall", "map", "bleu", "sacrebleu", "auc", "auroc", "f1", "rouge", "iou", "dice",
}  # fmt: skip
MAXIMISED_PARTS = ("accuracy", "ssim", "average_precision", "bleu")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The target of a workload, inclusive."""

    metric: str
    value: float
    mode: Literal["min", "max"]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """A targets file: what counts, what may disqualify, and the goal of each."""

    base: tuple[str, ...]
    variants: tuple[tuple[str, str], ...]
    """(held-out workload, its base)."""
    goals: dict[str, Goal]


class Place(NamedTuple):
    """Where a trial was logged."""

    submission: str
    workload: str
    study: str
    trial: str
    """With its folder, as a workload may have run in two frameworks."""
    log: Path


def mode_of(metric: str) -> Literal["min", "max"]:
    """Whether larger values of a metric are better, from the words in its name; an error of an accuracy is an error."""
    name = metric.lower().rsplit("/", 1)[-1]
    words = set(re.split(r"[^a-z0-9]+", name))
    larger = not words & MINIMISED and (words & MAXIMISED or any(part in name for part in MAXIMISED_PARTS))
    return "max" if larger else "min"


def targets(path: Path) -> Targets:
    """The targets file at `path`.

    Raises:
        ValueError: not such a file; the message names the entry.
    """
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
        goals = {str(name): _goal(path, name, entry) for name, entry in text["workloads"].items()}
        held_out = list(text.get("held_out_workloads") or [])
        base = list(text.get("base_workloads") or [name for name in goals if name not in held_out])
    except OSError as error:
        raise ValueError(f"--targets {path}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'--targets {path}: {error!r}; expected {{"base_workloads": [...], "held_out_workloads": [...], "workloads":'
            ' {name: {"target_metric_name": ..., "validation_target_value": ...}}}'
        ) from None
    if unknown := [name for name in (*base, *held_out) if name not in goals]:
        raise ValueError(f"--targets {path}: no entry under workloads for {notes.listed(unknown)}")
    return Targets(base=tuple(base), variants=tuple((name, _base(path, name, base)) for name in held_out), goals=goals)


def _goal(path: Path, name: str, entry: dict[str, Any]) -> Goal:
    metric, value = str(entry["target_metric_name"]), entry["validation_target_value"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"--targets {path}: {name}: validation_target_value = {value!r}, expected a number")
    wanted = entry.get("target_metric_goal")
    if wanted is not None and wanted not in MODE:
        raise ValueError(f"--targets {path}: {name}: target_metric_goal = {wanted!r}, expected {' or '.join(MODE)}")
    mode = mode_of(metric) if wanted is None else MODE[wanted]
    return Goal(metric=metric.removeprefix("validation/"), value=float(value), mode=mode)


def _base(path: Path, variant: str, base: list[str]) -> str:
    fitting = [name for name in base if variant.startswith(name) and variant != name]
    if not fitting:
        raise ValueError(f"--targets {path}: held-out {variant} begins with the name of no base workload")
    return max(fitting, key=len)


def runs(folder: Path, wanted: Targets, *, rule: Rule = "time", measure: Measure = "seconds") -> pd.DataFrame:
    """One row per trial: submission, workload, base_workload, study, trial, seed (unknown), time, index.

    `time` is in submission seconds, or in steps if that is the measure; `index` is the number of the evaluation that
    reached the target; `attrs["notes"]` says what was left out or is odd.

    Raises:
        ValueError: no logs in the folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the folder that holds the submissions' logs")
    bases = dict(wanted.variants)
    counted = {*wanted.base, *bases}
    places = sorted(_places(folder))
    found = [place for place in places if place.workload in counted]
    if not found:
        raise ValueError(
            f"{folder}: no {LOG} of a workload in the targets; expected <submission>/study_<k>/<workload>_<framework>/trial_<i>/{LOG}"
        )
    reached = [_reached(place.log, wanted.goals[place.workload], CLOCK[measure]) for place in found]
    troubles: dict[str, list[str]] = defaultdict(list)
    for place, (_, _, trouble) in zip(found, reached, strict=True):
        if trouble:
            troubles[trouble].append(str(place.log.relative_to(folder)))
    table = pd.DataFrame(found).drop(columns="log")
    table["base_workload"] = pd.Series([bases.get(name) for name in table["workload"]], dtype="object")
    table = table.assign(seed=np.nan, time=[time for time, _, _ in reached], index=[index for _, index, _ in reached])
    strangers = sorted({place.workload for place in places} - counted)
    if rule == "index":
        table = _earliest_evaluation(table)
    table.attrs["notes"] = [
        *([f"not in the targets, so left out: {notes.listed(strangers)}"] if strangers else []),
        *(f"{notes.counted(len(files), 'trial')} with {trouble}: missed (first: {files[0]})" for trouble, files in troubles.items()),
        *notes.uneven(table),
        *(f"held-out {name}: no logs of anybody, so it disqualifies nobody" for name in bases if name not in set(table["workload"])),
    ]
    return table


def _places(folder: Path) -> Iterator[Place]:
    """Every trial folder, also those in which nothing was logged."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        path = Path(root)
        logged = LOG in files or PACKED in files
        in_trial = bool(TRIAL.fullmatch(path.name) or (logged and STUDY.fullmatch(path.parent.parent.name)))
        silent = STUDY.fullmatch(path.parent.name) and not folders
        if not logged and not in_trial and not silent:
            continue
        trial, place = (path.name, path.parent) if in_trial else ("trial_1", path)
        study, home = (place.parent.name, place.parent.parent) if STUDY.fullmatch(place.parent.name) else ("study_0", place.parent)
        submission = home.relative_to(folder).as_posix() if home != folder else folder.resolve().name
        yield Place(submission, FRAMEWORK.sub("", place.name), study, f"{place.name}/{trial}", path / LOG)
        folders.clear()


def _reached(path: Path, goal: Goal, clock: str) -> tuple[float, float, str | None]:
    """(time, number of the evaluation) at which the log first reaches the goal, infinite if never; and what is wrong with it."""
    try:
        time, value = _columns(path, clock, goal.metric)
    except FileNotFoundError:
        return np.inf, np.inf, f"no {LOG}"
    except (OSError, ValueError) as error:
        return np.inf, np.inf, str(error) or type(error).__name__
    good = value >= goal.value if goal.mode == "max" else value <= goal.value
    rows = np.flatnonzero(good & np.isfinite(value) & np.isfinite(time) & (time >= 0))
    if not rows.size:
        return np.inf, np.inf, None if np.isfinite(value).any() else f"no number under {goal.metric}"
    return float(time[rows].min()), float(rows[0]), None


def _columns(path: Path, clock: str, metric: str) -> tuple[Column, Column]:
    """The clock's column and the validation metric by evaluation; cells that are no numbers are NaN.

    Splitting lines is faster than a CSV parser that must tokenise every cell; quotes send the file to the latter. A
    header in the middle, as a resumed run leaves one, holds for what follows it.
    """
    text = _content(path)
    lines: list[bytes] = text.splitlines()
    if b'"' in text:
        lines = [
            b",".join(cell.replace(",", " ").encode() for cell in row) for row in csv.reader(text.decode(errors="replace").splitlines())
        ]
    if not lines or not lines[0].strip():
        raise ValueError("an empty file")
    if b"," not in lines[0]:
        raise ValueError("no commas in its first line")
    if lines[-1].count(b",") < lines[0].count(b",") and not text.endswith((b"\n", b"\r")):
        lines.pop()  # cut off while it was written: its last number may be cut too
    heads = [0]
    if text.find(clock.encode(), len(lines[0])) > 0:
        heads += [k for k, line in enumerate(lines[1:], start=1) if clock.encode() in map(bytes.strip, line.split(b","))]
    parts = [_part(lines[head:end], clock, metric) for head, end in itertools.pairwise([*heads, len(lines)])]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _content(path: Path) -> bytes:
    packed = path.with_name(PACKED)
    data = gzip.decompress(packed.read_bytes()) if packed.exists() and not path.exists() else path.read_bytes()
    return data.removeprefix(codecs.BOM_UTF8)


def _part(lines: list[bytes], clock: str, metric: str) -> tuple[Column, Column]:
    """The two columns of the lines under one header."""
    names = [name.strip() for name in lines[0].decode(errors="replace").split(",")]
    column = next((name for name in (f"validation/{metric}", metric) if name in names), None)
    if column is None or clock not in names:
        raise ValueError(f"no column {clock if column else f'validation/{metric}'}")
    time, value = names.index(clock), names.index(column)
    rows = [line.split(b",", max(time, value) + 1) for line in lines[1:]]
    return _numbers(rows, time), _numbers(rows, value)


def _numbers(rows: list[list[bytes]], place: int) -> Column:
    try:
        return np.array([float(row[place]) for row in rows])
    except (ValueError, IndexError):
        return np.array([_number(row[place]) if place < len(row) else np.nan for row in rows])


def _number(cell: bytes) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _earliest_evaluation(table: pd.DataFrame) -> pd.DataFrame:
    """Only the trial of each study that AlgoPerf's code picks: the one that reached the target at the earliest evaluation."""
    order = table.sort_values(["submission", "workload", "study", "index", "trial"], kind="stable")
    return order.drop_duplicates(["submission", "workload", "study"], ignore_index=True)
