"""What a list of trials would cost, and whether it can run at all, before anything does."""

from __future__ import annotations

import contextlib
import functools
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner import catalog, composition, progress, status
from runner.trial import Trial

CHECKED = 32
"""Distinct configurations that are built without memory before a run; the others are checked when they start."""
POINTS = 40
"""Up to so many distinct configurations a plan lists each; beyond, one line per submission and workload."""

NEUTRAL = frozenset({"lr", "schedule", "warmup", "horizon", "final_lr"})
"""Hyperparameters of every submission that change no tensor's size: a sweep over them needs one prediction."""

Group = tuple[Trial, list[Trial]]
"""One trial that stands for all, and all."""


def check(trials: list[Trial]) -> None:
    """Builds configurations on the meta device, so that bad input stops before anything is measured.

    Raises:
        ValueError: a configuration does not fit its model (a rank above the matrix).
    """
    from runner import memory

    for first in configurations(trials)[:CHECKED]:
        # What is unpredictable the trial will tell.
        with _blaming(first), contextlib.suppress(memory.Unpredictable):
            memory.prepared(composition.submission_of(first), catalog.workload(first.workload, first.overrides))


@contextlib.contextmanager
def _blaming(trial: Trial) -> Iterator[None]:
    """Lets errors say whose they are."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{trial.submission_name} on {trial.workload_name}: {error}") from None


def configurations(trials: list[Trial]) -> list[Trial]:
    """One trial of each distinct configuration: the same in all but the seed."""
    return [first for first, _ in _groups(trials, points=True)]


def predicted(trial: Trial) -> dict[str, int] | None:
    """Bytes by part that a trial will need; None for a user's submission that cannot be built without memory.

    Raises:
        ValueError: the hyperparameters do not fit the model.
    """
    shaping = {name: value for name, value in trial.hyperparameters.items() if name not in NEUTRAL}
    what = (trial.workload, trial.workload_sha256, trial.overrides, trial.submission, trial.source_sha256, shaping, trial.adapter)
    with _blaming(trial):
        return _predicted(json.dumps(what, sort_keys=True))


@functools.cache
def _predicted(what: str) -> dict[str, int] | None:
    from runner import memory

    workload, _, overrides, submission, _, hyperparameters, adapter = json.loads(what)
    trial = Trial(
        study="", workload=workload, overrides=overrides, submission=submission, hyperparameters=hyperparameters, adapter=adapter, seed=0
    )
    try:
        return memory.predict(composition.submission_of(trial), catalog.workload(workload, overrides))
    except memory.Unpredictable:
        return None


def table(trials: list[Trial], results: Path) -> list[list[str]]:
    """Cells of a plan: a line per configuration (or per submission, if there are many), with what earlier records know."""
    from runner import memory

    known = _known(results)
    points = _few_points(trials)
    names = progress.names(trials) if points else {}
    cells = [["workload", "submission", "trials", "seeds", "steps", "at most", "state", "total memory", "took before", "done"]]
    for first, members in _groups(trials, points=points):
        budget = catalog.workload(first.workload, first.overrides).budget
        sizes = predicted(first)
        rows = [known[member.id] for member in members if member.id in known]
        took = [row.seconds for row in known.values() if (row.workload, row.submission) == _named(first) and row.seconds == row.seconds]
        name = names[first.id].rpartition(" seed ")[0] if points else first.submission_name
        cells.append(
            [
                *(first.workload_name, name.replace(f" {first.workload_name}", ""), str(len(members))),
                *(str(len({member.seed for member in members})), str(budget.steps), progress.duration(budget.seconds)),
                *((status.megabytes(float(sizes["state"])), memory.said(sizes)) if sizes else ("-", "-")),
                *(
                    progress.duration(statistics.median(took)) if took else "-",
                    str(sum(row.status in ("reached", "missed") for row in rows)),
                ),
            ]
        )
    return cells


def footer(trials: list[Trial], results: Path) -> str:
    """One sentence: how many trials, and how long at most and by experience."""
    known = _known(results)
    open_ones = [trial for trial in trials if trial.id not in known or known[trial.id].status not in ("reached", "missed")]
    budgets = {_key(t, points=False): catalog.workload(t.workload, t.overrides).budget.seconds for t, _ in _groups(trials, points=False)}
    longest = sum(budgets[_key(trial, points=False)] for trial in open_ones)
    took: dict[tuple[str, str], list[float]] = {}
    for row in known.values():
        if row.seconds == row.seconds:
            took.setdefault((row.workload, row.submission), []).append(row.seconds)
    usual = [statistics.median(took[_named(trial)]) for trial in open_ones if _named(trial) in took]
    experience = f", {progress.duration(sum(usual))} by earlier records" if open_ones and len(usual) == len(open_ones) else ""
    return f"{len(trials)} trials, {len(open_ones)} to run: at most {progress.duration(longest)} on the clock{experience}"


def _known(results: Path) -> dict[str, status.Row]:
    if not results.is_dir():
        return {}
    try:
        folders = status.studies(results)
    except ValueError:  # an empty folder knows nothing
        return {}
    return {row.trial: row for folder in folders for row in status.scan(folder)}


def _few_points(trials: list[Trial]) -> bool:
    seen: set[Any] = set()
    for trial in trials:
        seen.add(_key(trial, points=True))
        if len(seen) > POINTS:
            return False
    return True


def _named(trial: Trial) -> tuple[str, str]:
    return trial.workload_name, trial.submission_name


def _groups(trials: list[Trial], *, points: bool) -> Iterator[Group]:
    groups: dict[Any, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(_key(trial, points=points), []).append(trial)
    for members in groups.values():
        yield members[0], members


def _key(trial: Trial, *, points: bool) -> Any:
    key = (trial.workload, trial.workload_sha256, trial.submission_name)
    return (*key, json.dumps([trial.hyperparameters, trial.adapter], sort_keys=True)) if points else key
