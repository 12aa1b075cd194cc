"""Memory as an axis, data efficiency, and the score command on records of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import records

from analysis import efficiency, load, pareto, spaces, times
from runner import cli


def _trials(rows: list[tuple[str, float, float]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["submission", "bytes_peak", "reached_seconds"])
    return table.assign(
        trial=[str(k) for k in range(len(table))], workload="w", base_workload=None, seed=0, ruleset="external", tuning_study=0,
        fingerprint="f", target_name="val_loss", target_mode="min",
    )  # fmt: skip


def test_a_cap_turns_larger_and_unmeasured_trials_into_misses() -> None:
    trials = _trials([("big", 9e9, 10.0), ("small", 4e9, 30.0), ("silent", np.nan, 5.0)])
    table = pareto.within(trials, 8e9)
    assert table["submission"].tolist() == ["small", "big", "silent"]
    assert table["time"].tolist() == [30, np.inf, np.inf]
    notes = pareto.cap_notes(trials, 8e9)
    assert "memory cap 8 GB (1 GB = 1e9 bytes): missed by 1 of 3 trials, which need more" in notes[0]
    assert "1 trial that recorded no memory" in notes[1]


def test_memory_is_the_peak_or_else_the_sum_of_the_parts() -> None:
    trials = pd.DataFrame({"bytes_peak": [5.0, np.nan, np.nan], "bytes_weights": [1.0, 1.0, np.nan], "bytes_state": [1.0, 2.0, np.nan]})
    assert np.array_equal(times.memory(trials), [5, 3, np.nan], equal_nan=True)
    assert times.memory(trials.drop(columns="bytes_peak")).tolist()[:2] == [2, 3]


def test_the_curve_of_scores_steps_where_a_submission_begins_to_fit() -> None:
    curve = pareto.curve(_trials([("big", 9e9, 10.0), ("small", 4e9, 30.0)]))
    answer = {(row.cap, row.submission): row.score for row in curve.itertuples()}
    assert answer == pytest.approx({(4e9, "big"): 0, (4e9, "small"): 1, (9e9, "big"): 1, (9e9, "small"): 1 / 3})
    assert pareto.curve(_trials([("silent", np.nan, 1.0)])).empty


def test_the_front_holds_what_nothing_beats() -> None:
    table = pd.DataFrame(
        {
            "workload": ["w", "w", "w", "w", "v"],
            "memory": [1.0, 2.0, 2.0, 1.0, 9.0],
            "time": [5.0, 1.0, 6.0, np.nan, 9.0],
            "quality": [1.0, 1.0, 1.0, 0.0, 9.0],
        }
    )
    assert pareto.front(table)["front"].tolist() == [True, True, False, False, True]
    assert pareto.front(table, within=None)["front"].tolist() == [True, True, False, False, False]


def test_measures_of_the_front_come_from_the_records(tmp_path: Path) -> None:
    records.quickstart(tmp_path, submissions=("adam", "galore"))
    trials, points = load.study(tmp_path)
    table = pareto.measured(trials, points).set_index("submission")
    own = points[(points["name"] == "val_loss") & points["trial"].isin(trials.loc[trials["submission"] == "adam", "trial"])]
    assert table.loc["adam", "quality"] == own.groupby("trial", observed=True)["value"].min().median()
    assert table.loc["galore", "memory"] < table.loc["adam", "memory"]
    assert table.loc["adam", "time"] == trials.loc[trials["submission"] == "adam", "reached_seconds"].median()


def _losses(rows: list[tuple[int, str, float, float]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["parameters", "submission", "steps", "loss"])
    return table.assign(workload="w", seed=0, point="p")


def test_data_efficiency_interpolates_between_the_baselines_horizons() -> None:
    horizons = [(1, "adam", 100.0 * 2**k, 4.0 - k) for k in range(4)]
    table = efficiency.speedups(_losses([*horizons, (1, "x", 100.0, 2.5), (1, "x", 200.0, 0.5), (1, "y", 400.0, 4.0)]))
    answer = {(row.submission, row.steps): row.speedup for row in table.itertuples()}
    assert answer["x", 100.0] == pytest.approx(2**1.5)
    assert np.isnan(answer["x", 200.0])  # below what the baseline ever reached: not extrapolated
    assert answer["y", 400.0] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="baseline 'adamw': expected one of adam"):
        efficiency.speedups(_losses(horizons), baseline="adamw")


def test_the_baseline_is_tuned_at_every_horizon() -> None:
    losses = _losses([(1, "adam", 100.0, 3.0), (1, "adam", 100.0, 2.0), (1, "adam", 200.0, 1.0)]).assign(point=["bad", "good", "good"])
    tuned = efficiency.tuned(losses)
    assert tuned["loss"].tolist() == [2.0, 1.0]
    assert tuned["point"].tolist() == ["good", "good"]


def test_the_trend_over_sizes_is_a_power_law_with_an_interval() -> None:
    sizes = np.array([1e6, 1e7, 1e8, 1e9])
    exact = pd.DataFrame({"submission": "x", "parameters": sizes, "speedup": 4 * sizes**-0.1})
    row = efficiency.trend(exact, at=1e10).iloc[0]
    assert row["exponent"] == pytest.approx(-0.1)
    assert row["speedup"] == pytest.approx(4 * 1e10**-0.1)
    noisy = efficiency.trend(exact.assign(speedup=exact["speedup"] * [1.1, 0.9, 1.1, 0.9])).iloc[0]
    assert noisy["low"] < -0.1 < noisy["high"]
    two = efficiency.trend(exact.head(2)).iloc[0]
    assert two["sizes"] == 2
    assert np.isnan([two["low"], two["high"]]).all()


def test_final_losses_come_from_trials_that_ended(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0)
    records.write(tmp_path, "adam", 1, status="diverged")
    records.write(tmp_path, "adam", 2, end=False)
    trials, points = load.study(tmp_path)
    table = efficiency.final_losses(trials, points)
    assert table["seed"].tolist() == [0]
    assert table["steps"].tolist() == [600]


def _board(folder: Path, *arguments: str) -> pd.DataFrame:
    out = folder / "board.csv"
    assert cli.main(["score", str(folder / "results"), "--csv", str(out), *arguments]) == 0
    return pd.read_csv(out)


def test_the_command_ranks_a_folder_of_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.quickstart(tmp_path / "results", submissions=("adam", "fira", "galore"))
    board = _board(tmp_path, "--reference", "adam", "--trapezoid")
    assert list(board.columns[:4]) == ["submission", "score", "low", "high"]
    trials, _ = load.study(tmp_path / "results")
    median = trials.groupby("submission")["reached_seconds"].median()
    expected = (4 - median / median.min()) / 3
    assert board.set_index("submission")["score"].to_dict() == pytest.approx(expected.to_dict())
    assert board.set_index("submission").loc["fira", "speedup"] == pytest.approx(median["adam"] / median["fira"])
    assert (board[["ruleset", "measure"]].drop_duplicates().to_numpy() == [["external", "seconds"]]).all()
    printed = capsys.readouterr().out
    assert "llama_nano (s)" in printed
    assert "intervals: 95 %, bootstrap over 3 studies" in printed


def test_the_command_never_ranks_two_machines_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        for submission in ("adam", "galore"):
            records.write(tmp_path / "results", submission, seed, fingerprint={"id": name})
    board = _board(tmp_path)
    assert board.groupby("fingerprint").size().to_dict() == {"one": 2, "two": 2}
    assert board[["low", "high"]].isna().all(axis=None)
    printed = capsys.readouterr().out
    assert "several fingerprints (one, two): seconds are ranked within each alone" in printed
    assert "no intervals: every submission ran one study (seed)" in printed
    assert len(_board(tmp_path, "--measure", "steps")) == 2


def test_the_command_caps_memory_and_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.quickstart(tmp_path / "results", submissions=("adam", "galore"))
    records.write(tmp_path / "results", "adam", 9, status="failed", target=records.TARGET | {"provisional": True})
    (tmp_path / "results" / "note.jsonl").write_text("not ours\n")
    board = _board(tmp_path, "--memory-cap", "0.033").set_index("submission")
    assert board["score"].to_dict() == {"galore": 1, "adam": 0}
    printed = capsys.readouterr().out
    for expected in ("missed by 4 of 7 trials", "provisional targets: llama_nano", "1 trial ended as failed", "note.jsonl: line 1"):
        assert expected in printed
    for arguments, message in (
        (["--ruleset", "self"], "nothing to score among 7 trials (rulesets: external)"),
        (["--memory-cap", "-1"], "--memory-cap -1.0: expected a positive number of GB"),
        (["--reference", "sgd"], "reference 'sgd': expected one of the submissions adam, galore"),
        (["--draws", "-1"], "--draws -1: expected 0 or more"),
        (["--rmax", "1"], "expected a ratio above 1"),
    ):
        assert cli.main(["score", str(tmp_path / "results"), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_best_values_at_the_edge_of_the_declared_space_are_found() -> None:
    axes = {
        "lr": {"log": [1e-4, 1e-1]}, "alpha": {"min": 0.0, "max": 1.0}, "rank": {"values": [4, 16, 64]},
        "limiter": {"values": ["none", "norm_growth"]}, "gap": {"integer": [50, 500]}, "two": {"values": [1, 2]},
    }  # fmt: skip
    best = pd.DataFrame([{"workload": "w", "submission": "s", "hp.lr": 0.09, "hp.alpha": 0.5, "hp.rank": 4, "hp.limiter": "none"}])
    best = best.assign(**{"hp.gap": 51, "hp.two": 2, "settings.space": [{"seed": 0, "axes": axes}]})
    found = spaces.edges(best)
    assert list(zip(found["hyperparameter"], found["edge"], strict=True)) == [("lr", "high"), ("rank", "low"), ("gap", "low")]
    assert spaces.edges(best.assign(**{"hp.lr": 0.01, "hp.rank": 16, "hp.gap": 200})).empty
    assert spaces.edges(best.drop(columns="settings.space")).empty
