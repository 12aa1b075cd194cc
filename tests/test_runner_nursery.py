"""A process that forks workers: what a worker has for itself, and what happens if the process that forked it is killed."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import local, outcomes, record
from runner.nursery import Nursery, Request
from tests import fake_records
from tests.planning import trial

OWN = """
import os, resource, signal, sys

ballast = bytearray(200 << 20)
ballast[:] = bytes(len(ballast))
del ballast


def main(words):
    print("a worker says", *words, os.environ["GIVEN"])
    if words == ["leave"]:
        sys.exit(7)
    if words == ["fall"]:
        raise RuntimeError("over")
    if words == ["signals"]:
        return len(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    if words == ["again"]:
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            parts = [b"x" * (24 << 20) for _ in range(3)]
            del parts
        return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 100
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Nursery]:
    (tmp_path / "own_worker.py").write_text(OWN)
    environment = local.environment(1)
    nursery = Nursery(("own_worker",), {**environment, "PYTHONPATH": f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"})
    yield nursery
    nursery.close()


def code(nursery: Nursery, log: Path, *words: str) -> int:
    assert nursery.start(Request(arguments=list(words), environment={"GIVEN": "here"}, log=str(log))) > 0
    return nursery.wait()


def test_each_worker_ends_in_its_own_way(own: Nursery, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert code(own, log, "leave") == 7
    assert code(own, log, "fall") == 1
    assert code(own, log, "signals") == 3, "held back until the worker can take them"
    told = log.read_text()
    assert told.startswith("a worker says leave here\nTraceback")
    assert "SystemExit: 7\na worker says fall here\nTraceback" in told
    assert "RuntimeError: over" in told


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets glibc's allocator; other systems have others")
def test_memory_that_a_worker_frees_is_not_paged_in_again(own: Nursery, tmp_path: Path) -> None:
    assert code(own, tmp_path / "log", "again") < 5, "hundreds of page faults for 72 MiB used before"


@pytest.mark.skipif(sys.platform != "linux", reason="how a fork counts its memory")
def test_the_peak_of_a_fork_is_its_own(own: Nursery, tmp_path: Path) -> None:
    assert 0 < code(own, tmp_path / "log", "peak") < 150, "MiB, though the process that forked it had 200 for a moment"


def test_a_killed_nursery_loses_no_worker(tmp_path: Path) -> None:
    nursery, waits = Nursery(fake_records.WORKER, local.environment(1)), trial(1)
    try:
        request = Request(arguments=[str(tmp_path)], environment={"SLIMPERF_TRIAL": waits.to_json()}, log=str(tmp_path / "log"))
        worker = nursery.start(request)
        assert nursery._process is not None
        nursery._process.kill()
        codes: list[int] = []
        waiting = threading.Thread(target=lambda: codes.append(nursery.wait()))
        waiting.start()
        assert codes == [], "the worker is still there"
        os.kill(worker, signal.SIGTERM)
        waiting.join(60)
        assert codes == [-signal.SIGKILL], "nobody is left who could tell its exit status"
        [path] = record.attempts(tmp_path / waits.study, waits.id)
        end = list(record.lines(path))[-1]
        assert isinstance(end, record.End)
        assert end.status == "preempted"
        assert nursery.start(request) > 0, "another nursery takes its place"
        assert nursery.wait() == 0
    finally:
        nursery.close()


@pytest.mark.parametrize(
    ("code", "words", "stopped"),
    [
        (-signal.SIGTERM, "", False),
        (1, "Traceback\n", True),
        (1, "torch.distributed.elastic.multiprocessing.api.SignalException: Process 5 got signal: 15\n", False),
    ],
    ids=["before it could take the signal", "torchrun ended its workers", "torchrun without workers yet"],
)
def test_an_early_sigterm_is_no_failure(code: int, words: str, stopped: bool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(words)
    outcome = outcomes.judge(trial(0), tmp_path, code, log, out_of_memory=False, stopped=stopped)
    assert outcome.status == "preempted"
    exhausted = outcomes.judge(trial(0), tmp_path, 1, log, out_of_memory=True, stopped=stopped)
    assert exhausted.status == "out_of_memory"
