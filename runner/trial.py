"""A trial: workload x submission x all hyperparameters x seed, as plain data with an identity of its own.

The id is a hash of content: it does not change when a default changes elsewhere, when a study is renamed, or when a
user's file moves to another folder; it does when the workload or the text of that file changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

LABELS = frozenset({"study", "ruleset", "tuning_study", "tuning_trial", "space"})
"""Fields that say what a trial is for, not what is run: two studies may share the trial."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is run. Plain values only, so that it can be sent to another process or machine as JSON."""

    study: str
    workload: str
    """Registered name, or `file.py:name` with an absolute path."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Changes of the workload, as `catalog.workload` takes them."""
    workload_sha256: str = ""
    """Hash of the workload's `spec()` after the overrides (and of its source if it is not ours)."""
    submission: str
    """Registered name, or the absolute path of a Python file."""
    hyperparameters: dict[str, Any]
    """All of them, defaults resolved."""
    source_sha256: str | None = None
    """Hash of the submission's source text if it is not one of ours."""
    seed: int
    ruleset: Literal["external", "self"] = "external"
    tuning_study: int = 0
    tuning_trial: int = 0
    space: dict[str, Any] | None = None
    """The search space that the hyperparameters were drawn from, and the seed of the draw."""
    stop: Literal["target", "budget"] = "target"
    probes_every: int | None = None
    """Steps between two recorded probes; None records none."""
    observe: dict[str, Any] = field(default_factory=dict)
    """What is measured beside the training (see observation.py)."""
    adapter: dict[str, Any] = field(default_factory=dict)
    """The adapter that the submission optimises (see composition.py); empty for none."""

    @cached_property
    def id(self) -> str:
        """12 hexadecimal digits of a SHA-256 over everything but `LABELS`."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in LABELS}
        for name in ("observe", "adapter"):  # an identity from before there was such a thing stays what it was
            if not content[name]:
                del content[name]
        content["submission"] = self.submission_name
        content["workload"] = self.workload.rsplit("/", 1)[-1]
        return hashlib.sha256(_canonical(content).encode()).hexdigest()[:12]

    @property
    def submission_name(self) -> str:
        """For people and tables: a file goes by its stem, a submission on an adapter by both: `lora+fira`."""
        name = Path(self.submission).stem if self.submission.endswith(".py") else self.submission
        return f"{self.adapter.get('method', self.adapter['submission'])}+{name}" if self.adapter else name

    @property
    def workload_name(self) -> str:
        """The name with every override: `llama_nano[data=wiki,steps=500]`."""
        return label(self.workload, self.overrides)

    def to_json(self) -> str:
        """One line of JSON."""
        return _canonical(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Trial:
        """The trial that `to_json` wrote.

        Raises:
            ValueError: not a trial, or one of another version.
        """
        fields = json.loads(text)
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"not a trial of this version of SlimPerf ({error}); plan the study again") from None


def label(workload: str, overrides: dict[str, Any]) -> str:
    """The workload's name with its overrides in brackets, sorted by key."""
    name = workload.rsplit(":", 1)[-1]
    if not overrides:
        return name
    return f"{name}[{','.join(f'{key}={_plain(overrides[key])}' for key in sorted(overrides))}]"


def digest(content: Any) -> str:
    """SHA-256 of plain data, independent of the order of keys."""
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
