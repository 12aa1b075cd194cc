"""What a user's code raised, told in one line that names where."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable
from pathlib import Path


def told(error: BaseException, files: Iterable[Path] = ()) -> str:
    """`KeyError: 'M' (mine.py:27)`: the innermost line in one of these files, if there is one.

    To exit is a fault too: the program is not the submission's to end.
    """
    if isinstance(error, SystemExit):
        code = "" if error.code is None else json.dumps(error.code, default=str)
        name, number = place(error, files) or place(error) or ("an unknown place", 0)
        return f"the submission called sys.exit({code}) at {name}:{number}"
    found = place(error, files)
    return f"{type(error).__name__}: {error}{f' ({found[0]}:{found[1]})' if found else ''}"


def place(error: BaseException, files: Iterable[Path] | None = None) -> tuple[str, int] | None:
    """Name and line of the innermost frame in one of the files, or in any; None if there is none."""
    known = None if files is None else set(files)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if known is None or file.resolve() in known:
            return file.name, frame.lineno or 0
    return None
