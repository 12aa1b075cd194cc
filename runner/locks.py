"""One owner per trial: two sweeps, of two people or of one, never run the same trial at once.

A lock is a file in `<study>/.locks` that names its owner: host, process and when that process started, so that a process
id used again is not taken for the owner. An owner on this host that no longer lives holds nothing. One on another host is
believed: its file says who to ask.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = ".locks"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process on a host."""

    host: str
    pid: int
    started: str
    """When the process started, in the host's own terms; empty where the system does not tell."""

    @property
    def here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the process runs; on another host it is taken to."""
        return not self.here or (_exists(self.pid) and self.started == _started(self.pid))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def owner(study: Path, trial: str) -> Owner | None:
    """The living owner of a trial."""
    try:
        found = Owner(**json.loads(_path(study, trial).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none, or one whose writer died in the middle of it
        return None
    return found if found.alive else None


def acquire(study: Path, trial: str, pid: int | None = None) -> Owner | None:
    """Makes a process (this one by default) the owner; returns another living owner if there is one, else None."""
    with _guard(study):
        held = owner(study, trial)
        mine = identify(pid or os.getpid())
        if held is not None and held != mine:
            return held
        _write(study, trial, mine)
        return None


def hand_over(study: Path, trial: str, pid: int) -> None:
    """Gives a lock that this process holds to another, such as the worker it started."""
    with _guard(study):
        _write(study, trial, identify(pid))


def release(study: Path, trial: str) -> None:
    """Gives a trial free; the folder of locks goes with its last one."""
    with _guard(study):
        _path(study, trial).unlink(missing_ok=True)


def sweep(study: Path) -> None:
    """Removes the folder of locks if nothing alive is in it."""
    with contextlib.suppress(FileNotFoundError), _guard(study):
        files = [file for file in (study / FOLDER).iterdir() if file.suffix == ".lock"]
        if any(owner(study, file.stem) for file in files):
            return
        for file in (study / FOLDER).iterdir():
            file.unlink()
        (study / FOLDER).rmdir()


def _path(study: Path, trial: str) -> Path:
    return study / FOLDER / f"{trial}.lock"


@contextlib.contextmanager
def _guard(study: Path) -> Iterator[None]:
    """Only one process at a time looks and writes; the system frees the guard of one that dies."""
    while True:
        (study / FOLDER).mkdir(parents=True, exist_ok=True)
        file = study / FOLDER / "guard"
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder was swept between the two calls
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _same(descriptor, file):
                yield
                return
        finally:
            os.close(descriptor)


def _same(descriptor: int, file: Path) -> bool:
    """Whether the open guard is still the one in the folder, and not one that was swept away."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _write(study: Path, trial: str, owner: Owner) -> None:
    path = _path(study, trial)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    draft.replace(path)


def identify(pid: int) -> Owner:
    """A process of this host, told apart from a later one of the same number."""
    return Owner(host=socket.gethostname(), pid=pid, started=_started(pid))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives and belongs to someone else
        return True
    return True


def _started(pid: int) -> str:
    """Boot and clock tick of a process's start; a zombie has ended."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
    return "" if after_name[0] == "Z" else f"{boot} {after_name[19]}"
