"""Sensitivity to hyperparameters: a seed that was lost is never a merit, and every figure says that it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import records
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import figures, load, palette, report, sensitivity, spread, tables

LUCKY = {(4, 0.1): [4.0, math.nan, math.nan]}
"""One seed of three reaches the target, sooner than all others."""
STYLES = palette.assign(["fira"])


def sweep(times: Mapping[tuple[int, float], list[float]]) -> pd.DataFrame:
    """Ranks and learning rates on three seeds, 8 to 10 s to the target, except `times`; NaN diverged."""
    grid = {(rank, lr): [8.0 + rank / 8 + seed / 10 for seed in range(3)] for rank in (4, 8) for lr in (0.001, 0.01, 0.1)}
    rows = [
        {"hp.rank": rank, "hp.lr": lr, "seed": seed, "reached_seconds": time, "status": "diverged" if math.isnan(time) else "reached"}
        for (rank, lr), values in {**grid, **times}.items()
        for seed, time in enumerate(values)
    ]
    table = pd.DataFrame(rows).assign(workload="w", ruleset="external", fingerprint="f", submission="fira", stop="target", val_loss=3.0)
    return table.assign(trial=[f"t{i}" for i in range(len(table))])


def words(figure: Figure) -> str:
    return " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(Text))


def test_middle_of_trials_some_of_which_were_lost_counts_them_as_infinite() -> None:
    table = pd.DataFrame({"g": [*"aaabbbccc"], "x": [1.0, 2.0, 3.0, 4.0, 9.0, math.nan, 4.0, math.nan, math.inf]})
    found = spread.surviving(table, "x", by=["g"]).set_index("g")
    assert found["x"].tolist() == [2.0, 9.0, math.inf], "mean; the middle of 4, 9 and infinity; two of three infinite"
    assert found["x_low"].notna().tolist() == [True, False, False]
    assert found[["n", "lost"]].to_numpy().tolist() == [[3, 0], [2, 1], [1, 2]]


def test_a_configuration_with_a_lost_seed_is_best_only_where_all_have_one() -> None:
    rows = sweep(LUCKY)
    assert tables.lowest(rows, x="hp.lr", y="reached_seconds").groupby("hp.lr")["hp.rank"].unique().tolist() == [[4], [4], [8]]
    lossy = sweep({**LUCKY, (8, 0.1): [9.0, 9.0, math.nan]})
    assert set(tables.lowest(lossy, x="hp.lr", y="reached_seconds").query("`hp.lr` == 0.1")["hp.rank"]) == {8}, "one lost, not two"


def test_curve_over_a_hyperparameter_does_not_drop_where_seeds_were_lost() -> None:
    (curve,) = [figure for figure in sensitivity.curves(sweep(LUCKY), STYLES) if "hp.lr" in figure.name]
    assert curve.data["reached_seconds"].min() > 8
    assert curve.data["lost"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("lr", "mark", "height"), [(0.01, "open", 9.0), (0.1, "cross", math.nan)])
def test_a_point_with_lost_trials_is_marked(lr: float, mark: str, height: float) -> None:
    rows = sweep({(4, 0.01): [4.0, 9.0, math.nan], **LUCKY}).query("`hp.rank` == 4")
    figure = figures.against(rows, x="hp.lr", y="reached_seconds")
    line, opened, crosses = figure.axes[0].lines[:3]
    drawn = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert drawn[lr] == pytest.approx(height, nan_ok=True)
    assert lr in (opened if mark == "open" else crosses).get_xdata()
    assert lr not in (crosses if mark == "open" else opened).get_xdata()
    assert "open: median" in words(figure)


def test_a_cell_that_most_seeds_left_has_no_colour_and_others_say_what_they_lost() -> None:
    rows = sweep({(4, 0.01): [4.0, 9.0, math.nan], **LUCKY})
    figure = figures.heatmap(rows, x="hp.lr", y="hp.rank", value="reached_seconds")
    image = np.ma.filled(figure.axes[0].images[0].get_array(), math.nan)
    assert math.isnan(image[0, 2]), "4 s of one seed in three would be the best cell"
    assert image[0, 1] == 9.0
    assert np.nanmin(image) > 8
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "2 of 3 lost" in texts
    assert "9\n1 of 3 lost" in texts
    assert len(figure.axes[0].patches) == 1, "hatched"
    assert "lost: trials without a result" in words(figure)


def test_a_map_of_lost_cells_alone_is_drawn() -> None:
    rows = sweep({(rank, lr): [5.0, math.nan, math.nan] for rank in (4, 8) for lr in (0.001, 0.01, 0.1)})
    figure = figures.heatmap(rows, x="hp.lr", y="hp.rank", value="reached_seconds")
    assert figures.png(figure, dpi=40)
    assert len(figure.axes) == 1, "no scale of colours where there is no colour"


def test_running_trials_are_not_lost() -> None:
    rows = sweep({}).assign(reached_step=1.0, target_value=1.0, tuning_study=0, seconds=1.0, steps=1)
    rows.loc[0, ["status", "reached_seconds"]] = "running", math.nan
    points = pd.DataFrame(columns=["trial", "step", "name", "value"])
    spent = pd.DataFrame({"edge": [None], "configurations": [6]})
    part = sensitivity.section(rows.drop(columns="val_loss"), points, spent, STYLES)
    assert [figure.data["lost"].sum() for figure in part.figures] == [0] * len(part.figures)
    assert part.figures


def test_whole_numbers_stay_whole_where_another_submission_lacks_the_hyperparameter() -> None:
    rows = pd.concat([sweep({}), sweep({}).assign(submission="adam", **{"hp.rank": math.nan})], ignore_index=True)
    assert rows["hp.rank"].dtype == float
    axes = figures.heatmap(rows, x="hp.rank", y="hp.lr", value="reached_seconds").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8"]
    labels = figures.against(rows, x="hp.lr", y="reached_seconds", hue="hp.rank").legends[0].get_texts()
    assert [label.get_text() for label in labels] == ["rank 4", "rank 8"]
    mixed = rows.dropna().assign(**{"hp.rank": lambda table: table["hp.rank"].astype(object).where(table["hp.rank"] > 4, "none")})
    axes = figures.against(mixed, x="hp.rank", y="reached_seconds").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "none"]


def test_a_submission_that_lost_most_trials_is_not_called_closest(tmp_path: Path) -> None:
    target = {**records.TARGET, "value": 0.1}
    for seed in range(3):
        records.write(tmp_path, "lucky", seed, speed=3.0, status="diverged" if seed else None, target=target)
    assert "Every submission lost most of its trials before their end, so none is called closest." in said(tmp_path)
    for seed in range(3):
        records.write(tmp_path, "solid", seed, speed=1.0, target=target)
    words = said(tmp_path)
    assert "Closest at the end was solid" in words
    assert "Not counted: lucky, of which most trials were lost before their end." in words


def test_machines_are_not_mixed_in_a_curve() -> None:
    slow = sweep({}).assign(fingerprint="slow", reached_seconds=lambda table: 10 * table["reached_seconds"])
    found = list(sensitivity.curves(pd.concat([sweep({}), slow], ignore_index=True), STYLES))
    assert [(figure.name, figure.data["n"].unique().tolist()) for figure in found] == [
        ("against-hp.lr-w (machine f)", [3]),
        ("against-hp.lr-w (machine slow)", [3]),
    ]
    assert all("machine" in figure.caption for figure in found)


def said(results: Path) -> str:
    trials, points = load.study(results)
    return " ".join(report.digest(trials, points).headlines.values())
