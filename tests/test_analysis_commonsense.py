from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import commonsense


def study(submission: str = "lora", workload: str = "commonsense_nano_adapters") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three seeds that end, with 0.60, 0.62 and 0.64 on one task and 0.30 on the other, and one that diverged."""
    trials = pd.DataFrame(
        {"trial": list("abcd"), "workload": workload, "submission": submission, "status": ["missed", "reached", "missed", "diverged"]}
    )
    rows = []
    for trial, boolq in zip("abcd", (0.60, 0.62, 0.64, 0.99), strict=True):
        values = {"accuracy/boolq": boolq, "accuracy/ARC-Easy": 0.30, "accuracy": (boolq + 0.30) / 2, "chance/boolq": 0.5, "chance": 0.375}
        values |= {"chance/ARC-Easy": 0.25, "count/boolq": 100, "count/ARC-Easy": 50, "answer_nats/boolq": 0.6, "answer_nats": 0.9}
        rows += [{"trial": trial, "step": 10, "name": f"test_{name}", "value": value} for name, value in values.items()]
        rows.append(
            {"trial": trial, "step": 10, "name": "accuracy/boolq", "value": 0.0}
        )  # of the evaluation grid: another set of questions
    return trials, pd.DataFrame(rows)


def test_tasks_and_their_average_have_both_intervals() -> None:
    table = commonsense.answers(*study()).set_index("task")
    assert list(table.index) == ["boolq", "ARC-Easy", "average"]
    boolq = table.loc["boolq"]
    assert boolq["accuracy"] == pytest.approx(0.62)
    half = stats.t.ppf(0.975, 2) * 0.02 / math.sqrt(3)
    assert (boolq["accuracy_low"], boolq["accuracy_high"]) == pytest.approx((0.62 - half, 0.62 + half))
    assert (boolq["binomial_low"], boolq["binomial_high"]) == pytest.approx((0.5221, 0.7090), abs=1e-3)  # Wilson's of 62 in 100
    average = table.loc["average"]
    assert average["accuracy"] == pytest.approx(0.46)
    error = math.sqrt(0.62 * 0.38 / 100 + 0.3 * 0.7 / 50) / 2
    assert average["binomial_high"] - average["accuracy"] == pytest.approx(1.96 * error, rel=1e-3)
    assert (average["questions"], average["chance"], average["n"]) == (150, 0.375, 3)
    assert np.isnan(boolq["parse_failure"])
    assert boolq["answer_nats"] == pytest.approx(0.6)


def test_published_rows_stand_beside_ours_and_keep_their_caveat() -> None:
    table = commonsense.beside_published(commonsense.answers(*study("lora+fira", "commonsense_llama7b_adapters")))
    rows = table.set_index(["submission", "task"])
    assert rows.loc[("lora+fira", "boolq"), "published"] == pytest.approx(0.694)
    assert rows.loc[("lora+fira", "boolq"), "accuracy"] == pytest.approx(0.62)
    assert rows.loc[("lora+galore", "winogrande"), "published"] == pytest.approx(0.18)
    assert np.isnan(rows.loc[("lora+galore", "winogrande"), "accuracy"])
    assert "not parsed" in rows.loc[("lora+galore", "winogrande"), "note"]


def test_a_study_without_answers_says_what_was_expected() -> None:
    trials, points = study()
    with pytest.raises(ValueError, match="expected trials of a commonsense workload with test_examples above 0"):
        commonsense.answers(trials, points[points["name"] == "accuracy/boolq"])
