"""From an entry of a study to trials: points of hyperparameters x workloads x seeds, under a ruleset."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from runner import catalog, composition, fields, hyperparameters, observation, scale, search
from runner.trial import Trial, digest

SELF_TUNING_BUDGET = 3
"""A self-tuning submission gets this many times the budget, as in AlgoPerf."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a study says about all of its trials."""

    study: str
    workloads: tuple[tuple[str, dict[str, Any]], ...]
    """Name and overrides."""
    seeds: tuple[int, ...] = (0,)
    stop: Literal["target", "budget"] = "target"
    probes_every: int | None = None
    observe: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    """What every submission optimises, for those that bring no adapter themselves."""
    at: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Hyperparameters by workload and submission, over the submission's defaults there and under what the study sets."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Hyperparameters fixed for every submission that has them."""
    ruleset: Literal["external", "self"] = "external"
    tuning_studies: int | None = None
    tuning_trials: int | None = None
    tuning_seed: int = 0


@dataclass(frozen=True)
class Candidate:
    """A point of hyperparameters and, if it was drawn, from where."""

    values: dict[str, Any]
    space: dict[str, Any] | None = None


def protocol(document: dict[str, Any]) -> Protocol:
    """The study's part that holds for all trials.

    Raises:
        ValueError: a value is of the wrong type, or two settings contradict each other.
    """
    types = fields.types_of(Protocol)
    own = {key: fields.coerce(types[key], document[key], key) for key in types.keys() & document.keys() - {"workloads"}}
    own["workloads"] = _workloads(document)
    own["shared"] = dict(_mapping(document, "set"))
    checked = Protocol(**own)
    if not checked.study or "/" in checked.study or checked.study.startswith("."):
        raise ValueError(f"study = {checked.study!r}: expected a name that can be a folder, such as rank-limiter")
    return _consistent(checked, "seeds" in document)


def narrowed(whole: Protocol, entry: dict[str, Any]) -> Protocol:
    """The protocol with what one entry says otherwise."""
    types = fields.types_of(Protocol)
    may = {"seeds", "stop", "probes_every", "observe", "adapter"}
    own = {key: fields.coerce(types[key], entry[key], key) for key in may & entry.keys()}
    if "workload" in entry or "workloads" in entry:
        own["workloads"] = _workloads(entry)
    elif "overrides" in entry:
        own["workloads"] = tuple((name, {**given, **_mapping(entry, "overrides")}) for name, given in whole.workloads)
    return _consistent(dataclasses.replace(whole, **own), "seeds" in entry)


def points(entry: dict[str, Any], rules: Protocol) -> list[Candidate]:
    """The points of an entry in a fixed order: points x zip x sweep, or draws from its search space.

    Raises:
        ValueError: a list is missing or empty, or a hyperparameter stands twice.
    """
    fixed = dict(_mapping(entry, "set"))
    if "search" in entry:
        return _drawn(entry, fixed, rules)
    listed = entry.get("points", [{}])
    if not isinstance(listed, list) or not listed or not all(isinstance(point, dict) for point in listed):
        raise ValueError(f"points = {listed!r}: expected a list of mappings, such as [{{rank: 4}}, {{rank: 16}}]")
    crossed = {name: _axis("sweep", name, values) for name, values in _mapping(entry, "sweep").items()}
    zipped = {name: _axis("zip", name, values) for name, values in _mapping(entry, "zip").items()}
    if len({len(values) for values in zipped.values()}) > 1:
        lengths = ", ".join(f"{name}: {len(values)}" for name, values in zipped.items())
        raise ValueError(f"zip: expected lists of one length, got {lengths}")
    beside = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)] if zipped else [{}]
    grid = [dict(zip(crossed, row, strict=True)) for row in itertools.product(*crossed.values())]
    return [Candidate(_joined(fixed, *parts)) for parts in itertools.product(listed, beside, grid)]


def trials_of(
    rules: Protocol, submission: str, workload: str, overrides: dict[str, Any], candidates: list[Candidate], *, first_point: int
) -> Iterator[Trial]:
    """The trials of one submission on one workload; types and ranges are checked here.

    Raises:
        ValueError: an unknown name or hyperparameter, a wrong type, or out of range.
    """
    if rules.ruleset == "self" and len(candidates) > 1:
        raise ValueError(f"ruleset: self allows no hyperparameters: expected one point for {submission}, got {len(candidates)}")
    cls = catalog.submission_class(submission)
    overrides = _budgeted(rules, workload, overrides)
    changed = catalog.workload(workload, overrides)
    by_size = () if rules.ruleset == "self" else (catalog.registered(workload).name, changed.variant_of)
    layers = hyperparameters.defaults(submission, *by_size)
    layers |= next((rules.at[name].get(submission, {}) for name in by_size if name in rules.at), {})
    known = fields.types_of(cls)
    shared = {name: value for name, value in rules.shared.items() if name in known}
    common = {
        "study": rules.study,
        "workload": workload,
        "overrides": fields.plain(overrides),
        "workload_sha256": digest([changed.spec(), catalog.workload_source_sha256(workload)]),
        "submission": submission,
        "source_sha256": catalog.source_sha256(submission),
        "ruleset": rules.ruleset,
        "stop": rules.stop,
        "probes_every": rules.probes_every,
        "observe": observation.plain(rules.observe, changed),
        "adapter": composition.resolved(rules.adapter, *by_size),
    }
    given = [scale.resolved({**shared, **c.values}, layers, cls, changed) for c in candidates]
    resolved = [hyperparameters.values(hyperparameters.resolve(cls, {**layers, **values})) for values in given]
    for study, trial, index, seed in _schedule(rules, candidates):
        yield Trial(
            **common,
            hyperparameters=resolved[index],
            space=candidates[index].space,
            seed=seed,
            tuning_study=study,
            tuning_trial=trial + first_point,
        )


