"""Record files as the runner would leave them, with loss curves of a known shape: material for tests of the analysis."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runner.record import End, Point, Start, Writer, path_of

SPEED = {"adam": 1.0, "adam_two_lr": 1.15, "galore": 0.8, "fira": 1.3, "my_optimizer": 0.9}
"""Of the loss's decay, relative to adam."""
STEP_SECONDS = {"adam": 0.050, "adam_two_lr": 0.051, "galore": 0.062, "fira": 0.066, "my_optimizer": 0.049}
STATE = {"adam": 8_600_000.0, "adam_two_lr": 8_600_000.0, "galore": 3_900_000.0, "fira": 3_900_100.0, "my_optimizer": 4_300_000.0}
TARGET = {"name": "val_loss", "value": 1.9, "mode": "min", "provisional": False, "source": "median of five runs of adam"}


def write(
    results: Path,
    submission: str,
    seed: int,
    *,
    study: str = "quickstart",
    workload: str = "llama_nano",
    steps: int = 600,
    every: int = 50,
    hyperparameters: Mapping[str, Any] | None = None,
    speed: float | None = None,
    status: str | None = None,
    end: bool = True,
    target: Mapping[str, Any] | None = TARGET,
    **changes: Any,
) -> str:
    """One trial with one attempt; its loss falls as 1.5 + 4 exp(-speed step / 150), with a little noise by seed.

    Args:
        status: how it ended; by default `reached` or `missed`, whichever the curve says.
        changes: of other fields of the `Start`.

    Returns:
        The trial's id.
    """
    values = dict(hyperparameters or {"lr": 5e-3})
    identity = [study, workload, submission, seed, values, changes.get("tuning_study", 0), changes.get("tuning_trial", 0)]
    trial = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    pace = SPEED.get(submission, 1.0) if speed is None else speed
    second = STEP_SECONDS.get(submission, 0.05)
    points, reached = _points(trial, pace, second, steps, every, target, stop=status == "diverged")
    fields: dict[str, Any] = {
        "trial": trial, "attempt": 0, "study": study, "time": "2026-11-20T12:00:00+00:00", "workload": workload,
        "base_workload": None, "submission": submission, "hyperparameters": values, "seed": seed, "ruleset": "external",
        "tuning_study": seed, "tuning_trial": 0, "target": None if target is None else dict(target),
        "budget": {"steps": steps, "seconds": 120.0},
        "stop": "budget", "parameters": 1_074_000, "tokens_per_step": 2048,
        "data": {"name": "stdlib", "sha256": "c0ffee" * 10, "tokenizer": "bytes", "layout": "packed"},
        "source": {"file": f"submissions/{submission}.py", "sha256": submission.encode().hex().ljust(64, "0"), "text": "# text"},
        "settings": {"device": "cpu", "threads": 1, "weights": "fp32", "compile": False},
        "fingerprint": {"id": "5f1d0c2ab9e4", "cpu": "Some CPU", "cores": 2, "torch": "2.13.0", "python": "3.11.7"},
    }  # fmt: skip
    writer = Writer(path_of(results / study, trial, 0))
    writer.write(Start(**{**fields, **changes}), *points)
    if end:
        writer.write(_end(submission, points[-1], reached, status))
    writer.close()
    return trial


def quickstart(results: Path, *, seeds: Iterable[int] = (0, 1, 2), submissions: Iterable[str] = tuple(SPEED), **changes: Any) -> Path:
    """The study of the quickstart: five submissions, three seeds."""
    for submission in submissions:
        for seed in seeds:
            write(results, submission, seed, **changes)
    return results


def _points(
    trial: str, pace: float, second: float, steps: int, every: int, target: Mapping[str, Any] | None, *, stop: bool
) -> tuple[list[Point], dict[str, float] | None]:
    rng = np.random.default_rng(int(trial, 16))
    pace, second = pace * rng.uniform(0.97, 1.03), second * rng.uniform(0.98, 1.02)
    points, reached = [], None
    for step in range(every, steps + 1, every):
        loss = 1.5 + 4 * math.exp(-pace * step / 150) + 0.01 * rng.standard_normal()
        place = {"step": step, "seconds": step * second, "tokens": step * 2048}
        names = {"val_loss": loss, "val_ppl": math.exp(loss), "legacy_ppl": math.exp(loss * 127 / 128), "lr": 5e-3}
        values = {"train_loss": loss + 0.05 * rng.standard_normal(), **names}
        points += [Point(**place, name=name, value=value) for name, value in values.items()]
        if target and reached is None and loss <= target["value"]:
            reached = {"step": step, "seconds": step * second, "value": loss}
        if stop and step >= steps // 3:
            points.append(Point(**place, name="train_loss", value=math.nan))
            return points, None
    return points, reached


def _end(submission: str, last: Point, reached: dict[str, float] | None, status: str | None) -> End:
    ended = status or ("reached" if reached else "missed")
    reasons = {"missed": "the step budget was used up", "diverged": "training loss became NaN", "failed": "ValueError: wrong shape"}
    parts = {"data": 0.02, "forward_backward": 0.75, "update": 0.2, "refresh": 0.01, "compile": 0.0, "other": 0.02}
    state = STATE.get(submission, 8_600_000.0)
    return End(
        status=ended,  # type: ignore[arg-type]  # a status that the record does not know is what some tests write
        step=last.step,
        seconds={"total": last.seconds, **{part: share * last.seconds for part, share in parts.items()}, "off.evaluation": 2.0},
        bytes={"weights": 4.296e6, "gradients": 4.296e6, "state": state, "activations": 1.9e7, "peak": 2.76e7 + state},
        reached=reached if ended == "reached" else None,
        reason=reasons.get(ended),
    )
