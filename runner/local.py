"""The local executor: one worker process per trial, a few at a time, each with its share of the cores.

A process of its own per trial makes memory exact, and a crash the trial's own. Workers are in a session of their own, so
Ctrl-C reaches this process alone, which then asks them to stop: they write a checkpoint and end as `preempted`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from runner import locks, outcomes, progress, status
from runner.nursery import Nursery, Request
from runner.outcomes import Outcome
from runner.trial import Trial
from runner.worker import TRIAL

POLL = 0.5
"""Seconds between two looks at the records of running trials."""
LOGS = ".logs"
WORKER = ("runner.worker", "runner.train")
"""What a worker runs, and what is loaded for it once."""
KEEP = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
"""Makes glibc keep what a step frees for the next one, which would page it in anew; 2^25 is the most that it takes for the second."""
CALL = "call-"
"""Locks of whole calls, beside those of trials."""


@dataclass
class Pool:
    """The running workers of one call, shared by the threads that wait for them."""

    results: Path
    threads: int
    device: str
    fresh: bool = False
    nodes: int = 1
    """Nodes of the Slurm job that this runs in, over which a trial with several devices is spread."""
    slots: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)
    nurseries: dict[int, Nursery] = field(default_factory=dict)
    """The process that forks the workers of each slot."""
    running: dict[str, int] = field(default_factory=dict)
    """Process id of the worker of each trial, by the trial's id."""
    stopping: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Asks every worker to write a checkpoint and end."""
        self.stopping.set()
        for pid in list(self.running.values()):
            _terminate(pid)

    def close(self) -> None:
        """Ends the processes that fork workers."""
        for nursery in self.nurseries.values():
            nursery.close()


def run_all(
    trials: Iterable[Trial],
    results: Path,
    *,
    workers: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    quiet: bool = False,
    fresh: bool = False,
) -> list[Outcome]:
    """Runs what is not finished yet, resumes what was interrupted, and returns an outcome per trial, in their order.

    `fresh` starts every trial anew, finished or not, as a further attempt.

    Raises:
        ValueError: the results folder cannot be written, or belongs to another version.
        KeyboardInterrupt: after all workers have stopped and kept what they measured.
    """
    trials = list(trials)
    folders = sorted({results / trial.study for trial in trials})
    for folder in folders:
        prepare(folder)
    pool = Pool(results, threads or max(1, cores() // workers), device, fresh)
    for slot in range(workers):
        pool.slots.put(slot)
    done = {trial.id: None if fresh else outcomes.finished(results / trial.study, trial) for trial in trials}
    waiting = [trial for trial in trials if done[trial.id] is None]
    display = progress.Display(trials, results, waiting=len(waiting), workers=workers, quiet=quiet)
    with contextlib.closing(pool), _owned(folders), _gentle_stop(pool), ThreadPoolExecutor(workers) as executor, display:
        if waiting and (warning := progress.crowding(min(workers, len(waiting)), pool.threads, cores())):
            display.note(warning)
        futures = {executor.submit(run, trial, pool): trial for trial in waiting}
        _watch(set(futures), pool, display)
    done.update((futures[future].id, future.result()) for future in futures)
    for folder in folders:
        _tidy(folder)
    if pool.stopping.is_set():
        raise KeyboardInterrupt
    return [outcome for trial in trials if (outcome := done[trial.id]) is not None]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(study: Path) -> None:
    """Makes a study's folder and tries it.

    Raises:
        ValueError: it cannot be written, or its records are of another version.
    """
    try:
        study.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=study, prefix=".write-") as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
    except OSError as error:
        raise ValueError(f"{study}: cannot be written ({error.strerror}); free space or permissions, or name another --results") from None
    first = next(study.glob("*.jsonl"), None)
    if first is not None:
        status.ends(first)


def environment(threads: int) -> dict[str, str]:
    """What a worker's process needs: its thread budget, memory that stays, and our packages before anything of the same name."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    home = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**KEEP, **os.environ, **dict.fromkeys(limits, str(threads)), "PYTHONSAFEPATH": "1", "PYTHONPATH": path}


