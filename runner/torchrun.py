"""One trial on several processes, of one node or of several: the command lines, and a torchrun that Slurm's warning does not end.

Across nodes `srun` starts one torchrun on each node of the job; they meet at a port of the node that calls it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from runner import outcomes

POLL = 0.2
"""Seconds between two looks at whether an `srun` is to end."""


def command(arguments: Sequence[str], *, devices: int, nodes: int = 1) -> list[str]:
    """The command line that runs a worker with these arguments on `devices` processes, spread evenly over the job's nodes."""
    torchrun = [sys.executable, "-m", "runner.torchrun", f"--nproc-per-node={devices // nodes}"]
    worker = ["-m", "runner.worker", *arguments]
    if nodes == 1:
        return [*torchrun, "--standalone", *worker]
    # --overlap: the job's own step, which waits for this one, holds the same cores; the environment describes that step
    srun = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    meeting = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={socket.gethostname()}:{_free_port()}"]
    return [*srun, *torchrun, *meeting, f"--rdzv-id={os.environ.get('SLURM_JOB_ID', '0')}", *worker]


def become(line: list[str]) -> None:
    """Replaces this process by a torchrun, which takes signals as it likes; does not return."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # from Slurm to everyone; it ends who does not know it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2})
    os.execvp(line[0], line)


def supervise(line: list[str], interrupted: Callable[[], bool]) -> int:
    """Runs an `srun`; returns its exit status.

    A request to end reaches the workers as SIGUSR2: on SIGTERM srun would kill them after Slurm's KillWait, checkpoint or not.
    """
    process, told = subprocess.Popen(line), False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(POLL)
        if interrupted() and not told:
            process.send_signal(signal.SIGUSR2)
            told = True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port


def _forward() -> None:
    """Hands a request to end on to the workers, which take as long as a checkpoint needs; torchrun itself would give them 30 s."""
    while number := signal.sigwait({signal.SIGTERM, signal.SIGUSR2}):
        workers = [int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]
        if not workers:
            print(f"torchrun {outcomes.ENDED_EARLY}", file=sys.stderr, flush=True)
            os._exit(128 + number)
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(worker, number)


if __name__ == "__main__":
    # Slurm sends its signals to every process of a job: the workers act on them, and this one lives until they are done.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})  # workers inherit it until they can take them
    threading.Thread(target=_forward, daemon=True).start()
    from torch.distributed import run

    run.main(sys.argv[1:])
