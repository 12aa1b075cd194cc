"""A real Slurm for the tests, trials small enough for it, and what must be true of a study afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runner import local, locks, record, slurm, slurm_ledger, slurm_queue, study, train
from runner.profile import Profile, Resources
from runner.trial import Trial

SCRIPT = Path(__file__).with_name("slurm_cluster.sh")
MISSING = "needs Slurm: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
INSTALLED = all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in ("slurmctld", "slurmd", "sbatch", "munged"))
TINY = {"steps": 3, "batch.sequences": 2, "validation_tokens": 256}
PROFILE = Profile(default=Resources(time="10m", mem="1500M", array_parallelism=4))

UNHURRIED = """
import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from submissions.base import MatrixSubmission, Probes, State


@dataclass(frozen=True, kw_only=True)
class Unhurried(MatrixSubmission):
    \"\"\"Gradient descent with a pause before each step, until a file says that the test has done what it wanted to in the middle.\"\"\"

    lr: float = 1e-3
    pause: float = 0.2

    def init(self, W_bmn: Tensor) -> State:
        return {"mean_bmn": W_bmn * 0}

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        return state["mean_bmn"].lerp_(G_bmn, 0.5).clone(), {}

    def lr_factor(self, t: int, steps: int) -> float:
        if not Path(__file__).with_name("hurry").exists():
            time.sleep(self.pause)
        return 1.0
"""


class Cluster:
    """The throw-away cluster that this process's environment points to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> None:
        """Brings up what is not running."""
        self._call("start")

    def kill(self, daemon: str) -> None:
        """`kill -9` of slurmctld, n1, n2 or n3."""
        self._call("kill", daemon)

    def stop(self) -> None:
        self._call("stop")

    def _call(self, verb: str, *words: str) -> None:
        done = subprocess.run([SCRIPT, verb, self.folder, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A fresh cluster under `folder` (a short path: it holds a unix socket)."""
    folder.chmod(0o755)  # munge insists that everyone may reach its socket
    cluster, before = Cluster(folder), dict(os.environ)
    os.environ["PORT"] = str(free_ports(8))
    try:
        cluster.start()
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield cluster
    finally:
        cluster.stop()
        os.environ.clear()
        os.environ.update(before)


def free_ports(count: int) -> int:
    """The first of so many successive free ports."""
    for first in range(27400 + os.getpid() % 50 * 100, 40000, 10):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(contextlib.closing(socket.socket())).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


def hurry(folder: Path) -> None:
    """Lets the slow trials of a folder run to their end at full speed."""
    (folder / "hurry").touch()


def tiny(
    name: str, *, seeds: int, folder: Path, pause: float | None = None, steps: int = 3, submission: str = "adam", **overrides: Any
) -> list[Trial]:
    """Trials of a few steps; with a pause they are a user's submission, from a file in `folder`."""
    if pause is not None:
        (folder / "unhurried.py").write_text(UNHURRIED)
    entry: dict[str, Any] = {"submission": submission} if pause is None else {"submission": "./unhurried.py", "set": {"pause": pause}}
    document = {
        "study": name,
        "workload": "llama_nano",
        "overrides": {**TINY, "steps": steps, **overrides},
        "seeds": list(range(seeds)),
        "trials": [entry],
    }
    return study.trials(document, folder=folder)


def until(true: Callable[[], Any], *, seconds: float = 900, what: str = "") -> Any:
    """The first true value of a condition."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return value


def live(folder: Path) -> list[slurm_queue.Task]:
    """Tasks of the study that wait or run."""
    return [task for task in slurm_queue.tasks(entry.name for entry in slurm_ledger.entries(folder)) if task.live]


def release(folder: Path) -> None:
    """Lets go of jobs that Slurm holds because a node was too busy to launch them, as the next sweep would."""
    with contextlib.suppress(slurm_queue.Silent):
        slurm_queue.release(slurm_queue.tasks(entry.name for entry in slurm_ledger.entries(folder)))


def points(folder: Path, trial: Trial) -> list[tuple[Any, ...]]:
    """What was measured, without times; what a later attempt did again counts once."""
    kept: list[record.Point] = []
    for path in record.attempts(folder, trial.id):
        for line in record.lines(path):
            if isinstance(line, record.Start):
                kept = [point for point in kept if point.step <= (line.resumed_step or -1)]
            elif isinstance(line, record.Point):
                kept.append(line)
    return [(point.step, point.tokens, point.name, point.param, repr(point.value)) for point in kept]


def ends(folder: Path, trial: Trial) -> list[record.End]:
    return [line for path in record.attempts(folder, trial.id) for line in record.lines(path) if isinstance(line, record.End)]


def worker_of(folder: Path, trial: Trial) -> int:
    """Process id of the trial's worker once it has measured something; 0 before."""
    owner = locks.owner(folder, trial.id)
    return owner.pid if owner and points(folder, trial) and _is_worker(owner.pid) else 0


def assert_as_local(results: Path, trials: Sequence[Trial], tmp_path: Path) -> None:
    """Each trial has one final result, equal bit for bit to that of an undisturbed run on this machine; nothing runs any more."""
    folder = results / trials[0].study
    for trial in trials:
        train.execute(trial, tmp_path / "undisturbed")
        assert points(folder, trial) == points(tmp_path / "undisturbed" / trial.study, trial)
        assert [end.status for end in ends(folder, trial) if end.status in record.FINISHED] == ["missed"]
    assert_nothing_left(folder)


def assert_nothing_left(folder: Path) -> None:
    until(lambda: not live(folder), what="the queue is empty")
    until(lambda: not leftovers(), what="no process of a job is left")
    assert slurm.states(folder) == {}
    assert not [lock for lock in (folder / locks.FOLDER).glob("*.lock") if locks.owner(folder, lock.stem)]
    assert not list((folder / ".checkpoints").glob("*"))
    assert not [path for path in (folder / local.LOGS).glob("*.log") if path.stat().st_size]


def leftovers() -> list[int]:
    """Workers and jobs of this cluster that are alive."""
    mark = f"SLURM_CONF={os.environ['SLURM_CONF']}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if (b"runner.worker" in words or b"submitit.core" in words) and mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def _is_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"runner.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def bare(trial: str, results: str) -> str:
    """Runs a trial in the process that submitit started: what a script without an executor of its own would do."""
    return train.execute(Trial.from_json(trial), Path(results))
