"""How a trial stands after a call, also when its process died without a word."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from runner import record, status
from runner.trial import Trial

UNWRITABLE = 4
"""Exit status of a worker that cannot write its record."""
ENDED_EARLY = f"got signal: {signal.SIGTERM:d}"
"""Last words of a torchrun that was asked to end before it had workers."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one trial stands after the call."""

    trial: Trial
    status: str
    """A record's status, or `killed` (resumes on the next call), `refused` (its record cannot be written), `elsewhere` (another process
    runs it)."""
    reason: str | None = None
    ran: bool = True
    """False if it had been finished before."""

    @property
    def fine(self) -> bool:
        """Reached or missed: it was measured to its end."""
        return self.status in ("reached", "missed")


def finished(study: Path, trial: Trial) -> Outcome | None:
    """The outcome of a trial that ended in an earlier call, else None: it is to be started or resumed."""
    row = status.row(study, trial.id)
    if row is None or row.status not in record.FINISHED:
        return None
    return Outcome(trial=trial, status=row.status, reason=row.reason, ran=False)


def judge(trial: Trial, study: Path, code: int, log: Path, *, out_of_memory: bool, stopped: bool) -> Outcome:
    """The outcome of a trial whose worker has ended, however it did.

    Args:
        stopped: it had been asked to end, so that an end without a word is none of its own.
    """
    row = status.row(study, trial.id)
    if row is not None and row.status not in ("running", "killed"):
        return Outcome(trial=trial, status=row.status, reason=row.reason)
    words = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = words[-1] if words else "it said nothing"
    if code == UNWRITABLE:
        return Outcome(trial=trial, status="refused", reason=f"its record cannot be written: {last}; free space, or name another --results")
    if code == -signal.SIGTERM or (not out_of_memory and (stopped or ENDED_EARLY in last)):
        return Outcome(trial=trial, status="preempted", reason="stopped before it had anything new to keep")
    if code == -signal.SIGKILL and not out_of_memory:
        return Outcome(trial=trial, status="killed", reason="its process was killed; it resumes from its last checkpoint on the next call")
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    reason = f"its process ended by {how}: {last} (log: {log})"
    if out_of_memory:
        reason = "the system killed its process because memory ran out"
    ended: record.Status = "out_of_memory" if out_of_memory else "failed"
    if row is not None and row.study:
        close(study, trial, row.attempt, ended, reason)
    return Outcome(trial=trial, status=ended, reason=reason)


def close(study: Path, trial: Trial, attempt: int, ended: record.Status, reason: str) -> None:
    """Writes an attempt that only says how the last one ended: each record has one writer, and that one is dead."""
    start = next(record.lines(record.path_of(study, trial.id, attempt)))
    assert isinstance(start, record.Start)
    writer = record.Writer(record.path_of(study, trial.id, attempt + 1))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    points = [line for line in record.lines(record.path_of(study, trial.id, attempt)) if isinstance(line, record.Point)]
    step = points[-1].step if points else start.resumed_step or 0
    seconds = {"total": points[-1].seconds} if points else {}
    writer.write(
        replace(start, attempt=attempt + 1, time=now, resumed_step=step),
        record.End(status=ended, step=step, seconds=seconds, bytes={}, reason=reason),
    )
    writer.close()


def oom_kills() -> int:
    """Processes that this machine's kernel has killed for want of memory, as far as it tells."""
    try:
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text(encoding="utf-8").splitlines())
    except OSError:
        return 0
    return int(counters.get("oom_kill", 0))
