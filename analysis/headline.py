"""The result in words: who reached the target first on each workload, how much faster, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis import notes, render, scores
from analysis.palette import label
from analysis.tables import ENDED, RACE


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


def sentences(trials: pd.DataFrame, summary: pd.DataFrame, rankings: Sequence[scores.Ranking]) -> dict[str, str]:
    """One sentence or two per workload, and per ruleset and machine where there are several: times compare only within one.

    Args:
        trials: those behind `summary`: one configuration per submission, as `tables.best` chooses.
        summary: what `tables.summary` gives for them.
        rankings: of all trials, whose studies say how sure a place is.
    """
    studies = {(ranking.ruleset, ranking.fingerprint): ranking.studies for ranking in rankings}
    result: dict[str, str] = {}
    for (workload, ruleset, machine), rows in summary.groupby(RACE, sort=True):
        here = trials[trials["workload"] == workload]
        place = f"{workload}, {ruleset} tuning" if here["ruleset"].nunique() > 1 else str(workload)
        place += f", machine {machine}" if here["fingerprint"].nunique() > 1 else ""
        ran = here[(here["ruleset"] == ruleset) & (here["fingerprint"] == machine)]
        sentence = _race(place, ran, rows, studies.get((str(ruleset), str(machine))))
        result[str(workload)] = f"{result[str(workload)]} {sentence}" if str(workload) in result else sentence
    return result


def _race(place: str, trials: pd.DataFrame, summary: pd.DataFrame, studies: pd.DataFrame | None) -> str:
    if trials["target_value"].isna().all():
        return f"{place} has no target, so nobody is first.{_closest(trials, summary, 'The lowest final loss is that of')}"
    reached = summary[summary["reached_seconds"].map(math.isfinite)]
    if reached.empty:
        return _nobody(place, trials, summary)
    first = reached.iloc[0]
    return f"On {place}, {label(first['submission'])} reached the target first: {_time(first)}. {_margin(trials, reached, studies)}"


def _nobody(place: str, trials: pd.DataFrame, summary: pd.DataFrame) -> str:
    running = int((trials["status"] == "running").sum())
    closest = _closest(trials, summary, "Closest at the end was")
    going = f" {running} of {len(trials)} trials are not finished." if running else ""
    return f"On {place}, no submission has reached the target in most of its trials.{closest}{going}"


def _closest(trials: pd.DataFrame, summary: pd.DataFrame, words: str) -> str:
    """Who ended with the lowest loss. What a submission has left that lost most of its trials are its luckiest, and do not count."""
    ends = trials[trials["status"] != "running"]
    kept = ends["status"].isin(ENDED).groupby(ends["submission"]).mean()
    measured = summary.dropna(subset=["val_loss"]).sort_values("val_loss")
    known = measured[measured["submission"].map(kept) > 0.5]
    if not len(measured):
        return ""
    if not len(known):
        return " Every submission lost most of its trials before their end, so none is called closest."
    lossy = [label(name) for name in measured["submission"] if name not in set(known["submission"])]
    rest = f" Not counted: {notes.listed(lossy)}, of which most trials were lost before their end." if lossy else ""
    return f" {words} {label(known.iloc[0]['submission'])}, at {known.iloc[0]['val_loss']:.4g} nats/token.{rest}"


def _time(row: pd.Series) -> str:
    middle = render.duration(row["reached_seconds"])
    if math.isnan(row["reached_seconds_low"]):
        why = "a single seed, so no interval" if row["n"] == 1 else f"the median; ended: {row['status']}"
        return f"{middle} on the clock ({why})"
    low, high = (render.duration(row[f"reached_seconds_{end}"]) for end in ("low", "high"))
    return f"{middle} on the clock (95 % interval {low} to {high}, {row['n']} seeds)"


def _margin(trials: pd.DataFrame, reached: pd.DataFrame, studies: pd.DataFrame | None) -> str:
    """Distance to the second, and whether the studies tell the two apart."""
    if len(reached) == 1:
        others = trials["submission"].nunique() - 1
        return "No other submission did in most of its trials." if others else "It ran alone, so this ranks nothing."
    first, second = reached.iloc[0], reached.iloc[1]
    ratio = second["reached_seconds"] / first["reached_seconds"]
    distance = f"Second is {label(second['submission'])}, {ratio:.2f} times as long"
    single = [label(row["submission"]) for row in (first, second) if row["n"] == 1]
    if single:
        return f"{distance}; one seed of {notes.listed(single)} cannot say whether that is chance."
    assert studies is not None, "a target was reached, so there is a ranking"
    board = scores.leaderboard(studies, workloads=[str(first["workload"])], variants=[]).set_index("submission")
    ahead, leader = board.loc[first["submission"]], str(board.index[0])
    if ahead["score"] < board["score"].iloc[0]:
        return f"{distance}. The score, which takes the best configuration of every study, puts {label(leader)} first."
    tied = [label(name) for name in board.index[board["tie_group"] == ahead["tie_group"]] if name != first["submission"]]
    certainty = f"{label(first['submission'])} comes first in {100 * ahead['p_first']:.0f} % of bootstrap draws"
    if tied:
        return f"{distance}. {certainty}; with {ahead['studies']} studies that does not tell it apart from {notes.listed(tied)} at 95 %."
    return f"{distance}, and at 95 % the two are told apart: {certainty}."