def derived_seed(root: int, *labels: int) -> int:
    """A seed of 31 bits that is a function of the recorded one and the labels."""
    return int(hashlib.sha256(repr((root, *labels)).encode()).hexdigest()[:8], 16) % 2**31


def _schedule(rules: Protocol, candidates: list[Candidate]) -> Iterator[tuple[int, int, int, int]]:
    """(tuning study, tuning trial, index of the point, seed) of each trial."""
    if rules.tuning_studies is None:  # every seed is a study of its own, over all points
        for index in range(len(candidates)):
            for study, seed in enumerate(rules.seeds):
                yield study, index, index, seed
        return
    allowed = rules.tuning_trials or 1
    apart = len(candidates) == rules.tuning_studies * allowed and rules.tuning_studies > 1
    if not apart and len(candidates) > allowed:
        raise ValueError(
            f"{len(candidates)} points: expected at most tuning_trials = {allowed} (used by every study)"
            f" or exactly {rules.tuning_studies * allowed} (dealt out to the {rules.tuning_studies} studies)"
        )
    for study in range(rules.tuning_studies):
        for trial in range(allowed if apart else len(candidates)):
            yield study, trial, study * allowed + trial if apart else trial, derived_seed(rules.tuning_seed, study, trial)


def _drawn(entry: dict[str, Any], fixed: dict[str, Any], rules: Protocol) -> list[Candidate]:
    if rules.tuning_studies is None or rules.tuning_trials is None:
        raise ValueError("search: expected tuning_studies and tuning_trials in the study, which say how many points to draw")
    if others := entry.keys() & {"sweep", "zip", "points"}:
        raise ValueError(f"search and {min(others)} in one entry: expected one of them; put fixed choices into `values` of the space")
    space = search.parse(entry["search"])
    record = {"seed": rules.tuning_seed, "sequence": "scrambled Halton", "axes": fields.plain(entry["search"])}
    drawn = search.draw(space, rules.tuning_studies * rules.tuning_trials, seed=rules.tuning_seed)
    return [Candidate(_joined(fixed, point), record) for point in drawn]


def _budgeted(rules: Protocol, workload: str, overrides: dict[str, Any]) -> dict[str, Any]:
    if rules.ruleset != "self":
        return overrides
    budget = catalog.workload(workload, overrides).budget
    longer = {"steps": budget.steps * SELF_TUNING_BUDGET, "seconds": budget.seconds * SELF_TUNING_BUDGET}
    return {**overrides, **longer}


def _consistent(rules: Protocol, seeds_given: bool) -> Protocol:
    if not rules.seeds or len(set(rules.seeds)) < len(rules.seeds) or min(rules.seeds) < 0:
        raise ValueError(f"seeds = {list(rules.seeds)!r}: expected different whole numbers from 0, such as [0, 1, 2]")
    for name in ("tuning_studies", "tuning_trials", "probes_every"):
        value = getattr(rules, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} = {value}: expected a whole number of at least 1")
    if rules.observe.get("shadow") and rules.probes_every is None:
        raise ValueError("observe: shadow is measured on the grid of the probes: expected probes_every too")
    if rules.tuning_studies is not None and seeds_given:
        raise ValueError("seeds and tuning_studies: expected one of them; the seeds of tuning studies are derived from tuning_seed")
    if rules.tuning_trials is not None and rules.tuning_studies is None:
        raise ValueError("tuning_trials without tuning_studies: expected both")
    if rules.ruleset == "self" and rules.tuning_trials not in (None, 1):
        raise ValueError("ruleset: self has nothing to tune: expected no tuning_trials")
    return rules


def _workloads(given: dict[str, Any]) -> tuple[tuple[str, dict[str, Any]], ...]:
    if ("workload" in given) == ("workloads" in given):
        raise ValueError("expected either `workload: NAME` or `workloads: [NAME, ...]`")
    listed = [given["workload"]] if "workload" in given else given["workloads"]
    overrides = _mapping(given, "overrides")
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"workloads = {listed!r}: expected a list of names")
    return tuple(_workload(item, overrides) for item in listed)


def _workload(item: Any, overrides: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(item, str):
        return item, dict(overrides)
    if isinstance(item, dict) and set(item) <= {"name", "overrides"} and isinstance(item.get("name"), str):
        return item["name"], {**overrides, **_mapping(item, "overrides")}
    raise ValueError(f"workload = {item!r}: expected a name, or {{name: NAME, overrides: {{steps: 500}}}}")


def _mapping(given: dict[str, Any], key: str) -> dict[str, Any]:
    value = given.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{key} = {value!r}: expected a mapping, such as {{NAME: VALUE}}")
    return value


def _axis(kind: str, name: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{kind}: {name} = {values!r}: expected a list of values to go through (a single value belongs under `set`)")
    return values


def _joined(*parts: dict[str, Any]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for part in parts:
        if twice := joined.keys() & part.keys():
            raise ValueError(f"{min(twice)!r} stands in two of set, sweep, zip, points and search: expected it in one")
        joined.update(part)
    return joined
