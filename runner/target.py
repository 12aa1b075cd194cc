"""Setting a target: tune a baseline, run its best point again with fresh seeds, freeze the median of what it reaches.

The baseline gets a fraction of the step budget (AlgoPerf's target setting had 3/4 of it), with its schedule ending there, so that an
algorithm as good as the baseline reaches the target well before the budget ends. With a decaying learning rate most of the
progress comes late: a target holds for the horizon that is recorded with it.
"""

from __future__ import annotations

import datetime
import math
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import catalog, record, study
from runner.trial import Trial
from workloads import targets
from workloads.base import Target, Workload


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What sets the target: a submission, its space, and how much is spent on it."""

    submission: str
    space: dict[str, Any]
    """As in a study's `search`."""
    points: int
    """Trials of the search."""
    seeds: tuple[int, ...]
    """Seeds of the runs whose median becomes the target; the search uses another one."""
    fraction: float = 0.75
    """Share of the workload's step budget that the baseline gets."""

    def steps(self, chosen: Workload) -> int:
        """Steps of the baseline's runs."""
        return max(1, round(self.fraction * chosen.budget.steps))


def search(workload: str, overrides: dict[str, Any], baseline: Baseline, *, seed: int = 0) -> list[Trial]:
    """The trials of the search."""
    entry = {"submission": baseline.submission, "set": {"horizon": 1.0}, "search": baseline.space}
    document = {
        **_common(workload, overrides, baseline),
        "ruleset": "external",
        "tuning_studies": 1,
        "tuning_trials": baseline.points,
        "tuning_seed": seed,
        "trials": [entry],
    }
    return study.trials(document, folder=Path.cwd())


def repeats(workload: str, overrides: dict[str, Any], baseline: Baseline, best: Trial) -> list[Trial]:
    """The best trial's hyperparameters with fresh seeds."""
    entry = {"submission": baseline.submission, "set": best.hyperparameters, "seeds": list(baseline.seeds)}
    return study.trials({**_common(workload, overrides, baseline), "trials": [entry]}, folder=Path.cwd())


def best(trials: list[Trial], results: Path, chosen: Workload, baseline: Baseline) -> tuple[Trial, float]:
    """The trial with the best value.

    Raises:
        ValueError: none of them has a finite one.
    """
    values = {trial.id: best_value(trial, results, chosen) for trial in trials}
    sign = 1 if _mode(chosen) == "min" else -1
    finite = [trial for trial in trials if math.isfinite(values[trial.id])]
    if not finite:
        raise ValueError(f"no trial of the search on {chosen.name} has a finite {_metric(chosen)}; widen or move the space")
    winner = min(finite, key=lambda trial: sign * values[trial.id])
    return winner, values[winner.id]


def best_value(trial: Trial, results: Path, chosen: Workload) -> float:
    """The best validation value of a trial's record; NaN if there is none."""
    metric = _metric(chosen)
    values = [
        line.value
        for path in record.attempts(results / trial.study, trial.id)
        for line in record.lines(path)
        if isinstance(line, record.Point) and line.name == metric and math.isfinite(line.value)
    ]
    return (min if _mode(chosen) == "min" else max)(values, default=math.nan)


def freeze(
    chosen: Workload, baseline: Baseline, winner: Trial, searched: dict[str, float], values: dict[int, float]
) -> tuple[Target, dict[str, Any]]:
    """The target and its provenance."""
    value = statistics.median(values.values())
    provenance = {
        "baseline": f"{baseline.submission}, best of {len(searched)} points, {baseline.steps(chosen)} of {chosen.budget.steps} steps",
        "rule": f"median over seeds of the best {_metric(chosen)} of a run",
        "hyperparameters": winner.hyperparameters,
        "space": baseline.space,
        "searched": {key: round(value, 6) for key, value in searched.items()},
        "values_by_seed": {seed: round(value, 6) for seed, value in values.items()},
        "data_sha256": chosen.open_data().identity()["sha256"],
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    return Target(metric=_metric(chosen), value=round(value, 4), mode=_mode(chosen), source="set by `slimperf target`"), provenance


def _common(workload: str, overrides: dict[str, Any], baseline: Baseline) -> dict[str, Any]:
    name = workload.rsplit("/", 1)[-1].replace(":", "-")
    shorter = {**overrides, "target": None, "steps": baseline.steps(described(workload, overrides))}
    return {"study": f"target-{name}", "workload": workload, "overrides": shorter, "stop": "budget"}


def _metric(chosen: Workload) -> str:
    return chosen.target.metric if chosen.target else "val_loss"


def _mode(chosen: Workload) -> Any:
    return chosen.target.mode if chosen.target else "min"


def described(chosen: str, overrides: dict[str, Any]) -> Workload:
    """The workload whose target is set, with its present target, if any, for metric and direction."""
    return catalog.workload(chosen, overrides)


def folder(chosen: str, overrides: dict[str, Any], out: Path | None) -> Path:
    """Where the target's file goes: `out`, or the package's own targets.

    Raises:
        ValueError: no `out` for a workload of which the package keeps no target.
    """
    if out is not None:
        return out
    if overrides or chosen not in catalog.workload_names():
        name = described(chosen, overrides).name
        raise ValueError(
            f"{name} is {'changed' if overrides else 'not registered'}, and the package keeps targets of its own workloads alone: "
            f"give --out DIR, for {targets.file_name(name)}"
        )
    return targets.FOLDER
