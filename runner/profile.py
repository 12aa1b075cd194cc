"""The resource profile of a cluster: a YAML file that says what a job asks of Slurm, with changes per workload.

partition: gpu
time: 4h
gpus: 1
setup: [module load cuda]
workloads:
  llama_1b: {time: 24h, mem: 80G}
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner import documents, fields

EARLY = 60
"""Seconds by which Slurm may send its warning signal before it is due (it looks at time limits about once a minute)."""
STARTUP = 10
"""Seconds that a job needs before it can take a signal: one that arrives earlier kills it."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_OWN = {
    "array": "array_parallelism",
    "time": "time",
    "signal": "signal_delay",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "gres": "gres",
    "mem": "mem",
    "nodes": "nodes",
    "cpus-per-task": "cpus",
    "gpus-per-node": "gpus",
}
"""Options of sbatch that have a key of their own in a profile."""
_OURS = frozenset({"output", "error", "open-mode", "requeue", "no-requeue", "job-name", "ntasks-per-node", "ntasks", "kill-on-invalid-dep"})
"""Options of sbatch that decide how trials resume and are found again."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the jobs of a workload ask of Slurm."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Node features, as sbatch takes them."""
    nodes: int = 1
    """Nodes of a job, over which a trial with several devices is spread evenly."""
    gpus: int = 0
    """GPUs per node; with 0 trials run on the CPU."""
    gres: str | None = None
    """Generic resources per node, for clusters on which `gpus` is not enough (`gpu:a100:1`)."""
    gpu_memory: str | None = None
    """Memory of one card (`80G`); `--dry-run` holds the predicted need against it."""
    cpus: int = 1
    """CPU cores per job; also the number of threads of a trial."""
    mem: str | None = None
    """Host memory per node, such as `32G`; null takes the partition's default."""
    time: str = "1h"
    """Time limit of a job (`90m`, `4h`, `1d12h`, `"1-12:00:00"`). Longer trials go on in the next job by themselves."""
    signal_delay: str | None = None
    """How long before the time limit a trial is told to write its checkpoint; null takes a quarter of `time`, at most 2m."""
    array_parallelism: int = 64
    """Most jobs of an array that run at once."""
    pack: str = "0s"
    """Trials share a job until their time budgets add up to this much; short trials then wait in the queue only once."""
    python: str | None = None
    """Command that runs Python in the job, such as `apptainer exec --nv image.sif python`; null takes the one that submits."""
    setup: tuple[str, ...] = ()
    """Shell lines before the trials start: modules, environments, paths."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch by its long name: `{reservation: lab, exclusive: true}`."""

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus", "array_parallelism"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _require(self.gpus >= 0, "gpus", self.gpus, "0 or more")
        for name in ("mem", "gpu_memory"):
            if (text := getattr(self, name)) is not None:
                memory(name, text)
        _check_times(self)
        for option in self.sbatch:
            _check_option(option)

    @property
    def limit_seconds(self) -> int:
        return seconds("time", self.time)

    @property
    def pack_seconds(self) -> int:
        return seconds("pack", self.pack)

    @property
    def signal_seconds(self) -> int:
        """Seconds before the limit at which the warning is due; it may come `EARLY` seconds sooner."""
        if self.signal_delay is not None:
            return seconds("signal_delay", self.signal_delay)
        return max(1, min(120, self.limit_seconds // 4, self.limit_seconds - EARLY - STARTUP))

    @property
    def device(self) -> str:
        return "cuda" if self.gpus or (self.gres or "").startswith("gpu") else "cpu"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Resources for all workloads and the changes for some."""

    default: Resources = field(default_factory=Resources)
    workloads: dict[str, Resources] = field(default_factory=dict)

    def for_workload(self, name: str) -> Resources:
        return self.workloads.get(name, self.default)


def read(path: Path, workloads: Iterable[str]) -> Profile:
    """The profile in a YAML file; `workloads` are the names that may have changes of their own.

    Raises:
        ValueError: an unknown key or workload (with the nearest one), a wrong type or a value out of range.
    """
    document = documents.read(path)
    try:
        return parse(document if document is not None else {}, workloads)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse(document: Any, workloads: Iterable[str]) -> Profile:
    """The profile in a YAML document."""
    if not isinstance(document, dict):
        raise ValueError(f"expected a mapping such as `partition: gpu`, got {str(document)[:60]!r}")
    base = {key: value for key, value in document.items() if key != "workloads"}
    _check_keys(base, extra=("workloads",))
    default = _resources(Resources(), base)
    changes, known = document.get("workloads") or {}, sorted(workloads)
    if not isinstance(changes, dict):
        raise ValueError(f"workloads = {changes!r}: expected a mapping from workload to its changes")
    own = {}
    for name, change in changes.items():
        if name not in known:
            raise ValueError(f"workloads: unknown workload {name!r}{fields.nearest(str(name), known)}")
        if not isinstance(change, dict):
            raise ValueError(f"workloads.{name} = {change!r}: expected a mapping such as {{time: 4h}}")
        try:
            _check_keys(change)
            own[name] = _resources(default, change)
        except ValueError as error:
            raise ValueError(f"workloads.{name}: {error}") from None
    return Profile(default=default, workloads=own)


def seconds(name: str, text: str) -> int:
    """A duration in seconds: `90m`, `1d12h`, or Slurm's `HH:MM:SS` and `D-HH:MM:SS`.

    Raises:
        ValueError: it is none.
    """
    if re.fullmatch(r"(\d+[smhd])+", text):
        return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", text))
    if clock := re.fullmatch(r"(?:(\d+)-)?(\d{1,2}):(\d\d):(\d\d)", text):
        days, hours, minutes, rest = (int(part or 0) for part in clock.groups())
        return days * 86400 + hours * 3600 + minutes * 60 + rest
    raise ValueError(f'{name} = {text!r}: expected a duration with its unit, such as 90m, 4h, 1d12h or "1-12:00:00"')


def memory(name: str, text: str) -> int:
    """Bytes of `32G`, `500M`, `64000` (MiB, as in Slurm).

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+)([KMGT]?)(?:i?B)?", text, flags=re.IGNORECASE)
    if not found or not int(found[1]):
        raise ValueError(f"{name} = {text!r}: expected an amount of memory such as 500M or 32G")
    return int(found[1]) * _BYTES[found[2].upper()]


def minutes(limit_seconds: float) -> int:
    """Slurm counts time limits in whole minutes."""
    return math.ceil(limit_seconds / 60)


def _require(fine: bool, name: str, given: object, expected: str) -> None:
    if not fine:
        raise ValueError(f"{name} = {given!r}: expected {expected}")


def _check_times(resources: Resources) -> None:
    limit, delay = resources.limit_seconds, resources.signal_seconds
    seconds("pack", resources.pack)
    _require(
        limit >= 2 * 60,
        "time",
        resources.time,
        "2m or more: Slurm warns up to a minute before the time asked for, and the job must have begun",
    )
    _require(
        delay + EARLY + STARTUP <= limit,
        "signal_delay",
        resources.signal_delay,
        f"at most {limit - EARLY - STARTUP}s with time = {resources.time}: Slurm may send the signal {EARLY} s early, and one that comes "
        "before the job has begun kills it; raise `time` or lower `signal_delay`",
    )


def _check_option(option: str) -> None:
    name = option.replace("_", "-").lstrip("-")
    if name in _OWN:
        raise ValueError(f"sbatch.{option}: expected an option without a key of its own; write `{_OWN[name]}: ...` beside `sbatch`")
    if name in _OURS:
        raise ValueError(f"sbatch.{option}: SlimPerf sets this option itself, because trials are resumed and found by it; leave it out")


def _check_keys(given: Mapping[str, Any], extra: Iterable[str] = ()) -> None:
    known = {*fields.types_of(Resources), *extra}
    for key in given:
        if key not in known:
            raise ValueError(f"unknown key {key!r} in a profile{fields.nearest(str(key), known)}")


def _resources(base: Resources, changes: Mapping[str, Any]) -> Resources:
    types = fields.types_of(Resources)
    for key in {"time", "pack", "signal_delay"} & changes.keys():
        if isinstance(changes[key], int | float):
            raise ValueError(f"{key} = {changes[key]!r}: expected a duration with its unit, such as 4h; in quotes if it is 4:00:00")
    given = {key: str(value) if key in ("mem", "gpu_memory") and isinstance(value, int) else value for key, value in changes.items()}
    return dataclasses.replace(base, **{key: fields.coerce(types[key], value, key) for key, value in given.items()})
