"""bf16 weights and states of galore and fira against the authors' packages."""

from __future__ import annotations

import pytest
import torch
from parity import groups, largest_difference, our_basis

from submissions.fira import Fira
from submissions.galore import Galore

BF16_ULP = 2.0**-8


@pytest.mark.parametrize("submission", ["galore", "fira"])
def test_bf16_weights_and_states_agree_to_bf16_rounding(submission: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages compute in bf16 throughout, we compute in fp32 and store bf16: a few ulps of the weights apart, not more."""
    package = pytest.importorskip("galore_torch.galore_projector" if submission == "galore" else "fira.gradient_projection")
    projector = package.GaLoreProjector if submission == "galore" else package.GradientProjector
    monkeypatch.setattr(projector, "get_orthogonal_matrix", lambda self, W, rank, type: our_basis(W, rank, type))
    if submission == "galore":
        from galore_torch import GaLoreAdamW as Oracle

        options = {"rank": 5, "update_proj_gap": 20, "scale": 0.25, "proj_type": "std"}
        ours = Galore(rank=5, gap=20, state_dtype="bf16")
    else:
        from fira import FiraAdamW as Oracle

        options = {"rank": 5, "update_proj_gap": 20, "alpha": 0.25, "proj_type": "std"}
        ours = Fira(rank=5, gap=20, state_dtype="bf16")
    differences = largest_difference(
        ours,
        lambda model: [Oracle(groups(model, **options), lr=1e-2, no_deprecation_warning=True)],
        dtype=torch.bfloat16,
        steps=10,
    )
    assert max(differences.values()) <= 12 * BF16_ULP
    assert max(differences.values()) > 0
