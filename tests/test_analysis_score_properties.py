"""What holds for the scores of any table, and for those that a slow implementation in exact fractions gives."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring import INF, of_cells, of_matrix, score_of

from analysis import scores

seconds = st.one_of(st.floats(1e-3, 1e6), st.just(INF))
matrices = st.integers(1, 5).flatmap(lambda w: st.lists(st.lists(seconds, min_size=w, max_size=w), min_size=1, max_size=5))


@settings(max_examples=25, deadline=None)
@given(matrices)
def test_scores_lie_in_the_unit_interval_and_do_not_depend_on_order_or_unit(matrix: list[list[float]]) -> None:
    table = of_matrix(matrix)
    answer = score_of(table)
    assert all(0 <= value <= 1 for value in answer.values())
    assert score_of(table.sample(frac=1, random_state=1)) == answer
    assert score_of(table.assign(time=table["time"] * 1024)) == answer
    assert score_of(table.assign(time=table["time"] / 3600)) == pytest.approx(answer)


@settings(max_examples=25, deadline=None)
@given(matrices)
def test_the_fastest_everywhere_scores_one(matrix: list[list[float]]) -> None:
    best = [min((t for t in column if t < INF), default=1.0) for column in zip(*matrix, strict=True)]
    assert score_of(of_matrix([*matrix, best]))[f"s{len(matrix)}"] == 1


@settings(max_examples=25, deadline=None)
@given(matrices, st.data())
def test_a_longer_time_never_helps_its_submission_nor_hurts_another(matrix: list[list[float]], data: st.DataObject) -> None:
    row, column = data.draw(st.integers(0, len(matrix) - 1)), data.draw(st.integers(0, len(matrix[0]) - 1))
    worse = [list(times) for times in matrix]
    worse[row][column] *= data.draw(st.one_of(st.floats(1, 10), st.just(INF)))
    before, after = score_of(of_matrix(matrix)), score_of(of_matrix(worse))
    for name in before:
        if name == f"s{row}":
            assert after[name] <= before[name] + 1e-12
        else:
            assert after[name] >= before[name] - 1e-12


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.permutations(range(12)))
def test_intervals_hold_the_score_and_do_not_depend_on_the_order_of_rows(seed: int, order: list[int]) -> None:
    values = np.random.default_rng(seed).lognormal(size=12)
    cells = {(s, w): values[3 * k : 3 * k + 3].tolist() for k, (s, w) in enumerate(itertools.product("ab", "xy"))}
    table = of_cells(cells)
    board = scores.leaderboard(table, draws=100)
    assert ((board["low"] <= board["score"]) & (board["score"] <= board["high"])).all()
    assert board["p_first"].sum() == pytest.approx(1)
    pd.testing.assert_frame_equal(scores.leaderboard(table.iloc[order], draws=100), board)


def _slow_score(matrix: list[list[float]], r_max: float) -> list[float]:
    """The integral of each profile as the sum of rectangles between its jumps, in exact fractions and without arrays."""
    fastest = [min(row[w] for row in matrix) for w in range(len(matrix[0]))]
    limit = Fraction(r_max)
    areas = []
    for row in matrix:
        found = [Fraction(t) / Fraction(best) for t, best in zip(row, fastest, strict=True) if t < INF]
        jumps = sorted({Fraction(1), limit, *(ratio for ratio in found if ratio < limit)})
        rectangles = [(right - left) * sum(ratio <= left for ratio in found) for left, right in itertools.pairwise(jumps)]
        areas.append(float(sum(rectangles) / (limit - 1) / len(row)))
    return areas


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda w: st.lists(
            st.lists(st.one_of(st.floats(0.5, 5), st.floats(1e-3, 1e6), st.just(INF)), min_size=w, max_size=w), min_size=1, max_size=6
        )
    ),
    st.sampled_from([1.5, 2.0, 4.0, 10.0]),
)
def test_the_closed_form_is_the_area_under_the_profile(matrix: list[list[float]], r_max: float) -> None:
    expected = {f"s{i}": area for i, area in enumerate(_slow_score(matrix, r_max))}
    assert score_of(of_matrix(matrix), r_max=r_max) == pytest.approx(expected, abs=1e-9)


def _slow_qualified(matrix: list[list[float]], r_max: float) -> list[list[float]]:
    """AlgoPerf's rule for the first column as base and the second as its variant, read off the text of the rule."""
    solved = [row[0] < INF for row in matrix]
    near = [row[0] <= r_max * min(row[0] for row in matrix) for row in matrix]
    fastest = min((row[1] for row, good in zip(matrix, solved, strict=True) if good), default=INF)
    kept = [row[0] < INF and close and row[1] < INF and row[1] <= r_max * fastest for row, close in zip(matrix, near, strict=True)]
    return [[row[0] if good else INF, *row[2:]] for row, good in zip(matrix, kept, strict=True)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.one_of(st.floats(0.5, 8), st.just(INF)), min_size=3, max_size=3), min_size=2, max_size=5))
def test_scores_after_a_variant_are_those_of_the_rule_in_words(matrix: list[list[float]]) -> None:
    table = of_cells(
        {(f"s{i}", name): [t] for i, row in enumerate(matrix) for name, t in zip(("w0", "v", "w2"), row, strict=True)}, bases={"v": "w0"}
    )
    expected = {f"s{i}": area for i, area in enumerate(_slow_score(_slow_qualified(matrix, 4.0), 4.0))}
    assert score_of(table) == pytest.approx(expected, abs=1e-9)
