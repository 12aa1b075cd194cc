"""What can be run, by name: submissions and workloads of this repository, of installed packages, and of a user's files.

One file in `submissions/` is one submission, named like the file; a file in `workloads/` lists its own under `WORKLOADS`;
another package offers some through the entry point groups `slimperf.submissions` and `slimperf.workloads`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from runner import fields, neighbours, sources
from runner.trial import label

if TYPE_CHECKING:
    from submissions.base import Submission
    from workloads.base import Workload

_DEFINES_SUBMISSION = re.compile(r"^class \w+\((?:\w+\.)?(?:Adam|Matrix|Adapter|Block)?Submission\)", re.MULTILINE)
_SHARED = frozenset({"adapters", "base", "blocks", "dense", "engine", "linalg", "pieces", "quantisation", "schedules"})
_DEFINES_WORKLOADS = re.compile(r"^WORKLOADS\b", re.MULTILINE)


def folder(package: str) -> Path:
    """Where one of our packages lies, found without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, package
    assert spec.submodule_search_locations, package
    return Path(next(iter(spec.submodule_search_locations)))


@functools.cache
def submission_names() -> tuple[str, ...]:
    """Names that `submission_class` knows; nothing is imported for it."""
    return tuple(sorted({*_modules("submissions", _DEFINES_SUBMISSION), *_entry_points("slimperf.submissions")}))


@functools.cache
def submission_class(name_or_path: str) -> type[Submission]:
    """The class of a submission, from its name or the path of its file.

    Raises:
        ValueError: an unknown name (with the nearest one), or a file that does not define one working submission.
    """
    if name_or_path.endswith(".py"):
        return sources.only_submission(sources.load(Path(name_or_path)))
    if name_or_path in _modules("submissions", _DEFINES_SUBMISSION):
        return sources.only_submission(importlib.import_module(f"submissions.{name_or_path}"))
    points = _entry_points("slimperf.submissions")
    if name_or_path in points:
        return sources.checked(points[name_or_path].load(), f"entry point {name_or_path}")
    near = fields.nearest(name_or_path, submission_names())
    raise ValueError(f"unknown submission {name_or_path!r}{near} (a file needs its path with .py; see `slimperf list submissions`)")


@functools.cache
def source_sha256(name_or_path: str) -> str | None:
    """SHA-256 of the source of a submission that is not one of ours, else None: of its text, and of `modules` if there are any."""
    if name_or_path in _modules("submissions", _DEFINES_SUBMISSION):
        return None
    return sources.identity(source(name_or_path).read_bytes(), modules(name_or_path))


@functools.cache
def modules(name_or_path: str) -> dict[str, str]:
    """SHA-256 of each module that the file of a submission imports from its own folder; none of a submission that is installed."""
    return _hashes(Path(name_or_path).resolve()) if name_or_path.endswith(".py") else {}


def files(name_or_path: str) -> list[Path]:
    """The file that defines a submission, and the modules that it imports from its own folder; none if they cannot be found."""
    try:
        path = source(name_or_path).resolve()
        return [path, *(neighbours.beside(path).values() if name_or_path.endswith(".py") else ())]
    except (OSError, ValueError):
        return []


def source(name_or_path: str) -> Path:
    """The file that defines a submission."""
    return Path(name_or_path) if name_or_path.endswith(".py") else Path(inspect.getfile(submission_class(name_or_path)))


def workload_names() -> tuple[str, ...]:
    """Names that `workload` knows."""
    return tuple(sorted(_workloads()))


@functools.cache
def registered(name: str) -> Workload:
    """A workload as it was declared.

    Raises:
        ValueError: an unknown name (with the nearest one), or a file without it.
    """
    path, _, wanted = name.rpartition(":") if ".py:" in name else (name, "", "")
    if not path.endswith(".py"):
        if name not in _workloads():
            raise ValueError(f"unknown workload {name!r}{fields.nearest(name, _workloads())} (see `slimperf list workloads`)")
        return _workloads()[name]
    found = {w.name: w for w in _declared(sources.load(Path(path)))}
    if not wanted and len(found) == 1:
        return next(iter(found.values()))
    if wanted not in found:
        raise ValueError(f"{path}: name one of its workloads, as {path}:NAME{fields.nearest(wanted, found)}")
    return found[wanted]


@functools.cache
def workload_source_sha256(name: str) -> str | None:
    """SHA-256 of the source of a workload that is not one of ours, as `source_sha256` is of a submission, else None."""
    cls = type(registered(name))
    if cls.__module__.startswith("workloads."):
        return None
    path = Path(inspect.getfile(cls))
    return sources.identity(path.read_bytes(), _hashes(path) if ".py" in name else {})


