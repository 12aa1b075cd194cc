"""What a person sees while trials run, read from their records: one writer per file, and any number of readers.

On a terminal one line per running trial is kept up to date; elsewhere plain lines come every few seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import activity, record, status
from runner.trial import Trial

if TYPE_CHECKING:
    from rich.table import Table

PLAIN_EVERY = 10.0
"""Seconds between plain lines where there is no terminal."""


@dataclass
class Watch:
    """What the record of one running trial has told so far."""

    trial: str
    name: str
    study: Path
    steps: int = 0
    """The step budget."""
    limit: float = float("inf")
    """The budget in on-clock seconds."""
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    loss: float = float("nan")
    memory: float = float("nan")
    """Resident bytes of its process."""
    first: tuple[int, float, int] | None = None
    """Step, seconds and tokens at the attempt's first point: rates leave out what came before."""
    doing: str = ""
    """What it evaluates just now, if that takes long."""
    attempt: int = -1
    """The newest attempt, of which `offset` bytes were read."""
    offset: int = 0
    warning: str = ""
    """What a person must know of this attempt and has not been told yet."""

    def look(self, pid: int) -> None:
        """Reads the lines that were added since the last look."""
        self.memory = resident_bytes(pid)
        self.doing = activity.read(self.study, self.trial)
        while record.path_of(self.study, self.trial, self.attempt + 1).exists():
            self.attempt, self.offset, self.first = self.attempt + 1, 0, None
        if self.attempt < 0:
            return
        with record.path_of(self.study, self.trial, self.attempt).open("rb") as file:
            file.seek(self.offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.offset += len(whole) + len(newline)
        for line in whole.splitlines():
            self._take(json.loads(line))

    def _take(self, line: dict[str, Any]) -> None:
        if line["kind"] == "start":
            self.steps, self.limit = int(line["budget"].get("steps", 0)), float(line["budget"].get("seconds", "inf"))
            if line["settings"].get("checkpoint") == "unreadable":
                self.warning = "its checkpoint cannot be read; it starts again from step 0"
        elif line["kind"] == "point":
            self.step, self.seconds, self.tokens = line["step"], line["seconds"], line["tokens"]
            self.first = self.first or (self.step, self.seconds, self.tokens)
            if line["name"] == "train_loss":
                self.loss = float(line["value"])

    @property
    def rates(self) -> tuple[float, float]:
        """Steps and tokens per on-clock second of this attempt; NaN before its second point."""
        if self.first is None or self.seconds <= self.first[1]:
            return float("nan"), float("nan")
        passed = self.seconds - self.first[1]
        return (self.step - self.first[0]) / passed, (self.tokens - self.first[2]) / passed

    @property
    def remaining(self) -> float:
        """On-clock seconds to the end of the budget, if the target is not reached before; NaN if not known yet."""
        rate = self.rates[0]
        return max(0.0, min((self.steps - self.step) / rate, self.limit - self.seconds)) if rate > 0 else float("nan")

    def cells(self) -> list[str]:
        """Trial, step, loss, tokens per second, on-clock time, time to go or what is evaluated, memory."""
        loss = "-" if self.loss != self.loss else f"{self.loss:.3f}"
        rate = self.rates[1]
        speed = "-" if rate != rate else f"{rate:,.0f}"
        return [
            *(self.name, f"{self.step}/{self.steps or '?'}", loss, speed, duration(self.seconds)),
            *(self.doing or duration(self.remaining), status.megabytes(self.memory)),
        ]


class Display:
    """The lines on the screen while `run_all` runs; a context manager."""

    heads = ("trial", "step", "loss", "tokens/s", "on-clock", "left", "memory")

    def __init__(self, trials: Iterable[Trial], results: Path, *, waiting: int, workers: int, quiet: bool) -> None:
        trials = list(trials)
        self.names = names(trials)
        self.trials = {trial.id: trial for trial in trials}
        self.results, self.workers, self.quiet = results, workers, quiet
        self.total, self.left = len(trials), waiting
        self.wall_of: list[float] = []
        self.started: dict[str, float] = {}
        self.watches: dict[str, Watch] = {}
        self.live: Any = None
        self.printed = time.monotonic()

    def __enter__(self) -> Display:
        if not self.quiet and self.left < self.total:
            self._say(f"{self.total - self.left} of {self.total} trials are finished already")
        if not self.quiet and self.left and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
            self.live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.__exit__(None, None, None)

    def ended(self, trial: Trial, ended: str, reason: str | None) -> None:
        """Says how a trial ended."""
        self.left -= 1
        watch = self.watches.pop(trial.id, None)
        if trial.id in self.started:
            self.wall_of.append(time.monotonic() - self.started.pop(trial.id))
        if self.quiet:
            return
        at = f", ended near step {watch.step} after {duration(watch.seconds)} on the clock" if watch and watch.step else ""
        why = f": {reason}" if reason and ended not in ("reached", "missed") else ""
        self._say(f"[{self.total - self.left}/{self.total}] {self.names[trial.id]}: {ended}{at}{why}")

    def show(self, running: dict[str, int]) -> None:
        """Brings the lines up to date; `running` has the process id of each running trial."""
        if self.quiet:
            return
        for key, pid in running.items():
            watch = self._watch(key)
            with contextlib.suppress(ValueError, KeyError, OSError):  # a line that is not ours; whoever loads the record says so
                watch.look(pid)
            if watch.warning:
                self._say(f"warning: {watch.name}: {watch.warning}")
                watch.warning = ""
        shown = [self.watches[key] for key in running]
        if self.live is not None:
            self.live.update(self._table(shown))
        elif time.monotonic() - self.printed >= PLAIN_EVERY:
            self.printed = time.monotonic()
            for watch in shown:
                self._say(
                    "  ".join(f"{head} {cell}" if head != "trial" else cell for head, cell in zip(self.heads, watch.cells(), strict=True))
                )

    def _watch(self, key: str) -> Watch:
        if key not in self.watches:
            trial = self.trials[key]
            self.started[key] = time.monotonic()
            self.watches[key] = Watch(trial.id, self.names[key], self.results / trial.study)
        return self.watches[key]

    def _table(self, shown: list[Watch]) -> Table:
        from rich.table import Table

        table = Table(*self.heads, box=None, caption=self._total(shown), caption_justify="left")
        for watch in shown:
            table.add_row(*watch.cells())
        return table

    def _total(self, shown: list[Watch]) -> str:
        queued = self.left - len(shown)
        whole = [watch.seconds + watch.remaining for watch in shown if watch.remaining == watch.remaining]
        each = sum(self.wall_of) / len(self.wall_of) if self.wall_of else sum(whole) / len(whole) if whole else float("nan")
        going = sum(watch.remaining for watch in shown)
        return f"{self.total - self.left} of {self.total} done, about {duration((going + queued * each) / self.workers)} left"

    def note(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self._say(text)

    def _say(self, text: str) -> None:
        if self.live is not None:
            self.live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def crowding(workers: int, threads: int, cores: int) -> str | None:
    """A warning if more wants to run than the machine has cores: threads that wait for each other cost up to ten times the time."""
    load = os.getloadavg()[0]
    if workers * threads > cores:
        return f"warning: {workers} workers with {threads} threads each on {cores} cores slow each other down; --workers {cores} is safe"
    if load > cores:
        return f"warning: load {load:.1f} on {cores} cores before the start: times will be too long; seconds_cpu shows by how much"
    return None


def names(trials: Iterable[Trial]) -> dict[str, str]:
    """A short name for each trial: its submission, what sets it apart from that submission's other trials, and its seed."""
    trials = list(trials)
    seen: dict[str, dict[str, set[str]]] = {}
    for trial in trials:
        own = seen.setdefault(trial.submission, {})
        for name, value in trial.hyperparameters.items():
            own.setdefault(name, set()).add(repr(value))
    several = len({trial.workload_name for trial in trials}) > 1
    named = {}
    for trial in trials:
        apart = [f"{n}={v}" for n, v in trial.hyperparameters.items() if len(seen[trial.submission][n]) > 1]
        where = [trial.workload_name] if several else []
        named[trial.id] = " ".join([trial.submission_name, *where, *apart, f"seed {trial.seed}"])
    return named


def duration(seconds: float) -> str:
    """Seconds for people: `8.2 s`, `3:05`, `2:03:05`; a dash if unknown."""
    if seconds != seconds or seconds == float("inf"):
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def resident_bytes(pid: int) -> float:
    """Memory that a process has in RAM; NaN where the system does not tell."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return 1024.0 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")))
    return float("nan")
