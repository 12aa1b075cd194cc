"""adam, adam_two_lr, sgd, galore and fira against torch and the authors' packages."""

from __future__ import annotations

import pytest
import torch
from parity import Matrices, groups, largest_difference, our_basis
from torch.optim import Optimizer

from submissions.adam import Adam
from submissions.adam_two_lr import AdamTwoLr
from submissions.fira import Fira
from submissions.galore import Galore
from submissions.sgd import Sgd

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-9}
DECAY = [0.0, 0.1]

pytestmark = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.mark.parametrize("decay", DECAY)
def test_adam_is_torch_adam(decay: float, dtype: torch.dtype) -> None:
    def oracle(model: Matrices) -> list[Optimizer]:
        return [torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=decay)]

    assert max(largest_difference(Adam(lr=1e-2, weight_decay=decay), oracle, dtype=dtype).values()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("decay", DECAY)
def test_adam_with_its_plain_rule_is_torch_adam(decay: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from submissions import dense

    monkeypatch.setattr(dense, "FUSED_DTYPE", {})

    def oracle(model: Matrices) -> list[Optimizer]:
        return [torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=decay)]

    assert max(largest_difference(Adam(lr=1e-2, weight_decay=decay), oracle, dtype=dtype).values()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("decay", DECAY)
def test_adam_two_lr_is_torch_adamw_with_two_groups(decay: float, dtype: torch.dtype) -> None:
    def oracle(model: Matrices) -> list[Optimizer]:
        matrices, rest = groups(model)
        return [torch.optim.AdamW([matrices | {"lr": 2.5e-3}, rest], lr=1e-2, weight_decay=decay)]

    assert max(largest_difference(AdamTwoLr(weight_decay=decay), oracle, dtype=dtype).values()) <= TOLERANCE[dtype]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_torch_sgd(momentum: float, nesterov: bool, dtype: torch.dtype) -> None:
    def oracle(model: Matrices) -> list[Optimizer]:
        return [torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, nesterov=nesterov)]

    assert max(largest_difference(Sgd(momentum=momentum, nesterov=nesterov), oracle, dtype=dtype).values()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("decay", DECAY)
@pytest.mark.parametrize("rank", [1, 5, 16])
def test_galore_is_galore_torch(rank: int, decay: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("galore_torch.galore_projector")
    from galore_torch import GaLoreAdamW

    monkeypatch.setattr(package.GaLoreProjector, "get_orthogonal_matrix", lambda self, W, rank, type: our_basis(W, rank, type))

    def oracle(model: Matrices) -> list[Optimizer]:
        options = {"rank": rank, "update_proj_gap": 20, "scale": 0.25, "proj_type": "std"}
        return [GaLoreAdamW(groups(model, **options), lr=1e-2, weight_decay=decay, no_deprecation_warning=True)]

    ours = Galore(rank=rank, gap=20, weight_decay=decay)
    assert max(largest_difference(ours, oracle, dtype=dtype).values()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("decay", DECAY)
@pytest.mark.parametrize(("rank", "alpha"), [(1, 0.25), (5, 0.25), (5, 1.0), (16, 0.25)])
def test_fira_is_the_fira_package(rank: int, alpha: float, decay: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(fira_difference(rank, alpha, decay, dtype, monkeypatch).values()) <= TOLERANCE[dtype]


def fira_difference(rank: int, alpha: float, decay: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    package = pytest.importorskip("fira.gradient_projection")
    from fira import FiraAdamW

    monkeypatch.setattr(package.GradientProjector, "get_orthogonal_matrix", lambda self, W, rank, type: our_basis(W, rank, type))

    def oracle(model: Matrices) -> list[Optimizer]:
        options = {"rank": rank, "update_proj_gap": 20, "alpha": alpha, "proj_type": "std"}
        return [FiraAdamW(groups(model, **options), lr=1e-2, weight_decay=decay, no_deprecation_warning=True)]

    return largest_difference(Fira(rank=rank, alpha=alpha, gap=20, weight_decay=decay), oracle, dtype=dtype)
