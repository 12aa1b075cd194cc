"""Tables on records with known answers, and the formats that show them."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import records
from scipy import stats

from analysis import cautions, comparison, curves, load, render, spread, tables


def trials_of(times: dict[str, list[float]], **columns: object) -> pd.DataFrame:
    """One workload; NaN is a miss."""
    rows = [
        {"submission": name, "seed": seed, "reached_seconds": time, "status": "missed" if math.isnan(time) else "reached"}
        for name, values in times.items()
        for seed, time in enumerate(values)
    ]
    table = pd.DataFrame(rows).assign(workload="w", target_value=1.0, fingerprint="f", ruleset="external", tuning_study=0, **columns)
    return table.assign(trial=[f"t{i}" for i in range(len(table))])


def points_of(values: dict[str, list[tuple[int, float]]], name: str = "val_loss") -> pd.DataFrame:
    rows = [(trial, step, step * 0.5, step * 10, name, value, None) for trial, pairs in values.items() for step, value in pairs]
    return pd.DataFrame(rows, columns=["trial", "step", "seconds", "tokens", "name", "value", "param"])


def test_interval_is_students_t() -> None:
    table = pd.DataFrame({"g": ["a"] * 3 + ["b"], "x": [1.0, 2.0, 4.0, 5.0]})
    result = spread.over(table, "x", by=["g"]).set_index("g")
    low, high = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem([1.0, 2.0, 4.0]))
    assert result.loc["a", ["x", "x_low", "x_high"]].tolist() == pytest.approx([7 / 3, low, high])
    assert result.loc["b", "x"] == 5.0
    assert result.loc["b", ["x_low", "x_high"]].isna().all(), "one value has no interval"


def test_times_with_a_miss_are_medians_without_interval() -> None:
    table = spread.times(
        trials_of({"all": [2.0, 8.0], "some": [1.0, math.nan, 3.0], "none": [math.nan] * 2}), "reached_seconds", by=["submission"]
    )
    table = table.set_index("submission")
    assert table.loc["all", "reached_seconds"] == 5.0, "median"
    assert table.loc["some", "reached_seconds"] == 3.0, "median of 1, 3 and infinity"
    assert table.loc["none", "reached_seconds"] == math.inf
    assert table.loc[["some", "none"], "reached_seconds_low"].isna().all()
    assert table["reached"].to_dict() == {"all": 2, "some": 2, "none": 0}


def test_running_trials_are_neither_hits_nor_misses() -> None:
    trials = trials_of({"a": [2.0, math.nan]})
    trials.loc[1, "status"] = "running"
    row = spread.times(trials, "reached_seconds", by=["submission"]).iloc[0]
    assert (row["n"], row["reached"], row["reached_seconds"]) == (1, 1, 2.0)


def test_final_takes_the_last_value_of_trials_that_ended() -> None:
    trials = trials_of({"a": [1.0, math.nan, math.nan]})
    trials["status"] = ["reached", "missed", "diverged"]
    points = points_of({"t0": [(10, 3.0), (20, 2.0)], "t1": [(20, 5.0), (10, 9.0)], "t2": [(10, 1.0)]})
    assert tables.final(trials, points, name="val_loss")["val_loss"].tolist()[:2] == [2.0, 5.0]
    assert math.isnan(tables.final(trials, points, name="val_loss")["val_loss"][2]), "a diverged trial has no final value"


def test_best_configuration_is_the_fastest_of_those_repeated_most() -> None:
    trials = trials_of({"a": [5.0, 6.0, 9.0, 8.0, 1.0]}, **{"hp.lr": [1, 1, 2, 2, 3], "hp.same": 7})
    best = tables.best(trials, points_of({}))
    assert best["configuration"].unique().tolist() == ["lr=1"], "lr=3 was run once and does not compete"
    assert best["reached_seconds"].tolist() == [5.0, 6.0]
    assert best["tried"].unique().tolist() == [3]


def test_best_of_each_study_where_nothing_was_repeated() -> None:
    trials = trials_of({"a": [5.0, 6.0, math.nan, 8.0]}, **{"hp.lr": [1, 2, 3, 4]}).assign(tuning_study=[0, 0, 1, 1])
    assert tables.best(trials, points_of({}))["reached_seconds"].tolist() == [5.0, 8.0]


def test_summary_keeps_machines_apart() -> None:
    trials = trials_of({"a": [5.0, 50.0]}, reached_step=7.0).assign(fingerprint=["f", "g"])
    summary = tables.summary(trials, points_of({}))
    assert summary[["fingerprint", "reached_seconds"]].to_numpy().tolist() == [["f", pytest.approx(5.0)], ["g", pytest.approx(50.0)]]


def test_summary_of_the_quickstart(tmp_path: Path) -> None:
    trials, points = load.study(records.quickstart(tmp_path, submissions=("adam", "galore")))
    summary = tables.summary(tables.best(trials, points), points).set_index("submission")
    assert summary.index.tolist() == ["adam", "galore"], "fastest first"
    assert summary.loc["adam", "bytes_state"] == records.STATE["adam"]
    assert summary.loc["adam", "n"] == 3
    assert summary.loc["adam", "val_ppl"] == pytest.approx(math.exp(summary.loc["adam", "val_loss"]))
    assert summary.loc["adam", "legacy_ppl"] < summary.loc["adam", "val_ppl"]


def test_edges_of_the_space_and_effort_are_said() -> None:
    trials = trials_of({"a": [9.0, 8.0, 7.0], "b": [4.0]}, **{"hp.lr": [0.1, 0.2, 0.3, 0.1], "seconds": 10.0, "steps": 5})
    tuning = tables.tuning(trials, tables.best(trials, points_of({}))).set_index("submission")
    assert tuning.loc["a", "edge"] == "lr=0.3 is the largest tried"
    assert tuning.loc["a", ["configurations", "spent_seconds", "spent_steps"]].tolist() == [3, 30.0, 15]
    assert tuning.loc["b", "edge"] is None


def test_cautions_name_what_is_wrong(tmp_path: Path) -> None:
    records.quickstart(tmp_path, submissions=("adam", "fira"), target={**records.TARGET, "provisional": True})
    records.write(
        tmp_path, "galore", 0, source={"file": "g.py", "sha256": "1" * 64, "text": ""}, data={"name": "other", "sha256": "2" * 64}
    )
    records.write(tmp_path, "galore", 1, fingerprint={"id": "elsewhere"}, end=False)
    trials, points = load.study(tmp_path)
    said = " ".join(cautions.found(trials, tables.tuning(trials, tables.best(trials, points))))
    for words in (
        "fingerprint",
        "2 different data sets",
        "several versions of the source of galore",
        "provisional",
        "have not ended",
        "galore (seed 2)",
    ):
        assert words in said


def test_tuning_studies_count_as_repetitions(tmp_path: Path) -> None:
    def said() -> str:
        trials, points = load.study(tmp_path)
        return " ".join(cautions.found(trials, tables.tuning(trials, tables.best(trials, points))))

    records.write(tmp_path, "fira", 0, hyperparameters={"lr": 0.1}, tuning_study=0)
    assert "only one seed for fira" in said()
    records.write(tmp_path, "fira", 1, hyperparameters={"lr": 0.2}, tuning_study=1)
    assert "only one seed" not in said()


def test_clean_records_need_no_caution(tmp_path: Path) -> None:
    trials, points = load.study(records.quickstart(tmp_path))
    assert cautions.found(trials, tables.tuning(trials, tables.best(trials, points))) == []


def test_published_values_stand_beside_and_only_for_the_same_workload(tmp_path: Path) -> None:
    for workload in ("llama_60m", "llama_60m[steps=600]"):
        records.write(tmp_path, "fira", 0, workload=workload)
    trials, points = load.study(tmp_path)
    table = comparison.perplexity(trials, points).set_index(["workload", "paper"])
    assert table.loc[("llama_60m", "fira"), "published"] == 31.06
    row = table.loc[("llama_60m", "scale")]
    assert row["relative_difference"] == pytest.approx(row["legacy_ppl"] / 30.34 - 1)
    assert table.loc["llama_60m[steps=600]", "published"].isna().all()


def test_memory_estimates_and_predictions() -> None:
    measured = pd.DataFrame([{"workload": "llama_60m", "submission": "adam", "bytes_weights": 116e6, "bytes_state": 232e6}])
    row = comparison.estimates(measured).iloc[0]
    assert row["relative_difference"] == pytest.approx(348e6 / (0.36 * 2**30) - 1)
    beside = comparison.predictions(measured, measured.assign(bytes_state=232e6 * 1.5)).set_index("part")
    assert beside["relative_difference"].to_dict() == {"weights": 0.0, "state": 0.5}
    with pytest.raises(ValueError, match="no part in common: measured bytes_weights, bytes_state, predicted none"):
        comparison.predictions(measured, measured[["workload", "submission"]])
    with pytest.raises(ValueError, match="no column 'workload'; expected the file that `slimperf memory --csv` writes"):
        comparison.predictions(measured, measured.drop(columns="workload"))


def test_thinned_curve_is_a_median_that_most_trials_support() -> None:
    trials = trials_of({"a": [1.0, 1.0, 1.0]})
    points = points_of({"t0": [(10, 1.0), (20, 2.0), (30, 3.0)], "t1": [(10, 3.0), (20, 4.0)], "t2": [(10, 2.0)]})
    curve = curves.thinned(trials, points, x="step")
    assert curve["step"].tolist() == [10, 20], "at 30 only one of three is left"
    assert curve["val_loss"].tolist() == [2.0, 3.0]
    assert curve["n"].tolist() == [3, 2]


def test_thinned_curve_of_many_points_is_short() -> None:
    trials = trials_of({"a": [1.0, 1.0]})
    many = {trial: [(step, 1 / step) for step in range(1, 3000)] for trial in ("t0", "t1")}
    for x in ("step", "seconds"):
        curve = curves.thinned(trials, points_of(many), x=x)
        assert len(curve) == curves.GRID
        assert np.allclose(curve["val_loss"].iloc[-1], 1 / 2999)


TABLE = pd.DataFrame(
    {
        "submission": ["a_b", "c|d"],
        "reached_seconds": [12.3456, math.inf],
        "reached_seconds_low": [11.0, math.nan],
        "reached_seconds_high": [13.5, math.nan],
        "bytes_state": [3 * 1024**2, 1.5 * 1024**2],
        "note": ["50% <more>", None],
    }
)


def test_text_folds_intervals_and_picks_units() -> None:
    lines = render.text(TABLE).splitlines()
    assert lines[0].split("  ")[0] == "submission"
    assert "time to target (s)" in lines[0]
    assert "optimizer state (MiB)" in lines[0]
    assert "12.35 [11.00, 13.50]" in lines[2]
    assert "missed" in lines[3]
    assert "1.500" in lines[3]
    assert not any(line.endswith(" ") for line in lines)


def test_markdown_latex_and_html_escape_what_they_must() -> None:
    markdown = render.markdown(TABLE).splitlines()
    assert len({line.replace("\\|", "x").count("|") for line in markdown}) == 1, "every row has the same number of cells"
    latex = render.latex(TABLE)
    assert r"a\_b" in latex
    assert r"50\% \textless{}more\textgreater{}" in latex
    assert latex.count(r"\\") == 3
    assert [rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3
    html = render.html(TABLE, marks={"a_b": "<i></i>"})
    assert "50% &lt;more&gt;" in html
    assert "<td><i></i>a_b</td>" in html


def test_csv_keeps_every_digit() -> None:
    back = pd.read_csv(io.StringIO(render.csv(TABLE)))
    pd.testing.assert_series_equal(back["reached_seconds"], TABLE["reached_seconds"])
    assert render.csv(TABLE).splitlines()[2].endswith(","), "missing stays empty"


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.000123456, "0.0001235"), (12345.6, "12,346"), (1.5e-7, "1.500e-07"), (math.nan, "-"), (0.0, "0"), (-2.5, "-2.500")],
)
def test_numbers_keep_four_digits(value: float, words: str) -> None:
    assert render.number(value) == words


def test_names_of_workloads_stay_as_they_are_in_headings() -> None:
    table = pd.DataFrame({"submission": ["a"], "llama_nano[seconds=60,steps=20] seconds": [12.0], "llama_nano step": [5.0]})
    assert render.layout(table).headings == ("submission", "llama_nano[seconds=60,steps=20] (s)", "llama_nano step")
    empty = pd.DataFrame({"rank": pd.array([None], dtype="Int64")})
    assert render.layout(empty).rows == (("-",),)
