"""Names of workloads as records spell them: `llama_nano[data=wiki,steps=500]`, a base and its overrides."""

from __future__ import annotations

import re
from collections.abc import Collection

import pandas as pd

BUDGET = frozenset({"steps", "seconds", "budget.steps", "budget.seconds", "evaluate_every"})
"""Overrides that change how long a problem is worked on, not the problem."""
AIM = frozenset({"target", "target.value", "target.metric", "target.mode"})
"""Overrides of what counts as solved."""
BETWEEN = re.compile(r",(?=[a-z_][\w.]*=)")
"""A comma between two overrides; a list has others."""


def base(workload: str) -> str:
    """The name without its overrides."""
    return workload.partition("[")[0]


def overrides(workload: str) -> list[str]:
    """The overrides as `name=value` texts."""
    _, bracket, rest = workload.partition("[")
    return BETWEEN.split(rest.removesuffix("]")) if bracket else []


def without(workload: str, names: Collection[str]) -> str:
    """The name without the overrides called `names`."""
    kept = [change for change in overrides(workload) if change.partition("=")[0] not in names]
    return f"{base(workload)}[{','.join(kept)}]" if kept else base(workload)


def variants(trials: pd.DataFrame) -> dict[str, str]:
    """The base of each held-out variant among these trials, by name, as far as somebody ran one.

    A record names the plain base workload. Where it was run with overrides, the base is the one with the variant's own,
    targets aside, as each has its own.
    """
    pairs = trials.dropna(subset=["base_workload"])[["workload", "base_workload"]].drop_duplicates()
    present = sorted(set(trials["workload"].astype("str")))
    found = {}
    for variant, plain in pairs.astype("str").itertuples(index=False):
        wanted = without(variant, AIM).replace(base(variant), plain, 1)
        alike = [name for name in present if base(name) == plain and without(name, AIM) == wanted and name != variant]
        if plain in present or alike:
            found[variant] = plain if (plain in present and plain == wanted) or not alike else alike[0]
    return found
