"""Which trials are of one algorithm: short names that tell files apart, and only the newest version of a file that was edited."""

from __future__ import annotations

from pathlib import PurePath

import pandas as pd

from analysis import notes, palette, times

SAME = ("study", "workload", "submission", "ruleset", "fingerprint", "tuning_study", "seed")
"""With the hyperparameters, what a trial of an edited file has in common with the one that it replaces."""
OURS = ""
"""In place of the path of a submission that is no file of a user's."""


def settled(trials: pd.DataFrame) -> pd.DataFrame:
    """`trials` with short, distinct names of submissions, without those that a newer version of their source has run again.

    Two files of one name get as much of their folders as tells them apart, unless one is a copy of the other. Where the same
    settings and seed were run with several versions of a source, the last one counts; `attrs["replaced"]` says what was left out.
    """
    attrs = dict(trials.attrs)
    trials = trials.assign(submission=_names(trials), fingerprint=trials["fingerprint"].fillna("unknown"))
    older = _older(trials)
    counts = trials.loc[older, "submission"].value_counts(sort=False)
    attrs["replaced"] = [
        f"{name}: {notes.counted(count, 'trial')} of an older version of its source left out; a newer one ran the same settings and seeds"
        for name, count in counts.items()
    ]
    kept = trials[~older].reset_index(drop=True)
    kept.attrs = attrs
    return kept


def _names(trials: pd.DataFrame) -> pd.Series:
    """A short name for each trial's submission."""
    short = trials["submission"].astype("str").map(palette.label)
    known = trials.reindex(columns=["source_sha256", "time"]).assign(name=short, file=_files(trials))
    # A copy goes by the file that ran first.
    first = known.sort_values("time", kind="stable").drop_duplicates(["name", "source_sha256"])
    file = known.merge(first, on=["name", "source_sha256"], how="left", suffixes=("", "_first"))["file_first"]
    file.index = trials.index
    named = short.copy()
    for name, group in file.groupby(short):
        distinct = set(group)
        own = distinct - {OURS}
        depth = 2
        while len({_tail(one, depth) for one in own}) < len(own):
            depth += 1
        if len(distinct) > 1:
            named[group.index] = [name if one == OURS else _tail(one, depth) for one in group]
    return named


def _files(trials: pd.DataFrame) -> pd.Series:
    """The path of each trial's submission, as it was asked for; `OURS` for one that goes by its name."""
    asked = trials["settings.asked"] if "settings.asked" in trials else pd.Series(None, index=trials.index, dtype=object)
    paths = asked.map(lambda words: words.get("submission") if isinstance(words, dict) else None)
    paths = paths.where(paths.notna(), trials["submission"]).astype("str")
    return paths.where(paths.str.endswith(".py"), OURS)


def _tail(file: str, depth: int) -> str:
    """The last parts of a path without its ending."""
    return "/".join(PurePath(file).with_suffix("").parts[-depth:])


def _older(trials: pd.DataFrame) -> pd.Series:
    """Whether another trial has the same settings and seed and a newer version of the source."""
    keys = times.numbered(trials, [*SAME, *(name for name in trials.columns if name.startswith("hp."))])
    source = trials["source_sha256"].astype("str")
    newest = trials.assign(_key=keys, _source=source).sort_values("time", kind="stable").drop_duplicates("_key", keep="last")
    return source != keys.map(dict(zip(newest["_key"], newest["_source"], strict=True)))
