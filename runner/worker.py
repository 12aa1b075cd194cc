"""A process that runs one trial, given as JSON in the environment variable SLIMPERF_TRIAL; or one of several, under torchrun.

Stops gently on SIGTERM, SIGINT and SIGUSR2: checkpoint, end `preempted`. Exit status: 0 ended (whatever the verdict), 3 preempted,
4 the record could not be written.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from runner.trial import Trial

PREEMPTED, UNWRITABLE = 3, 4
TRIAL = "SLIMPERF_TRIAL"


class Interrupt:
    """Turns signals into a flag that the training loop reads after each step."""

    def __init__(self, *signals: signal.Signals) -> None:
        self.raised = False
        for number in signals:
            signal.signal(number, self._raise)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)  # a parent may have held them back until now

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.raised = True

    def __call__(self) -> bool:
        return self.raised


def main(arguments: list[str] | None = None) -> int:
    interrupt = Interrupt(signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    words = sys.argv[1:] if arguments is None else arguments
    options = parse(words)
    trial = Trial.from_json(os.environ[TRIAL])
    from runner import devices, torchrun, train  # torch: only after the signals are caught

    if "WORLD_SIZE" not in os.environ and (several := processes(trial)) > 1:
        threads = max(1, options.threads * options.nodes // several)
        line = torchrun.command([*words, "--threads", str(threads)], devices=several, nodes=options.nodes)
        if options.nodes > 1:
            return torchrun.supervise(line, interrupt)
        torchrun.become(line)
    group, device = devices.join(options.device)
    every = train.CHECKPOINT_SECONDS if options.checkpoint_seconds is None else options.checkpoint_seconds
    try:
        status = train.execute(
            trial,
            options.results,
            device=device,
            threads=options.threads,
            checkpoint_seconds=every,
            fresh=options.fresh,
            interrupted=interrupt,
            group=group,
        )
    except OSError as error:
        print(f"{error.filename or options.results}: {error.strerror}", file=sys.stderr)
        return UNWRITABLE
    devices.leave(group)
    # of several processes torchrun would take another status than 0 for a crash and end the others at once
    return PREEMPTED if status == "preempted" and group.world == 1 else 0


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Run one trial, given as JSON in {TRIAL}.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of each node")
    parser.add_argument("--nodes", type=int, default=1, help="of the Slurm job that this runs in")
    parser.add_argument("--checkpoint-seconds", type=float, default=None)
    parser.add_argument("--fresh", action="store_true", help="ignore a checkpoint")
    return parser.parse_args(words)


def processes(trial: Trial) -> int:
    """How many the trial wants; 1 also if that cannot be told, so that the trial's record says why."""
    from runner import catalog

    with contextlib.suppress(Exception, SystemExit):  # a user's file is run to find out
        return catalog.workload(trial.workload, trial.overrides).devices
    return 1


if __name__ == "__main__":
    sys.exit(main())
