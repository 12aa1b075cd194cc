"""The report: what it says for studies of every kind, and how the page behaves in a real browser."""

from __future__ import annotations

import base64
import io
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import browser
import pandas as pd
import pytest
import records

from analysis import load, report
from runner.cli import main


def page_of(results: Path) -> str:
    digest = report.digest(*load.study(results))
    return report.html(digest, report.contents(digest), title="A study")


def words_of(results: Path) -> str:
    return report.words(report.digest(*load.study(results)))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two workloads, a sweep, a failure, and names and reasons that try to break out of the page."""
    folder = tmp_path_factory.mktemp("study")
    records.quickstart(folder)
    for lr in (1e-3, 1e-2, 1e-1):
        for seed in (0, 1):
            records.write(folder, "fira", seed, workload="llama_60m", hyperparameters={"lr": lr, "betas": [0.9, 0.999]}, speed=0.9 + lr)
    records.write(folder, "<b>bold & co</b>", 0, workload="llama_60m", status="failed")
    return folder


@pytest.fixture(scope="module")
def page(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert main(["report", str(study), "-o", str(out), "--title", "Two workloads", "--export"]) == 0
    return out / "index.html"


def test_page_needs_no_other_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", text)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "<script" not in text
    assert "@import" not in text


def test_page_tells_the_whole_story(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "On llama_nano, adam reached the target first" in text
    for heading in (
        "Time to target",
        "Training curves",
        "Score",
        "Perplexity",
        "Memory",
        "Tuning budget",
        "How trials ended",
        "Protocol",
        "Reproduce",
    ):
        assert re.search(f"<h2>{heading}", text), heading
    for fact in (
        "median of five runs of adam",
        "5f1d0c2ab9e4",
        "records of schema 1",
        "ValueError: wrong shape",
        "31.06",
        "is the largest tried",
    ):
        assert fact in text, fact
    assert "slimperf run fira --workload llama_60m --study quickstart --seeds 0 1 --stop budget --set lr=0.1" in text


def test_names_from_records_cannot_become_markup(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<b>bold" not in text
    assert "&lt;b&gt;bold" in text


def test_identifiers_are_unique_and_references_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    identifiers = re.findall(r'\bid="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))
    references = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert references <= set(identifiers)


def test_data_behind_a_figure_comes_with_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.search(r'download="summary\.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', text)
    assert found
    rows = pd.read_csv(io.BytesIO(base64.b64decode(found[1])))
    assert set(records.SPEED) <= set(rows["submission"])
    assert text.count("<svg") == text.count("<figcaption")


def test_exported_files(page: Path) -> None:
    names = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*.*")}
    assert {"tables/summary.txt", "tables/summary.md", "tables/summary.tex", "tables/summary.csv"} <= names
    assert {"figures/time-llama-nano.png", "figures/time-llama-nano.svg"} <= names


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    if browser.MISSING:
        pytest.skip(browser.MISSING)
    with browser.opened() as opened:
        yield opened


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_page_in_a_browser(chromium: browser.Browser, page: Path, width: int, dark: bool) -> None:
    chromium.visit(page, width=width, dark=dark)
    assert chromium.console() == []
    assert chromium.evaluate("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    wide, seen = chromium.evaluate("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= seen, "the page scrolls sideways"
    out = chromium.evaluate(
        "return [...document.querySelectorAll('figure, h1, h2, p, nav')].filter(e => e.getBoundingClientRect().right > innerWidth).length"
    )
    assert out == 0, "something hangs over the edge"


def test_colours_follow_the_reader(chromium: browser.Browser, page: Path) -> None:
    """Text and axes of every figure contrast with the page in light and in dark."""
    script = """
      const lum = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => (x /= 255) <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
                         return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
      const page = lum(getComputedStyle(document.body).backgroundColor);
      const words = [...document.querySelectorAll('figure svg g[id*="text_"] > g')].map(e => lum(getComputedStyle(e).fill));
      return [page, Math.min(...words.map(w => (Math.max(w, page) + .05) / (Math.min(w, page) + .05))), words.length];"""
    grounds = []
    for dark in (False, True):
        chromium.visit(page, dark=dark)
        ground, contrast, count = chromium.evaluate(script)
        grounds.append(ground)
        assert count > 50
        assert contrast > 4.5
    assert grounds[0] > 0.9 > 0.1 > grounds[1]


def test_page_prints(chromium: browser.Browser, page: Path) -> None:
    chromium.visit(page)
    assert chromium.pdf().startswith(b"%PDF")


def test_one_submission_and_one_seed(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0)
    words = words_of(tmp_path)
    assert "a single seed, so no interval" in words
    assert "It ran alone, so this ranks nothing." in words
    assert "[" not in words.split("On llama_nano")[0], "no interval is invented"
    assert "<svg" in page_of(tmp_path)


def test_nobody_reached(tmp_path: Path) -> None:
    records.quickstart(tmp_path, steps=100)
    assert "no submission has reached the target" in words_of(tmp_path)
    assert "every score is 0" in page_of(tmp_path)


def test_study_in_progress(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0)
    records.write(tmp_path, "fira", 0, end=False)
    words = words_of(tmp_path)
    assert "1 running" in words
    assert "1 of 2 trials have not ended" in words
    assert "<svg" in page_of(tmp_path)


def test_trials_without_a_point_or_a_target(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0, steps=50, every=50, status="diverged", target=None)
    assert "has no target" in words_of(tmp_path)
    assert "How trials ended" in page_of(tmp_path)


def test_machines_are_not_ranked_together(tmp_path: Path) -> None:
    records.quickstart(tmp_path, submissions=("adam",))
    records.quickstart(tmp_path, submissions=("galore",), fingerprint={"id": "elsewhere"})
    words = words_of(tmp_path)
    assert "machine 5f1d0c2ab9e4, adam reached the target first" in words
    assert "machine elsewhere, galore reached the target first" in words
    assert "times as long" not in words


def test_mistaken_folder_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_predictions_of_something_else_are_named_not_shown(tmp_path: Path) -> None:
    records.quickstart(tmp_path, submissions=("adam",))
    digest = report.digest(*load.study(tmp_path))
    predicted = pd.DataFrame({"workload": "llama_60m", "submission": [f"s{k}" for k in range(5)], "bytes_state": 1.0})
    [memory] = [part for part in report.contents(digest, predicted=predicted) if part.anchor == "memory"]
    words = "The predictions are not shown: they are of s0 on llama_60m, s1 on llama_60m, s2 on llama_60m and 2 more, measured were adam on"
    assert memory.text[0].startswith(words)
    assert "memory-predicted" not in [table.name for table in memory.tables]
    predicted = pd.DataFrame({"workload": ["llama_nano"], "submission": "adam", "bytes_state": 1.0})
    [memory] = [part for part in report.contents(digest, predicted=predicted) if part.anchor == "memory"]
    assert memory.text == ()
    assert "memory-predicted" in [table.name for table in memory.tables]


def test_lists_in_lists_may_be_hyperparameters(tmp_path: Path) -> None:
    for number, seed, ruleset in itertools.product(range(4), (0, 1), ("self", "external")):
        mixed = [number] if number % 2 else number
        values = {"stages": [[number, [2, 3]], 0.5], "bands": [[0.1, 0.2]], "mixed": mixed, "lr": 0.01 * (number + 1)}
        records.write(tmp_path / "results", "fira", seed, hyperparameters=values, ruleset=ruleset, study=ruleset)
    records.write(tmp_path / "results", "adam", 0)
    assert main(["report", str(tmp_path / "results"), "-o", str(tmp_path / "out"), "--export"]) == 0
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert re.search(r"stages=\[\[\d, \[2, 3\]\], 0\.5\]", page)


def test_report_does_not_load_torch(study: Path) -> None:
    code = "import sys; from analysis import report, figures; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_grids_horizons_and_sizes_are_shown(tmp_path: Path) -> None:
    for lr, rank, seed in itertools.product((1e-3, 5e-3, 2e-2), (4, 16), (0, 1)):
        records.write(tmp_path, "fira", seed, hyperparameters={"lr": lr, "rank": rank}, speed=1 + lr * 10)
    for (name, size), steps, seed in itertools.product((("small", 1e6), ("middle", 1e7), ("large", 1e8)), (300, 600), (0, 1)):
        for submission, speed in (("adam", 1.0), ("muon", 1.2)):
            fields = {"parameters": int(size), "steps": steps, "workload": f"{name}[steps={steps}]", "speed": speed}
            records.write(tmp_path, submission, seed, **fields)
    trials, points = load.study(tmp_path)
    digest = report.digest(trials, points)
    parts = {section.anchor: section for section in report.contents(digest)}
    tuning = [figure.name for figure in parts["tuning"].figures]
    assert tuning == ["against-hp-lr-llama-nano", "map-hp-rank-hp-lr-fira-llama-nano"]
    speedup = parts["speedup"]
    assert speedup.title == "Speed-up over adam"
    assert [figure.name for figure in speedup.figures] == ["scaling-speedup", "scaling-time-speedup"]
    trend = {table.name: table.data for table in speedup.tables}["trend-time-speedup"].set_index("submission")
    assert trend.loc["muon", "sizes"] == 3
    assert trend.loc["muon", "low"] < trend.loc["muon", "exponent"] < trend.loc["muon", "high"]
    assert any(table.name.startswith("pairs-") for table in parts["score"].tables)
    assert "Over 7 workloads" in digest.overall[0]
    assert "muon has the highest score" in digest.overall[0]
