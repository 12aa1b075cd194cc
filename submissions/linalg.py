"""Textbook operations that several submissions share.

Shape legend: b stacked matrices, m <= n rows and columns, r rank. P_bmr has orthonormal columns unless said otherwise.
All randomness comes from (seed, t) of each matrix, so that stacking and history do not matter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

Exact = Literal["eigh", "svd"]
Projector = Literal["eigh", "svd", "subspace"]
Made = TypeVar("Made")


CONSTANTS: list[Any] = []
"""The caches of all `constant` functions."""


def constant(make: Callable[..., Made]) -> Callable[..., Made]:
    """Keeps what depends on the arguments alone, of which a device is one, until `forget_constants`."""
    kept = functools.cache(make)
    CONSTANTS.append(kept)
    return kept


def forget_constants() -> None:
    """Lets the next update make its constants anew: a count of its memory must not depend on what was counted before."""
    for kept in CONSTANTS:
        kept.cache_clear()


def zeros(W_bmn: Tensor, rows: int, columns: int) -> Tensor:
    """Zeros in the arithmetic's dtype, one rows x columns matrix for each of the stack."""
    return W_bmn.new_zeros(W_bmn.shape[0], rows, columns, dtype=arithmetic(W_bmn.dtype))


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype that updates are computed in: fp64 for fp64 weights (tests), fp32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rank_of(W_bmn: Tensor, rank: int) -> int:
    """The rank, checked against the matrices.

    Raises:
        ValueError: it exceeds the short side; the released codes clip it silently.
    """
    short = min(W_bmn.shape[-2:])
    if not 1 <= rank <= short:
        shape = "x".join(map(str, W_bmn.shape[-2:]))
        raise ValueError(f"rank = {rank}: expected 1 to {short}, the short side of a {shape} matrix of this model")
    return rank


def adam(X: Tensor, m: Tensor, v: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
    """psi = m / (sqrt(v) + eps) after the moments took up X in place; not bias-corrected (see `bias_correction`)."""
    if X.device.type in ("cpu", "cuda") and X.dtype == m.dtype and X.is_contiguous() and m.is_contiguous() and v.is_contiguous():
        return _adam_in_one_pass(X, m, v, betas, eps)
    m.lerp_(X, 1 - betas[0])
    v.mul_(betas[1]).addcmul_(X, X, value=1 - betas[1])
    return m / v.sqrt().add_(eps)


def _adam_in_one_pass(X: Tensor, m: Tensor, v: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
    """The same by torch's fused kernel: its step from weights of zero at rate -1, late enough that bias correction is 1."""
    psi, late = torch.zeros_like(X), _late(X.device)
    decay = {"beta1": betas[0], "beta2": betas[1], "weight_decay": 0.0}
    torch._fused_adam_([psi], [X], [m], [v], [], [late], lr=-1.0, **decay, eps=eps, amsgrad=False, maximize=False)  # type: ignore[call-overload]  # its stub wants lists only
    return psi


@constant
def _late(device: torch.device) -> Tensor:
    """A step count whose powers of any beta below 1 are 0."""
    late: Tensor = torch.tensor(1e30, dtype=torch.float32, device=device)
    return late


def bias_correction(t: int, betas: tuple[float, float]) -> float:
    """sqrt(1 - beta2^t) / (1 - beta1^t): what turns psi into Adam's direction when eps stands beside the raw sqrt(v)."""
    return math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)


def column_energy(X_bmn: Tensor) -> Tensor:
    """||X_j||^2 of each column, b x 1 x n. On a CPU torch's norm takes seven times as long if the columns are strided."""
    if X_bmn.device.type == "cpu" and X_bmn.stride(-2) != 1:
        return X_bmn.square().sum(-2, keepdim=True)
    norm_b1n: Tensor = torch.linalg.vector_norm(X_bmn, dim=-2, keepdim=True)
    return norm_b1n.square_()


def leading_left(G_bmn: Tensor, rank: int, method: Projector = "eigh", previous: Tensor | None = None) -> Tensor:
    """P_bmr: the leading left singular vectors of each matrix, largest first, signs fixed by `fix_signs`.

    `eigh` takes them from the Gram matrix G G^T (m x m): the same subspace at a fraction of the cost of `svd`. `subspace` improves the
    `previous` P_bmr by one iteration, at a fraction of the cost of `eigh`; without one it does as `eigh`.
    """
    if method == "svd":
        return fix_signs(torch.linalg.svd(G_bmn, full_matrices=False)[0][..., :rank])
    if method == "subspace" and previous is not None:
        return fix_signs(subspace_iteration(G_bmn, previous))
    # Scaled to order one: squares of tiny gradients would underflow into the eigensolver's noise.
    gram = G_bmn @ G_bmn.mT
    gram = gram / gram.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(1e-38)[..., None, None]
    return fix_signs(torch.linalg.eigh(gram)[1][..., -rank:].flip(-1))


def subspace_iteration(G_bmn: Tensor, P_bmr: Tensor) -> Tensor:
    """An orthonormal basis of G G^T P, largest first: a step of the block power method from P."""
    Q_bmr, T_brr = torch.linalg.qr(G_bmn @ unit_scale(P_bmr.mT @ G_bmn).mT)
    # The triangle's own singular vectors order the basis; a rotation loses nothing even where its small ones are inexact.
    T_brr = unit_scale(T_brr)
    basis_bmr: Tensor = Q_bmr @ torch.linalg.eigh(T_brr @ T_brr.mT)[1].flip(-1)
    return basis_bmr


def unit_scale(X_bmn: Tensor) -> Tensor:
    """X over its largest magnitude: products of tiny gradients would underflow."""
    return X_bmn / X_bmn.abs().amax((-2, -1), keepdim=True).clamp_min(1e-38)


def fix_signs(P_bmr: Tensor) -> Tensor:
    """P with each column's entry of largest magnitude positive, so that a basis does not depend on the solver's choice."""
    largest = P_bmr.gather(-2, P_bmr.abs().argmax(-2, keepdim=True))
    return (P_bmr * torch.where(largest < 0, -1.0, 1.0)).contiguous()


def gaussian(seed_b: Tensor, t: int, rows: int, columns: int, like: Tensor) -> Tensor:
    """N(0, 1) entries, b x rows x columns, drawn from (seed, t) for each matrix by itself."""
    if like.is_meta:
        return like.new_zeros(len(seed_b), rows, columns)
    X = torch.empty(len(seed_b), rows, columns, dtype=torch.float32, device=like.device)
    for X_mn, seed in zip(X, seed_b.tolist(), strict=True):
        X_mn.normal_(generator=generator(seed, t, like.device))
    return X.to(like.dtype)


def random_orthonormal(seed_b: Tensor, t: int, rows: int, rank: int, like: Tensor) -> Tensor:
    """P_bmr: a uniformly random r-dimensional basis of each space."""
    Q_bmr, R_brr = torch.linalg.qr(gaussian(seed_b, t, rows, rank, like))
    # Without the signs of R the distribution would not be uniform.
    P_bmr: Tensor = (Q_bmr * R_brr.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]).contiguous()
    return P_bmr


