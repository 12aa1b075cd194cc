"""Which trials are of one algorithm: short names that tell files apart, and only the newest version of a file that was edited."""

from __future__ import annotations

from pathlib import PurePath

import pandas as pd

from analysis import notes, palette

SAME = ("study", "workload", "submission", "ruleset", "fingerprint", "tuning_study", "seed")
"""With the hyperparameters, what a trial of an edited file has in common with the one that it replaces."""


def settled(trials: pd.DataFrame) -> pd.DataFrame:
    """`trials` with short, distinct names of submissions, without those that a newer version of their source has run again.

    Two files of one name get as much of their folders as tells them apart, unless one is a copy of the other. Where the same
    settings and seed were run with several versions of a source, the last one counts; `attrs["problems"]` says what was left out.
    """
    problems = list(trials.attrs.get("problems", []))
    trials = trials.assign(submission=_names(trials), fingerprint=trials["fingerprint"].fillna("unknown"))
    older = _older(trials)
    counts = trials.loc[older, "submission"].value_counts(sort=False)
    problems += [
        f"{name}: {notes.counted(count, 'trial')} of an older version of its source left out; a newer one ran the same settings and seeds"
        for name, count in counts.items()
    ]
    kept = trials[~older].reset_index(drop=True)
    kept.attrs["problems"] = problems
    return kept


def _names(trials: pd.DataFrame) -> pd.Series:
    """A short name for each trial's submission."""
    short = trials["submission"].astype("str").map(palette.label)
    known = trials.reindex(columns=["source_file", "source_sha256", "time"]).assign(name=short)
    files = known[known["source_file"].map(lambda file: isinstance(file, str) and PurePath(file).is_absolute())]
    # A copy goes by the file that ran first.
    first = files.sort_values("time", kind="stable").drop_duplicates(["name", "source_sha256"])
    file = known.merge(first, on=["name", "source_sha256"], how="left", suffixes=("", "_first"))["source_file_first"]
    file.index = trials.index
    named = short.copy()
    for name, group in file.dropna().groupby(short):
        distinct = sorted(set(group))
        depth = 1
        while len({_tail(one, depth) for one in distinct}) < len(distinct):
            depth += 1
        named[group.index] = name if len(distinct) == 1 else group.map(lambda one, depth=depth: _tail(one, depth))
    return named


def _tail(file: str, depth: int) -> str:
    """The last parts of a path without its ending."""
    return "/".join(PurePath(file).with_suffix("").parts[-depth:])


def _older(trials: pd.DataFrame) -> pd.Series:
    """Whether another trial has the same settings and seed and a newer version of the source."""
    names = [*SAME, *(name for name in trials.columns if name.startswith("hp."))]
    keys = pd.Series(list(trials[names].astype("str").itertuples(index=False, name=None)), index=trials.index)
    source = trials["source_sha256"].astype("str")
    newest = trials.assign(_key=keys, _source=source).sort_values("time", kind="stable").drop_duplicates("_key", keep="last")
    return source != keys.map(dict(zip(newest["_key"], newest["_source"], strict=True)))
