"""From what a study sets to a submission with every hyperparameter resolved.

Three layers, later ones win: the dataclass's own defaults (the paper's), `submissions/defaults.yaml` (by workload size),
what the user set.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import fields

if TYPE_CHECKING:
    from submissions.base import Submission


def resolve(cls: type[Submission], values: dict[str, Any]) -> Submission:
    """The submission with these hyperparameters, types and ranges checked.

    Raises:
        ValueError: an unknown name, a wrong type, or out of range.
    """
    known = fields.types_of(cls)
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{cls.__name__} has no hyperparameter {name!r}{fields.nearest(name, known)}")
        checked[name] = fields.coerce(known[name], value, name)
    try:
        return cls(**checked)
    except ValueError as error:
        raise ValueError(f"{cls.__name__}: {error}") from None
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}; every hyperparameter needs a default value") from None


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
