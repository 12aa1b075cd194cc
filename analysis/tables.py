"""Tables about trials: DataFrames in, DataFrames out, one row per what the name says.

Units stand in column names; `x_low` and `x_high` are the 95 % interval of `x` over seeds (`analysis.spread`), NaN where
there is none to give. `analysis.render` turns any of these tables into text, Markdown, LaTeX, HTML or CSV.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis import spaces, spread

CELL = ["workload", "submission"]
"""What most tables have a row for."""
RACE = ["workload", "ruleset", "fingerprint"]
"""Trials whose times compare."""
ENTRY = [*RACE, "submission"]
"""One submission in one race."""
ENDED = ("reached", "missed")
"""Statuses of trials whose last evaluation is a result; that of a diverged or stopped one is not."""


def final(trials: pd.DataFrame, points: pd.DataFrame, *, name: str) -> pd.DataFrame:
    """`trials` with a column `name`: the last value of that point, NaN for a trial that did not come to its end."""
    found = points.loc[points["name"] == name, ["trial", "step", "value"]]
    last = found.sort_values("step", kind="stable").drop_duplicates("trial", keep="last")
    values = trials["trial"].map(dict(zip(last["trial"].astype(str), last["value"], strict=True))).astype(float)
    return trials.assign(**{name: values.where(trials["status"].isin(ENDED))})


def configured(trials: pd.DataFrame) -> pd.DataFrame:
    """`trials` with a column `configuration`: the hyperparameters that differ among the submission's trials, as text."""
    cell = trials.groupby(CELL, sort=False).ngroup().to_numpy()
    texts = np.full(len(trials), "", dtype=object)
    for column in trials.columns[trials.columns.str.startswith("hp.")]:
        values = trials[column].map(plain).to_numpy(dtype=object)
        kinds = pd.Series(pd.factorize(values, use_na_sentinel=False)[0]).groupby(cell).transform("nunique").to_numpy()
        varied = kinds > 1
        commas = np.where(texts[varied] == "", "", ", ").astype(object)
        texts[varied] += commas + f"{column.removeprefix('hp.')}=" + values[varied]
    return trials.assign(configuration=texts)


