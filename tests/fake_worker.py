"""Stands in for `runner.worker`: writes the record that a trial's seed asks for, without training.

Seed 0 reaches its target; 1 waits to be stopped; 2 is killed by -9; 3 crashes after some steps; 4 cannot write; 5 crashes at once.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

from runner import record
from runner.trial import Trial
from tests import fake_records


def main(arguments: list[str]) -> int:
    results, trial = Path(arguments[0]), Trial.from_json(os.environ["SLIMPERF_TRIAL"])
    study = results / trial.study
    if trial.seed == 4:
        print("records: No space left on device", file=sys.stderr)
        return 4
    if trial.seed == 5:
        print("it fell over", file=sys.stderr)
        return 1
    earlier = record.attempts(study, trial.id)
    number = len(earlier)
    settings = {"threads": int(os.environ["OMP_NUM_THREADS"]), "safe_path": os.environ["PYTHONSAFEPATH"]}
    start = dataclasses.replace(fake_records.start(trial, number), settings=settings, resumed_step=10 if earlier else None)
    writer = record.Writer(record.path_of(study, trial.id, number))
    writer.write(start, record.Point(step=10, seconds=1.0, tokens=160, name="train_loss", value=3.0))
    if trial.seed == 2 and not earlier:
        os.kill(os.getpid(), signal.SIGKILL)
    if trial.seed == 3:
        print("Segmentation fault in a library", file=sys.stderr)
        return 139
    if trial.seed == 1 and not earlier:
        signal.sigwait({signal.SIGTERM})
        writer.write(record.End(status="preempted", step=10, seconds={"total": 1.0}, bytes={}, reason="stopped from outside"))
    else:
        reached = {"step": 20.0, "seconds": 2.0, "value": 1.9}
        writer.write(record.End(status="reached", step=20, seconds={"total": 2.0}, bytes={"state": 8.0, "peak": 64.0}, reached=reached))
    writer.close()
    return 0
