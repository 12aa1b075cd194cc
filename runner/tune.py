"""Searching a submission's hyperparameters within a declared budget of points.

`halton` spreads all points over the space at once; `coordinate` starts from the defaults and improves one hyperparameter
after the other. Both are functions of the recorded results alone, so a search that was interrupted goes on where it was:
its finished trials are found by their content.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runner import catalog, expansion, hyperparameters, record, search, status
from runner.search import Space
from runner.trial import Trial

Method = Literal["halton", "coordinate"]
Objective = Literal["seconds", "steps", "value"]
"""On-clock time to target, steps to target, or the last value of the target's metric (`val_loss` without a target)."""
Score = tuple[int, float]
"""0 and the time or steps of a point that reached the target; 1 and the metric of one that did not; 2 if it broke. Less is better."""
BROKEN: Score = (2, math.inf)
FIRST_STEP, LAST_STEP = 0.25, 0.03
"""Coordinate descent moves by these fractions of an axis, halving."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is searched, and what it may cost."""

    submission: str
    workload: str
    overrides: dict[str, Any]
    fixed: dict[str, Any]
    axes: dict[str, Any]
    """The space, as a study declares it."""
    budget: int
    """Points."""
    seeds: tuple[int, ...] = (0,)
    method: Method = "halton"
    objective: Objective = "seconds"
    seed: int = 0
    """Of the quasi-random sequence."""
    study: str = "tune"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A point that was tried."""

    values: dict[str, Any]
    score: Score
    seconds: float
    """On-clock, over all seeds."""
    trials: tuple[Trial, ...]


class Unfinished(ValueError):
    """Trials of the search are still to be run, by an executor that does not wait."""


def best_first(task: Task, results: Path, run: Callable[[list[Trial]], object]) -> list[Scored]:
    """All points that the search tried, the best first.

    Raises:
        Unfinished: `run` returned before its trials had ended.
        ValueError: the space or a hyperparameter is wrong.
    """
    space = search.parse(task.axes)
    moves = _halton(space, task) if task.method == "halton" else _coordinate(space, task)
    tried: dict[str, Scored] = {}
    batch = next(moves)
    while True:
        new = {json.dumps(point, sort_keys=True): point for point in batch}
        room = task.budget - len(tried)
        points = [point for key, point in new.items() if key not in tried][:room]
        trials = {json.dumps(point, sort_keys=True): trials_of(task, point) for point in points}
        due = [trial for group in trials.values() for trial in group]
        if due:
            run(due)
        ended = _ended(due, results)
        for (key, group), point in zip(trials.items(), points, strict=True):
            tried[key] = _scored(task, point, group, [ended[trial.id] for trial in group])
        answers = [tried[key].score if (key := json.dumps(point, sort_keys=True)) in tried else BROKEN for point in batch]
        try:
            batch = moves.send(answers)
        except StopIteration:
            break
        if len(tried) >= task.budget:
            break
    return sorted(tried.values(), key=lambda scored: scored.score)


def trials_of(task: Task, point: dict[str, Any]) -> tuple[Trial, ...]:
    """The trials of one point: one per seed."""
    document = {
        "study": task.study,
        "workload": task.workload,
        "seeds": list(task.seeds),
        "stop": "budget" if task.objective == "value" else "target",
    }
    space = {"seed": task.seed, "sequence": task.method, "axes": task.axes}
    candidate = expansion.Candidate({**task.fixed, **point}, space)
    rules = expansion.protocol(document)
    return tuple(expansion.trials_of(rules, task.submission, task.workload, task.overrides, [candidate], first_point=0))


def edges(task: Task, best: Scored) -> list[str]:
    """Hyperparameters whose best value lies at the edge of the space: a better one may be outside."""
    return search.at_edge(search.parse(task.axes), best.values)


def _halton(space: Space, task: Task) -> Generator[list[dict[str, Any]], list[Score], None]:
    yield search.draw(space, task.budget, seed=task.seed)


def _coordinate(space: Space, task: Task) -> Generator[list[dict[str, Any]], list[Score], None]:
    here = _start(space, task)
    [best] = yield [search.point(space, here)]
    step = FIRST_STEP
    while step >= LAST_STEP:
        before = best
        for index, axis in enumerate(space):
            around = _around(axis, here[index], step)
            places = [[*here[:index], u, *here[index + 1 :]] for u in around]
            scores = yield [search.point(space, place) for place in places]
            for place, score in zip(places, scores, strict=True):
                if score < best:
                    here, best = place, score
        if best == before:
            step /= 2


def _start(space: Space, task: Task) -> list[float]:
    """Fractions of the defaults, pulled into the space."""
    cls = catalog.submission_class(task.submission)
    base = catalog.registered(task.workload).variant_of
    layers = hyperparameters.defaults(task.submission, task.workload, base)
    values = hyperparameters.values(hyperparameters.resolve(cls, {**layers, **task.fixed}))
    return [_fraction(axis, values.get(axis.name)) for axis in space]


def _fraction(axis: search.Axis, value: Any) -> float:
    if axis.kind == "values":
        place = axis.choices.index(value) if value in axis.choices else 0
        return (place + 0.5) / len(axis.choices)
    if not isinstance(value, int | float):  # null: nothing to start from
        return 0.5
    return axis.fraction(min(max(value, axis.low), axis.high))


def _around(axis: search.Axis, u: float, step: float) -> list[float]:
    if axis.kind == "values":
        return [(place + 0.5) / len(axis.choices) for place in range(len(axis.choices))]
    return [min(max(u + move, 0.0), 1.0) for move in (-step, step)]


def _ended(trials: Sequence[Trial], results: Path) -> dict[str, status.Row]:
    """How each trial ended, by its id."""
    rows = ((trial.id, status.row(results / trial.study, trial.id)) for trial in trials)
    ended = {trial: row for trial, row in rows if row is not None and row.status in record.FINISHED}
    if left := len(trials) - len(ended):
        raise Unfinished(f"{left} of {len(trials)} trials have not ended; run the same command again to go on from here")
    return ended


def _scored(task: Task, point: dict[str, Any], trials: tuple[Trial, ...], rows: Sequence[status.Row]) -> Scored:
    scores = [_score(task, row) for row in rows]
    worst = max(score[0] for score in scores)
    value = statistics.median(score[1] for score in scores if score[0] == worst)
    return Scored(values=point, score=(worst, value), seconds=sum(row.seconds for row in rows if row.seconds == row.seconds), trials=trials)


def _score(task: Task, row: status.Row) -> Score:
    if row.status not in ("reached", "missed"):
        return BROKEN
    if task.objective != "value" and row.reached is not None:
        return 0, row.reached["seconds" if task.objective == "seconds" else "step"]
    target = catalog.workload(task.workload, task.overrides).target
    name, sign = (target.metric, 1 if target.mode == "min" else -1) if target else ("val_loss", 1)
    values = [
        line.value
        for path in record.attempts(row.folder, row.trial)
        for line in record.lines(path)
        if isinstance(line, record.Point) and line.name == name
    ]
    return (1, sign * values[-1]) if values and math.isfinite(values[-1]) else BROKEN
