"""The console command `slimperf`: a table of commands, of which only the chosen one is imported."""

from __future__ import annotations

import argparse
import errno
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from runner import faults, fields

COMMANDS = {
    "run": "run one submission on one workload, over seeds",
    "sweep": "run every trial of a study",
    "plan": "show what a study would run: trials, memory, steps, time; nothing runs",
    "tune": "search a submission's hyperparameters within a declared budget",
    "status": "show how far the trials of a results folder are",
    "retry": "start trials anew that failed, diverged or ran out of memory",
    "cancel": "stop running trials gently; the next call goes on from their checkpoints",
    "logs": "print what the process of a trial wrote",
    "score": "score submissions by time to target, with uncertainty",
    "report": "write a results folder as one self-contained HTML page",
    "query": "filter, group and export records",
    "reproduce": "regenerate a published table or figure",
    "memory": "predict or measure memory per submission, by phase",
    "list": "list submissions, workloads or studies",
    "show": "describe one submission, workload or study",
    "check": "run the contract on a submission, such as a file of your own",
    "new": "write a small submission to start from",
    "data": "prepare token data",
    "target": "set a workload's target by tuning a baseline",
}
"""Every command is a module of `runner.commands` with `add_arguments(parser)` and `main(args) -> exit code`."""

DISK = {
    errno.ENOSPC: "the disk is full; free space, or name another folder, and run it again: finished trials are kept",
    errno.EDQUOT: "the disk quota is used up; free space, or name another folder, and run it again: finished trials are kept",
    errno.EACCES: "permission denied; name another folder",
    errno.EROFS: "the file system is read-only; name another folder",
}

EPILOG = """SUBMISSION is a name (`slimperf list submissions`) or the path of a Python file (`slimperf new my_optimizer.py`).
`slimperf COMMAND --help` describes a command. Exit codes: 0 done, 1 some trials failed (they are named),
2 the input was wrong. SLIMPERF_DEBUG=1 shows the traceback of an input error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        check_packages()
        if not words or words[0] in ("-h", "--help", "help"):
            print(overview())
            return 0 if words else 2
        if words[0] == "--version":
            print(version())
            return 0
        return _command(words[0], words[1:])
    except ValueError as error:
        return _refuse(error, str(error))
    except BrokenPipeError:  # `slimperf list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _refuse(error, f"{error.filename or 'files'}: {DISK.get(error.errno or 0, error.strerror or str(error))}")
    except KeyboardInterrupt:
        print("slimperf: stopped; what was measured is kept", file=sys.stderr)
        return 130


def overview() -> str:
    """The text of `slimperf --help`."""
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return f"usage: slimperf COMMAND ...\n\nA time-to-target benchmark for training algorithms.\n\ncommands:\n{table}\n\n{EPILOG}"


def version() -> str:
    """The installed version."""
    from importlib import metadata

    return f"slimperf {metadata.version('slimperf')}"


def check_packages() -> None:
    """Stops if one of the four packages is found elsewhere than beside this one.

    Their names are flat, so a stray `workloads.py` on Python's path would stand in for ours.

    Raises:
        ValueError: naming the file in the way.
    """
    home = Path(__file__).resolve().parents[1]
    for name in ("workloads", "submissions", "runner", "analysis"):
        spec = importlib.util.find_spec(name)
        places = [] if spec is None else list(spec.submodule_search_locations or [spec.origin or ""])
        first = Path(places[0]).resolve() if places else None
        if first != home / name:
            found = f"{first} is in the way" if first else "it was not found"
            raise ValueError(f"expected the package {name!r} in {home / name}, but {found}: rename it, or start from another folder")


def _command(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        raise ValueError(f"unknown command {name!r}{fields.nearest(name, COMMANDS)} (see `slimperf --help`)")
    module = importlib.import_module(f"runner.commands.{name}")
    parser = argparse.ArgumentParser(
        prog=f"slimperf {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    args = parser.parse_args(words)
    try:
        code: int = module.main(args)
    except SystemExit as error:  # no command calls it: a file of the user's did
        raise ValueError(faults.told(error)) from error
    return code


def _refuse(error: Exception, text: str) -> int:
    if os.environ.get("SLIMPERF_DEBUG"):
        raise error
    print(f"slimperf: error: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