def best(trials: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """The trials that stand for each submission in each race (workload, ruleset, machine), with columns `configuration` and `tried`.

    Of the configurations that were repeated most often, the one with the smallest median time to target (a miss is
    infinite), then the smallest median final loss. If nothing was repeated and there are several tuning studies, the
    best trial of each study instead. `tried` counts the configurations, which ran on the same seeds.
    """
    table = final(configured(_known(trials)), points, name="val_loss")
    table["tried"] = table.groupby(ENTRY)["configuration"].transform("nunique")
    table = table.assign(_seconds=table["reached_seconds"].fillna(np.inf), _loss=table["val_loss"].fillna(np.inf))
    repeats = table.groupby([*ENTRY, "configuration"])["trial"].transform("size")
    most = repeats.groupby([table[key] for key in ENTRY]).transform("max")
    searched = (most == 1) & (table.groupby(ENTRY)["tuning_study"].transform("nunique") > 1)
    # A study takes the place of a configuration where nothing was repeated.
    unit = table["configuration"].where(~searched, table["trial"])
    candidates = table.assign(_unit=unit, _study=table["tuning_study"].where(searched, -1))[repeats == most]
    ranked = candidates.groupby([*ENTRY, "_study", "_unit"], sort=False)[["_seconds", "_loss"]].median().reset_index()
    first = ranked.sort_values(["_seconds", "_loss"], kind="stable").drop_duplicates([*ENTRY, "_study"])
    chosen = candidates.merge(first[[*ENTRY, "_study", "_unit"]], on=[*ENTRY, "_study", "_unit"])
    chosen.attrs = dict(trials.attrs)
    return chosen.drop(columns=["_seconds", "_loss", "_unit", "_study", "val_loss"])


def lowest(final: pd.DataFrame, *, x: str | Sequence[str], y: str) -> pd.DataFrame:
    """For each submission and value of `x` (one column or several), the trials of the best configuration: the lowest mean of `y`.

    One of which trials were lost (have no `y`) comes after all whose trials came through, the fewest losses first. What a curve over one
    hyperparameter shows when others were varied too: each at its best.
    """
    places = [x] if isinstance(x, str) else list(x)
    table = configured(final.dropna(subset=places))
    keys = [*CELL, *places, "configuration"]
    ranked = table.assign(_lost=table[y].isna()).groupby(keys, sort=False)[["_lost", y]].mean().reset_index()
    first = ranked.sort_values(["_lost", y], kind="stable").drop_duplicates([*CELL, *places])
    return table.merge(first[keys], on=keys)


def summary(trials: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """One row per race and submission: time and steps to target, final quality, memory, how its trials ended.

    Fastest first within a race (workload, ruleset, machine), because times compare only there. Give it the trials of one
    configuration per submission, as `best` does.
    """
    trials, by = _known(trials), ENTRY
    result = trials[by].drop_duplicates()
    parts = [spread.times(trials, column, by=by).drop(columns=["reached"]) for column in ("reached_seconds", "reached_step")]
    parts += [
        spread.over(final(trials, points, name=name), name, by=by, logarithmic=name.endswith("_ppl"))
        for name in ("val_loss", "val_ppl", "legacy_ppl")
    ]
    parts += [trials.reindex(columns=[*by, "bytes_state", "bytes_peak"]).groupby(by).median().reset_index()]
    for part in parts:
        result = result.merge(part.drop(columns="n", errors="ignore"), on=by, how="left")
    counts = trials.groupby(by)["status"].agg(n="size", status=_counted).reset_index()
    order = [*RACE, "reached_seconds", "val_loss"]
    return result.merge(counts, on=by).sort_values(order, kind="stable", ignore_index=True)


def _known(trials: pd.DataFrame) -> pd.DataFrame:
    """With a fingerprint for every trial, so that those without one are a machine too."""
    return trials.assign(fingerprint=trials["fingerprint"].fillna("unknown"))


def plain(value: object) -> str:
    """A hyperparameter as one types it; a whole number is one even in a column that had to be of floats."""
    if value is None or value != value:  # a column of numbers has no other place for null
        return "null"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(list(value)) if isinstance(value, tuple) else str(value)


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """Without columns in which nothing was measured."""
    keep = {name for name in table.columns if table[name].notna().any() and not (table[name].astype("str") == "").all()}
    keep |= {f"{name}{end}" for name in keep for end in ("_low", "_high")}
    return table[[name for name in table.columns if name in keep]]


def statuses(trials: pd.DataFrame) -> pd.DataFrame:
    """How many trials of each workload and submission ended how."""
    counts = trials.groupby([*CELL, "status"]).size().unstack("status", fill_value=0)
    return counts.reset_index().rename_axis(columns=None)


def failures(trials: pd.DataFrame) -> pd.DataFrame:
    """Every trial that did not reach its target, with the reason; the worst ends first."""
    order = {status: rank for rank, status in enumerate(("failed", "out_of_memory", "diverged", "preempted", "running", "missed"))}
    rows = trials[trials["status"] != "reached"]
    rows = rows.assign(_order=rows["status"].map(order)).sort_values(["_order", *CELL, "seed"], kind="stable")
    return rows[[*CELL, "seed", "status", "steps", "reason", "trial"]].astype({"steps": "Int64"}).reset_index(drop=True)


def tuning(trials: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """What was spent on each submission in each race: configurations, trials, seconds, steps; the best configuration, its edges.

    `edge` names numeric hyperparameters whose best value is the smallest or largest of at least three tried: a sign
    that the space was too small.

    Args:
        best: what `best` chose from these trials.
    """
    names = [name for name in trials.columns if name.startswith("hp.")]
    table = configured(_known(trials))[[*ENTRY, "configuration", "trial", "seconds", "steps", *names]]
    result = table.groupby(ENTRY, sort=False).agg(
        configurations=("configuration", "nunique"),
        trials=("trial", "size"),
        spent_seconds=("seconds", "sum"),
        spent_steps=("steps", "sum"),
    )
    chosen = dict(iter(best.groupby(ENTRY, sort=False)))
    result["best"] = pd.Series({entry: rows["configuration"].iloc[0] or "defaults" for entry, rows in chosen.items()})
    edges = {entry: ", ".join(_edges(group[names], chosen[entry].iloc[0])) or None for entry, group in table.groupby(ENTRY, sort=False)}
    for entry, rows in chosen.items():
        for row in spaces.edges(rows).itertuples():
            # A declared space says more than the values that happened to be tried.
            edges[entry] = f"{row.hyperparameter}={row.value:g} is at the {row.edge} end of {row.low:g} to {row.high:g}"
    return result.assign(edge=pd.Series(edges, dtype=object)).astype({"spent_steps": int}).sort_index().reset_index()


def protocol(trials: pd.DataFrame) -> pd.DataFrame:
    """What each workload asked for, read from the records: target, budgets, batch, data."""
    columns = {
        "workload": "workload", "target_name": "target", "target_value": "value", "target_provisional": "provisional",
        "target_source": "source", "budget_steps": "step budget", "budget_seconds": "budget_seconds", "stop": "stops at",
        "tokens_per_step": "tokens per step", "parameters": "parameters", "data_sha256": "data",
    }  # fmt: skip
    rows = trials.reindex(columns=list(columns)).drop_duplicates().rename(columns=columns)
    rows["step budget"] = rows["step budget"].astype("Int64")
    rows["data"] = rows["data"].astype("str").str[:12]
    return rows.sort_values("workload", kind="stable", ignore_index=True)


def memory(trials: pd.DataFrame) -> pd.DataFrame:
    """Measured bytes by part per workload, submission and configuration: the median over trials."""
    table = configured(trials)
    parts = [name for name in table.columns if name.startswith("bytes_") and table[name].notna().any()]
    return table.groupby([*CELL, "configuration"], sort=False)[parts].median().reset_index()


def _edges(tried: pd.DataFrame, winner: pd.Series) -> Iterator[str]:
    """Hyperparameters of one submission whose best value lies at the border of those tried."""
    for column in map(str, tried.columns):
        values = pd.to_numeric(tried[column], errors="coerce").dropna()
        if values.nunique() < 3 or isinstance(winner[column], bool | str):
            continue
        for end, word in ((values.min(), "smallest"), (values.max(), "largest")):
            if winner[column] == end:
                yield f"{column.removeprefix('hp.')}={end:g} is the {word} tried"


def _counted(statuses: pd.Series) -> str:
    return ", ".join(f"{count} {status}" for status, count in statuses.value_counts().items())
