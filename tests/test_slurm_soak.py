"""A long night in short: many trials on a real Slurm while workers, jobs and node daemons are killed at random."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import slurm as tools

from runner import record, slurm, slurm_queue
from runner.profile import Profile, Resources

TRIALS = int(os.environ.get("SLIMPERF_SOAK_TRIALS", "200"))
EVERY = float(os.environ.get("SLIMPERF_SOAK_EVERY", "10"))
"""Seconds between two mishaps."""


@pytest.mark.slow
@pytest.mark.skipif(not tools.INSTALLED, reason=tools.MISSING)
def test_soak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = tools.tiny("soak", seeds=TRIALS, folder=tmp_path, pause=0.1, steps=4)
    profile, dice, mishaps = (
        Profile(default=Resources(time="10m", mem="1500M", array_parallelism=4, pack="4m")),
        random.Random(5),
        Counter[str](),
    )
    folder = tmp_path / "soak"
    with tempfile.TemporaryDirectory(prefix="slimperf-soak-", ignore_cleanup_errors=True) as place, tools.running(Path(place)) as cluster:
        due = time.monotonic() + EVERY
        deadline = time.monotonic() + 30 * TRIALS + 120
        while slurm.submit(trials, tmp_path, profile).finished < TRIALS:
            assert time.monotonic() < deadline, f"after {dict(mishaps)}"
            while any(task.reason != slurm_queue.LAUNCH_FAILED for task in tools.live(folder)) and time.monotonic() < deadline:
                if time.monotonic() < due:
                    time.sleep(0.2)  # the pace of the mishaps, not a synchronisation
                    continue
                due = time.monotonic() + EVERY
                mishaps[harm(cluster, folder, dice)] += 1
                cluster.start()
        tools.assert_as_local(tmp_path, trials, tmp_path)
    attempts = [len(record.attempts(folder, trial.id)) for trial in trials]
    assert mishaps.total() >= TRIALS // 10
    with capsys.disabled():
        print(f"\n{TRIALS} trials, {dict(mishaps)}: none lost, none twice, {sum(attempts)} attempts, at most {max(attempts)} of one trial")


def harm(cluster: tools.Cluster, folder: Path, dice: random.Random) -> str:
    """Does one thing that happens at night; returns its name."""
    what = dice.choice(["kill -9 of a trial", "kill -9 of a job", "requeue", "warning", "scancel", "slurmd killed", "slurmctld killed"])
    running = [task for task in tools.live(folder) if task.state == "RUNNING"]
    processes = [(pid, words) for pid in tools.leftovers() if (words := _words(pid))]
    if what in ("slurmd killed", "slurmctld killed"):
        cluster.kill("slurmctld" if "ctld" in what else dice.choice(["n1", "n2", "n3"]))
    elif what.startswith("kill -9"):
        kind = b"runner.worker" if "trial" in what else b"submitit.core"
        if chosen := [pid for pid, words in processes if kind in words]:
            os.kill(dice.choice(chosen), signal.SIGKILL)
    elif running:
        task: slurm_queue.Task = dice.choice(running)
        command = {"requeue": ["scontrol", "requeue"], "warning": ["scancel", "--signal=USR2"], "scancel": ["scancel"]}[what]
        subprocess.run([*command, task.job], check=False, capture_output=True)  # it may have ended in between
    return what


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
