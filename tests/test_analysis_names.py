"""Names that people give: formulas, underscores, letters of other scripts, line breaks, and signs that mean something to a format."""

from __future__ import annotations

import io
import re
import warnings
from html import unescape
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import records
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import cautions, curves, embedding, figures, load, render, report, tables
from analysis.figures import canvas, studies

JAPANESE = "\u65e5\u672c\u8a9e"
FORMULAS = ("my $\\opt$ x", "a $x$ b")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("names")
    for name in (*FORMULAS, "_mine", f"opt-{JAPANESE}", "line\nbreak"):
        for seed in (0, 1):
            records.write(folder, name, seed, workload="w $\\nothing$", fingerprint={"id": "a/b"})
    return load.study(folder)


def shown(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)}


def test_dollar_signs_are_no_formula(study: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    figure = figures.curves(curves.thinned(*study))
    assert not any(text.get_parse_math() for text in figure.findobj(Text) if text.get_text())
    assert {*FORMULAS, "w $\\nothing$"} <= shown(figure)
    assert figures.svg(figure)


def test_logarithmic_axes_need_no_formula() -> None:
    table = pd.DataFrame({"step": [1, 2, 3], "value": [0.02, 0.5, 30.0], "hue": "a"})
    figure = studies.series(table, y="value", hue="hue", label="ratio", logarithmic=True)
    figures.svg(figure)
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert {"0.1", "1", "10"} <= labels
    narrow = studies.series(table.assign(value=[0.2, 0.3, 0.5]), y="value", hue="hue", label="ratio", logarithmic=True)
    figures.svg(narrow)
    assert {"0.2", "0.3", "0.4"} <= {label.get_text() for label in narrow.axes[0].get_yticklabels(minor=True)}, "less than a decade"


def test_a_leading_underscore_does_not_hide_a_name(study: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    trials, points = study
    board = pd.DataFrame({"submission": ["_mine", "adam"], "tau": [1.0, 2.0], "fraction": [0.5, 1.0]})
    sizes = board.assign(parameters=1e6, speedup=1.0)
    measured = tables.final(trials, points, name="val_loss")
    for figure in (
        figures.curves(curves.thinned(trials, points)),
        figures.profile(board),
        figures.scaling(sizes),
        figures.score_against(board.assign(cap=1.0, score=1.0), "cap"),
        figures.pareto(tables.summary(trials, points)),
        figures.against(measured.assign(**{"hp.rank": 4}), x="hp.rank", y="val_loss"),
        studies.series(points.assign(hue=np.resize(["_mine", "b"], len(points))), y="value", hue="hue", label="x"),
    ):
        assert "_mine" in {text.get_text() for legend in figure.legends for text in legend.get_texts()}


def test_letters_without_a_glyph_are_said_once_and_not_warned_of(
    study: tuple[pd.DataFrame, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canvas, "fonts", lambda: ["DejaVu Sans"])
    trials, points = study
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.time_to_target(trials)
        assert figures.png(figure, dpi=40)
        assert figures.svg(figure)
    said = [words for words in cautions.found(trials, tables.tuning(trials, tables.best(trials, points))) if "font" in words]
    assert len(said) == 1
    assert " ".join(sorted(JAPANESE)) in said[0]
    assert canvas.undrawable(["gr\u00f6\u00dfe \u03b1 \u0416", "line\nbreak"]) == ""


def test_fonts_of_this_machine_help_out() -> None:
    assert canvas.fonts()[0] == "DejaVu Sans"
    here = set(mpl.font_manager.get_font_names())
    assert set(canvas.fonts()) <= here, "an absent font is a line on the terminal for each text"


def test_identifiers_and_files_are_told_apart(tmp_path: Path) -> None:
    for workload in ("w[lr=0.1]", "w[lr=0,1]", "plain"):
        records.write(tmp_path, "adam", 0, workload=workload, fingerprint={"id": "m&<1>/x"})
    digest = report.digest(*load.study(tmp_path))
    parts = report.contents(digest)
    names = [figure.name for part in parts for figure in part.figures]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w-]+", name) for name in names)
    assert "time-plain" in names, "nothing is added where nothing collides"
    written = report.export(parts, tmp_path / "out")
    assert len(set(written)) == len(written)
    assert all(path.parent.parent == tmp_path / "out" for path in written)
    page = report.html(digest, parts, title="x")
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(identifiers)) == len(identifiers)
    assert "m&<1>" not in page


def test_an_identifier_depends_on_its_own_name_and_not_on_the_order() -> None:
    def identifiers(*names: str) -> dict[str, str]:
        drawings = tuple(embedding.Figure(name=name, caption="", drawing=Figure(), data=pd.DataFrame()) for name in names)
        (section,) = embedding.distinct([embedding.Section(anchor="a", title="A", figures=drawings)])
        return dict(zip(names, (figure.name for figure in section.figures), strict=True))

    assert identifiers("a.b", "a,b", "c") == identifiers("a,b", "c", "a.b")
    assert identifiers("a.b", "c")["a.b"] == "a-b"
    assert max(len(name) for name in identifiers("x" * 300 + "a", "x" * 300 + "b").values()) < 140
    assert len({name.lower() for name in identifiers("W", "w", "W.").values()}) == 3, "a file system may not tell cases apart"


NAMES = pd.DataFrame(
    {"submission": ["line\nbreak\r\n\x1b[31m", "*b* _i_ `c` [l](u) <b> |p| &amp; ~~s~~ $x$ a_b \\"], "val_ppl": [1.0, 2.0]}
)


def test_a_line_break_in_a_name_breaks_no_row() -> None:
    for write in (render.text, render.markdown, render.latex):
        lines = write(NAMES).splitlines()
        assert sum("break" in line for line in lines) == 1
        assert any("line break" in line for line in lines)
        assert "\x1b" not in "".join(lines)
    assert len(render.text(NAMES).splitlines()) == len(render.markdown(NAMES).splitlines()) == 4
    dots = {name: f"<i>{place}</i>" for place, name in enumerate(NAMES["submission"])}
    assert "<td><i>0</i>line break" in render.html(NAMES, marks=dots)
    assert pd.read_csv(io.StringIO(render.csv(NAMES)))["submission"].tolist() == NAMES["submission"].tolist(), "exact for machines"


def test_markdown_escapes_what_is_markup_in_a_cell() -> None:
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    words = [
        *NAMES["submission"][1:],
        "[a][b]",
        "[a]: b",
        "![i](u)",
        "<http://x.y>",
        "<!-- c",
        "__a__b_",
        "&#35;",
        "3 < 4 > 2",
        "1. a",
        "# a",
        "- a",
    ]
    cells = re.findall("<td>(.*?)</td>", page.render(render.markdown(pd.DataFrame({"a b": words}))))
    assert [unescape(cell) for cell in cells] == words
    assert r"\$x\$ a_b \\" in render.markdown(NAMES), "no formula either"
    table = pd.DataFrame({"ours": ["0.98 [0.95, 1]"], "claim": ["31.06 < 31.52"], "x": [1.0], "x_low": [0.5], "x_high": [2.0]})
    assert "| 0.98 [0.95, 1] | 31.06 < 31.52 | 1.000 [0.5000, 2.000] |" in render.markdown(table), "what is no markup stays as it is"


def test_latex_escapes_what_it_reads_as_commands() -> None:
    table = pd.DataFrame({"a b": [r"\ ~ ^ # $ % & _ { } < > |", "[x]", "*"]})
    rows = render.latex(table).splitlines()[4:7]
    signs = r"\textbackslash{} \textasciitilde{} \textasciicircum{} \# \$ \% \& \_ \{ \} \textless{} \textgreater{} \textbar{}"
    assert rows == [signs + r" \\", r"{}[x] \\", r"{}* \\"]
