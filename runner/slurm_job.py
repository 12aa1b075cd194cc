"""What runs inside a Slurm job: a pack of trials, one after the other, each in a worker process of its own.

Slurm's warning (time limit, preemption) makes the worker write a checkpoint; then the job queues itself again through
submitit and goes on where it was. SIGTERM (scancel, or preemption by a cluster that requeues by itself) makes it stop
without queueing. A job that Slurm starts once more, after a node failure or `scontrol requeue`, finds out from the records what
is left; nothing depends on what an earlier run of the job had time to say.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission

from runner import local, locks, outcomes, slurm_ledger, slurm_queue, status
from runner.outcomes import Outcome
from runner.trial import Trial

ATTEMPTS_WITHOUT_PROGRESS = 3
"""Runs in a row that end a trial as failed if its step stays the same: a checkpoint then never fits into the time."""
HANDOVER = 90.0
"""Seconds to wait for a predecessor on this host to end; Slurm kills it after KillWait, 30 s by default."""
OVER = b"\0"
"""Ends the thread that acts on signals; no signal has this number."""


@dataclass
class Stop:
    """What asked the job to end, if anything did."""

    requeue: bool = False
    asked: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Pack:
    """The callable that submitit sends to the job; plain data, so it unpickles wherever SlimPerf is installed."""

    results: str
    trials: tuple[str, ...]
    """Trials as JSON."""
    device: str
    threads: int
    nodes: int = 1
    retried: tuple[int, ...] = ()
    """Of trials to be run anew: their last attempt before, -1 for none. Later ones are this pack's own and resume."""
    steps: tuple[int, ...] = ()
    """Last step of each trial when the job queued itself again."""
    stalled: int = 0
    """How many times in a row that happened without progress."""

    def __call__(self) -> dict[str, str]:
        """Runs what is not finished; returns the status of each trial."""
        requeue = signal.getsignal(signal.SIGUSR2)
        pool = local.Pool(Path(self.results), self.threads, self.device, nodes=self.nodes)
        pool.slots.put(0)
        trials = [Trial.from_json(text) for text in self.trials]
        before = dict(zip((trial.id for trial in trials), self.retried, strict=False))
        with contextlib.closing(pool), listening(pool.stop) as stop:
            ended = run_in_turn(trials, lambda trial: run_here(trial, pool, before.get(trial.id)), stop.asked.is_set)
        for study in {pool.results / trial.study for trial in trials}:
            with contextlib.suppress(slurm_queue.Silent):  # the next one to end tries again
                slurm_queue.release(slurm_queue.tasks(entry.name for entry in slurm_ledger.entries(study)))
        for outcome in ended:
            print(f"{outcome.trial.id}: {outcome.status}{': ' + outcome.reason if outcome.reason else ''}", flush=True)
        if stop.requeue and any(outcome.status == "preempted" for outcome in ended):
            self._refuse_standstill(trials)
            assert callable(requeue), "submitit installs its handler before it calls us"
            requeue(signal.SIGUSR2, None)  # pickles what checkpoint() returns, calls `scontrol requeue` and exits
        return {outcome.trial.id: outcome.status for outcome in ended}

    def checkpoint(self) -> DelayedSubmission:
        """The same pack, with how far it has come; submitit asks for it when the job queues itself again."""
        steps = self._steps()
        stalled = self.stalled + 1 if steps == self.steps else 0
        return DelayedSubmission(replace(self, steps=steps, stalled=stalled))

    def _steps(self) -> tuple[int, ...]:
        found = []
        for text in self.trials:
            trial = Trial.from_json(text)
            row = status.row(Path(self.results) / trial.study, trial.id)
            found.append(0 if row is None else row.step)
        return tuple(found)

    def _refuse_standstill(self, trials: Sequence[Trial]) -> None:
        if self._steps() != self.steps or self.stalled + 1 < ATTEMPTS_WITHOUT_PROGRESS:
            return
        for trial in trials:
            study = Path(self.results) / trial.study
            row = status.row(study, trial.id)
            if row is not None and row.status == "preempted":
                reason = f"no step in {ATTEMPTS_WITHOUT_PROGRESS} Slurm jobs: raise `time` in the profile, then `slimperf retry`"
                outcomes.close(study, trial, row.attempt, "failed", reason)


