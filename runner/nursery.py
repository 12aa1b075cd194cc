"""A process that has torch loaded and forks a worker for each trial: to import torch takes longer than a short trial trains.

A trial still has a process of its own: a crash is its own, and so is its memory. A fork counts its peak from where it starts, while a
process that `exec` starts inherits the peak of the one that launched it.

One line each way at a time: a request (JSON), the process id of the worker, its exit status.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from runner import locks

POLL = 0.2
"""Seconds between two looks at a worker whose nursery was killed."""
HELD_BACK = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2}
"""Signals for workers, who ask for them when they can take them; Slurm sends them to every process."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a worker is to do."""

    arguments: list[str]
    environment: dict[str, str]
    log: str
    """File that takes what it says."""


class Nursery:
    """One worker at a time, forked from a process that is started when it is first needed and again if it was killed."""

    def __init__(self, modules: Sequence[str], environment: dict[str, str]) -> None:
        """The `main` of the first module is a worker's; the others are loaded for it."""
        self.command = [sys.executable, "-m", "runner.nursery", *modules]
        self.environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._worker: locks.Owner | None = None

    def start(self, request: Request) -> int:
        """Starts a worker; returns its process id, 0 if the nursery died."""
        answer = self._ask(json.dumps(asdict(request)))
        self._worker = locks.identify(int(answer)) if answer else None
        return int(answer or 0)

    def wait(self) -> int:
        """The exit status of the worker, negative for a signal; unknown ones count as SIGKILL."""
        answer = self._answer()
        while not answer and self._worker is not None and self._worker.alive:
            time.sleep(POLL)  # the nursery was killed, its worker goes on
        return int(answer or -signal.SIGKILL)

    def close(self) -> None:
        """Ends the process."""
        if self._process is None:
            return
        with self._process as process, contextlib.suppress(BrokenPipeError):
            assert process.stdin is not None, "asked for below"
            process.stdin.close()

    def _ask(self, question: str) -> str:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        assert self._process.stdin is not None, "asked for above"
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process is not None, "a question comes before an answer"
        assert self._process.stdout is not None, "asked for above"
        return self._process.stdout.readline().strip()


def main(modules: Sequence[str]) -> int:
    """Forks a worker for each line on standard input, until there is none."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes nowhere near the answers
    worker, *_ = [importlib.import_module(name) for name in modules]
    gc.collect()
    gc.freeze()  # pages that no collection touches stay shared
    with contextlib.suppress(BrokenPipeError):  # whoever asked has gone
        for line in requests:
            child = os.fork()
            if child == 0:
                _become(worker.main, Request(**json.loads(line)), requests, answers)
            print(child, file=answers, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
    return 0


def _become(work: object, request: Request, *pipes: IO[str]) -> None:
    """Turns a fork into a worker; never returns."""
    code = 1
    try:
        for pipe in pipes:
            os.close(pipe.fileno())  # an end held open here would hide the death of its owner
        log = os.open(Path(request.log), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for target in (1, 2):
            os.dup2(log, target)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(request.environment)
        assert callable(work)
        code = work(request.arguments)
    except SystemExit as error:
        traceback.print_exc()
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # a fork must end here, whatever happened
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # to take torch apart takes a while and frees nothing that the system does not