def random_coordinates(seed_b: Tensor, t: int, rows: int, rank: int, like: Tensor) -> Tensor:
    """P_bmr: r distinct unit vectors, drawn without replacement and sorted."""
    chosen_b1r = random_indices(seed_b, t, rows, rank, like).unsqueeze(-2)
    return like.new_zeros(len(seed_b), rows, rank).scatter_(-2, chosen_b1r, 1.0)


def random_indices(seed_b: Tensor, t: int, rows: int, rank: int, like: Tensor) -> Tensor:
    """r distinct rows of each matrix, b x r, drawn without replacement on the CPU and sorted."""
    if like.is_meta:
        return like.new_zeros(len(seed_b), rank, dtype=torch.int64)
    draws = [torch.randperm(rows, generator=generator(seed, t))[:rank].sort().values for seed in seed_b.tolist()]
    return torch.stack(draws).to(like.device)


def generator(seed: int, t: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that is a function of (seed, t); where many numbers are needed, of the device that needs them."""
    return torch.Generator(device).manual_seed((seed * 0x9E3779B97F4A7C15 + t * 0xBF58476D1CE4E5B9) % 2**63)


def rotate(m: Tensor, v: Tensor, old_bmr: Tensor, new_bmr: Tensor) -> None:
    """Expresses Adam's moments of R = P^T G in a new basis, in place: m by the rotation, |v| by its square.

    Source: DCT-AdamW rotates both by P_new^T P_old and takes |v|; squaring the rotation is the exact rule for the variance of
    uncorrelated coordinates and keeps v non-negative.
    """
    turn_brr = new_bmr.mT @ old_bmr
    m.copy_(turn_brr @ m)
    v.copy_(turn_brr.square() @ v)


def norm_growth(S_bmn: Tensor, before_b: Tensor, gamma: float, t: int) -> Tensor:
    """Factor_b11 that lets ||S|| grow by at most gamma over the last update's, which `before_b` keeps (0 before the first).

    Source: Fira's limiter, arXiv 2410.01623, with the released code's guard of the quotient.
    """
    norm_b = S_bmn.flatten(1).norm(dim=1)
    factor_b = torch.ones_like(norm_b) if t == 1 else gamma / (norm_b / (before_b + 1e-8)).clamp(min=gamma)
    before_b.copy_(norm_b * factor_b)
    return factor_b[:, None, None]


def newton_schulz(X_bmn: Tensor, steps: int) -> Tensor:
    """About U V^T of each X = U S V^T: its singular values pushed towards one by an odd quintic polynomial.

    Source: Jordan et al. 2024, Muon; the coefficients make the slope at zero steep, so that five steps suffice, and leave singular values
    between 0.7 and 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = X_bmn.shape[-2] > X_bmn.shape[-1]
    X = X_bmn.mT if tall else X_bmn
    X = X / X.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    alone = len(X) == 1  # a CPU's batched products in bf16 copy what its plain ones do not
    X, plus = (X[0], torch.addmm) if alone else (X, torch.baddbmm)
    for _ in range(steps):
        A = X @ X.mT
        X = plus(X, plus(A, A, A, beta=b, alpha=c), X, beta=a)
    X = X.unsqueeze(0) if alone else X
    return X.mT if tall else X


def eigenbasis(A_bmm: Tensor) -> Tensor:
    """Q_bmm: eigenvectors of each symmetric matrix as columns, the largest eigenvalue's first."""
    if A_bmm.is_meta:
        return torch.empty_like(A_bmm)
    Q_bmm: Tensor = torch.linalg.eigh(A_bmm)[1].flip(-1)
    return Q_bmm


@constant
def cosines(size: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
    """Q_mm: the orthonormal discrete cosine basis (DCT-II vectors as columns, constant first), computed in fp64 on the CPU, once."""
    angles = torch.outer(torch.arange(size, dtype=torch.float64) + 0.5, torch.arange(size, dtype=torch.float64)) * (math.pi / size)
    Q_mm = angles.cos() * math.sqrt(2 / size)
    Q_mm[:, 0] /= math.sqrt(2)
    return Q_mm.to(device, dtype)
