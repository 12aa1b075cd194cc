"""What a submission's own code raises: the trial fails with the line, and no submission ends the program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from runner import catalog, check, cli, local, record, train
from runner.trial import Trial

FILE = """
import sys
from dataclasses import dataclass

from submissions.base import MatrixSubmission


@dataclass(frozen=True, kw_only=True)
class Mine(MatrixSubmission):
    rank: int = 3

    def wrap(self, model, seed):
        {wrap}
        return model

    def init(self, W_bmn):
        return {{}}

    def update(self, G_bmn, state, t):
        if t == self.rank:
            {update}
        return G_bmn.sign(), {{}}
"""
LINE = FILE.partition("{update}")[0].count("\n") + 1


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def written(folder: Path, update: str = "pass", wrap: str = "pass") -> Path:
    path = folder / "mine.py"
    path.write_text(FILE.format(update=update, wrap=wrap))
    return path


def trial_of(folder: Path, update: str) -> Trial:
    return check.trial_of(str(written(folder, update)), {})


def ended(folder: Path, update: str) -> record.End:
    trial = trial_of(folder, update)
    train.execute(trial, folder)
    *_, end = record.lines(record.path_of(folder / trial.study, trial.id, 0))
    assert isinstance(end, record.End)
    return end


REASONS = {
    "state['M']": f"KeyError: 'M' (mine.py:{LINE})",
    "(lambda: G_bmn.reshape(0))()": f"RuntimeError: shape '[0]' is invalid for input of size 65536 (mine.py:{LINE})",
    "from .helper import fall; fall()": "ZeroDivisionError: division by zero (helper.py:2)",
    "return G_bmn[:, :1], {}": None,
    "sys.exit('enough')": f'the submission called sys.exit("enough") at mine.py:{LINE}',
    "sys.exit(0)": f"the submission called sys.exit(0) at mine.py:{LINE}",
    "raise SystemExit": f"the submission called sys.exit() at mine.py:{LINE}",
}


@pytest.mark.parametrize("update", REASONS)
def test_the_reason_names_the_submission_s_innermost_line(update: str, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def fall():\n    1 / 0\n")
    end = ended(tmp_path, update)
    assert (end.status, end.step) == ("failed", 3)
    assert "Traceback" in str(end.traceback)
    if REASONS[update]:
        assert end.reason == REASONS[update]
    else:
        assert "mine.py" not in str(end.reason), "what is wrong was found by us, in no line of it"


def test_to_exit_in_a_worker_fails_the_trial_alone(tmp_path: Path) -> None:
    trial = trial_of(tmp_path, "sys.exit('enough')")
    [outcome] = local.run_all([trial], tmp_path / "results", quiet=True, threads=1)
    assert (outcome.status, outcome.reason) == ("failed", f'the submission called sys.exit("enough") at mine.py:{LINE}')


@pytest.mark.parametrize(("rank", "clause"), [(3, "trains 8 steps"), (1, "a zero gradient, then a normal one")])
def test_to_exit_does_not_end_the_checks(rank: int, clause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "sys.exit(0)")
    assert cli.main(["check", str(path), "--set", f"rank={rank}"]) == 2
    said = capsys.readouterr()
    assert f"WRONG  {clause}: " in said.out
    assert f"the submission called sys.exit(0) at mine.py:{LINE}" in said.out
    assert "does not keep the contract" in said.err


def test_to_exit_where_nobody_expects_it_is_an_error_of_the_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, wrap="sys.exit(0)")
    assert cli.main(["memory", "--workload", "llama_nano", "--submissions", str(path)]) == 2
    assert "the submission called sys.exit(0) at mine.py:13" in capsys.readouterr().err


def test_an_interrupt_by_hand_is_nobody_s_fault(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ended(tmp_path, "raise KeyboardInterrupt")


def test_lines_of_our_own_submissions_are_named_too() -> None:
    cls = catalog.submission_class("fira")
    try:
        cls().init(None)  # type: ignore[attr-defined]  # a rule has it
    except Exception as error:
        status, reason = train.verdict(error, Trial(study="s", workload="w", submission="fira", hyperparameters={}, seed=0))
    assert status == "failed"
    assert "(fira.py:" in reason
