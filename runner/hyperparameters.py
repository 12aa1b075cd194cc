"""From what a study sets to a submission with every hyperparameter resolved.

Three layers, later ones win: the dataclass's own defaults (the paper's), `submissions/defaults.yaml` (by workload size),
what the user set.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import faults, fields

if TYPE_CHECKING:
    from submissions.base import Submission

TYPES = "bool, int, float, str, Literal, Enum, tuples, lists or dicts of those, or None"


def check(cls: type[Submission]) -> None:
    """Whether the fields of a class can be hyperparameters: written in YAML and in records, and read back as they were.

    Raises:
        ValueError: naming the first field whose type or default cannot.
    """
    known = fields.types_of(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        what = f"field {field.name} of class {cls.__name__}"
        if not fields.storable(known[field.name]):
            written = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type, cls.__module__)
            raise ValueError(f"{what}: type {written} cannot be a hyperparameter; use {TYPES}")
        default = _default(field)
        try:
            back = fields.coerce(known[field.name], fields.plain(default), field.name)
            back = fields.coerce(known[field.name], json.loads(json.dumps(fields.plain(back))), field.name)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{what}: its default is not of its type: {' '.join(str(error).split())}") from None
        if back != default:
            raise ValueError(f"{what}: its default {default!r} comes back from YAML as {back!r}; expected the same")


def resolve(cls: type[Submission], values: dict[str, Any]) -> Submission:
    """The submission with these hyperparameters, types and ranges checked.

    Raises:
        ValueError: an unknown name, a wrong type, not finite where the default is, or out of range.
    """
    known = fields.types_of(cls)
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{cls.__name__} has no hyperparameter {name!r}{fields.nearest(name, known)}")
        checked[name] = fields.coerce(known[name], value, name)
        if not _finite(checked[name], _default(cls.__dataclass_fields__[name])):
            raise ValueError(f"{cls.__name__}: {name} = {value!r}: expected finite numbers")
        if any(abs(number) >= 2**63 for number in _numbers(checked[name], int)):
            raise ValueError(f"{cls.__name__}: {name} = {value!r}: expected whole numbers of at most 64 bits, which records hold")
    try:
        return cls(**checked)
    except ValueError as error:
        raise ValueError(f"{cls.__name__}: {error}") from None
    except (Exception, SystemExit) as error:  # its __post_init__ may be the user's
        raise ValueError(f"{cls.__name__}: {faults.told(error, [Path(inspect.getfile(cls))])}") from error


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _finite(value: Any, default: Any) -> bool:
    """Whether all numbers in a value are finite, or infinite where the default is."""
    infinite = any(map(math.isinf, _numbers(default)))
    return all(math.isfinite(number) or (infinite and math.isinf(number)) for number in _numbers(value))


def _numbers(value: Any, kind: type = float) -> list[Any]:
    """The numbers of a kind in a value, however deep."""
    if isinstance(value, dict):
        return _numbers(list(value.values()), kind)
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item, kind)]
    return [value] if isinstance(value, kind) else []


def values(submission: Submission) -> dict[str, Any]:
    """All hyperparameters as plain data, as a trial and a record keep them."""
    return {name: fields.plain(getattr(submission, name)) for name in fields.types_of(type(submission))}


def defaults(submission: str, *workloads: str | None) -> dict[str, Any]:
    """What `defaults.yaml` gives a submission on the first of `workloads` that it lists, over its entry for all ("*")."""
    entries = _defaults().get(submission, {})
    chosen = next((entries[name] for name in workloads if name in entries), {})
    return {key: value for key, value in {**entries.get("*", {}), **chosen}.items() if key != "source"}


def sources(submission: str) -> dict[str, dict[str, Any]]:
    """The whole entry of a submission in `defaults.yaml`: {workload: {hyperparameter: value, source: text}}."""
    return _defaults().get(submission, {})


@functools.cache
def _defaults() -> dict[str, dict[str, dict[str, Any]]]:
    from runner import catalog, documents

    path = catalog.folder("submissions") / "defaults.yaml"
    return documents.read(path) if Path(path).is_file() else {}
