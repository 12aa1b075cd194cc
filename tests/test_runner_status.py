"""What `slimperf status` says of a study in Slurm, which a made-up `squeue` stands for."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path

import pytest

from runner import locks, record, slurm_ledger, slurm_queue
from runner.commands import status
from runner.trial import Trial
from tests import fake_records
from tests.planning import trial

DONE, RUNNING, WAITING, HOPELESS, VANISHED, FAILED, NEXT = (trial(seed) for seed in range(7))
STATES = ["RUNNING|None", "PENDING|Priority", "PENDING|PartitionTimeLimit", "NODE_FAIL|None"]
"""Of the jobs with RUNNING (and NEXT), WAITING, HOPELESS and VANISHED."""


def begun(study: Path, each: Trial, *, host: str | None = None) -> None:
    """An attempt that has come to step 30 of 100, held by this process or by one on another host."""
    writer = record.Writer(record.path_of(study, each.id, 0))
    points = [record.Point(step=step, seconds=step / 10, tokens=step * 16, name="train_loss", value=2.5) for step in (10, 20, 30)]
    writer.write(fake_records.start(each), *points)
    writer.close()
    locks.acquire(study, each.id)
    if host is not None:
        owner = dataclasses.replace(locks.identify(os.getpid()), host=host)
        (study / locks.FOLDER / f"{each.id}.lock").write_text(json.dumps(dataclasses.asdict(owner)))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / DONE.study
    fake_records.write(tmp_path, DONE, "reached")
    fake_records.write(tmp_path, FAILED, "failed")
    begun(folder, RUNNING)
    begun(folder, VANISHED, host="gone-node")
    packs = [[RUNNING.id, NEXT.id], [WAITING.id], [HOPELESS.id], [VANISHED.id]]
    entry = slurm_ledger.enter(folder, "llama_nano", packs, {})
    answer = "".join(f"7|{index}|{state}|{entry.name}\n" for index, state in enumerate(STATES))
    monkeypatch.setattr(slurm_queue, "_ask", lambda *words: answer)
    return folder


def said(folder: Path, capsys: pytest.CaptureFixture[str], *, everything: bool = False) -> list[str]:
    assert status.main(argparse.Namespace(results=folder, all=everything)) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_counts_reasons_progress_and_time_to_go(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(study, capsys)
    assert lines[1].endswith("4 1 failed, 1 lost, 1 reached, 1 running")
    assert lines[2] == f"{study}, by Slurm: 1 lost, 3 pending, 1 running"
    assert lines[3] == "they wait for: Priority (1), its turn in the job (1)"
    assert f"{HOPELESS.id}: pending: job 7_2: PartitionTimeLimit; this does not pass by itself" in "\n".join(lines)
    assert f"{VANISHED.id}: lost: its job 7_3 ended as NODE_FAIL; the next `slimperf sweep` goes on from its checkpoint" in lines
    [row] = [line for line in lines if line.startswith(f"{RUNNING.id} ")]
    assert "30/100 2.500 160 3.0 s 7.0 s" in row, "step, loss, tokens per second, time on the clock, time to go"
    assert any(line.startswith(f"{FAILED.id}: ") and line.endswith("failed: why") for line in lines)


def test_a_line_for_every_trial(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(study, capsys, everything=True)
    assert [line.split()[0] for line in lines[1:5]] == sorted(each.id for each in (DONE, FAILED, RUNNING, VANISHED))


def test_a_silent_slurm_hides_nothing_that_is_on_record(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent(*words: str) -> str:
        raise slurm_queue.Silent("squeue failed")

    monkeypatch.setattr(slurm_queue, "_ask", silent)
    lines = said(study, capsys)
    assert f"{study}: squeue failed" in lines
    assert lines[1].endswith("1 failed, 1 reached, 2 running")
