"""Queries: expressions, groups, exports, and errors that help."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import records

from analysis import query
from runner import cli

TABLE = pd.DataFrame(
    {
        "submission": ["fira", "galore", "adam"],
        "hp.rank": [64.0, 32.0, np.nan],
        "hp.betas": [(0.9, 0.99), None, (0.9, 0.999)],
        "hp.clip": [1.0, None, 0.5],
        "hp.stages": [((1, 2), 3), None, ((5, 6), 4)],
        "hp.modules": ["query", ("q", "v"), ("qkv",)],
        "odd name": [1, 2, 3],
        "seconds": [3.0, 2.0, 1.0],
        "settings.off.kind": ["a", "b", "b"],
    }
).astype({"hp.clip": object})


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("hp.rank >= 64", [0]),
        ("`hp.rank` >= 64", [0]),
        ("hp.rank == None", [2]),
        ("hp.rank is not None and seconds > 2", [0]),
        ("submission in ['fira', 'adam']", [0, 2]),
        ("submission not in ['fira', 'adam']", [1]),
        ("'a' in submission and not submission == 'adam'", [0, 1]),
        ("1 < seconds <= 3", [0, 1]),
        ("seconds * 2 - 1 > `odd name` or settings.off.kind == 'a'", [0, 1]),
        ("hp.clip < 0.8", [2]),
        ("seconds > -1", [0, 1, 2]),
        ("hp.betas == [0.9, 0.99]", [0]),
        ("(0.9, 0.99) == hp.betas", [0]),
        ("hp.betas != [0.9, 0.99]", [1, 2]),
        ("hp.betas == [0.9]", []),
        ("hp.betas == [0.9, 0.99, 0.999]", []),
        ("hp.betas in [[0.9, 0.99], [0.8, 0.9]]", [0]),
        ("hp.betas not in [[0.9, 0.99], [0.8, 0.9]]", [1, 2]),
        ("0.999 in hp.betas", [2]),
        ("0.999 not in hp.betas", [0, 1]),
        ("hp.stages == [[1, 2], 3]", [0]),
        ("hp.stages == [[1, 2], 4] or [5, 6] in hp.stages", [2]),
        ("'q' in hp.modules", [0, 1]),
    ],
)
def test_expressions_keep_the_right_rows(expression: str, rows: list[int]) -> None:
    expected = TABLE.iloc[rows].reset_index(drop=True)
    pd.testing.assert_frame_equal(query.where(TABLE, [expression]), expected)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("hp.rnak > 1", "no column 'hp.rnak'; did you mean 'hp.rank'"),
        ("rank > 1", "no column 'rank'; did you mean 'hp.rank'"),
        ("hp.rank >", "cannot be read"),
        ("seconds", "expected a comparison"),
        ("submission > 3", "unlike things are compared"),
        ("submission == 'a' if 1 else 2", "is not supported"),
        ("__import__('os').system('true') == 0", "is not supported|no column"),
        ("(lambda: 1)() == 1", "is not supported"),
        ("seconds is 3", "compares with None only"),
        ("hp.betas > [0.9, 0.99]", "a list is compared by ==, != and in"),
        ("3 in seconds", "expected a column in a list of values, or a value in a column of lists"),
    ],
)
def test_bad_expressions_are_explained(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        query.where(TABLE, [expression])


def test_groups_count_and_aggregate() -> None:
    table = query.grouped(TABLE, ["settings.off.kind"], ["seconds", "hp.rank"], aggregate="max")
    assert table["rows"].tolist() == [1, 2]
    assert table["seconds"].tolist() == [3, 2]
    with pytest.raises(ValueError, match="--columns submission: not numeric"):
        query.grouped(TABLE, ["odd name"], ["submission"])
    with pytest.raises(ValueError, match="no column 'oddname'; did you mean 'odd name'"):
        query.grouped(TABLE, ["oddname"])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for rank in (32, 64):
        for seed in (0, 1):
            records.write(tmp_path / "results", "fira", seed, hyperparameters={"lr": 0.01, "rank": rank, "betas": [0.9, 0.999]})
    return tmp_path / "results"


def test_the_command_filters_and_exports(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = [str(tmp_path / "out" / f"rows.{kind}") for kind in ("csv", "json", "parquet")]
    pytest.importorskip("pyarrow")
    arguments = ["query", str(results), "--where", "hp.rank >= 64", "--where", "seed == 1", "--columns", "all"]
    assert cli.main([*arguments, "--csv", out[0], "--json", out[1], "--parquet", out[2]]) == 0
    assert "1 rows in" in capsys.readouterr().out
    (row,) = json.loads(Path(out[1]).read_text())
    for table in (pd.read_csv(out[0]), pd.read_parquet(out[2])):
        assert table["hp.rank"].tolist() == [row["hp.rank"]] == [64]
        assert table["hp.betas"].tolist() == [row["hp.betas"]] == ["[0.9, 0.999]"]
        assert table["reached_seconds"].tolist() == pytest.approx([row["reached_seconds"]])


def test_the_command_prints_trials_groups_and_points(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["query", str(results)]) == 0
    assert "rank" in capsys.readouterr().out
    assert cli.main(["query", str(results), "--group-by", "hp.rank", "--csv", str(tmp_path / "g.csv")]) == 0
    assert pd.read_csv(tmp_path / "g.csv")["rows"].tolist() == [2, 2]
    capsys.readouterr()
    points = ["query", str(results), "--points", "val_loss", "--where", "step > 500"]
    assert cli.main([*points, "--group-by", "hp.rank", "--columns", "value"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["rank", "rows", "value"]
    assert cli.main([*points, "--csv", str(tmp_path / "p.csv")]) == 0
    table = pd.read_csv(tmp_path / "p.csv")
    assert set(table["step"]) == {550, 600}
    assert len(table) == 8
    assert cli.main(["query", str(results), "--where", "seed == 99"]) == 0
    assert "no row is left" in capsys.readouterr().out
    assert cli.main(["query", str(results), "--points", "val_los"]) == 2
    assert "did you mean 'val_loss'" in capsys.readouterr().err
    assert cli.main(["query", str(results), "--where", "hp.rnk > 1"]) == 2
    assert "did you mean 'hp.rank'" in capsys.readouterr().err


def test_whole_numbers_are_printed_as_such_where_another_submission_has_none(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(results, "adam", 0, hyperparameters={"lr": 0.01, "clip": 0.5})
    assert cli.main(["query", str(results), "--columns", "submission", "hp.rank", "hp.clip", "--where", "seed == 0"]) == 0
    rows = sorted(line.split() for line in capsys.readouterr().out.splitlines()[2:])
    assert rows == [["adam", "-", "0.5000"], ["fira", "32", "-"], ["fira", "64", "-"]]


def test_lists_in_lists_load_as_one_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (1, 2):
        records.write(tmp_path, "fira", 0, hyperparameters={"stages": [[rank, [2]], 3]})
    assert cli.main(["query", str(tmp_path), "--where", "hp.stages == [[2, [2]], 3]", "--columns", "hp.stages"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["((2, (2,)), 3)"]
    assert cli.main(["query", str(tmp_path), "--group-by", "hp.stages", "--columns", "seed"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