def run_in_turn(trials: Sequence[Trial], run: Callable[[Trial], Outcome], stopped: Callable[[], bool]) -> list[Outcome]:
    """An outcome per trial; those after a stop were not begun, and one that fails does not keep the next from running."""
    ended = []
    for trial in trials:
        if stopped():
            ended.append(Outcome(trial=trial, status="preempted", reason="not begun: the job was told to stop"))
            continue
        try:
            ended.append(run(trial))
        except (OSError, ValueError) as error:  # a full quota, a record of another version: this trial's matter alone
            ended.append(Outcome(trial=trial, status="failed", reason=str(error)))
    return ended


def run_here(trial: Trial, pool: local.Pool, retried: int | None = None) -> Outcome:
    """Runs one trial to its end; a worker that was killed is started again from its checkpoint while that gets it further.

    Args:
        retried: attempts up to this one do not count: the trial starts anew after them.
    """
    study = pool.results / trial.study
    before, attempts = -1, 0
    while True:
        if (other := claim(study, trial.id)) is not None:
            return Outcome(trial=trial, status="elsewhere", reason=f"{other} runs it")
        row = status.row(study, trial.id)
        pool.fresh = retried is not None and (row is None or row.attempt <= retried)
        outcome = local.run(trial, pool)
        row = status.row(study, trial.id)
        step = 0 if row is None else row.step
        attempts = 1 if step > before else attempts + 1
        before = max(step, before)
        if outcome.status != "killed" or pool.stopping.is_set() or attempts >= ATTEMPTS_WITHOUT_PROGRESS:
            return outcome


def claim(study: Path, trial: str) -> locks.Owner | None:
    """Makes this process the trial's owner, on behalf of its Slurm job; returns another rightful owner if there is one.

    A predecessor on this host gets time to end. A lock from another host counts for nothing once Slurm says that the job
    which took it is not running there: its node is gone.
    """
    deadline = time.monotonic() + HANDOVER
    while True:
        with slurm_ledger.exclusive(study):
            owner = locks.owner(study, trial)
            if owner is not None and _abandoned(study, trial, owner):
                locks.release(study, trial)
            other = locks.acquire(study, trial)
            if other is None:
                slurm_ledger.note_claim(study, trial, {"host": socket.gethostname(), "job": job_id()})
                return None
        if not other.here or time.monotonic() > deadline:
            return other
        time.sleep(0.2)


def job_id() -> str:
    """This job as scancel names it: `12`, or `12_3` in an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")


@contextlib.contextmanager
def listening(stop_workers: Callable[[], None]) -> Iterator[Stop]:
    """Turns Slurm's signals into a gentle stop of the workers while the block runs; for the main thread.

    Python's own handler would run in the middle of a wait for a worker, so it does nothing and a thread acts on the
    number that the interpreter writes to a pipe, whichever thread of a library the signal reached. This thread blocks the
    signals: a worker that is just starting inherits that, so the signal, which Slurm sends to every process of the step,
    cannot kill it before it listens by itself.
    """
    stop = Stop()
    signals = {signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def act() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        while (number := os.read(reader, 1)) != OVER:
            if number[0] == signal.SIGCONT:
                continue
            stop.requeue = number[0] == signal.SIGUSR2
            stop.asked.set()
            print(f"{signal.Signals(number[0]).name}: stopping after a checkpoint", file=sys.stderr, flush=True)
            stop_workers()

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    handlers = {number: signal.signal(number, lambda *_: None) for number in signals}
    descriptor = signal.set_wakeup_fd(writer)
    thread = threading.Thread(target=act, name="signals", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        os.write(writer, OVER)
        thread.join()
        signal.set_wakeup_fd(descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(reader)
        os.close(writer)


def _abandoned(study: Path, trial: str, owner: locks.Owner) -> bool:
    taken: dict[str, Any] | None = slurm_ledger.claim_of(study, trial)
    if owner.here or taken is None or taken["host"] != owner.host:
        return False
    if taken["job"] == job_id():
        return True  # this very job, on the node where it was before
    try:
        return not slurm_queue.running_elsewhere(taken["job"])
    except slurm_queue.Silent as silent:
        print(json.dumps({"trial": trial, "kept": str(owner), "because": str(silent)}), file=sys.stderr, flush=True)
        return False
