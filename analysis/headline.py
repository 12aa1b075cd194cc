"""The result in words: who reached the target first on each workload, how much faster, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis import notes, render, scores, times
from analysis.palette import label

ENOUGH = 5
"""Seeds from which on a bootstrap may say that two submissions differ: with four all in favour, chance alone does so once in 16."""


def overall(rankings: Sequence[scores.Ranking]) -> list[str]:
    """A sentence for each leaderboard over several workloads: who has the highest score, and who is not told apart from it."""
    told = []
    for ranking in rankings:
        board = ranking.table
        if len(board) < 2 or board["workloads"].max() < 2 or not board["score"].max() > 0:
            continue
        first = board.iloc[0]
        place = f" ({ranking.ruleset} tuning, machine {ranking.fingerprint})" if len(rankings) > 1 else ""
        interval = (
            "" if math.isnan(first["low"]) else f" (95 % interval {render.number(first['low'], 3)} to {render.number(first['high'], 3)})"
        )
        sentence = f"Over {first['workloads']} workloads{place}, {label(first['submission'])} has the highest score, "
        sentence += f"{render.number(first['score'], 3)}{interval}, and solved {first['solved']} of them."
        if "tie_group" in board:
            tied = [label(name) for name in board["submission"][1:][board["tie_group"][1:] == first["tie_group"]]]
            sentence += f" At 95 % it is not told apart from {notes.listed(tied)}." if tied else ""
        told.append(sentence)
    return told


def sentences(trials: pd.DataFrame, summary: pd.DataFrame) -> dict[str, str]:
    """One sentence or two per workload, and per machine where there are several: times compare only within one.

    Args:
        trials: those behind `summary`: one configuration per submission, as `tables.best` chooses.
        summary: what `tables.summary` gives for them.
    """
    trials = trials.assign(fingerprint=trials["fingerprint"].fillna("unknown"))
    result: dict[str, str] = {}
    for (workload, machine), rows in summary.groupby(["workload", "fingerprint"], sort=True):
        here = trials[trials["workload"] == workload]
        place = f"{workload}, machine {machine}" if here["fingerprint"].nunique() > 1 else str(workload)
        sentence = _race(place, here[here["fingerprint"] == machine], rows)
        result[str(workload)] = f"{result[str(workload)]} {sentence}" if str(workload) in result else sentence
    return result


def _race(place: str, trials: pd.DataFrame, summary: pd.DataFrame) -> str:
    if trials["target_value"].isna().all():
        best = summary.sort_values("val_loss").iloc[0]
        name, loss = label(best["submission"]), best["val_loss"]
        quality = "" if math.isnan(loss) else f" The lowest final loss is {name}'s, {loss:.4g} nats/token."
        return f"{place} has no target, so nobody is first.{quality}"
    reached = summary[summary["reached_seconds"].map(math.isfinite)]
    if reached.empty:
        return _nobody(place, trials, summary)
    first = reached.iloc[0]
    return f"On {place}, {label(first['submission'])} reached the target first: {_time(first)}. {_margin(trials, reached)}"


def _nobody(place: str, trials: pd.DataFrame, summary: pd.DataFrame) -> str:
    running = int((trials["status"] == "running").sum())
    known = summary.dropna(subset=["val_loss"]).sort_values("val_loss")
    closest = ""
    if len(known):
        closest = f" Closest at the end was {label(known.iloc[0]['submission'])}, at {known.iloc[0]['val_loss']:.4g} nats/token."
    going = f" {running} of {len(trials)} trials are not finished." if running else ""
    return f"On {place}, no submission has reached the target in most of its trials.{closest}{going}"


def _time(row: pd.Series) -> str:
    middle = render.duration(row["reached_seconds"])
    if math.isnan(row["reached_seconds_low"]):
        why = "a single seed, so no interval" if row["n"] == 1 else f"the median; ended: {row['status']}"
        return f"{middle} on the clock ({why})"
    low, high = (render.duration(row[f"reached_seconds_{end}"]) for end in ("low", "high"))
    return f"{middle} on the clock (95 % interval {low} to {high}, {row['n']} seeds)"


def _margin(trials: pd.DataFrame, reached: pd.DataFrame) -> str:
    """Distance to the second, and whether the trials tell the two apart."""
    if len(reached) == 1:
        others = trials["submission"].nunique() - 1
        return "No other submission did." if others else "It ran alone, so this ranks nothing."
    first, second = reached.iloc[0], reached.iloc[1]
    ratio = second["reached_seconds"] / first["reached_seconds"]
    distance = f"Second is {label(second['submission'])}, {ratio:.2f} times as long"
    single = [label(row["submission"]) for row in (first, second) if row["n"] == 1]
    if single:
        return f"{distance}; one seed of {notes.listed(single)} cannot say whether that is chance."
    board = scores.leaderboard(times.studies(times.runs(trials))).set_index("submission")
    ahead = board.loc[first["submission"]]
    fewest = int(min(first["n"], second["n"]))
    tied = [label(name) for name in board.index[board["tie_group"] == ahead["tie_group"]] if name != first["submission"]]
    certainty = f"{label(first['submission'])} comes first in {100 * ahead['p_first']:.0f} % of bootstrap draws"
    if tied:
        return f"{distance}. At 95 % it is not told apart from {notes.listed(tied)}: {certainty}."
    if fewest < ENOUGH:
        return f"{distance}: {certainty}, but {fewest} seeds are few to tell the two apart."
    return f"{distance}, and at 95 % the two are told apart: {certainty}."
