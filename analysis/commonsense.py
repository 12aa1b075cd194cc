"""Accuracy on the commonsense tasks: per task and on average, with chance, two kinds of interval, and the published numbers beside.

`accuracy_low` and `accuracy_high` are over seeds (what another run would give); `binomial_low` and `binomial_high` are over questions (what
other questions of the same kind would give). Both at 95 %. A difference within either is no difference.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from analysis import published, spread
from analysis.tables import CELL, ENDED

AVERAGE = "average"
METRICS = ("accuracy", "answer_nats", "parse_failure", "count", "chance")
SAME_AS = {
    "fira": ("commonsense_llama7b_adapters", "lora+fira"),
    "galore": ("commonsense_llama7b_adapters", "lora+galore"),
    "lora": ("commonsense_llama7b_adapters", "lora"),
    "adam": ("commonsense_llama7b_full", "adam"),
}
"""Which of our pairs a published row is: the released code put Fira and GaLore on LoRA's factors. Others do not say."""


def answers(trials: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """One row per workload, submission and task (and `average`): `accuracy` with its intervals, `chance`, `questions`, `n` seeds.

    `answer_nats` (likelihood) and `parse_failure` (generation) are NaN where the other way was taken. Trials that did not come to their end
    are left out.
    """
    values = _by_trial(trials, points)
    means = spread.over(values, "accuracy", by=[*CELL, "task"], within=(0.0, 1.0))
    others = values.groupby([*CELL, "task"], sort=False)[[name for name in METRICS if name != "accuracy"]].mean().reset_index()
    table = means.merge(others, on=[*CELL, "task"]).rename(columns={"count": "questions"})
    is_average = table["task"] == AVERAGE
    low, high = wilson(table["accuracy"].to_numpy(float), table["questions"].to_numpy(float))
    table["binomial_low"], table["binomial_high"] = low, high
    for cell, rows in table[~is_average].groupby(CELL, sort=False):
        here = is_average & (table["workload"] == cell[0]) & (table["submission"] == cell[1])
        error = np.sqrt((rows["accuracy"] * (1 - rows["accuracy"]) / rows["questions"]).sum()) / len(rows)
        half = stats.norm.ppf(0.5 + spread.LEVEL / 2) * error
        table.loc[here, ["binomial_low", "binomial_high"]] = table.loc[here, ["accuracy"]].to_numpy() + np.array([[-half, half]])
        table.loc[here, "questions"] = rows["questions"].sum()
    names = ["accuracy", "accuracy_low", "accuracy_high", "binomial_low", "binomial_high", "chance", "questions", "n"]
    return table[[*CELL, "task", *names, "answer_nats", "parse_failure"]]


def wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Wilson's interval of a binomial share."""
    z = stats.norm.ppf(0.5 + spread.LEVEL / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return middle - half, middle + half


def beside_published(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `answers` with a column `published` (a share, NaN where there is none) and `note`; published rows of ours unrun follow.

    The published accuracies are of LLaMA-7B, generated and parsed, over eight tasks: provisional, never a target that was reached here.
    """
    paper = published.table("fira", "commonsense_7b").melt("submission", var_name="task", value_name="published")
    paper["published"] /= 100
    places = [SAME_AS.get(name, ("commonsense_llama7b", name)) for name in paper["submission"]]
    paper = paper.assign(workload=[place[0] for place in places], submission=[place[1] for place in places])
    note = published.sources()["fira"]["tables"]["commonsense_7b"]["note"]
    joined = table.merge(paper, on=[*CELL, "task"], how="outer", sort=False)
    return joined.assign(note=joined["published"].map(lambda value: note if value == value else None))


def _by_trial(trials: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """A row per trial and task with the metrics at the end, and one for the average."""
    ended = trials.loc[trials["status"].isin(ENDED), ["trial", *CELL]]
    found = points[points["name"].str.startswith("test_")].merge(ended.astype({"trial": points["trial"].dtype}), on="trial")
    if found.empty:
        raise ValueError("no answers to test questions are on record: expected trials of a commonsense workload with test_examples above 0")
    parts = found["name"].str.removeprefix("test_").str.partition("/")
    found = found.assign(metric=parts[0], task=parts[2].where(parts[2] != "", AVERAGE))
    found = found[found["metric"].isin(METRICS)]
    wide = found.pivot_table(index=["trial", *CELL, "task"], columns="metric", values="value", aggfunc="last", sort=False, observed=True)
    return wide.reindex(columns=list(METRICS)).reset_index()
