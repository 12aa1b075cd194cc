"""Running a list of trials for a command: checks first, then an executor, then a table and an exit code."""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import sys
from collections import Counter
from pathlib import Path

from runner import catalog, local, plan, profile, progress, same_data, status
from runner.outcomes import Outcome
from runner.profile import Profile
from runner.trial import Trial


def add_arguments(parser: argparse.ArgumentParser, *, results: bool = True) -> None:
    """The arguments of every command that runs trials.

    Args:
        results: whether it may say where records go.
    """
    if results:
        help_ = "records go to DIR/STUDY (default: results)"
        parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help=help_)
    parser.add_argument("--executor", choices=("local", "slurm"), default="local", help="this machine (default), or Slurm jobs")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="Slurm: YAML file with the resources of a job (default: 1 core, 1 hour)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="trials that run at once (default: 1, the fairest timing)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of each worker (default: cores / workers)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda (spread over all GPUs) or cuda:N")
    parser.add_argument("--quiet", action="store_true", help="no progress lines; errors and the final table only")


def trials(found: list[Trial], args: argparse.Namespace, *, fresh: bool = False, table: bool = True) -> int:
    """Runs trials as the arguments say; returns the command's exit code.

    Args:
        fresh: run finished trials anew, as further attempts.
        table: print how they ended.

    Raises:
        ValueError: an argument or a trial cannot be run.
    """
    for name in ("workers", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: expected at least 1")
    check_executor(args)
    if args.executor == "local":
        check_device(args.device)
    identities = same_data.identities(found, elsewhere=args.executor == "slurm")
    if not fresh:
        same_data.check(found, args.results, identities)
    plan.check(same_data.opened(found, identities))
    for line in [] if args.quiet else same_data.warnings(found, identities):
        warn(line)
    if args.executor == "local" and args.device.startswith("cuda"):
        check_memory(found, args.device)
    if args.executor == "slurm":
        return submit(found, args, fresh=fresh)
    ended = local.run_all(
        found, args.results, workers=args.workers, threads=args.threads, device=args.device, quiet=args.quiet, fresh=fresh
    )
    if table:
        print(report(ended, args.results))
    return exit_code(ended)


def check_executor(args: argparse.Namespace) -> None:
    """Refuses options that the executor would ignore.

    Raises:
        ValueError: there is one.
    """
    if args.executor == "local":
        if args.profile:
            raise ValueError(f"--profile {args.profile}: only jobs have resources; add --executor slurm, or leave it out")
        return
    given = {"--device": args.device != "cpu", "--workers": args.workers != 1, "--threads": args.threads is not None}
    for name in (name for name, wrong in given.items() if wrong):
        raise ValueError(f"{name}: with --executor slurm the profile decides (gpus, cpus, array_parallelism); leave it out")


@functools.cache
def warn(line: str) -> None:
    """Says something once, however many calls of a search would say it."""
    print(line, file=sys.stderr, flush=True)


def submit(found: list[Trial], args: argparse.Namespace, *, fresh: bool) -> int:
    """Hands trials to Slurm and returns; `slimperf status` follows them.

    Raises:
        ValueError: the profile is wrong, or Slurm does not take the jobs.
    """
    from runner import slurm

    failed = 0
    for study in dict.fromkeys(trial.study for trial in found):
        members = [trial for trial in found if trial.study == study]
        done = slurm.submit(members, args.results, resources(args), fresh=fresh)
        failed += done.failed
        print(done)
        print(f"follow them with: slimperf status {args.results / study}")
    return 1 if failed else 0


def resources(args: argparse.Namespace) -> Profile:
    """The resource profile that the arguments name."""
    return profile.read(args.profile, catalog.workload_names()) if args.profile else Profile()


def report(ended: list[Outcome], results: Path) -> str:
    """A table with a line per submission and workload, and the trials that did not end well by name."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in ended:
        groups.setdefault((outcome.trial.workload_name, outcome.trial.submission_name), []).append(outcome)
    table = [["workload", "submission", "trials", "status", "steps to target", "seconds to target", "state", "peak"]]
    for (workload, submission), members in groups.items():
        counts = Counter(member.status for member in members)
        told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        rows = [row for member in members if (row := status.row(results / member.trial.study, member.trial.id))]
        reached = [row.reached for row in rows if row.reached]
        table.append(
            [
                *(workload, submission, str(len(members)), told),
                *(_spread([each[key] for each in reached], len(members), form) for key, form in (("step", ".0f"), ("seconds", ".1f"))),
                status.megabytes(max((row.state_bytes for row in rows), default=math.nan)),
                status.megabytes(max((row.peak_bytes for row in rows), default=math.nan)),
            ]
        )
    names = progress.names(outcome.trial for outcome in ended)
    bad = [f"{names[o.trial.id]} ({o.trial.id}): {o.status}: {o.reason or 'no reason recorded'}" for o in ended if not o.fine]
    return "\n".join([status.aligned(table), *bad])


def _spread(values: list[float], trials: int, form: str) -> str:
    """Median over all trials, a miss being infinite, and the range of those that reached."""
    if not values:
        return "-"
    median = statistics.median(values + [math.inf] * (trials - len(values)))
    if len(values) == 1:
        return f"{median:{form}}"
    return f"{median:{form}} [{min(values):{form}}-{max(values):{form}}]"


def exit_code(ended: list[Outcome]) -> int:
    """0 if every trial was measured to its end, 2 if some was refused as bad input, else 1."""
    if any(outcome.status == "refused" for outcome in ended):
        return 2
    return 0 if all(outcome.fine for outcome in ended) else 1


def check_memory(found: list[Trial], device: str) -> None:
    """Stops before anything is loaded that the device cannot hold.

    Raises:
        ValueError: a configuration needs more memory than the smallest of the GPUs has.
    """
    import torch

    from runner import cards

    index = device.partition(":")[2]
    places = [int(index)] if index else range(torch.cuda.device_count())
    smallest = min((torch.cuda.get_device_properties(place) for place in places), key=lambda card: card.total_memory)
    for trial in plan.configurations(found)[: plan.CHECKED]:
        cards.check(trial, smallest.total_memory, smallest.name)


def check_device(device: str) -> None:
    """Stops if the device is not there.

    Raises:
        ValueError: an unknown device, or no such GPU.
    """
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and (kind == "cpu" or not index.isdigit())):
        raise ValueError(f"--device {device}: expected cpu, cuda or cuda:N")
    if kind == "cuda":
        import torch

        if int(index or 0) >= torch.cuda.device_count():
            raise ValueError(f"--device {device}: this torch sees {torch.cuda.device_count()} GPUs; use --device cpu, or another machine")
