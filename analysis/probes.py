"""Probes with many values, from the `.probes` files beside the records: scaling factors by index, and shadow moments.

A row of the file is one probe of one matrix at one step; see `runner.record.PROBE_ROW`. Rows of an attempt that was taken up
again count up to the step from which its successor went on, and a row that stands in both is the same row.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from runner import record

HEAD = struct.Struct(record.PROBE_ROW)
READ_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One probe of one matrix at one step, or one value for each of the file's matrices if `param` is empty."""

    step: int
    name: str
    param: str
    length: int
    """Of the axis that the values were taken from."""
    values: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class File:
    """A `.probes` file up to its last whole row."""

    header: dict[str, Any]
    rows: list[Row]


def read(path: Path) -> File:
    """The probes in a file.

    Raises:
        ValueError: it is not a file of probes that this version reads.
    """
    data = path.read_bytes()
    line, newline, _ = data.partition(b"\n")
    try:
        header = json.loads(line)
    except ValueError:
        raise ValueError(f"{path}: not a file of probes: expected a line of JSON first") from None
    if not newline or not isinstance(header, dict) or header.get("schema") != READ_SCHEMA:
        raise ValueError(f"{path}: probes of another version; this one reads schema {READ_SCHEMA}")
    return File(header=header, rows=list(_rows(data, len(line) + 1)))


def _rows(data: bytes, place: int) -> Iterator[Row]:
    while place + HEAD.size <= len(data):
        step, name, param, length, count = HEAD.unpack_from(data, place)
        begin = place + HEAD.size
        middle, end = begin + name, begin + name + param
        place = end + 4 * count
        if place > len(data):
            return
        values = np.frombuffer(data, dtype="<f4", count=count, offset=end)
        yield Row(step=step, name=data[begin:middle].decode(), param=data[middle:end].decode(), length=length, values=values)


def rows(paths: Iterable[Path]) -> list[Row]:
    """The rows of a trial's attempts, oldest first, each once; files that are not there hold none."""
    found: dict[tuple[int, str, str], Row] = {}
    for path in paths:
        resumed = _resumed_step(path.with_suffix(".jsonl"))
        found = {key: row for key, row in found.items() if key[0] <= resumed}
        if path.exists():
            found.update(((row.step, row.name, row.param), row) for row in read(path).rows)
    return [found[key] for key in sorted(found)]


def of_trial(trial: pd.Series) -> tuple[dict[str, Any], list[Row]]:
    """Header and rows of one row of `trials`.

    Raises:
        ValueError: the trial left no file of probes; the message says how to get one.
    """
    last = Path(str(trial["path"]))
    paths = [record.probes_of(path) for path in record.attempts(last.parent, str(trial["trial"]))]
    present = [path for path in paths if path.exists()]
    if not present:
        raise ValueError(
            f"trial {trial['trial']} ({trial['submission']}, seed {trial['seed']}) has no probes beside its record"
            f" ({os.path.basename(last)}): run it with probes_every, and with observe if shadow moments are wanted"
        )
    return read(present[-1]).header, rows(paths)


def matrices(header: dict[str, Any], found: Iterable[Row], prefix: str) -> pd.DataFrame:
    """Values per matrix of the rows without a parameter whose name starts with `prefix`: step, name, param, value."""
    chosen = [row for row in found if not row.param and row.name.startswith(prefix)]
    names = header["matrices"]
    return pd.DataFrame(
        {
            "step": np.repeat([row.step for row in chosen], len(names)).astype(np.int64),
            "name": np.repeat(np.array([row.name.removeprefix(prefix) for row in chosen], dtype=object), len(names)),
            "param": np.tile(np.array(names, dtype=object), len(chosen)),
            "value": np.concatenate([row.values for row in chosen]).astype(float) if chosen else np.empty(0),
        }
    )


def _resumed_step(path: Path) -> int:
    """Step from which an attempt went on; -1 if it began anew, so that nothing of its predecessors counts."""
    start = next(record.lines(path), None) if path.exists() else None
    if not isinstance(start, record.Start) or start.resumed_step is None:
        return -1
    return start.resumed_step
