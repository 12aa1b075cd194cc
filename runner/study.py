"""A study: a YAML file that expands to trials.

    study: rank-limiter
    workload: llama_nano            # or workloads: [llama_nano, {name: llama_micro, overrides: {steps: 500}}]
    seeds: [0, 1, 2]
    stop: target                    # or budget: perplexity tables need the end
    overrides: {data: wiki}         # changes of the workloads: data, steps, seconds, target, batch.sequences, ...
    probes_every: 10
    observe: {indices: 100}         # what is measured beside the training (see observation.py)
    at: {llama_nano: {fira: {lr: 2.0e-2}}}   # by workload and submission, over the defaults there and under `set`
    adapter: {submission: lora}     # what the submissions optimise (see composition.py); {} for nothing of the kind
    trials:
      - submission: fira            # a name, or the path of a file, relative to this one
        set: {betas: [0.9, 0.999]}  # fixes
        sweep: {rank: [4, 16], limiter: [none, norm_growth]}   # crosses
        zip: {lr: [1.0e-2, 2.0e-2], warmup: [0.1, 0.2]}        # goes through lists side by side
        points: [{gap: 50}, {gap: 200}]                        # lists points

A value may follow the workload's size: `rank: {fraction: 0.25}` of the matrices' short side, `gap: {times: 0.5}` of the default.

`ruleset: external` with `tuning_studies`, `tuning_trials` and `tuning_seed` gives each submission that many independent
studies of that many trials, with points from `search` (see search.py) or `points`, and seeds derived from `tuning_seed`.
`ruleset: self` allows no hyperparameters and three times the budget.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner import documents, expansion, fields
from runner.documents import Mapping
from runner.trial import Trial

SHIPPED = Path(__file__).with_name("studies")
SHARED_KEYS = frozenset({"workload", "workloads", "seeds", "stop", "overrides", "probes_every", "observe", "adapter", "set"})
KEYS = SHARED_KEYS | {"study", "trials", "ruleset", "tuning_studies", "tuning_trials", "tuning_seed", "at"}
ENTRY_KEYS = SHARED_KEYS | {"submission", "sweep", "zip", "points", "search"}


def names() -> list[str]:
    """The studies that come with SlimPerf."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def locate(name_or_path: str) -> Path:
    """The file of a study: a path, or the name of one that comes with SlimPerf.

    Raises:
        ValueError: there is neither.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    if name_or_path in names():
        return SHIPPED / f"{name_or_path}.yaml"
    raise ValueError(f"unknown study {name_or_path!r}{fields.nearest(name_or_path, names())} (a file needs its path with .yaml)")


def read(path: Path, *, workload: str | None = None, overrides: dict[str, Any] | None = None) -> list[Trial]:
    """The trials of a study file, in its order; on another workload or with further overrides if they are given.

    Paths in the file are relative to it, those in a study that comes with SlimPerf to the current folder.

    Raises:
        ValueError: anything in the file is wrong; the message says where.
    """
    document = documents.read(path)
    if not isinstance(document, Mapping):
        raise ValueError(f"{path}: expected keys such as study, workload and trials, got {type(document).__name__}")
    try:
        document.check_keys(KEYS, "a study")
        whole = {"study": path.stem, **document}
        if workload is not None:
            whole.pop("workloads", None)
            whole["workload"] = workload
        if overrides:
            whole["overrides"] = {**(whole.get("overrides") or {}), **overrides}
        folder = path.resolve().parent
        return trials(whole, folder=Path.cwd() if folder == SHIPPED.resolve() else folder)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def trials(document: dict[str, Any], *, folder: Path) -> list[Trial]:
    """The trials of a study; paths in it are relative to `folder`.

    Raises:
        ValueError: a wrong key, value or hyperparameter, or two trials that are the same.
    """
    protocol = expansion.protocol(document)
    entries = document.get("trials")
    if not isinstance(entries, list) or not entries:
        raise ValueError("trials: expected a list with at least one `- submission: NAME`")
    found: list[Trial] = []
    seen: dict[str, tuple[int, Trial]] = {}
    counts: dict[tuple[str, ...], int] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            for trial in _entry(entry, protocol, folder, counts):
                if trial.id in seen:
                    raise ValueError(_collision(seen[trial.id], (number, trial)))
                seen[trial.id] = (number, trial)
                found.append(trial)
        except ValueError as error:
            raise ValueError(f"entry {number} of trials: {error}") from None
    used = {name for trial in found for name in trial.hyperparameters}
    if idle := protocol.shared.keys() - used:
        raise ValueError(f"set: no submission here has a hyperparameter {min(idle)!r}{fields.nearest(min(idle), used)}")
    return found


def _entry(entry: Any, protocol: expansion.Protocol, folder: Path, counts: dict[tuple[str, ...], int]) -> list[Trial]:
    if not isinstance(entry, dict) or not isinstance(entry.get("submission"), str):
        raise ValueError(f"expected `submission: NAME` (and set, sweep, ...), got {entry!r}")
    if isinstance(entry, Mapping):
        entry.check_keys(ENTRY_KEYS, "an entry of trials")
    own = expansion.narrowed(protocol, entry)
    submission = placed(entry["submission"], folder)
    points = expansion.points(entry, own)
    found: list[Trial] = []
    for name, overrides in own.workloads:
        where = placed(name, folder)
        key = (submission, where, repr(overrides))
        found += expansion.trials_of(own, submission, where, overrides, points, first_point=counts.get(key, 0))
        counts[key] = counts.get(key, 0) + len(points)
    return found


def placed(name: str, folder: Path) -> str:
    """A name as it is, a path as an absolute one."""
    path, colon, inner = name.partition(".py:")
    if name.endswith(".py") or colon:
        file = (folder / Path(f"{path}.py" if colon else name).expanduser()).resolve()
        return f"{file}:{inner}" if colon else str(file)
    return name


def _collision(first: tuple[int, Trial], second: tuple[int, Trial]) -> str:
    trial = second[1]
    return (
        f"the same trial as in entry {first[0]}: {trial.submission_name} on {trial.workload_name}, seed {trial.seed}"
        f" (id {trial.id}); remove one, or set a hyperparameter apart"
    )
