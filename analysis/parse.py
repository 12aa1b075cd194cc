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

NUMBER: set[type] = {int, float, str}
"""Text stands for what is not finite."""
TYPES: dict[str, set[type]] = {
    "step": {int}, "seconds": NUMBER, "tokens": {int}, "name": {str}, "value": NUMBER, "param": {str, type(None)},
}  # fmt: skip
"""Of a point's fields; there are too many points to send each through the record's own checks."""


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
        whole, found = _sound(whole)
        problem = found or problem
        start, end, (floats, integers) = _checked(whole, names, params)
    return Attempt(path=path, start=start, end=end, floats=floats, integers=integers, problem=problem)


def _checked(text: bytes, names: Codes, params: Codes) -> tuple[Start, End | None, tuple[Any, Any]]:
    first = text.index(b"\n") + 1
    start = record.decode(text[:first].decode())
    if not isinstance(start, Start):
        raise ValueError("the first line is not a start line")
    last = text.rfind(b"\n", first, -1) + 1 or first
    closing = record.decode(text[last:].decode()) if last < len(text) else None
    end = closing if isinstance(closing, End) else None
    middle = text[first:last] if end else text[first:]
    rows = json.loads(b"[" + middle.rstrip().replace(b"\n", b",") + b"]")
    if [row["kind"] for row in rows].count("point") != len(rows):
        raise ValueError("a line between start and end is not a point")
    return start, end, _columns(rows, names, params)


def _columns(points: list[dict[str, Any]], names: Codes, params: Codes) -> tuple[Any, Any]:
    columns = {name: [row.get(name) for row in points] for name in TYPES}
    for name, values in columns.items():  # numpy would take a text, a fraction or null for a number
        if unlike := set(map(type, values)) - TYPES[name]:
            raise TypeError(f"{name} of a point is a {unlike.pop().__name__}")
    codes = [[names[name] for name in columns["name"]], [params[name] for name in columns["param"]]]
    floats = np.array([columns["seconds"], columns["value"]], dtype=np.float64)
    return floats, np.array([columns["step"], columns["tokens"], *codes], dtype=np.int64)


def _sound(text: bytes) -> tuple[bytes, str | None]:
    """The lines before the first one that is not ours, as we would have written them, and what is left out and why."""
    sound: list[str] = []
    lines = text.decode("utf-8", errors="replace").split("\n")[:-1]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            read = record.decode(line)
            if isinstance(read, Start) != (not sound):
                raise ValueError(f"a {type(read).__name__.lower()} line is out of place")
            sound.append(record.encode(read))
        except (ValueError, TypeError) as error:
            if not sound:
                raise ValueError(f"line {number}: {error}") from None
            return "".join(sound).encode(), f"line {number}: {error}; read up to there"
        if isinstance(read, End):
            break
    if not sound:
        raise ValueError("no records in it, only blank lines")
    left = len(lines) - len(sound)
    return "".join(sound).encode(), f"{left} lines that are blank or after its end line left out" if left else None
