"""Shadow moments beside a full-rank run: what a projected method's scaling factors would have been along that very trajectory.

At every update, for every matrix and projection P, Adam's moments are kept of R = P^T G and of E = G - P R, and once of G itself.
Nothing is applied: gradients are read after clipping and before the update, and all randomness has generators of its own.
On the grid of the probes it hands out, for each matrix, phi(X) = ||psi(X)|| / ||X|| of G, R and E, the share of energy
w = ||R||^2 / ||G||^2, and both sides of the bound |phi^2(G) - phi^2(R)| <= (c_max^2 - c_min^2) (1 - w), where
c_i = ||psi_i|| / ||g_i|| of the components i of the projected axis. The bound's proof wants R to be coordinates of G with the very
states of those coordinates, so for `coordinates` its left side takes phi(R) from G's own moments; the phi(R) that is handed out
keeps moments of its own in either basis.
Shape legend as in submissions/base.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from runner.observation import Shadow
from runner.probes import Collector
from submissions import engine, linalg
from submissions.engine import Named

TINY = 1e-38


class Observer:
    """The shadow moments of a trial."""

    def __init__(self, asked: Shadow, members: list[Named], seed: int, betas: tuple[float, float], eps: float) -> None:
        """`members`: the matrices, in the order in which values are handed out; betas and eps as the optimizer beside it."""
        self.asked, self.betas, self.eps, self.seed = asked, betas, eps, seed
        self.order = {member.name: place for place, member in enumerate(members)}
        self.stacks = list(engine.stacks_of(members, True))
        self.keys = [(rank, basis) for basis in asked.bases for rank in asked.ranks]
        self.state: dict[str, Tensor] = {}
        for number, stack in enumerate(self.stacks):
            G_bmn = torch.stack([_wide(member.parameter.detach()) for member in stack])
            for rank in asked.ranks:
                linalg.rank_of(G_bmn, rank)
            self._start(number, G_bmn)

    @torch.no_grad()
    def observe(self, t: int, probe: Collector | None) -> None:
        """Takes up the gradients of update t; hands out the values if there is somebody to take them."""
        eps = self.eps * math.sqrt(1 - self.betas[1] ** t)
        found: dict[str, Tensor] = {}
        for number, stack in enumerate(self.stacks):
            G_bmn = torch.stack([_wide(_gradient(member)).float() for member in stack])
            psi_bmn = self._moments(f"{number} G", G_bmn, eps)
            places = torch.tensor([self.order[member.name] for member in stack], device=G_bmn.device)
            values = {"shadow.phi.G": _factor(psi_bmn, G_bmn)}
            for rank, basis in self.keys:
                label = f"{rank}.{basis}"
                if (t - 1) % self.asked.gap == 0:
                    self.state[f"{number} {label} P"].copy_(self._basis(G_bmn, stack, rank, basis, t))
                shared = basis == "coordinates"
                measured = self._projected(f"{number} {label}", G_bmn, psi_bmn, eps, shared=shared, wanted=probe is not None)
                values |= {f"shadow.{name}@{label}": value for name, value in measured.items()}
            for name, value_b in values.items():
                found.setdefault(name, value_b.new_zeros(len(self.order))).index_copy_(0, places, value_b)
        if probe is not None:
            for name, value_b in found.items():
                probe.vector(name, value_b)

    def _projected(self, key: str, G_bmn: Tensor, psi_bmn: Tensor, eps: float, *, shared: bool, wanted: bool) -> dict[str, Tensor]:
        """Moves one projection's moments on, and measures if that is `wanted`."""
        P_bmr = self.state[f"{key} P"]
        R_brn = P_bmr.mT @ G_bmn
        E_bmn = G_bmn - P_bmr @ R_brn
        psi_R, psi_E = self._moments(f"{key} R", R_brn, eps), self._moments(f"{key} E", E_bmn, eps)
        if not wanted:
            return {}
        own_phi_b = _factor(psi_R, R_brn)
        phi_b = _factor(P_bmr.mT @ psi_bmn, R_brn) if shared else own_phi_b
        energy_b = _norm(R_brn).square() / _norm(G_bmn).square().clamp_min(TINY)
        c_bm = psi_bmn.norm(dim=-1) / G_bmn.norm(dim=-1).clamp_min(TINY)
        spread_b = c_bm.amax(-1).square() - c_bm.amin(-1).square()
        left_b = (_factor(psi_bmn, G_bmn).square() - phi_b.square()).abs()
        right_b = spread_b * (1 - energy_b).clamp_min(0)
        return {"phi.R": own_phi_b, "phi.E": _factor(psi_E, E_bmn), "energy": energy_b, "left": left_b, "right": right_b}

    def _basis(self, G_bmn: Tensor, stack: list[Named], rank: int, basis: str, t: int) -> Tensor:
        if basis == "svd":
            return linalg.leading_left(G_bmn, rank)
        seeds = torch.tensor([engine.seed_of(self.seed, f"shadow {member.name}") for member in stack])
        return linalg.random_coordinates(seeds, t, G_bmn.shape[-2], rank, G_bmn)

    def _moments(self, key: str, X: Tensor, eps: float) -> Tensor:
        return linalg.adam(X, self.state[f"{key} m"], self.state[f"{key} v"], self.betas, eps)

    def _start(self, number: int, G_bmn: Tensor) -> None:
        b, m, n = G_bmn.shape
        shapes: dict[str, tuple[int, int]] = {"G": (m, n)}
        for rank, basis in self.keys:
            shapes |= {f"{rank}.{basis} R": (rank, n), f"{rank}.{basis} E": (m, n)}
            self.state[f"{number} {rank}.{basis} P"] = G_bmn.new_zeros(b, m, rank, dtype=torch.float32)
        for name, shape in shapes.items():
            for moment in "mv":
                self.state[f"{number} {name} {moment}"] = G_bmn.new_zeros(b, *shape, dtype=torch.float32)

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, value in state.items():
            self.state[key].copy_(value)


def _wide(X: Tensor) -> Tensor:
    """Square and tall matrices transposed, as the engine hands them to a rule."""
    return X.mT if X.shape[0] >= X.shape[1] else X


def _gradient(member: Named) -> Tensor:
    assert member.parameter.grad is not None, f"{member.name} has no gradient to follow"
    return member.parameter.grad.detach()


def _norm(X_bmn: Tensor) -> Tensor:
    norm_b: Tensor = X_bmn.flatten(1).norm(dim=1)
    return norm_b


def _factor(psi_bmn: Tensor, X_bmn: Tensor) -> Tensor:
    phi_b: Tensor = _norm(psi_bmn) / _norm(X_bmn).clamp_min(TINY)
    return phi_b
