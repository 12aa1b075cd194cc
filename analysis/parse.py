"""One record file as arrays: what `runner.record.lines` reads line by line, fast enough for a million points.

Points are one JSON array once their newlines are commas, so the parser is called once per file; only the first and last
lines go through the checks of `runner.record`. A file that resists is read again line by line, up to the first line
that is not whole or not ours, and the reason is kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner import record
from runner.record import End, Start


class Codes(dict[Any, int]):
    """Numbers strings in the order of their first appearance; None is -1."""

    def __init__(self) -> None:
        super().__init__({None: -1})

    def __missing__(self, key: str) -> int:
        self[key] = len(self) - 1
        return self[key]

    def names(self) -> list[str]:
        """The strings by number."""
        return list(self)[1:]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A record file: start, end if it has one, and its points as one table."""

    path: Path
    start: Start
    end: End | None
    floats: NDArray[np.float64]
    """2 x points: on-clock seconds, value."""
    integers: NDArray[np.int64]
    """4 x points: step, tokens, code of the name, code of the parameter."""
    problem: str | None
    """Why the rest of the file was left out, if it was."""


def attempt(path: Path, names: Codes, params: Codes) -> Attempt:
    """The attempt recorded in `path`; new names of points and parameters are added to the codes.

    Raises:
        ValueError: not a record of this version; the message does not name the file.
    """
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if not whole:
        raise ValueError("empty: it has no whole line" if not text else "not one whole line in it")
    problem = None if len(whole) == len(text) else "cut off in the middle of its last line; read up to there"
    try:
        start, end, (floats, integers) = _checked(whole, names, params)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        whole, problem = _sound(whole)
        start, end, (floats, integers) = _checked(whole, names, params)
    return Attempt(path=path, start=start, end=end, floats=floats, integers=integers, problem=problem)


def _checked(text: bytes, names: Codes, params: Codes) -> tuple[Start, End | None, tuple[Any, Any]]:
    first = text.index(b"\n") + 1
    start = record.decode(text[:first].decode())
    if not isinstance(start, Start):
        raise ValueError("the first line is not a start line")
    last = text.rfind(b"\n", first, -1) + 1 or first
    end = record.decode(text[last:].decode()) if text[last:].startswith(b'{"kind":"end"') else None
    assert end is None or isinstance(end, End)
    middle = text[first:last] if end else text[first:]
    rows = json.loads(b"[" + middle.rstrip().replace(b"\n", b",") + b"]")
    if [row["kind"] for row in rows].count("point") != len(rows):
        raise ValueError("a line between start and end is not a point")
    return start, end, _columns(rows, names, params)


def _columns(points: list[dict[str, Any]], names: Codes, params: Codes) -> tuple[Any, Any]:
    floats = np.array([[row["seconds"] for row in points], [row["value"] for row in points]], dtype=np.float64)
    integers = np.array(
        [
            [row["step"] for row in points],
            [row["tokens"] for row in points],
            [names[row["name"]] for row in points],
            [params[row.get("param")] for row in points],
        ],
        dtype=np.int64,
    )
    return floats, integers


def _sound(text: bytes) -> tuple[bytes, str]:
    """The lines before the first one that is not ours, as we would have written them, and what is wrong with that line."""
    sound: list[str] = []
    for number, line in enumerate(text.decode("utf-8", errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            read = record.decode(line)
            if isinstance(read, Start) != (not sound):
                raise ValueError(f"a {type(read).__name__.lower()} line is out of place")
            sound.append(record.encode(read))
        except (ValueError, KeyError, TypeError) as error:
            if not sound:
                raise ValueError(f"line {number}: {error}") from None
            return "".join(sound).encode(), f"line {number}: {error}; read up to there"
        if isinstance(read, End):
            break
    return "".join(sound).encode(), "blank lines, or lines after its end line, left out"
