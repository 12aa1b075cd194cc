"""The clock of a trial: every moment between start and stop belongs to exactly one named part.

Parts that start with `off.` (evaluation, checkpoint, records) do not count for the trial. On a GPU the device is synchronised only
where an `off.` part begins and where the clock is read: parts come from device events, the total from the host.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch

OFF = "off."
OTHER = "other"


class Clock:
    """Seconds by part. The same interface serves host and device; `start` it once."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.seconds: dict[str, float] = defaultdict(float)
        """Up to the last `settle`."""
        self._part = f"{OFF}build"
        self._since = time.perf_counter()
        self._cpu_since = time.process_time()
        self._events: list[tuple[str, torch.cuda.Event]] = []

    def start(self, earlier: dict[str, float] | None = None) -> None:
        """From here on it counts, on top of what earlier attempts had."""
        for part, seconds in (earlier or {}).items():
            self.seconds[part] += seconds
        self._switch(OTHER)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time inside goes to `name` and to no enclosing part."""
        outer = self._part
        self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    @property
    def running(self) -> bool:
        """Whether the present moment counts for the trial."""
        return not self._part.startswith(OFF)

    def total(self) -> float:
        """On-clock seconds by the host's clock; on a GPU exact only right after a synchronisation."""
        return self.seconds["total"] + (time.perf_counter() - self._since if self.running else 0.0)

    def settle(self) -> dict[str, float]:
        """All seconds by part, after waiting for the device; `total` is the sum of the on-clock parts."""
        self._switch(self._part, wait=True)
        return dict(self.seconds)

    def _switch(self, to: str, *, wait: bool = False) -> None:
        leaving = self._part
        if self.cuda and not leaving.startswith(OFF):
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            event.record()
            self._events.append((leaving, event))
            if wait or to.startswith(OFF):
                torch.cuda.synchronize()
        if wait or leaving.startswith(OFF) != to.startswith(OFF):
            self._count_cpu(leaving)
        now = time.perf_counter()
        spent = now - self._since
        if leaving.startswith(OFF):
            self.seconds[leaving] += spent
        else:
            self.seconds["total"] += spent
            if not self.cuda:
                self.seconds[leaving] += spent
        if self.cuda and (wait or to.startswith(OFF)):
            self._read_events()
        self._part, self._since = to, now

    def _count_cpu(self, leaving: str) -> None:
        """Processor time of this process while the clock ran: far below `total` times threads, a neighbour was noisy."""
        cpu = time.process_time()
        if not leaving.startswith(OFF):
            self.seconds["cpu"] += cpu - self._cpu_since
        self._cpu_since = cpu

    def _read_events(self) -> None:
        """Device time between neighbouring marks; what the host spent beyond it (launching, waiting) goes to `other`."""
        for (_, begin), (part, end) in zip(self._events, self._events[1:], strict=False):
            self.seconds[part] += begin.elapsed_time(end) / 1000
        self._events.clear()
        known = sum(s for part, s in self.seconds.items() if not part.startswith(OFF) and part not in ("total", "cpu", OTHER))
        self.seconds[OTHER] = max(0.0, self.seconds["total"] - known)
