"""`slimperf reproduce` on records with planted results: tables, verdicts, what is missing, and what may not be compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from analysis import ablation, alike, claims, load, reproduce, variants
from runner import cli, record, study
from runner.probes import Collector
from runner.trial import Trial
from tests import fake_records

STEPS = {"steps": 120}
MATRICES = [f"layers.{layer}.{role}.weight" for layer in range(3) for role in ("attn.q", "mlp.up")]


def planned(name: str) -> list[Trial]:
    return study.read(study.locate(f"fira-{name}"), workload="llama_nano", overrides=STEPS)


def write(results: Path, trials: list[Trial], loss: Callable[[Trial], float]) -> None:
    """Records that end at the planted loss."""
    for trial in trials:
        path = record.path_of(results / trial.study, trial.id, 0)
        writer = record.Writer(path)
        place = {"step": 120, "seconds": 9.0, "tokens": 1}
        value = loss(trial)
        names = {"val_ppl": math.exp(value), "legacy_ppl": math.exp(value * 4 / 5), "val_loss": value}
        writer.write(
            fake_records.start(trial),
            *(record.Point(step=step, seconds=1.0, tokens=1, name="train_loss", value=5 - step / 50) for step in range(1, 121)),
            *(record.Point(**place, name=name, value=number) for name, number in names.items()),  # type: ignore[arg-type]
        )
        if trial.probes_every:
            factors(writer, path, trial)
        writer.write(record.End(status="missed", step=120, seconds={"total": 9.0}, bytes={}))
        writer.close()


def factors(writer: record.Writer, path: Path, trial: Trial) -> None:
    """Scaling factors that Adam has twice as large, in the same order."""
    header = {"schema": 1, "trial": trial.id, "attempt": 0, "indices": 5, "observe": {}, "matrices": MATRICES}
    collector = Collector(record.probes_of(path), header, 5)
    size = 2.0 if trial.submission == "adam" else 1.0
    for step in (60, 120):
        collector.step = step
        values = size * torch.exp(torch.arange(6.0)[:, None] + 0.01 * torch.arange(8.0))
        collector({"phi": values, "phi_matrix": values.mean(1, keepdim=True)}, MATRICES)
    writer.write(*collector.flush(1.0, 1))


def planted(trial: Trial) -> float:
    """fira < only scaling, clearly; adam beside galore within noise; sgd far behind."""
    base = {"fira": 2.0, "adam": 2.2, "galore": 2.2, "adam_two_lr": 2.1, "sgd": 3.0}[trial.submission]
    base += 0.05 if trial.hyperparameters.get("adam_term") is False else 0.0
    noise = {("adam", 0): 0.01, ("adam", 1): -0.02, ("galore", 2): 0.02}
    return base + 0.001 * trial.seed + noise.get((trial.submission, trial.seed), 0.0)


def command(*words: str, results: Path) -> int:
    return cli.main(["reproduce", *words, "--no-run", "--workload", "llama_nano", "--steps", "120", "--results", str(results)])


def test_the_list_names_every_table_and_its_studies(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce"]) == 0
    told = capsys.readouterr().out
    assert all(one.name in told and one.studies[0] in told for one in reproduce.ALL)
    assert set(study.names()) >= {name for one in reproduce.ALL for name in one.studies}
    assert cli.main(["reproduce", "rank"]) == 2
    assert "no table or figure 'rank' to reproduce; there are: methods" in capsys.readouterr().err


def test_a_table_with_published_values_and_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, planned("methods"), planted)
    assert command("methods", results=tmp_path) == 0
    told = capsys.readouterr().out
    verdicts = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in told.splitlines() if " ends lower than " in line}
    assert verdicts["fira ends lower than adam"] == claims.HOLDS
    assert verdicts["adam ends lower than galore"] == claims.OPEN
    assert verdicts["fira ends lower than adam, two learning rates"] == claims.HOLDS
    assert verdicts["only scaling ends lower than adam"] == claims.HOLDS
    assert "missing" not in told
    folder = tmp_path / "reproduced" / "llama_nano-steps120"
    assert {path.name for path in folder.iterdir()} == {
        *(f"methods.{ending}" for ending in ("csv", "tex", "md", "png", "svg")),
        *(f"methods-claims.{ending}" for ending in ("csv", "tex", "md")),
    }
    table = pd.read_csv(folder / "methods.csv").set_index("variant")
    assert table.loc["fira", "val_ppl"] == pytest.approx(math.exp(2.001))
    assert table.loc["fira", "published, LLaMA-60M"] == 31.06
    assert table.loc["only scaling", "published, LLaMA-60M"] == 31.68
    assert math.isnan(table.loc["adam, two learning rates", "published, LLaMA-60M"])


def test_an_interrupted_study_reports_what_is_there_and_how_to_get_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = planned("methods")
    assert command("methods", results=tmp_path) == 0
    assert f"missing: {len(trials)} of {len(trials)} trials" in capsys.readouterr().out
    write(tmp_path, [trial for trial in trials if trial.submission == "fira" or trial.seed == 0], planted)
    assert command("methods", results=tmp_path) == 0
    told = capsys.readouterr().out
    assert "missing: 8 of 18 trials\n  adam seed 1\n" in told
    assert f"run them: slimperf reproduce methods --workload llama_nano --results {tmp_path} --override steps=120" in told
    assert "fira ends lower than adam                      31.06 < 34.06" in told
    assert claims.OPEN in told


def test_a_training_that_still_runs_is_missing_and_stops_no_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = [trial for trial in planned("similarity") if trial.seed < 2]
    write(tmp_path, trials, planted)
    path = record.path_of(tmp_path / "fira", trials[-1].id, 0)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:60]))
    assert command("similarity", results=tmp_path) == 0
    told = capsys.readouterr().out
    assert "missing: 3 of 6 trials" in told
    table = pd.read_csv(tmp_path / "reproduced" / "llama_nano-steps120" / "similarity.csv")
    assert (table["pairs"] == 1).all()


def test_other_tables_and_figures_come_out_of_planted_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("methods", "limiters", "ranks"):
        have = {path.name.partition(".")[0] for path in (tmp_path / "fira").glob("*.jsonl")} if (tmp_path / "fira").exists() else set()
        write(tmp_path, [trial for trial in planned(name) if trial.id not in have], planted)
    for name in ("similarity", "limiters", "spikes", "ranks", "curves"):
        assert command(name, results=tmp_path) == 0
    folder = tmp_path / "reproduced" / "llama_nano-steps120"
    alike_table = pd.read_csv(folder / "similarity.csv").set_index(["measure", "definition"])
    assert (alike_table.loc["spearman", "value"] == 1).all()
    assert alike_table.loc["ratio", "value"].tolist() == pytest.approx([0.5] * 3)
    assert alike_table.loc["ratio", "entries"].tolist() == [6, 6, 30]
    assert alike_table.loc[("spearman", "matrix"), "published, LLaMA-60M"] == 0.9972
    judged = pd.read_csv(folder / "similarity-claims.csv")
    assert judged["verdict"].tolist() == [claims.HOLDS, claims.HOLDS, claims.FAILS] * 3
    ranks = pd.read_csv(folder / "ranks.csv").set_index(["variant", "share"])
    assert ranks.loc[("fira", 0.0078), "published, LLaMA-60M"] == 35.62
    assert ranks.loc[("only scaling", 1.0), "published, LLaMA-60M"] == 30.84
    assert ("fira, residual's step held", 0.25) in ranks.index
    assert {"scatter", "ratios"} <= {path.stem.removeprefix("similarity-") for path in folder.glob("similarity-*.svg")}
    limiters = pd.read_csv(folder / "limiters.csv").set_index("variant")
    assert limiters.loc["no limiter", "published, LLaMA-60M"] == 32.22
    assert limiters.loc["fira, gamma 1.1", "published, LLaMA-60M"] == 32.09
    assert limiters.loc["fira, limiter shrink", "published, LLaMA-60M"] == 33.98


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("variants", "fira ends lower than without scaling (GaLore-add)"),
        ("refresh", "fira, on_refresh rotate ends lower than fira"),
        ("precision", "fira, state in bf16 ends lower than adam, state in bf16"),
        ("rates", "fira, best of the rates tried ends lower than adam, best of the rates tried"),
    ],
)
def test_every_claim_of_a_study_finds_its_runs(name: str, claim: str, tmp_path: Path) -> None:
    one = reproduce.named(name)
    trials = {trial.id: trial for part in one.studies for trial in planned(part.removeprefix("fira-"))}
    write(tmp_path, list(trials.values()), lambda trial: 2.0 + (trial.submission == "adam"))
    assert command(name, results=tmp_path) == 0
    judged = pd.read_csv(tmp_path / "reproduced" / "llama_nano-steps120" / f"{name}-claims.csv").set_index("claim")
    assert claim in judged.index
    assert (judged["seeds"] == 3).all()
    assert claims.ABSENT not in set(judged["verdict"])


def test_factors_of_trainings_on_other_grids_are_refused(tmp_path: Path) -> None:
    trials = [trial for trial in planned("methods") if trial.probes_every and trial.seed == 0]
    write(tmp_path, trials, planted)
    table, points = load.study(tmp_path)
    adam = str(table.loc[table["submission"] == "adam", "trial"].iloc[0])
    with pytest.raises(ValueError, match="recorded on different grids"):
        alike.trainings(table, points[(points["trial"] != adam) | (points["step"] != 60)])


def test_paired_differences_by_hand() -> None:
    runs = pd.DataFrame({"variant": ["a"] * 3 + ["b"] * 3, "seed": [0, 1, 2] * 2, "ppl": np.exp([1.0, 2.0, 3.0, 1.1, 2.2, 3.3])})
    low, mean, high, n = claims.paired(runs, "a", "b", "ppl")
    assert (mean, n) == (pytest.approx(0.2), 3)
    assert (low, high) == (pytest.approx(0.2 - 4.302653 * 0.1 / 3**0.5), pytest.approx(0.2 + 4.302653 * 0.1 / 3**0.5))
    assert claims.paired(runs[runs["seed"] == 0], "a", "b", "ppl")[3] == 1
    assert claims.verdict(math.nan, math.nan, 0.0) == claims.OPEN
    assert claims.within(0.95, 1.05, (0.9, 1.1)) == claims.HOLDS
    assert claims.within(0.3, 0.5, (0.9, 1.1)) == claims.FAILS
    assert claims.within(0.3, 0.95, (0.9, 1.1)) == claims.OPEN


def test_names_of_variants() -> None:
    base = {"adam_term": True, "factor": "index", "gap": 50}
    assert variants.name("fira", variants.differences({**base, "adam_term": False, "factor": "matrix"}, base)) == (
        "only scaling, one factor per matrix"
    )
    assert variants.name("fira", {"adam_term": False, "basis": "gaussian"}) == "only scaling, basis gaussian"
    assert variants.name("fira", {"gamma": 1.0}) == "fira, gamma 1"
    assert variants.name("adam", {}) == "adam"
    assert ("fira, gamma 1",) in ablation.limiters()


def test_intruders_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "intruders"]) == 2
    assert "expected --before CHECKPOINT and --after CHECKPOINT" in capsys.readouterr().err
    for name in ("a", "b"):
        save_file({"w": torch.randn(8, 8, generator=torch.Generator().manual_seed(ord(name)))}, tmp_path / f"{name}.safetensors")
    paths = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    assert cli.main(["reproduce", "intruders", "--before", paths[0], "--after", paths[1], "--results", str(tmp_path)]) == 0
    assert "intruders" in capsys.readouterr().out
    assert (tmp_path / "reproduced" / "intruders.csv").is_file()