def run(trial: Trial, pool: Pool) -> Outcome:
    """Runs one trial in a worker process unless it is finished or another process owns it; waits for its end."""
    study = pool.results / trial.study
    if pool.stopping.is_set():
        return Outcome(trial=trial, status="preempted", reason="not started: the call was stopped")
    if (other := locks.acquire(study, trial.id)) is not None:
        reason = f"{other} runs it; if that process is gone, remove {study / locks.FOLDER / trial.id}.lock"
        return Outcome(trial=trial, status="elsewhere", reason=reason)
    slot = pool.slots.get()
    try:
        if not pool.fresh and (done := outcomes.finished(study, trial)) is not None:  # another sweep was faster
            return done
        return _execute(trial, pool, slot)
    finally:
        pool.slots.put(slot)
        locks.release(study, trial.id)


def _execute(trial: Trial, pool: Pool, slot: int) -> Outcome:
    study = pool.results / trial.study
    log = study / LOGS / f"{trial.id}.log"
    log.parent.mkdir(exist_ok=True)
    log.touch()
    kills_before = outcomes.oom_kills()
    nursery = pool.nurseries.setdefault(slot, Nursery(WORKER, environment(pool.threads)))
    pid = nursery.start(_request(trial, pool, slot, log))
    code = -signal.SIGKILL
    if pid:
        pool.running[trial.id] = pid
        if pool.stopping.is_set():  # between the last look and this line
            _terminate(pid)
        try:
            locks.hand_over(study, trial.id, pid)
        finally:
            code = nursery.wait()
            del pool.running[trial.id]
    killed_for_memory = outcomes.oom_kills() > kills_before
    outcome = outcomes.judge(trial, study, code, log, out_of_memory=killed_for_memory, stopped=pool.stopping.is_set())
    if outcome.fine or outcome.status in ("diverged", "preempted"):
        log.unlink(missing_ok=True)
    return outcome


def _request(trial: Trial, pool: Pool, slot: int, log: Path) -> Request:
    arguments = [str(pool.results), "--device", _device(pool.device, slot), "--threads", str(pool.threads), "--nodes", str(pool.nodes)]
    return Request(
        arguments=[*arguments, *(["--fresh"] if pool.fresh else [])],
        environment={TRIAL: trial.to_json()},
        log=str(log.absolute()),
    )


def _terminate(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGTERM)


def _watch(pending: set[Future[Outcome]], pool: Pool, display: progress.Display) -> None:
    while pending:
        ready, pending = wait(pending, timeout=POLL, return_when=FIRST_COMPLETED)
        for future in ready:
            outcome = future.result()
            display.ended(outcome.trial, outcome.status, outcome.reason)
        display.show(dict(pool.running))


@contextlib.contextmanager
def _owned(folders: list[Path]) -> Iterator[None]:
    """Signs this call in, so that `slimperf cancel` finds it."""
    name = f"{CALL}{os.getpid()}"
    for folder in folders:
        locks.acquire(folder, name)
    try:
        yield
    finally:
        for folder in folders:
            locks.release(folder, name)


@contextlib.contextmanager
def _gentle_stop(pool: Pool) -> Iterator[None]:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a request to the workers; a second one changes nothing."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    before = [(number, signal.signal(number, lambda *_: pool.stop())) for number in numbers]
    try:
        yield
    except BaseException:
        pool.stop()
        raise
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _device(device: str, slot: int) -> str:
    """`cuda` spreads the workers over the GPUs."""
    if device != "cuda":
        return device
    import torch

    return f"cuda:{slot % max(1, torch.cuda.device_count())}"


def _tidy(study: Path) -> None:
    """Leaves records alone in the folder, and logs of what went wrong."""
    logs = study / LOGS
    if logs.is_dir() and not any(logs.iterdir()):
        shutil.rmtree(logs, ignore_errors=True)
    locks.sweep(study)
