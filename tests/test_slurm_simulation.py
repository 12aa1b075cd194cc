"""Past one machine: 10,000 trials over 200 GPUs with preemptions, failing nodes and a controller that forgets jobs.

The code that faces Slurm is the executor's own: it writes its ledger, asks `squeue`, decides what to submit and what a job that
starts again still has to do. Only Slurm, the clock and the training are simulated.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner import record, slurm, slurm_job, slurm_ledger, slurm_queue
from runner.outcomes import Outcome
from runner.profile import Profile, Resources
from runner.trial import Trial

README = Path(__file__).parents[1] / "results" / "README.md"
[START] = [record.decode(line) for line in README.read_text().splitlines() if line.startswith('{"kind":"start"')]
TRIALS, GPUS = 10_000, 200
DAY = 86_400.0
STEPS = 600
CHECKPOINT = 60
"""Steps between two checkpoints."""
PREEMPTED, NODE_LOST, FORGOTTEN = 6 * 3600.0, 20 * 3600.0, 60 * 3600.0
"""Mean GPU-seconds to each mishap."""


@dataclass
class Element:
    """An element of a job array."""

    name: str
    job: str
    index: int
    call: slurm_job.Pack
    state: str = "PENDING"


@dataclass
class SimulatedSlurm:
    """Answers the commands that the executor gives, and runs jobs on a simulated clock."""

    study: Path
    steps_per_second: dict[str, float]
    random: random.Random = field(default_factory=lambda: random.Random(7))
    now: float = 0.0
    elements: dict[str, Element] = field(default_factory=dict)
    waiting: list[Element] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    saved: dict[str, int] = field(default_factory=dict)
    """Step of each trial's checkpoint."""
    executed: Counter[str] = field(default_factory=Counter)
    """Steps done of each trial, those done again included."""
    busy: set[str] = field(default_factory=set)
    mishaps: Counter[str] = field(default_factory=Counter)
    ours: float = 0.0
    """CPU seconds of the code under test inside jobs."""

    def ask(self, command: str, *words: str) -> str:
        """What `slurm_queue` would get from Slurm's commands."""
        if command == "scontrol":
            return "MaxArraySize            = 1001\n"
        assert command == "squeue", command
        [names] = [word.removeprefix("--name=").split(",") for word in words if word.startswith("--name=")]
        found = [e for e in self.elements.values() if e.name in names]
        return "".join(f"{e.job.partition('_')[0]}|{e.index}|{e.state}|None|{e.name}\n" for e in found)

    def sbatch(self, executor: Any, calls: Sequence[slurm_job.Pack], study: Path, entry: slurm_ledger.Submission) -> list[str]:
        """Takes an array."""
        number = len(slurm_ledger.entries(study))
        for index, call in enumerate(calls):
            element = Element(entry.name, f"{number}_{index}", index, call)
            self.elements[element.job] = element
            self.waiting.append(element)
        return [f"{number}_{index}" for index in range(len(calls))]

    def until(self, end: float) -> None:
        """Lets time pass."""
        self._fill()
        while self.events and self.events[0][0] <= end:
            self.now, _, event = heapq.heappop(self.events)
            event()
            self._fill()
        self.now = end

    def _fill(self) -> None:
        while self.waiting and len(self.running) < GPUS:
            element = self.waiting.pop(0)
            element.state = "RUNNING"
            self.running.add(element.job)
            self._begin(element)

    def _begin(self, element: Element) -> None:
        """Runs the job up to its end or to what stops it, and applies that when its time has come."""
        kinds = {"preempted": PREEMPTED, "node lost": NODE_LOST, "forgotten": FORGOTTEN}
        fates = {kind: self.now + self.random.expovariate(1 / mean) for kind, mean in kinds.items()}
        kind = min(fates, key=lambda fate: fates[fate])
        clock, effects = [self.now], list[Callable[[], None]]()
        trials = [Trial.from_json(text) for text in element.call.trials]
        stopped = [False]

        def run(trial: Trial) -> Outcome:
            done = record.attempts(self.study, trial.id)
            if done and (end := list(record.lines(done[-1]))[-1]) and isinstance(end, record.End) and end.status == "missed":
                return Outcome(trial=trial, status="missed", ran=False)
            assert trial.id not in self.busy, "one trial runs twice at once"
            self.busy.add(trial.id)
            before, rate = self.saved.get(trial.id, 0), self.steps_per_second[trial.id]
            steps = min(STEPS - before, int((fates[kind] - clock[0]) * rate))
            stopped[0] = steps < STEPS - before
            clock[0] = min(fates[kind], clock[0] + (STEPS - before) / rate)
            effects.append(lambda: self._measure(trial, len(done), before, before + steps, kind if stopped[0] else None))
            return Outcome(trial=trial, status="preempted" if stopped[0] else "missed")

        began = time.process_time()
        ended = slurm_job.run_in_turn(trials, run, lambda: stopped[0])
        self.ours += time.process_time() - began
        over = all(outcome.status == "missed" for outcome in ended)
        heapq.heappush(
            self.events,
            (clock[0], len(self.events) + self.random.getrandbits(40), lambda: self._end(element, None if over else kind, effects)),
        )

    def _measure(self, trial: Trial, attempt: int, before: int, after: int, kind: str | None) -> None:
        self.busy.discard(trial.id)
        self.executed[trial.id] += after - before
        writer = record.Writer(record.path_of(self.study, trial.id, attempt))
        writer.write(dataclasses.replace(START, trial=trial.id, attempt=attempt, resumed_step=before or None))
        if kind in (None, "preempted"):  # else nothing is said: the node is gone
            status: record.Status = "missed" if kind is None else "preempted"
            writer.write(record.End(status=status, step=after, seconds={"total": float(after)}, bytes={}))
        writer._file.close()  # without fsync: twenty thousand of them are the disk's benchmark, not ours
        self.saved[trial.id] = after if kind in (None, "preempted") else max(before, after // CHECKPOINT * CHECKPOINT)

    def _end(self, element: Element, kind: str | None, effects: Sequence[Callable[[], None]]) -> None:
        for effect in effects:
            effect()
        self.running.discard(element.job)
        element.state = "COMPLETED"
        if kind is None:
            return
        self.mishaps[kind] += 1
        if kind == "forgotten":
            element.state = "NODE_FAIL"  # and Slurm does not queue it again
            return
        if kind == "preempted":
            began = time.process_time()
            element.call = _next(element.call)
            self.ours += time.process_time() - began
        element.state = "PENDING"
        self.waiting.append(element)


def _next(call: slurm_job.Pack) -> slurm_job.Pack:
    """What submitit would run when the job starts again."""
    following = call.checkpoint().function
    assert isinstance(following, slurm_job.Pack)
    return following


def trials_of(study: str) -> list[Trial]:
    return [Trial(study=study, workload="llama_nano", submission="adam", hyperparameters={"lr": 1e-3}, seed=seed) for seed in range(TRIALS)]


def test_10000_trials_over_200_gpus_with_mishaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials, study, draw = trials_of("night"), tmp_path / "night", random.Random(1)
    cluster = SimulatedSlurm(study, {trial.id: STEPS / draw.uniform(300, 1500) for trial in trials})
    monkeypatch.setattr(slurm_queue, "_ask", cluster.ask)
    monkeypatch.setattr(slurm, "_executor", lambda folder, resources: type("Executor", (), {"update_parameters": lambda self, **_: None})())
    monkeypatch.setattr(slurm, "_sbatch", cluster.sbatch)
    profile, outside = Profile(default=Resources(gpus=1, array_parallelism=GPUS)), 0.0
    for night in range(20):
        began = time.process_time()
        submitted = slurm.submit(trials, tmp_path, profile)
        outside += time.process_time() - began
        assert len(submitted.jobs) + submitted.finished + submitted.in_slurm == TRIALS
        if submitted.finished == TRIALS:
            break
        cluster.until((night + 1) * DAY / 2)
    final = [end for trial in trials for end in _ends(study, trial) if end.status == "missed"]
    assert len(final) == TRIALS, "every trial has one result, and one only"
    assert min(cluster.mishaps[kind] for kind in ("preempted", "node lost", "forgotten")) > 10
    wasted = sum(cluster.executed.values()) / (TRIALS * STEPS) - 1
    gpu_seconds = sum(cluster.executed[trial.id] / cluster.steps_per_second[trial.id] for trial in trials)
    assert 0 < wasted < 0.01, "only what came after a checkpoint is done again"
    assert slurm.states(study) == {}
    assert (outside + cluster.ours) / gpu_seconds < 1e-3
    with capsys.disabled():
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(cluster.mishaps.items()))
        print(f"\n{TRIALS} trials, {GPUS} GPUs, {told}: none lost, none twice; {wasted:.2%} of steps done again;", end=" ")
        print(f"bookkeeping {outside:.1f} s outside and {cluster.ours:.1f} s inside jobs for {gpu_seconds / 3600:.0f} GPU-hours")


def _ends(study: Path, trial: Trial) -> list[record.End]:
    texts = [path.read_text() for path in record.attempts(study, trial.id)]
    return [record.decode(line) for text in texts for line in re.findall(r'^\{"kind":"end".*$', text, re.MULTILINE)]
