"""Muon against torch.optim.Muon, and what makes its update orthogonal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import SHAPES, Matrices, largest_difference
from torch.optim import Optimizer

from submissions import linalg
from submissions.muon import Muon

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-9}


def oracle_of(**options: Any) -> Any:
    def oracle(model: Matrices) -> list[Optimizer]:
        hidden = [p for name, p in model.named_parameters() if name.split("_")[0] in SHAPES]
        rest = [p for name, p in model.named_parameters() if name.split("_")[0] not in SHAPES]
        decay = options.get("weight_decay", 0.0)
        return [
            torch.optim.Muon(hidden, lr=1e-2, **{"weight_decay": 0.0, **options}),
            torch.optim.AdamW(rest, lr=1e-3, weight_decay=decay),
        ]

    return oracle


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("scale", "adjust"), [("spectral", "original"), ("match_rms", "match_rms_adamw")])
def test_muon_is_torch_muon(scale: Any, adjust: str, nesterov: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch iterates in bf16 whatever the weights are; without that cast both must agree to rounding."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    ours = Muon(lr=1e-2, ns_dtype="fp32", scale=scale, nesterov=nesterov, weight_decay=0.1)
    theirs = oracle_of(adjust_lr_fn=adjust, nesterov=nesterov, weight_decay=0.1)
    assert max(largest_difference(ours, theirs, dtype=dtype, steps=20).values()) <= (1e-5 if dtype == torch.float32 else 1e-9)


def test_in_bf16_the_first_update_is_torch_muons() -> None:
    """One step: later ones amplify the rounding of a batched product in bf16, which sums in another order."""
    assert max(largest_difference(Muon(lr=1e-2), oracle_of(), steps=1).values()) <= 1e-4


@pytest.mark.parametrize("rows", [12, 30])
def test_newton_schulz_brings_singular_values_near_one(rows: int) -> None:
    X = torch.randn(3, rows, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    S = torch.linalg.svdvals(linalg.newton_schulz(X, 5))
    assert 0.6 < S.min()
    assert S.max() < 1.3
    U, _, V = torch.linalg.svd(X, full_matrices=False)
    aligned = U.mT @ linalg.newton_schulz(X, 5) @ V.mT
    torch.testing.assert_close(aligned, torch.diag_embed(aligned.diagonal(dim1=-2, dim2=-1)), atol=1e-9, rtol=0)


def test_without_a_scale_the_update_is_bare() -> None:
    G = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(0))
    bare, spectral = Muon(scale="none", ns_dtype="fp32"), Muon(ns_dtype="fp32")
    ratio = spectral.update(G.clone(), spectral.init(G), 1)[0] / bare.update(G.clone(), bare.init(G), 1)[0]
    torch.testing.assert_close(ratio, torch.full_like(ratio, (40 / 16) ** 0.5))


def test_refuses_a_momentum_of_one() -> None:
    with pytest.raises(ValueError, match=r"momentum = 1.0: expected a number in \[0, 1\)"):
        Muon(momentum=1.0)
