"""Scores on hand-made tables with known answers."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scoring import INF, of_cells, of_matrix, score_of

from analysis import bootstrap, power, profiles, scores, times


def _trials(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    defaults = {
        "trial": [str(k) for k in range(len(table))], "workload": "w", "submission": "s", "base_workload": None, "seed": 0,
        "ruleset": "external", "tuning_study": 0, "fingerprint": "f", "reached_seconds": np.nan, "reached_step": np.nan,
        "bytes_peak": np.nan,
    }  # fmt: skip
    for name, value in defaults.items():
        if name not in table:
            table[name] = value
    return table


def test_a_table_with_a_known_answer() -> None:
    # ratios: a 1, 2, inf; b 2, 1, 1; c 5, 1.5, inf
    answer = score_of(of_matrix([[10, 20, INF], [20, 10, 30], [50, 15, INF]]))
    assert answer["s0"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert answer["s1"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert answer["s2"] == pytest.approx((0 + 2.5 / 3 + 0) / 3)


def test_r_max_is_inclusive_and_changes_the_score() -> None:
    table = of_matrix([[10], [20], [30], [40], [80]])
    assert list(score_of(table).values()) == pytest.approx([1, 2 / 3, 1 / 3, 0, 0])
    assert list(score_of(table, r_max=2).values()) == pytest.approx([1, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="r_max = 1: expected a ratio above 1"):
        score_of(table, r_max=1)


def test_external_tuning_takes_the_fastest_trial_of_a_study_and_the_median_of_studies() -> None:
    seconds = {0: [5, 3], 1: [np.nan, 9], 2: [4, np.nan]}
    rows = [
        {"tuning_study": study, "seed": 10 * study + k, "hp.lr": 0.1 * k, "reached_seconds": t}
        for study, values in seconds.items()
        for k, t in enumerate(values)
    ]
    studies = times.studies(times.runs(_trials(rows)))
    assert studies["time"].tolist() == [3, 9, 4]
    assert studies["label"].tolist() == ["0,1", "10,11", "20,21"]
    cell = times.to_target(studies).iloc[0]
    assert (cell["time"], cell["studies"], cell["solved"]) == (4, 3, 3)


def test_seeds_of_one_point_are_repetitions_and_not_chosen_among() -> None:
    rows = [{"seed": seed, "hp.lr": 0.1, "reached_seconds": t} for seed, t in enumerate([3.0, 5.0, 7.0])]
    assert times.to_target(times.studies(times.runs(_trials(rows))))["time"].item() == 5


def test_self_tuning_takes_every_trial_and_half_of_missed_studies_is_a_miss() -> None:
    rows = [{"seed": k, "tuning_study": 0, "ruleset": "self", "reached_seconds": t} for k, t in enumerate([3.0, np.nan, 7.0, np.nan])]
    studies = times.studies(times.runs(_trials(rows)))
    assert len(studies) == 4
    assert times.to_target(studies)["time"].item() == INF
    mixed = _trials([{**row, "hp.lr": 0.1 * (k % 2)} for k, row in enumerate(rows)])
    assert "self-tuning allows one setting, but 2 were run" in times.repeated(mixed)[0]


def test_machines_are_ranked_apart_but_steps_together() -> None:
    trials = _trials([{"fingerprint": name, "reached_seconds": 1.0, "reached_step": 5} for name in ("a", "b", None)])
    assert [fingerprint for _, fingerprint, _ in times.groups(trials)] == ["a", "b", "unknown"]
    ((_, fingerprint, part),) = times.groups(trials, measure="steps")
    assert (fingerprint, len(part)) == ("", 3)
    assert times.runs(part, measure="steps")["time"].tolist() == [5, 5, 5]


def test_missing_cells_and_unsolved_workloads_are_zero_and_said() -> None:
    table = of_cells({("a", "x"): [1.0], ("b", "x"): [2.0], ("a", "y"): [1.0], ("a", "z"): [INF], ("b", "z"): [INF]})
    board = scores.leaderboard(table, draws=0)
    assert dict(zip(board["submission"], board["score"], strict=True)) == pytest.approx({"a": 2 / 3, "b": 2 / 9})
    notes = "\n".join(board.attrs["notes"])
    assert "b: no trial on y, counts as unsolved" in notes
    assert "nobody solved z: adds 0 to every score" in notes


def test_a_subset_is_scored_and_said() -> None:
    table = of_matrix([[10, 20, 40], [20, 10, 10]])
    board = scores.leaderboard(table, workloads=["w0"], draws=0)
    assert board["score"].tolist() == pytest.approx([1, 2 / 3])
    assert "scored on a subset, 1 of 3 workloads; left out: w1, w2" in board.attrs["notes"]
    absent = scores.leaderboard(table, workloads=["w0", "nowhere"], draws=0)
    assert absent["score"].tolist() == pytest.approx([1 / 2, 1 / 3])
    assert "no trial of anybody on nowhere: counts as unsolved, for all" in absent.attrs["notes"]


def test_one_submission_one_seed_and_zero_reached_have_clear_outcomes() -> None:
    board = scores.leaderboard(of_matrix([[INF, INF]]))
    notes = "\n".join(board.attrs["notes"])
    assert board["score"].tolist() == [0]
    assert board[["low", "high"]].isna().all(axis=None)
    assert "no target was reached, so every score is 0" in notes
    assert "one submission only" in notes
    assert "no intervals: every submission ran one study (seed) per workload" in notes
    with pytest.raises(ValueError, match="nothing to score"):
        scores.leaderboard(of_matrix([[1.0]]).iloc[:0])


def test_no_interval_for_the_submission_that_ran_once() -> None:
    table = of_cells({("a", "x"): [1.0, 1.5, 2.0], ("b", "x"): [1.2]})
    board = scores.leaderboard(table)
    known = board.set_index("submission")[["low", "high"]].notna()
    assert known.loc["a"].all()
    assert not known.loc["b"].any()
    assert "1 of 2 cells rest on one study" in "\n".join(board.attrs["notes"])


def _held_out(cells: dict[tuple[str, str], float]) -> dict[str, float]:
    return score_of(of_cells({key: [t] for key, t in cells.items()}, bases={"base_v": "base"}))


def test_a_miss_on_the_variant_makes_the_base_infinite_and_moves_the_fastest() -> None:
    cells = {("a", "base"): 10, ("b", "base"): 20, ("c", "base"): 30, ("a", "base_v"): INF, ("b", "base_v"): 5, ("c", "base_v"): 6}
    assert _held_out(cells) == pytest.approx({"a": 0, "b": 1, "c": 2.5 / 3})


def test_more_than_r_max_times_the_fastest_variant_disqualifies_and_equal_does_not() -> None:
    cells = {("a", "base"): 10.0, ("b", "base"): 10.0, ("a", "base_v"): 5.0, ("b", "base_v"): 20.0}
    assert _held_out(cells) == pytest.approx({"a": 1, "b": 1})
    assert _held_out(cells | {("b", "base_v"): 20.1}) == pytest.approx({"a": 1, "b": 0})


def test_the_fastest_on_a_variant_is_sought_among_those_who_solved_the_base() -> None:
    cells = {("a", "base"): INF, ("b", "base"): 10.0, ("a", "base_v"): 1.0, ("b", "base_v"): 20.0}
    assert _held_out(cells) == pytest.approx({"a": 0, "b": 1})


def test_variants_do_not_enter_the_profile_and_a_missing_one_is_a_miss() -> None:
    cells = {("a", "base"): 10.0, ("b", "base"): 10.0, ("a", "base_v"): 5.0}
    table = of_cells({key: [t] for key, t in cells.items()}, bases={"base_v": "base"})
    board = scores.leaderboard(table, draws=0)
    assert dict(zip(board["submission"], board["score"], strict=True)) == {"a": 1, "b": 0}
    assert (board["workloads"] == 1).all()
    assert "b: no trial on base_v, counts as unsolved" in board.attrs["notes"]


def test_trapezoid_is_close_to_exact_and_reproduces_algoperfs_grid() -> None:
    rng = np.random.default_rng(0)
    ratio = profiles.ratios(rng.uniform(1, 6, (7, 8)))
    exact, grid = profiles.integral(ratio), profiles.trapezoid(ratio)
    assert np.abs(exact - grid).max() < 0.0051
    taus = np.linspace(1, 4, 100)
    by_hand = [np.trapezoid([(row <= tau).mean() for tau in taus], taus) / 3 for row in ratio]
    assert grid == pytest.approx(by_hand)


def test_the_profile_integrates_to_the_score() -> None:
    table = of_matrix([[10, 20, INF], [20, 10, 30], [50, 15, INF]])
    profile = profiles.profile(scores.ratios(table))
    for submission, part in profile.groupby("submission"):
        steps = np.diff(part["tau"]) * part["fraction"].to_numpy()[:-1]
        assert steps.sum() / 3 == pytest.approx(score_of(table)[str(submission)])
        assert part["fraction"].is_monotonic_increasing


def test_speedups_are_geometric_means_over_shared_workloads() -> None:
    board = scores.leaderboard(of_matrix([[10, 20, 5], [20, 160, INF]]), reference="s1", draws=0).set_index("submission")
    assert board.loc["s0", "speedup"] == pytest.approx(4)
    assert board.loc["s0", "speedup_over"] == 2
    assert board.loc["s1", "speedup"] == pytest.approx(1)
    with pytest.raises(ValueError, match="reference 'adam': expected one of the submissions s0, s1"):
        scores.leaderboard(of_matrix([[1.0], [2.0]]), reference="adam")


def test_shared_seeds_are_drawn_in_pairs() -> None:
    # b is always exactly twice a: with shared seeds its ratio does not vary at all
    rng = np.random.default_rng(0)
    a = rng.uniform(1, 10, 9).tolist()
    cells = {("a", "x"): a, ("b", "x"): [2 * t for t in a]}
    paired = scores.leaderboard(of_cells(cells)).set_index("submission")
    apart = scores.leaderboard(of_cells(cells, labels=False)).set_index("submission")
    assert paired.loc["b", "low"] == pytest.approx(paired.loc["b", "high"]) == pytest.approx(2 / 3)
    assert apart.loc["b", "high"] - apart.loc["b", "low"] > 0.1
    assert paired["tie_group"].tolist() == [1, 2]
    assert apart["tie_group"].tolist() == [1, 1]
    assert paired["p_first"].tolist() == [1, 0]


def test_resampled_medians_have_the_bootstrap_distribution() -> None:
    values = [1.0, 2.0, 4.0]
    drawn = bootstrap.medians(of_cells({("a", "x"): values}), ["a"], ["x"], draws=20_000)[:, 0, 0]
    exact = pd.Series([np.median(choice) for choice in itertools.product(values, repeat=3)]).value_counts(normalize=True)
    assert pd.Series(drawn).value_counts(normalize=True).sort_index().to_numpy() == pytest.approx(exact.sort_index().to_numpy(), abs=0.01)


def test_ranks_ties_and_first_by_hand() -> None:
    draws = np.array([[0.9, 0.5, 0.5], [0.9, 0.9, 0.1]])
    assert bootstrap.ranks(draws).tolist() == [[1, 2, 2], [1, 1, 3]]
    assert bootstrap.first(draws).tolist() == [0.75, 0.25, 0]
    better = np.array([[False, False, True], [False, False, False], [False, False, False]])
    assert bootstrap.tie_groups(better, np.array([0, 1, 2])).tolist() == [1, 1, 2]


def test_the_widening_is_students_t_and_fades() -> None:
    variance = np.array([1.0])
    # two values: 12.7 / 1.96, and sqrt(2) for the variance that draws out of two values lack
    assert bootstrap.widening(variance, np.array([2])) == pytest.approx(12.706 / 1.960 * np.sqrt(2), rel=1e-3)
    assert bootstrap.widening(variance, np.array([10_000])) == pytest.approx(1, abs=1e-3)
    # four workloads of equal variance add their degrees of freedom; a single study adds none
    four = bootstrap.widening(np.ones(4), np.array([3, 3, 3, 3]))
    assert four == pytest.approx(2.306 / 1.960 * np.sqrt(1.5), rel=1e-3)
    assert bootstrap.widening(np.array([1, 1, 1, 1, 0]), np.array([3, 3, 3, 3, 1])) == pytest.approx(four)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("studies", "workloads"), [(2, 1), (2, 4), (3, 1), (3, 4), (5, 1), (10, 1)])
def test_equal_submissions_are_seldom_told_apart_however_few_the_studies(studies: int, workloads: int, paired: bool) -> None:
    """80 equal submissions whose times vary by 8 %, and as many that need half as much again."""
    rng = np.random.default_rng(1)
    names, factor = [*(f"s{i:03}" for i in range(160)), "the fastest"], np.array([2.0] * 80 + [3.0] * 80 + [1.0])
    times = np.exp(rng.normal(0, 0.08, (len(names), workloads, studies))) * factor[:, None, None]
    cells = {(name, f"w{k}"): times[i, k].tolist() for i, name in enumerate(names) for k in range(workloads)}
    _, terms = scores.terms(of_cells(cells, labels=paired), draws=400)
    better = bootstrap.better(terms)
    assert better[:80, :80].sum() / (80 * 79 / 2) <= 0.1, "percentiles alone: 0.5 with two paired studies, 0.23 with three"
    assert better[:80, 80:160].mean() >= {(2, 1): 0.2, (3, 1): 0.6}.get((studies, workloads), 0.9)
    assert not better[80:160, :80].any()


def test_an_interval_of_infinite_draws_is_infinite_and_not_nan() -> None:
    low, high = bootstrap.interval(np.array([[1.0], [2.0], [INF], [INF]]))
    assert (low[0], high[0]) == (1.0, INF)


def test_power_falls_with_spread_and_pairs_need_few_seeds() -> None:
    rng = np.random.default_rng(1)
    common = rng.uniform(10, 14, 6)
    cells = {("a", "x"): common.tolist(), ("b", "x"): (common * rng.uniform(1.05, 1.2, 6)).tolist()}
    paired, apart = (power.seeds(of_cells(cells, labels=labels)) for labels in (True, False))
    assert paired["needed"].item() < apart["needed"].item()
    assert paired["studies"].item() == 6
    assert power.line(apart) == [] if apart["apart"].item() else "to tell a from b: about" in power.line(apart)[0]
    alone = power.seeds(of_cells({("a", "x"): [1.0, 2.0]}))
    assert len(alone) == 0
    assert power.line(alone) == []
    single = power.seeds(of_matrix([[1.0], [2.0]]))
    assert single[["low", "high", "needed"]].isna().all(axis=None)
    assert not single["apart"].item()


def test_a_variant_finds_its_base_whatever_both_were_overridden_with() -> None:
    names = {"nano[steps=40,target=2.9]": None, "nano_gelu[steps=40,target=3.0]": "nano", "nano_wide": "nano", "micro_gelu": "micro"}
    cells = {(submission, name): [1.0 if name != "nano_wide" else 9.0] for submission in "ab" for name in names}
    cells[("b", "nano_gelu[steps=40,target=3.0]")] = [INF]
    table = of_cells(cells, bases={name: base for name, base in names.items() if base})
    assert scores.variants_of(table) == [("nano_gelu[steps=40,target=3.0]", "nano[steps=40,target=2.9]")]
    board = scores.leaderboard(table, draws=0).set_index("submission")
    assert board.loc["b", "score"] == pytest.approx(2 / 3), "the miss on the variant disqualifies on its base"
    assert any("micro_gelu is a held-out variant of micro, which nobody ran in this form" in note for note in board_notes(table))


def board_notes(table: pd.DataFrame) -> list[str]:
    notes: list[str] = scores.leaderboard(table, draws=0).attrs["notes"]
    return notes


def test_a_tie_group_holds_all_that_are_not_told_apart_from_its_best() -> None:
    better = np.array([[False, True, False], [False, False, False], [False, False, False]])
    assert bootstrap.tie_groups(better, np.array([0, 1, 2])).tolist() == [1, 2, 1], "the third varies too much to lose to anybody"


def test_one_study_tells_nothing_apart() -> None:
    table = of_cells({("a", "x"): [10.0], ("b", "x"): [30.0, 31.0, 32.0], ("c", "x"): [60.0, 61.0, 62.0]}, labels=False)
    board = scores.leaderboard(table).set_index("submission")
    assert board["tie_group"].to_dict() == {"a": 1, "b": 1, "c": 1}
    assert board.loc["a", ["rank_low", "rank_high"]].tolist() == [1, 3]


def test_a_speedup_between_misses_of_both_has_no_bounds() -> None:
    cells = {("a", "x"): [10.0, INF, 11.0], ("a", "y"): [10.0, 11.0, 12.0], ("b", "x"): [10.0, 12.0, 14.0], ("b", "y"): [INF, 12.0, 13.0]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        board = scores.leaderboard(of_cells(cells, labels=False), reference="a").set_index("submission")
    assert board.loc["b", ["speedup_low", "speedup_high"]].tolist() == [0, INF]
    assert (power.seeds(of_cells(cells))[["low", "high"]].abs() <= 1).all(axis=None)
