"""The record of an attempt: one append-only JSONL file, `results/<study>/<trial>.<attempt>.jsonl`, with one writer.

Line 1 is a `Start`, then come `Point` lines, and the last line is an `End`. A file without an `End` belongs to an
attempt that is running or was killed. Units stand in the names: seconds, bytes, tokens, nats.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from runner import shapes

SCHEMA = 1

Status = Literal["reached", "missed", "diverged", "out_of_memory", "preempted", "failed"]
FAILED: tuple[Status, ...] = ("diverged", "out_of_memory", "failed")
"""Ends without a result."""
FINISHED: tuple[Status, ...] = ("reached", "missed", *FAILED)
"""Every status but `preempted`: the trial will not be taken up again unless it is retried."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What was asked for, with all defaults resolved, and where it runs."""

    trial: str
    """Content hash of workload, submission, hyperparameters, seed (and of the submission's source if it is a user's file)."""
    attempt: int
    study: str
    time: str
    """UTC, ISO 8601."""
    workload: str
    """Name, with every override: `llama_nano` or `llama_nano[data=wiki,steps=500]`."""
    base_workload: str | None
    """The workload of which this one is a held-out variant."""
    submission: str
    hyperparameters: dict[str, Annotated[Any, shapes.PLAIN]]
    seed: int
    ruleset: Literal["external", "self"]
    tuning_study: int
    """Which of the independent studies of the external ruleset this trial belongs to."""
    tuning_trial: int
    """Which point of its tuning study this trial is."""
    target: dict[str, Any] | None
    """`name`, `value`, `mode` (min or max), `provisional`, `source`."""
    budget: dict[str, float]
    """`steps` and `seconds`."""
    stop: Literal["target", "budget"]
    parameters: int
    tokens_per_step: int
    data: dict[str, Any]
    """`name`, `sha256`, `tokenizer`, `layout`."""
    source: dict[str, Any]
    """`file`, `sha256` and `text` of the submission; `modules`, if it imports any from its own folder: their hashes by path from there."""
    settings: dict[str, Any]
    """How it ran: precision, device, threads, devices, micro-batch, compile."""
    fingerprint: dict[str, Any]
    """Hardware and software; `id` is the hash by which times may be compared."""
    resumed_step: int | None = None
    """The step of the checkpoint from which this attempt goes on; None for a fresh start."""
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured value. `seconds` is on-clock time of the trial, over all its attempts."""

    step: int
    seconds: float
    tokens: int
    name: str
    value: float
    param: str | None = None
    """The parameter (and `[index]`) that a probe belongs to."""


@dataclass(frozen=True, kw_only=True)
class End:
    """How it ended and what it cost."""

    status: Status
    step: int
    seconds: dict[str, float]
    """On-clock `total` and its parts (data, forward_backward, update, refresh, compile, other), and off-clock ones under `off.`."""
    bytes: dict[str, float]
    """weights, gradients, state, activations, peak, ... as far as they were measured."""
    reached: dict[str, float] | None = None
    """`step`, `seconds`, `value` at which the target was first reached."""
    reason: str | None = None
    """One sentence for a person: why it ended so."""
    traceback: str | None = None
    lost_seconds: float = 0.0
    """On-clock work of earlier attempts that was done after their last checkpoint and had to be done again."""
    extra: dict[str, Any] = field(default_factory=dict)


Line = Start | Point | End
KINDS: dict[str, type[Start] | type[Point] | type[End]] = {"start": Start, "point": Point, "end": End}
INNER: dict[str, dict[str, Any]] = {
    "target": {"name": str, "value": float, "mode": Literal["min", "max"]},
    "data": {"sha256": str | None},
    "source": {"file": str, "sha256": str},
    "fingerprint": {"id": str | None},
}
"""Types of values in objects that may hold anything else too: what the analysis computes with or groups by."""
SHAPES = {kind: shapes.of(cls, inner=INNER) for kind, cls in KINDS.items()}


def encode(line: Line) -> str:
    """One JSON line. NaN and infinities become the strings "nan", "inf", "-inf"."""
    kind = type(line).__name__.lower()
    fields = {f.name: getattr(line, f.name) for f in dataclasses.fields(line)}
    if isinstance(line, Point) and line.param is None:
        del fields["param"]
    return json.dumps({"kind": kind, **_finite(fields)}, separators=(",", ":"), allow_nan=False) + "\n"


def decode(text: str) -> Line:
    """The record line in `text`.

    Raises:
        ValueError: not JSON, not a kind of ours, of another schema, or a field is missing, unknown or of another type.
    """
    row = json.loads(text)
    if not isinstance(row, dict) or row.get("kind") not in KINDS:
        raise ValueError(f"expected an object with kind start, point or end, got {text[:80]!r}")
    kind = row.pop("kind")
    if kind == "start" and row.get("schema") != SCHEMA:
        raise ValueError(f"record schema {row.get('schema')!r}; this version of SlimPerf reads schema {SCHEMA}")
    shapes.check(row, SHAPES[kind], name=f"this {kind} line")
    if kind == "point":
        row["value"] = float(row["value"])
    return KINDS[kind](**row)


def lines(path: Path) -> Iterator[Line]:
    """The lines of a record up to its last whole one; a tail cut off by a crash is left out.

    Raises:
        ValueError: a whole line in the file is not a record line; the message names file and line.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith("\n"):
                return
            try:
                yield decode(text)
            except (ValueError, KeyError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from None


class Writer:
    """Appends lines to a new record and flushes each; never overwrites."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: IO[str] = path.open("x", encoding="utf-8")

    def write(self, *lines: Line) -> None:
        self._file.write("".join(map(encode, lines)))
        self._file.flush()

    def close(self) -> None:
        """Closes the file after its bytes are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


PROBE_ROW = "<qHHII"
"""Fixed part of a row in a `.probes` file, for `struct`: step, bytes of name and of parameter, length of the axis, count of values.

Name and parameter (UTF-8) and the values (float32, little-endian) follow. The file begins with a line of JSON: `schema`, `trial`,
`attempt`, `indices` (how many of an axis are kept, null for all; chosen by `sampled` from the parameter's name alone), `observe`
and `matrices`, which are what the values of a row without a parameter belong to. A row cut off at the end does not count.
"""


ASIDE = ".checkpoints"
"""Folder of a study for what running trials keep beside their records."""


def path_of(study: Path, trial: str, attempt: int) -> Path:
    return study / f"{trial}.{attempt}.jsonl"


def probes_of(path: Path) -> Path:
    """The file of an attempt's probes that have many values, beside its record."""
    return path.with_suffix(".probes")


def attempts(study: Path, trial: str) -> list[Path]:
    """The records of a trial, oldest first. They are numbered without gaps, so the folder, which may be large, is not listed."""
    numbered = (path_of(study, trial, number) for number in itertools.count())
    return list(itertools.takewhile(Path.exists, numbered))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