def _hashes(path: Path) -> dict[str, str]:
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in neighbours.beside(path).items()}


def workload(name: str, overrides: dict[str, Any] | None = None) -> Workload:
    """A workload with changes, named after both.

    An override is a field of the workload (`data`), a field inside one (`batch.sequences`), or one of the short forms
    `steps`, `seconds` (of the budget) and `target` (its value; null for none).

    Raises:
        ValueError: an unknown workload or field, a wrong type, or a value that the workload refuses.
    """
    changed = registered(name)
    for key, value in (overrides or {}).items():
        changed = _override(changed, key, value)
    changed = changed.adapted(frozenset(overrides or {}))
    changed.check()
    return dataclasses.replace(changed, name=label(changed.name, overrides or {}))


def _override(workload: Workload, key: str, value: Any) -> Workload:
    if key == "target" and value is None:
        return dataclasses.replace(workload, target=None)
    if key == "target":
        return _aimed(workload, value)
    if key.startswith("target.") and workload.target is None:
        raise ValueError(f"{key} = {value!r}: {workload.name} has no target; give its value first, as target = 2.5")
    path = {"steps": "budget.steps", "seconds": "budget.seconds"}.get(key, key)
    changed: Workload = _replaced(workload, path.split("."), value, key)
    return changed


def _aimed(workload: Workload, value: Any) -> Workload:
    """The workload with another target value: in its own metric, or in `val_loss` if it had no target."""
    from workloads.base import Target

    number = fields.coerce(float, value, "target")
    # Where the frozen value came from says nothing about this one.
    told: dict[str, Any] = {"value": number, "provisional": True, "source": "given as an override"}
    target = Target(metric="val_loss", **told) if workload.target is None else dataclasses.replace(workload.target, **told)
    return dataclasses.replace(workload, target=target)


def _replaced(owner: Any, path: list[str], value: Any, key: str) -> Any:
    known = fields.types_of(type(owner))
    if path[0] not in known or path[0] == "name":
        near = fields.nearest(path[0], {*known, "steps", "seconds"} - {"name", "budget"})
        raise ValueError(f"{type(owner).__name__} has no setting {key!r}{near}")
    current = getattr(owner, path[0])
    if len(path) > 1 and dataclasses.is_dataclass(current):
        new = _replaced(current, path[1:], value, key)
    elif len(path) > 1 or dataclasses.is_dataclass(current):
        raise ValueError(f"{key} = {value!r}: expected a setting inside it, such as {_inside(path[0], current)}")
    else:
        new = fields.coerce(known[path[0]], value, key)
        if path[0] in ("steps", "seconds") and not new > 0:
            raise ValueError(f"{key} = {value!r}: expected a positive number")
    return dataclasses.replace(owner, **{path[0]: new})


def _inside(name: str, current: Any) -> str:
    inner = dataclasses.fields(current) if dataclasses.is_dataclass(current) else ()
    return ", ".join(f"{name}.{f.name}" for f in inner) or name


@functools.cache
def _workloads() -> dict[str, Workload]:
    found: dict[str, Workload] = {}
    offers: list[Any] = [importlib.import_module(f"workloads.{m}") for m in _modules("workloads", _DEFINES_WORKLOADS)]
    offers += [point.load() for point in _entry_points("slimperf.workloads").values()]
    for offer in offers:
        for workload in _declared(offer):
            assert workload.name not in found, f"two workloads are named {workload.name}"
            found[workload.name] = workload
    return found


def _declared(offer: Any) -> tuple[Workload, ...]:
    from workloads.base import Workload

    offered = getattr(offer, "WORKLOADS", None) if isinstance(offer, ModuleType) else offer
    declared = (offered,) if isinstance(offered, Workload) else tuple(offered or ())
    if not declared or not all(isinstance(workload, Workload) for workload in declared):
        where = getattr(offer, "__file__", repr(offer))
        raise ValueError(f"{where}: expected WORKLOADS, a tuple of Workload objects")
    return declared


@functools.cache
def _modules(package: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
    files = sorted(folder(package).glob("*.py"))
    return tuple(file.stem for file in files if file.stem not in _SHARED and pattern.search(file.read_text(encoding="utf-8")))


def _entry_points(group: str) -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=group)}


def forget(path: str) -> None:
    """Drops what was loaded from a file and from modules beside it, for a program that edits them while it runs."""
    for cached in (submission_class, source_sha256, modules, registered, workload_source_sha256):
        cached.cache_clear()
    text = Path(path).resolve()
    gone = {text, *neighbours.beside(text).values()}
    gone |= {file.parent for file in gone}  # packages without a file keep the modules that were imported from them
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if isinstance(spec, ModuleSpec) and not gone.isdisjoint(neighbours.places(spec)):
            del sys.modules[name]
