"""Pictures: neither empty nor clipped, the same bytes every time, nobody's global settings touched, colours told apart."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import records
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from analysis import curves, figures, load, palette, profiles, tables

DEFICIENCY = {  # Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Five submissions of the quickstart, a user's file with a long name among them, and a grid of two hyperparameters."""
    folder = tmp_path_factory.mktemp("study")
    records.quickstart(folder)
    for seed in (0, 1):
        records.write(folder, "an_optimizer_with_a_rather_long_name", seed, speed=0.5)
        for rank, lr in itertools.product((4, 16, 64), (1e-3, 1e-2, 1e-1)):
            status = "diverged" if lr == 1e-1 and rank == 4 else None
            settings = {"rank": rank, "lr": lr, "limiter": "none"}
            records.write(folder, "fira", seed, workload="llama_micro", hyperparameters=settings, speed=math.log2(rank) / 5, status=status)
    return load.study(folder)


def nano(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[trials["workload"] == "llama_nano"]


def grid(trials: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    return tables.final(trials[trials["workload"] == "llama_micro"], points, name="val_loss")


def board() -> pd.DataFrame:
    return pd.DataFrame(
        {"submission": ["adam", "fira", "sgd"], "score": [1.0, 0.6, 0.0], "low": [0.9, 0.4, 0.0], "high": [1.0, 0.8, np.nan]}
    )


Draw = Callable[[pd.DataFrame, pd.DataFrame], Figure]
DRAWINGS: dict[str, Draw] = {
    "curves_step": lambda t, p: figures.curves(curves.thinned(t, p), targets={"llama_nano": 1.9}),
    "curves_tokens": lambda t, p: figures.curves(curves.thinned(nano(t), p, x="tokens")),
    "curves_seconds": lambda t, p: figures.curves(curves.thinned(nano(t), p, x="seconds", name="train_loss")),
    "time_to_target": lambda t, p: figures.time_to_target(t),
    "steps_to_target": lambda t, p: figures.time_to_target(nano(t), "reached_step"),
    "nobody_reached": lambda t, p: figures.time_to_target(nano(t).assign(reached_seconds=np.nan)),
    "profile": lambda t, p: figures.profile(profiles.profile(pd.DataFrame([[1.0, 2.0], [1.5, 1.0]], index=["adam", "fira"]))),
    "scores": lambda t, p: figures.scores(board()),
    "score_against": lambda t, p: figures.score_against(pd.concat([board().assign(bytes_peak=c * 2**30) for c in (8, 16)]), "bytes_peak"),
    "pareto": lambda t, p: figures.pareto(tables.summary(nano(t), p)),
    "memory": lambda t, p: figures.memory(tables.memory(t).drop_duplicates(["workload", "submission"])),
    "against_rank": lambda t, p: figures.against(grid(t, p), x="hp.rank", y="val_loss", hue="hp.lr"),
    "against_lr": lambda t, p: figures.against(grid(t, p), x="hp.lr", y="val_loss"),
    "against_text": lambda t, p: figures.against(
        grid(t, p).assign(**{"hp.limiter": ["none", "norm_growth"] * 9}), x="hp.limiter", y="val_loss"
    ),
    "heatmap": lambda t, p: figures.heatmap(grid(t, p), x="hp.rank", y="hp.lr", value="val_loss"),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_picture_is_neither_empty_nor_clipped(name: str, study: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    figure = DRAWINGS[name](*study)
    picture = np.asarray(Image.open(io.BytesIO(figures.png(figure, dpi=100))).convert("L"), dtype=float)
    ink = picture < 250
    assert 0.01 < ink.mean() < 0.9, "nearly empty or nearly full"
    border = np.concatenate([ink[:2].ravel(), ink[-2:].ravel(), ink[:, :2].ravel(), ink[:, -2:].ravel()])
    assert not border.any(), "something touches the edge of the canvas"
    assert_text_inside(figure)
    assert all(axes.get_xlabel() for axes in figure.axes if axes.get_label() != "<colorbar>"), "an axis without a name"


def assert_text_inside(figure: Figure) -> None:
    width, height = figure.canvas.get_width_height()
    outside = undrawn(figure)
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text() and text not in outside:
            box = text.get_window_extent()
            assert box.x0 >= -0.5, text
            assert box.y0 >= -0.5, text
            assert box.x1 <= width + 0.5, text
            assert box.y1 <= height + 0.5, text


def undrawn(figure: Figure) -> set[Text]:
    """Labels of ticks outside of the view."""
    labels = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                labels |= {tick.label1, tick.label2}
    return labels


def test_a_clipped_picture_is_caught() -> None:
    figure = Figure(figsize=(2, 1))
    figure.text(0.9, 0.5, "far too long for this canvas")
    with pytest.raises(AssertionError):
        assert_text_inside(figure)


def test_files_are_the_same_every_time(tmp_path: Path, study: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    first, second = (figures.save(DRAWINGS["pareto"](*study), tmp_path / name / "pareto") for name in "ab")
    assert [path.suffix for path in first] == [".png", ".svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_global_style_and_pyplot_are_left_alone(study: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    import matplotlib.pyplot as plt

    with mpl.rc_context({"font.size": 31.0}):
        before = dict(mpl.rcParams)
        figure = DRAWINGS["scores"](*study)
        figures.svg(figure)
        assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    assert max(text.get_fontsize() for text in figure.findobj(Text)) < 12, "the caller's style leaked in"


def test_curves_draw_medians_bands_and_the_target(study: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    trials, points = study
    table = curves.thinned(nano(trials), points)
    (axes,) = figures.curves(table, targets={"llama_nano": 1.9}).axes
    (line,) = (line for line in axes.lines if line.get_color() == palette.LIGHT[palette.FIXED.index("adam")])
    rows = table[table["submission"] == "adam"]
    assert np.allclose(line.get_ydata(), rows["val_loss"])
    assert len(axes.collections) == trials.pipe(nano)["submission"].nunique(), "one band each"
    assert any(np.allclose(line.get_ydata(), 1.9) for line in axes.lines)


def test_heatmap_cells_are_means_and_failures_are_said(study: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    final = grid(*study)
    axes = figures.heatmap(final, x="hp.rank", y="hp.lr", value="val_loss").axes[0]
    words = [text.get_text() for text in axes.texts]
    cell = final[(final["hp.rank"] == 16) & (final["hp.lr"] == 1e-3)]["val_loss"]
    assert words[1].split("\n")[0] == f"{cell.mean():.4g}"
    assert words.count("2 of 2 lost") == 1


def test_unknown_column_is_named_with_those_there_are(study: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    with pytest.raises(ValueError, match=r"no column 'hp\.rnk' in this table; hyperparameters here: .*hp\.rank"):
        figures.against(grid(*study), x="hp.rnk", y="val_loss")


@pytest.mark.parametrize(("colours", "paper"), [(palette.LIGHT, "#ffffff"), (palette.DARK, "#14171c")])
@pytest.mark.parametrize("vision", DEFICIENCY)
def test_colours_are_told_apart_by_everyone(colours: tuple[str, ...], paper: str, vision: str) -> None:
    seen = [lab(np.array(DEFICIENCY[vision]) @ linear(colour)) for colour in colours]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 20
    grounds = [float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (*colours, paper)]
    for ground in grounds[:-1]:
        bright, dim = max(ground, grounds[-1]), min(ground, grounds[-1])
        assert (bright + 0.05) / (dim + 0.05) > 2.75, "too faint on its ground"


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear sRGB, white point D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_a_submission_keeps_its_look_whoever_else_is_there() -> None:
    few, many = palette.assign(["fira", "mine"]), palette.assign(["mine", "galore", "fira", "adam", "yours"])
    assert few["fira"] == many["fira"]
    assert len({style.colour for style in many.values()}) == 5
    crowd = palette.assign([f"s{i}" for i in range(45)])
    assert len({(style.colour, str(style.dash)) for style in crowd.values()}) == 45


def raced(times: dict[str, list[float]]) -> pd.DataFrame:
    rows = [(name, time) for name, values in times.items() for time in values]
    return pd.DataFrame(rows, columns=["submission", "reached_seconds"]).assign(workload="w", status="reached", target_value=1.0)


FAR = {"one": [10.0, 10.5], "two": [12.0, 12.4], "far": [9.0, 26.0]}
"""Of two seeds that differ much, Student's interval ends at some 12,000 s."""


def test_one_far_interval_does_not_squeeze_the_race() -> None:
    figure = figures.time_to_target(raced(FAR))
    (axes,) = figure.axes
    assert axes.get_xlim()[0] == 0
    assert 26 < axes.get_xlim()[1] < 60
    arrows = [line for line in axes.lines if line.get_marker() == ">"]
    assert [line.get_ydata().tolist() for line in arrows] == [[2.0]], "at the row of the widest"
    assert "arrow: it goes on" in figure.get_supxlabel()


def test_nothing_is_cut_where_all_intervals_are_alike() -> None:
    figure = figures.time_to_target(raced({"one": [10.0, 10.5], "two": [12.0, 12.5]}))
    high = max(collection.get_segments()[0][:, 0].max() for collection in figure.axes[0].collections)
    assert figure.axes[0].get_xlim()[1] > high
    assert "arrow" not in figure.get_supxlabel()


def test_far_intervals_are_cut_upwards_too() -> None:
    table = pd.DataFrame({"submission": ["a", "b", "c"], "bytes_peak": [1e9, 2e9, 3e9], "reached_seconds": [10.0, 12.0, 14.0]})
    table = table.assign(reached_seconds_low=[9.0, 11.0, 0.1], reached_seconds_high=[11.0, 13.0, 900.0])
    figure = figures.pareto(table)
    assert figure.axes[0].get_ylim()[1] < 25
    marks = {line.get_marker(): line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_marker() in ("^", "v")}
    assert marks["^"] == marks["v"] == pytest.approx([3e9 / 2**30])
    assert "arrow: it goes on" in figure.get_supxlabel()
    figure = figures.against(raced(FAR).assign(**{"hp.lr": 0.1}), x="hp.lr", y="reached_seconds")
    assert "arrow: it goes on" in figure.get_supxlabel()
