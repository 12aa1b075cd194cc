"""Search a submission's hyperparameters within a declared budget. Running it again goes on where it was.

example: slimperf tune galore --workload llama_nano --space lr=log:1e-4:1e-1 rank=values:4,16,64 --budget 12
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import arguments, launch

if TYPE_CHECKING:
    from runner import tune
    from runner.trial import Trial


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("submission", metavar="SUBMISSION", help="name, or path of a Python file")
    parser.add_argument("--workload", required=True, metavar="W", help="name (`slimperf list workloads`)")
    parser.add_argument(
        "--space",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME=RANGE",
        help="lr=log:1e-4:1e-1, gap=integer:50:500, rank=values:4,16 (also linear, log_integer), or a YAML file with such a space",
    )
    parser.add_argument("--budget", type=int, default=16, metavar="N", help="points to try (default: 16)")
    parser.add_argument(
        "--method", choices=("halton", "coordinate"), default="halton", help="quasi-random (default), or coordinate descent"
    )
    parser.add_argument(
        "--objective",
        choices=("seconds", "steps", "value"),
        default="seconds",
        help="seconds (default) or steps to the target, or the final value of its metric",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="SEED", help="each point runs with these; their median counts (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the quasi-random points (default: 0)")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="hyperparameters that stay fixed")
    parser.add_argument("--study", metavar="NAME", help="records go to RESULTS/NAME (default: tune-SUBMISSION)")
    arguments.add_overrides(parser)
    launch.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from runner import study, tune

    if args.budget < 1:
        raise ValueError(f"--budget {args.budget}: expected at least 1")
    name = study.placed(args.submission, Path.cwd())
    task = tune.Task(
        submission=name,
        workload=study.placed(args.workload, Path.cwd()),
        overrides=arguments.overrides(args),
        fixed=arguments.assignments("--set", args.set),
        axes=_space(args.space),
        budget=args.budget,
        seeds=tuple(args.seeds),
        method=args.method,
        objective=args.objective,
        seed=args.seed,
        study=args.study or f"tune-{Path(name).stem}",
    )

    def run(trials: list[Trial]) -> None:
        launch.trials(trials, args, table=False)

    try:
        found = tune.best_first(task, args.results, run)
    except tune.Unfinished as error:
        print(error)
        return 1
    print(report(task, found))
    return 0 if found[0].score != tune.BROKEN else 1


def report(task: tune.Task, found: list[tune.Scored]) -> str:
    """The best points, what they cost, and warnings."""
    from runner import progress, status, tune

    names = sorted({name for scored in found for name in scored.values})
    cells = [[*(str(scored.values.get(name, "-")) for name in names), _told(task, scored.score)] for scored in found[:10]]
    table = [[*names, task.objective], *cells]
    best, spent = found[0], sum(scored.seconds for scored in found)
    lines = [status.aligned(table), f"spent: {len(found)} points x {len(task.seeds)} seeds, {progress.duration(spent)} on the clock"]
    if best.score == tune.BROKEN:
        return "\n".join([*lines, "no point was measured to its end: widen the space, or see `slimperf status`"])
    lines += [f"best: --set {' '.join(f'{name}={value}' for name, value in best.values.items())}"]
    lines += [f"warning: the best {name} lies at the edge of its range: widen it" for name in tune.edges(task, best)]
    return "\n".join(lines)


def _told(task: tune.Task, score: tuple[int, float]) -> str:
    if score[0] == 0:
        return f"{score[1]:.6g}"
    return (
        "broke"
        if score[0] == 2
        else f"{abs(score[1]):.6g} at the end"
        if task.objective == "value"
        else f"missed ({abs(score[1]):.6g} at the end)"
    )


def _space(texts: list[str]) -> dict[str, Any]:
    from runner import documents, search

    if len(texts) == 1 and texts[0].endswith((".yaml", ".yml")):
        space = documents.read(Path(texts[0]))
        return dict(space) if isinstance(space, dict) else space
    return search.from_text(texts)
