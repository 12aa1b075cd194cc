"""SOAP against pytorch_optimizer, step by step where installed, else its recorded weights, and its limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import SHAPES, Matrices, largest_difference
from projection import assert_golden, final_weights, golden, gradients, steps
from torch import Tensor
from torch.optim import Optimizer

from submissions import linalg
from submissions.soap import Soap

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "paper": ({}, {}),
    "frequency": ({"frequency": 4, "weight_decay": 0.1}, {"precondition_frequency": 4, "weight_decay": 0.1}),
    "one_sided": ({"max_side": 20}, {"max_precondition_dim": 20}),
    "betas": (
        {"betas": (0.9, 0.99), "shampoo_beta": 0.9, "correct_bias": False},
        {"betas": (0.9, 0.99), "shampoo_beta": 0.9, "correct_bias": False},
    ),
}
"""Our hyperparameters and the oracle's."""


def fixed_basis(side: int) -> Tensor:
    """The same first basis for both: of the first covariance's null space every basis is as good, and rounding would choose."""
    return torch.linalg.qr(torch.randn(side, side, generator=torch.Generator().manual_seed(side), dtype=torch.float64))[0]


def share_bases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(linalg, "eigenbasis", lambda A: fixed_basis(A.shape[-1]).to(A).expand_as(A))


def oracle(case: str, model: Matrices, patch: pytest.MonkeyPatch) -> list[Optimizer]:
    from pytorch_optimizer import SOAP

    share_bases(patch)
    patch.setattr(SOAP, "get_orthogonal_matrix", staticmethod(lambda mats: [fixed_basis(len(m)).to(m) if len(m) else [] for m in mats]))
    # It casts to fp32 before the QR decomposition, whatever the weights are: without that, fp64 shows whether the rules agree.
    cast = Tensor.to
    patch.setattr(Tensor, "to", lambda self, *given, **named: self if given == (torch.float32,) else cast(self, *given, **named))
    hidden = [p for name, p in model.named_parameters() if name.split("_")[0] in SHAPES]
    rest = [p for name, p in model.named_parameters() if name.split("_")[0] not in SHAPES]
    options = {"weight_decay": 0.0, **CASES[case][1]}
    decay = options["weight_decay"]
    soap = SOAP(hidden, lr=3e-3, eps=1e-8, **options)
    step = soap.step

    @torch.no_grad()
    def step_with_first_decay() -> None:
        """It skips the decay of the first update as well, we do not."""
        first = "step" not in soap.param_groups[0]
        step()
        for parameter in hidden:
            parameter.mul_(1 - 3e-3 * decay * first)

    soap.step = step_with_first_decay
    return [soap, FamilyAdamW(rest, decay)]


class FamilyAdamW(torch.optim.AdamW):
    """AdamW for what SOAP does not treat, with eps and decay where the family has them."""

    def __init__(self, parameters: list[Any], decay: float) -> None:
        super().__init__(parameters, lr=3e-3, eps=1e-6, weight_decay=0.0)
        self.decay, self.t = decay, 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.t += 1
        self.param_groups[0]["eps"] = 1e-6 / (1 - 0.999**self.t) ** 0.5
        super().step()
        for parameter in self.param_groups[0]["params"]:
            parameter.mul_(1 - 3e-3 * self.decay)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_soap_is_the_one_of_pytorch_optimizer(case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_optimizer")
    differences = largest_difference(Soap(**CASES[case][0]), lambda model: oracle(case, model, monkeypatch), dtype=dtype)
    assert max(differences.values()) <= (2e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_soap_ends_at_the_recorded_weights(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    share_bases(monkeypatch)
    assert_golden(final_weights(lambda model: Soap(**CASES[case][0]).optimizers(model, 0), 60), golden("soap")[case])


def test_bases_stay_orthonormal_and_find_the_eigenvectors() -> None:
    """With one gradient for ever the power iteration must diagonalise its covariance."""
    rule = Soap(frequency=1)
    (G,) = gradients((6, 9), 1, decay=0.5)
    _, state, _ = steps(rule, [G] * 40)
    for basis in (state["QL"], state["QR"]):
        identity = torch.eye(basis.shape[-1], dtype=basis.dtype).expand_as(basis)
        torch.testing.assert_close(basis.mT @ basis, identity, atol=1e-12, rtol=0)
    rotated = state["QL"].mT @ G @ G.mT @ state["QL"]
    spectrum = torch.linalg.eigvalsh(G @ G.mT).flip(-1)
    torch.testing.assert_close(rotated.diagonal(dim1=-2, dim2=-1), spectrum, rtol=1e-5, atol=0)


def test_without_sides_it_is_adam_one_update_late() -> None:
    rule = Soap(max_side=1, betas=(0.9, 0.99))
    given = gradients((6, 9), 5)
    directions, _, _ = steps(rule, given)
    assert not directions[0].any()
    m = v = torch.zeros_like(given[0])
    for t, G in enumerate(given[1:], start=1):
        m, v = 0.9 * m + 0.1 * G, 0.99 * v + 0.01 * G**2
        expected = (1 - 0.99**t) ** 0.5 / (1 - 0.9**t) * m / (v.sqrt() + 1e-8)
        torch.testing.assert_close(directions[t], expected, rtol=1e-9, atol=1e-12)


def test_refuses_a_frequency_of_zero() -> None:
    with pytest.raises(ValueError, match="frequency = 0: expected an integer of at least 1"):
        Soap(frequency=0)
