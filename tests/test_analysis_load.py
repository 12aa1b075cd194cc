"""Loading: what two tables hold, and every way in which a folder of records can be bad."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import records

from analysis import cache, load, parse
from runner import record


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMPERF_CACHE", str(tmp_path_factory.mktemp("cache")))


def _problems(folder: Path) -> list[str]:
    return list(load.study(folder)[0].attrs["problems"])


def _file(folder: Path) -> Path:
    return next(iter(sorted(folder.rglob("*.jsonl"))))


def test_tables_hold_what_the_records_say(tmp_path: Path) -> None:
    trial = records.write(tmp_path, "fira", 1, hyperparameters={"lr": 0.01, "rank": 64, "betas": [0.9, 0.99], "clip": None})
    trials, points = load.study(tmp_path)
    lines = list(record.lines(_file(tmp_path)))
    end = lines[-1]
    assert isinstance(end, record.End)
    assert end.reached is not None
    row = trials.iloc[0]
    assert (row["trial"], row["submission"], row["seed"], row["status"]) == (trial, "fira", 1, "reached")
    assert (row["hp.rank"], row["hp.betas"], row["settings.device"]) == (64, (0.9, 0.99), "cpu")
    assert (row["reached_seconds"], row["seconds"]) == (end.reached["seconds"], end.seconds["total"])
    assert row["bytes_state"] == end.bytes["state"]
    assert row["target_value"] == 1.9
    assert row["fingerprint"] == "5f1d0c2ab9e4"
    expected = [(p.step, p.seconds, p.tokens, p.name, p.value) for p in lines if isinstance(p, record.Point)]
    assert list(points[["step", "seconds", "tokens", "name", "value"]].itertuples(index=False, name=None)) == expected
    assert set(points["trial"]) == {trial}
    assert trials.attrs["problems"] == []


def test_a_root_a_study_and_a_single_file_load(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0, study="one")
    records.write(tmp_path, "adam", 0, study="two", workload="llama_micro")
    assert len(load.study(tmp_path)[0]) == 2
    assert load.study(tmp_path / "two")[0]["workload"].tolist() == ["llama_micro"]
    assert load.study(_file(tmp_path / "one"))[0]["study"].tolist() == ["one"]


def test_nan_losses_stay_nan(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0)
    path = _file(tmp_path)
    start, *_, end = record.lines(path)
    assert isinstance(end, record.End)
    points = [
        record.Point(step=k, seconds=k, tokens=k, name="train_loss", value=v) for k, v in enumerate([2.0, float("nan"), float("inf")])
    ]
    path.write_text("".join(map(record.encode, [start, *points, dataclasses.replace(end, status="diverged", reached=None)])))
    trials, points = load.study(tmp_path)
    assert np.array_equal(points["value"], [2.0, np.nan, np.inf], equal_nan=True)
    assert trials["status"].tolist() == ["diverged"]
    assert trials["reached_seconds"].isna().all()


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
def test_a_file_cut_anywhere_loads_up_to_its_last_whole_line(tmp_path: Path, keep: float) -> None:
    records.write(tmp_path, "adam", 0)
    path = _file(tmp_path)
    text = path.read_bytes()
    path.write_bytes(text[: int(len(text) * keep)] if keep < 0.9 else text[:-2])
    trials, points = load.study(tmp_path)
    assert trials["status"].tolist() == ["running"]
    assert len(points) == len(list(record.lines(path))) - 1
    assert trials["seconds"].item() == points["seconds"].iloc[-1]
    assert "cut off in the middle of its last line" in trials.attrs["problems"][0]
    assert path.name in trials.attrs["problems"][0]


def test_every_byte_length_of_a_record_loads_or_is_named(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0, steps=100)
    text = _file(tmp_path).read_bytes()
    path = tmp_path / "cut.jsonl"
    first = text.index(b"\n") + 1
    for length in range(first, len(text), 7):
        path.write_bytes(text[:length])
        read = parse.attempt(path, parse.Codes(), parse.Codes())
        assert read.floats.shape[1] == text[:length].count(b"\n") - 1
    path.write_bytes(text[: first - 5])
    with pytest.raises(ValueError, match="not one whole line"):
        parse.attempt(path, parse.Codes(), parse.Codes())


def test_bad_files_are_named_and_do_not_stop_the_load(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0, study="s")
    good = _file(tmp_path)
    start = good.read_text().splitlines()[0]
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "blank.jsonl").write_text("\n \n")
    (tmp_path / "foreign.jsonl").write_text('{"text": "some corpus"}\n{"text": "more"}\n')
    (tmp_path / "binary.jsonl").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "newer.jsonl").write_text(json.dumps(json.loads(start) | {"schema": 7}) + "\n")
    (tmp_path / "unknown.jsonl").write_text(json.dumps(json.loads(start) | {"colour": 1}) + "\n")
    (tmp_path / "headless.jsonl").write_text("".join(line + "\n" for line in good.read_text().splitlines()[1:]))
    trials, _ = load.study(tmp_path)
    assert len(trials) == 1
    problems = "\n".join(trials.attrs["problems"])
    assert len(trials.attrs["problems"]) == 7
    for expected in (
        "empty.jsonl: empty", "blank.jsonl: no records in it, only blank lines; left out",
        "foreign.jsonl: line 1: expected an object with kind", "binary.jsonl: line 1",
        "newer.jsonl: line 1: record schema 7; this version of SlimPerf reads schema 1", "unknown.jsonl: line 1: unknown field 'colour'",
        "headless.jsonl: line 1: a point line is out of place",
    ):  # fmt: skip
        assert expected in problems


def test_a_broken_line_in_the_middle_ends_the_record_there(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0)
    path = _file(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    lines[4] = '{"kind":"point","step":"what"}\n'
    path.write_text("".join(lines))
    trials, points = load.study(tmp_path)
    assert len(points) == 3
    assert trials["status"].tolist() == ["running"]
    assert "line 5: no field 'name' in this point line; read up to there" in trials.attrs["problems"][0]


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("start", {"budget": None}, "line 1: budget is null; expected an object; left out"),
        ("start", {"seed": "zero"}, 'line 1: seed is "zero"; expected a whole number of 64 bits; left out'),
        ("start", {"seed": 2**63}, "line 1: seed is 9223372036854775808; expected a whole number of 64 bits; left out"),
        ("start", {"target": {"value": "low"}}, 'line 1: target.value is "low"; expected a number; left out'),
        ("start", {"ruleset": "none"}, 'line 1: ruleset is "none"; expected one of external, self; left out'),
        (
            "start",
            {"hyperparameters": {"salt": [1, 2**64]}},
            "line 1: hyperparameters.salt is 18446744073709551616; expected a number of at most 64",
        ),
        ("start", {"fingerprint": {"id": ["a"]}}, 'line 1: fingerprint.id is ["a"]; expected text or null; left out'),
        ("end", {"bytes": {"weights": "many"}}, 'bytes.weights is "many"; expected a number; read up to there'),
        ("end", {"bytes": None}, "bytes is null; expected an object; read up to there"),
        ("end", {"status": "won"}, 'status is "won"; expected one of reached, missed,'),
        ("point", {"step": 1.5}, "line 2: step is 1.5; expected a whole number of 64 bits; read up to there"),
        ("point", {"step": 10**30}, "line 2: step is 1000000000000000000000000000000; expected a whole number"),
        ("point", {"value": None}, "line 2: value is null; expected a number; read up to there"),
        ("point", {"value": "oops"}, 'line 2: value is "oops"; expected a number; read up to there'),
        ("point", {"name": None}, "line 2: name is null; expected text; read up to there"),
    ],
)
def test_a_field_of_another_type_is_named_and_the_other_records_load(
    tmp_path: Path, kind: str, change: dict[str, object], words: str
) -> None:
    records.write(tmp_path, "adam", 0)
    bad = _file(tmp_path)
    records.write(tmp_path, "fira", 0)
    lines = bad.read_text().splitlines(keepends=True)
    number = {"start": 0, "point": 1, "end": -1}[kind]
    lines[number] = json.dumps(json.loads(lines[number]) | change) + "\n"
    bad.write_text("".join(lines))
    trials, _ = load.study(tmp_path)
    assert "fira" in trials["submission"].tolist()
    [problem] = trials.attrs["problems"]
    assert bad.name in problem
    assert words in problem


def test_any_spelling_of_json_loads_without_a_word_and_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records.write(tmp_path, "adam", 0)
    path = _file(tmp_path)
    expected = load.study(tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(dict(reversed(row.items())), separators=(" , ", " : ")) + "\n" for row in rows))
    monkeypatch.setattr(parse, "_sound", lambda text: pytest.fail("read line by line"))
    for found, table in zip(load.study(tmp_path), expected, strict=True):
        pd.testing.assert_frame_equal(found, table)
        assert found.attrs == table.attrs


def test_lines_that_are_left_out_are_counted(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0)
    path = _file(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "\n", *lines[1:], lines[1], lines[2]]))
    trials, points = load.study(tmp_path)
    assert (trials["status"].item(), len(points)) == ("reached", len(lines) - 2)
    assert trials.attrs["problems"] == [f"quickstart/{path.name}: 3 lines that are blank or after its end line left out"]


def test_no_folder_no_record_and_nothing_readable_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        load.study(tmp_path / "absent")
    with pytest.raises(ValueError, match="no record"):
        load.study(tmp_path)
    (tmp_path / "x.jsonl").write_text("hello\n")
    with pytest.raises(ValueError, match=r"none of its 1 files is a record that can be read; x\.jsonl"):
        load.study(tmp_path)


def _attempt(folder: Path, source: Path, number: int, steps: range, resumed: int | None, status: str | None) -> None:
    start = next(record.lines(source))
    assert isinstance(start, record.Start)
    lines: list[record.Line] = [dataclasses.replace(start, trial="t", attempt=number, resumed_step=resumed)]
    lines += [record.Point(step=k, seconds=k + number / 10, tokens=k, name="train_loss", value=float(number)) for k in steps]
    if status:
        lines.append(record.End(status=status, step=steps[-1], seconds={"total": 9.0}, bytes={}, lost_seconds=0.5))  # type: ignore[arg-type]
    record.path_of(folder, "t", number).write_text("".join(map(record.encode, lines)))


def test_attempts_are_stitched_where_the_next_one_went_on(tmp_path: Path) -> None:
    records.write(tmp_path / "other", "adam", 0)
    source = _file(tmp_path)
    folder = tmp_path / "s"
    folder.mkdir()
    _attempt(folder, source, 0, range(8), None, None)
    _attempt(folder, source, 1, range(5, 9), 4, "preempted")
    _attempt(folder, source, 10, range(7, 10), 6, "missed")
    trials, points = load.study(folder)
    assert points["step"].tolist() == list(range(10))
    assert points["value"].tolist() == [0.0] * 5 + [1.0] * 2 + [10.0] * 3
    row = trials.iloc[0]
    assert (row["attempts"], row["status"], row["seconds"], row["lost_seconds"]) == (3, "missed", 9.0, 0.5)
    _attempt(folder, source, 11, range(2), None, None)  # a retry from scratch supersedes everything
    trials, points = load.study(folder)
    assert points["value"].tolist() == [11.0, 11.0]
    assert trials["status"].tolist() == ["running"]


def test_duplicate_attempts_count_once(tmp_path: Path) -> None:
    trial = records.write(tmp_path, "adam", 0, study="s")
    path = _file(tmp_path)
    (path.parent / "a copy.jsonl").write_bytes(path.read_bytes())
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / path.name).write_bytes(path.read_bytes())
    trials, points = load.study(tmp_path)
    assert len(trials) == 1
    assert trials["attempts"].item() == 1
    assert not points.duplicated(["name", "step"]).any()
    problems = "\n".join(trials.attrs["problems"])
    assert f"a copy.jsonl: attempt 0 of trial {trial} is also in {path.name}; left out" in problems
    assert f"trial {trial} is also recorded in" in problems


def test_a_finished_copy_of_a_trial_wins_over_one_that_was_cut(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0, study="z")
    path = _file(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / path.name).write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    assert load.study(tmp_path)[0]["status"].tolist() == ["reached"]


def test_the_columnar_copy_gives_the_same_tables_and_notices_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "results"
    records.quickstart(folder, seeds=(0, 1))
    fresh = load.study(folder)
    monkeypatch.setattr(cache, "SMALLEST", 0)
    first = load.study(folder)
    assert cache._path(folder).exists()
    monkeypatch.setattr(parse, "attempt", lambda *args: pytest.fail("the records were read again"))
    second = load.study(folder)
    for a, b, c in zip(fresh, first, second, strict=True):
        pd.testing.assert_frame_equal(a, b)
        pd.testing.assert_frame_equal(a, c)
        assert a.attrs == c.attrs
    monkeypatch.undo()
    monkeypatch.setattr(cache, "SMALLEST", 0)
    records.write(folder, "adam", 7)
    assert len(load.study(folder)[0]) == len(fresh[0]) + 1


def test_a_spoilt_or_unwritable_copy_is_only_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALLEST", 0)
    records.write(tmp_path / "results", "adam", 0)
    load.study(tmp_path / "results")
    cache._path(tmp_path / "results").write_bytes(b"PK\x03\x04 not really")
    assert len(load.study(tmp_path / "results")[0]) == 1
    (tmp_path / "file").write_text("a file where the cache folder should be")
    monkeypatch.setenv("SLIMPERF_CACHE", str(tmp_path / "file"))
    assert len(load.study(tmp_path / "results")[0]) == 1


def test_old_copies_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 2)
    for k in range(4):
        cache.write(tmp_path / str(k), "key", {"a": np.arange(3)}, {})
        os.utime(cache._path(tmp_path / str(k)), (k, k))
    assert cache.read(tmp_path / "0", "key") is None
    kept = cache.read(tmp_path / "3", "key")
    assert kept is not None
    assert kept[0]["a"].tolist() == [0, 1, 2]


def test_importing_the_analysis_does_not_load_torch() -> None:
    code = """
import importlib, pkgutil, sys
import analysis
for module in pkgutil.walk_packages(analysis.__path__, "analysis."):
    importlib.import_module(module.name)
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_columns_can_be_added_to_hundreds_of_others(tmp_path: Path) -> None:
    """Many submissions have many hyperparameters; pandas warns whoever adds to a frame in too many pieces."""
    records.write(tmp_path, "many", 0, hyperparameters={f"h{number}": number for number in range(150)})
    trials, _ = load.study(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trials.assign(new=1)["new"].tolist() == [1]


def test_an_object_among_the_hyperparameters_is_its_text(tmp_path: Path) -> None:
    records.write(tmp_path, "adam", 0, hyperparameters={"lr": 0.1, "lrs": {"embed": 0.2}})
    trials, _ = load.study(tmp_path)
    assert trials["hp.lrs"].tolist() == ['{"embed": 0.2}']
