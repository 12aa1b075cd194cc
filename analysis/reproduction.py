"""What a reproduction is: a named table or figure, the runs it rests on, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from analysis import ablation, tables, variants
from runner.record import FINISHED


@dataclass(kw_only=True)
class Result:
    """What one reproduction gives; any part may be empty where its runs are missing."""

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    claims: pd.DataFrame = field(default_factory=pd.DataFrame)
    figures: dict[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The planned trials that are over, and all that they recorded."""

    planned: pd.DataFrame
    """By variant, with `val_ppl`, `legacy_ppl` (NaN for one that diverged) and `share` (rank over the matrices' short side)."""
    trials: pd.DataFrame
    """Those of them that came to the end of their budget, as `analysis.load` gives them."""
    points: pd.DataFrame

    def of(self, *names: str) -> pd.DataFrame:
        """The runs of some variants."""
        return self.planned[self.planned["variant"].isin(names)]


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """One table or figure."""

    name: str
    kind: Literal["table", "figure"]
    what: str
    studies: tuple[str, ...]
    make: Callable[[Runs], Result]
    axes: tuple[str, ...] = ()
    """Hyperparameters that the table sweeps and that are therefore not part of a variant's name."""


def gathered(
    wanted: Reproduction, plan: pd.DataFrame, base: Mapping[str, Mapping[str, Any]], trials: pd.DataFrame, points: pd.DataFrame
) -> Runs:
    """The runs that a reproduction rests on.

    Args:
        plan: one row per planned trial: trial, submission, seed, share, hyperparameters.
        base: the plain hyperparameters of each submission.
    """
    over = trials[trials["trial"].isin(plan["trial"]) & trials["status"].isin(FINISHED)]
    finals = over
    for metric in ablation.METRICS:
        finals = tables.final(finals, points, name=metric)
    described = variants.described(plan, base, axes=wanted.axes)
    found = described.merge(finals[["trial", "status", *ablation.METRICS]], on="trial")
    whole = over[over["status"].isin(tables.ENDED)]
    return Runs(planned=found, trials=whole, points=points[points["trial"].isin(over["trial"])])
