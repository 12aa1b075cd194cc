"""Records and workers that train nothing: material for tests of what stands around a training."""

from __future__ import annotations

from pathlib import Path

from runner import record
from runner.trial import Trial

WORKER = ("tests.fake_worker",)
"""In place of `local.WORKER`."""


def start(trial: Trial, attempt: int = 0) -> record.Start:
    """The first line of an attempt at a trial."""
    return record.Start(
        trial=trial.id,
        attempt=attempt,
        study=trial.study,
        time="2026-01-01T00:00:00+00:00",
        workload=trial.workload_name,
        base_workload=None,
        submission=trial.submission_name,
        hyperparameters=trial.hyperparameters,
        seed=trial.seed,
        ruleset=trial.ruleset,
        tuning_study=trial.tuning_study,
        tuning_trial=trial.tuning_trial,
        target={"name": "val_loss", "value": 2.0, "mode": "min", "provisional": False, "source": ""},
        budget={"steps": 100, "seconds": 60.0},
        stop=trial.stop,
        parameters=1,
        tokens_per_step=16,
        data={},
        source={},
        settings={
            "asked": {"workload": trial.workload, "overrides": trial.overrides, "submission": trial.submission},
            "probes_every": trial.probes_every,
            "space": trial.space,
        },
        fingerprint={"id": "f"},
    )


def write(results: Path, trial: Trial, status: record.Status, *, value: float = 3.0, seconds: float = 2.0) -> None:
    """A whole record; `seconds` is when the target was reached, if it was."""
    writer = record.Writer(record.path_of(results / trial.study, trial.id, 0))
    reached = {"step": 20.0, "seconds": seconds, "value": value} if status == "reached" else None
    writer.write(
        start(trial),
        record.Point(step=20, seconds=seconds, tokens=320, name="val_loss", value=value),
        record.End(status=status, step=20, seconds={"total": seconds}, bytes={"state": 8.0}, reached=reached, reason="why"),
    )
    writer.close()
