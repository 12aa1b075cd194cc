"""Memory predicted from shapes: exact parts, the command's table, and what it refuses."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

from runner import catalog, cli, hyperparameters, memory, plan, rates, study
from submissions import holdings
from submissions.adam import Adam
from submissions.fira import Fira

GALORE_FAMILY_1B = 0.389
"""Optimizer state of GaLore or Fira at 1B and rank 512 over Adam's: 61.1 % less, the Fira paper's abstract."""


def test_state_at_1b_falls_by_the_published_share() -> None:
    workload = catalog.workload("llama_1b")
    states = [
        memory.predict(submission, workload)["state"] for submission in (Fira(rank=512, state_dtype="bf16"), Adam(state_dtype="bf16"))
    ]
    assert states[0] / states[1] == pytest.approx(GALORE_FAMILY_1B, abs=5e-4)


def test_weights_and_gradients_are_exact_and_layerwise_keeps_the_largest_gradient() -> None:
    whole = memory.predict(Adam(), catalog.workload("llama_60m"))
    layerwise = memory.predict(Adam(), catalog.workload("llama_60m", {"layerwise": True, "batch.micro": None}))
    assert whole["gradients"] == 2 * 58_073_600
    assert layerwise["gradients"] == 2 * 32_000 * 512
    assert layerwise["state"] == whole["state"]


def test_checkpointing_keeps_fewer_activations() -> None:
    plain = memory.predict(Adam(), catalog.workload("llama_60m"))
    checkpointed = memory.predict(Adam(), catalog.workload("llama_60m", {"checkpointing": True}))
    assert checkpointed["activations"] < plain["activations"]


def test_the_command_writes_a_row_per_submission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory.csv"
    assert cli.main(["memory", "--workload", "llama_60m", "--submissions", "adam", "galore", "--set", "rank=64", "--csv", str(out)]) == 0
    with out.open(newline="") as file:
        rows = {row["submission"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"adam", "galore"}
    assert int(rows["galore"]["bytes_state"]) < int(rows["adam"]["bytes_state"])
    printed = capsys.readouterr().out
    assert "galore" in printed
    assert "llama_60m  adam           -" in printed, "an estimate for full rank holds at any"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--submissions", "galore", "--set", "rank=513"], "expected 1 to 512, the short side"),
        (["--submissions", "adam", "--set", "ranks=4"], "none of these submissions has it"),
        (["--submissions", "galor"], "did you mean 'galore'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["memory", "--workload", "llama_60m", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_sweep_over_the_learning_rate_is_predicted_once_and_one_over_the_rank_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Fira] = []
    monkeypatch.setattr(memory, "predict", lambda submission, workload: asked.append(submission) or {})
    plan._predicted.cache_clear()
    entry = {"submission": "fira", "sweep": {"lr": [0.001, 0.01, 0.1], "rank": [4, 8]}}
    document = {"study": "s", "workload": "llama_nano", "seeds": [0, 1], "trials": [entry]}
    for trial in study.trials(document, folder=Path.cwd()):
        plan.predicted(trial)
    plan._predicted.cache_clear()
    assert [submission.rank for submission in asked] == [4, 8]


def test_the_table_marks_a_sum_of_parts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["memory", "--workload", "llama_nano", "--submissions", "adam", "eggroll", "--csv", str(tmp_path / "out.csv")]
    assert cli.main(words) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["eggroll"].endswith(" (sum)")
    assert not lines["adam"].endswith(" (sum)")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["is_peak"] for row in csv.DictReader(file)] == ["True", "False"]


def test_several_sizes_stand_side_by_side_with_the_papers_estimates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory.csv"
    words = ["memory", "--workload", "llama_60m", "llama_7b", "--submissions", "adam", "galore", "--card", "24GB", "--csv", str(out)]
    assert cli.main(words) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["workload"], row["submission"]) for row in rows] == [
        (workload, submission) for workload in ("llama_60m", "llama_7b") for submission in ("adam", "galore")
    ]
    assert list(rows[0])[:3] == ["workload", "submission", "bytes_weights"]
    assert "hp.rank" not in rows[0]
    printed = capsys.readouterr().out
    assert "submission  llama_60m  llama_7b" in printed
    line = next(line for line in printed.splitlines() if line.startswith("llama_60m") and "galore       128" in line)
    ours = (int(rows[1]["bytes_weights"]) + int(rows[1]["bytes_state"])) / 2**30
    assert f"{100 * (ours / 0.24 - 1):+.1f} %" in line, "GaLore's table prints 0.24 G at rank 128"
    assert "fits 24GB" in printed


def test_an_estimate_for_another_rank_is_not_put_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["memory", "--workload", "llama_60m", "--submissions", "galore", "--set", "rank=64"]) == 0
    assert "papers' estimates" not in capsys.readouterr().out, "GaLore's is for rank 128"


def stepped(optimizer: torch.optim.Optimizer, steps: int = 1) -> torch.optim.Optimizer:
    for step in range(steps):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step(lambda: torch.zeros(())) if isinstance(optimizer, torch.optim.LBFGS) else optimizer.step()
    return optimizer


def test_a_projector_in_an_object_is_counted() -> None:
    from galore_torch import GaLoreAdamW

    group = {"params": [nn.Parameter(torch.zeros(8, 12))], "rank": 3, "update_proj_gap": 9, "scale": 1.0, "proj_type": "std"}
    optimizer = stepped(GaLoreAdamW([group], lr=0.1, no_deprecation_warning=True))
    assert memory.kept(holdings.state_tensors(optimizer)) == 4 * (8 * 3 + 2 * 3 * 12)


def test_the_history_of_lbfgs_is_counted() -> None:
    weight = nn.Parameter(torch.zeros(50))
    optimizer = stepped(torch.optim.LBFGS([weight], max_iter=1, history_size=3), steps=6)
    pairs, scalars = 2 * 3 * 50, 3  # y and s, and rho of each
    direction_and_gradient = 2 * 50
    kept = memory.kept(holdings.state_tensors(optimizer)) // 4
    assert pairs + scalars + direction_and_gradient <= kept <= pairs + scalars + direction_and_gradient + 10  # and a few loose numbers


@dataclass(slots=True)
class Slots:
    held: Tensor


@dataclass
class Holder:
    """What an optimizer may drag along: itself, tensors in slots, the model."""

    model: nn.Module
    parameters: list[nn.Parameter]
    slots: Slots
    itself: list[Any] = field(default_factory=list)


def test_each_tensor_counts_once_and_weights_not_at_all() -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flat = torch.zeros(15)
    holder = Holder(model, [*model.parameters()], Slots(torch.zeros(5)))
    holder.itself.append(holder)
    model.weight.grad = torch.ones(3, 4)
    entry = {"m": flat[:12], "twice": (flat[:12], {"flat": flat}), "holder": holder, "alias": model.weight.detach(), "g": model.weight.grad}
    optimizer.state[model.weight].update(entry)
    optimizer.state[model.bias].update(m=flat[12:], codes=TwoTensor(torch.zeros(6), torch.zeros(6)))
    optimizer.inner = torch.optim.Adam([nn.Parameter(torch.zeros(7))])  # type: ignore[attr-defined]  # a wrapped optimizer
    stepped(optimizer.inner)  # type: ignore[attr-defined]  # likewise
    assert memory.kept(holdings.state_tensors(optimizer)) == 4 * (15 + 5 + 2 * 6 + 2 * 7 + 1)


UNPREDICTABLE = """
from dataclasses import dataclass

