"""GradNormLoRP by the properties of weight normalisation; the released code is no reference (see the module)."""

from __future__ import annotations

import pytest
import torch
from projection import gradients, steps
from torch import nn

from submissions import linalg
from submissions.gradnorm_lorp import GradnormLorp, NormalisedLinear


def layer(rows: int = 6, columns: int = 9, bias: bool = True) -> nn.Linear:
    linear = nn.Linear(columns, rows, bias=bias, dtype=torch.float64)
    linear.role = "mlp.up"  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return linear


def data(columns: int = 9) -> torch.Tensor:
    return torch.randn(5, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
def test_wrapping_changes_no_output(bias: bool) -> None:
    linear = layer(bias=bias)
    expected = linear(data())
    model = GradnormLorp().wrap(nn.Sequential(linear), 0)
    assert isinstance(model[0], NormalisedLinear)  # type: ignore[index]
    torch.testing.assert_close(model(data()), expected)


def test_only_the_given_roles_are_wrapped() -> None:
    linear = layer()
    assert GradnormLorp(matrices=("attn.q",)).wrap(nn.Sequential(linear), 0)[0] is linear  # type: ignore[index]


def test_the_function_depends_on_the_direction_and_the_gain_alone() -> None:
    normalised = NormalisedLinear(layer(bias=False))
    expected = normalised(data())
    with torch.no_grad():
        normalised.weight.mul_(torch.linspace(0.5, 7, 6)[:, None])
    torch.testing.assert_close(normalised(data()), expected)
    with torch.no_grad():
        normalised.gain.mul_(2)
    torch.testing.assert_close(normalised(data()), 2 * expected)


def test_the_gradient_of_the_directions_is_tangent() -> None:
    normalised = NormalisedLinear(layer())
    normalised(data()).square().sum().backward()
    V, G = normalised.weight.detach(), normalised.weight.grad
    torch.testing.assert_close((V * G).sum(1), torch.zeros(6, dtype=torch.float64), atol=1e-10, rtol=0)


def test_gradients_are_those_of_weight_normalisation_and_of_finite_differences() -> None:
    normalised = NormalisedLinear(layer())
    reference = nn.utils.parametrizations.weight_norm(layer(), dim=0)
    for module in (normalised, reference):
        module(data()).square().sum().backward()
    weights = reference.parametrizations.weight
    torch.testing.assert_close(normalised.gain.grad, weights.original0.grad[:, 0])
    torch.testing.assert_close(normalised.weight.grad, weights.original1.grad)
    assert torch.autograd.gradcheck(
        lambda V, g: torch.func.functional_call(normalised, {"weight": V, "gain": g}, (data(),)), (normalised.weight, normalised.gain)
    )


def test_a_step_of_the_directions_changes_the_effective_weight() -> None:
    """What the released class fails to do."""
    model = GradnormLorp().wrap(nn.Sequential(layer(8, 12)), 0)
    before = model(data(12)).detach()
    optimizers = GradnormLorp(rank=3).optimizers(model, 0)
    model(data(12)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    assert (model(data(12)) - before).abs().max() > 1e-3


def test_directions_take_galore_steps() -> None:
    given = gradients((6, 9), 4)
    found, state, _ = steps(GradnormLorp(rank=3), given)
    P = linalg.leading_left(given[0], 3)
    torch.testing.assert_close(state["P"], P)
    m, v = torch.zeros(1, 3, 9, dtype=torch.float64), torch.zeros(1, 3, 9, dtype=torch.float64)
    for t, (U, G) in enumerate(zip(found, given, strict=True), 1):
        psi = linalg.adam(P.mT @ G, m, v, (0.9, 0.999), 1e-6)
        torch.testing.assert_close(U, 0.25 * P @ psi * linalg.bias_correction(t, (0.9, 0.999)))


@pytest.mark.parametrize(("name", "value"), [("rank", 0), ("alpha", 0.0), ("gap", 0)])
def test_refuses_what_makes_no_sense(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value}: expected"):
        GradnormLorp(**{name: value})