import torch

from submissions.base import Submission, named_roles


class Norm(torch.optim.SGD):
    def step(self, closure=None):
        self.norm = sum(p.grad.norm().{read} for p in self.param_groups[0]["params"])
        super().step()


@dataclass(frozen=True, kw_only=True)
class Normed(Submission):
    def optimizers(self, model, seed):
        return [Norm([p for _, _, p in named_roles(model)], lr=self.lr)]
"""


@pytest.mark.parametrize("read", ["item()", "numpy()", "tolist()"])
def test_what_reads_values_has_a_dash_and_the_others_their_numbers(
    read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "normed.py").write_text(UNPREDICTABLE.replace("{read}", read))
    monkeypatch.chdir(tmp_path)
    words = ["memory", "--workload", "llama_nano", "--submissions", "normed.py", "adam", "--card", "24GB", "--csv", "out.csv"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip()}
    assert lines["normed"][1:] == ["-"] * 6
    assert "-" not in lines["adam"]
    assert "normed.py on llama_nano cannot be predicted: " in printed
    with Path("out.csv").open(newline="") as file:
        rows = {row["submission"]: row for row in csv.DictReader(file)}
    assert (rows["normed"]["bytes_state"], rows["normed"]["fits"]) == ("nan", "")


AVERAGED = """
from dataclasses import dataclass

import torch

from submissions.base import Submission, named_roles


@dataclass(frozen=True, kw_only=True)
class Averaged(Submission):
    average: bool = True

    def optimizers(self, model, seed):
        return [torch.optim.SGD([p for _, _, p in named_roles(model)], lr=self.lr)]

    def begin(self, training):
        if self.average:
            training.state.update({name: p.detach().clone() for name, p in training.model.named_parameters()})
"""


def test_what_begin_makes_is_predicted(tmp_path: Path) -> None:
    (tmp_path / "averaged.py").write_text(AVERAGED)
    cls, workload = catalog.submission_class(str(tmp_path / "averaged.py")), catalog.workload("llama_nano")
    plain, averaged = (memory.predict(hyperparameters.resolve(cls, {"average": flag}), workload) for flag in (False, True))
    assert (plain["state"], averaged["state"]) == (0, plain["gradients"])
    assert averaged["peak"] == plain["peak"] + plain["gradients"]


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_sparse_state_is_counted_by_its_parts(layout: torch.layout) -> None:
    found = list(holdings.tensors_in({"m": torch.eye(4).to_sparse(layout=layout)}))
    indices = 2 * 4 if layout == torch.sparse_coo else 5 + 4
    assert memory.kept(found) == 4 * 4 + 8 * indices


def test_a_learning_rate_that_is_a_tensor_is_no_state() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=torch.tensor(0.1))
    rates.assign([optimizer], 0.5)
    assert list(holdings.state_tensors(optimizer)) == []
