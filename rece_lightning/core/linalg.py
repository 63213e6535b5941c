"""The small linear algebra under everything: float64 solves by Cholesky, never an explicit inverse."""

from __future__ import annotations

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError


def add_ridge(matrix: Tensor, ridge: float) -> Tensor:
    """``matrix + ridge · I``, as a new tensor."""
    result = matrix.clone()
    result.diagonal().add_(ridge)
    return result


def symmetrized(matrix: Tensor) -> Tensor:
    """``(A + Aᵀ)/2``: takes the rounding out of what is symmetric by construction."""
    return (matrix + matrix.mT) / 2


def solve_positive_definite(matrix: Tensor, right: Tensor, *, what: str = "system", remedy: str = "") -> Tensor:
    """Solve ``A Y = R`` by Cholesky.

    Args:
        matrix: ``A``, symmetric, ``[d, d]``, float64.
        right: ``R``, ``[d, n]``, float64.
        what: names the system in the error.
        remedy: what to do when it is singular.

    Raises:
        ConfigurationError: if ``A`` is not positive definite in float64.
    """
    return torch.cholesky_solve(right, factor_positive_definite(matrix, what=what, remedy=remedy))


def factor_positive_definite(matrix: Tensor, *, what: str = "system", remedy: str = "") -> Tensor:
    """``L`` with ``A = L Lᵀ``, ``[d, d]``; arguments and errors as :func:`solve_positive_definite`."""
    factor, info = torch.linalg.cholesky_ex(symmetrized(matrix))
    if bool((info != 0).any()) or not bool(torch.isfinite(factor).all()):
        raise ConfigurationError(f"The {what} is singular. {remedy}".strip())
    if smallest_eigenvalue(factor) <= rounding_of(matrix):
        raise ConfigurationError(f"The {what} is singular to rounding. {remedy}".strip())
    return factor


def rounding_of(matrix: Tensor) -> float:
    """To so much rounding lifts a zero eigenvalue: a factorisation then succeeds without a correct digit."""
    return 8 * len(matrix) * torch.finfo(matrix.dtype).eps * float(torch.linalg.norm(matrix))


def smallest_eigenvalue(factor: Tensor, steps: int = 4) -> float:
    """Estimate from above of the smallest eigenvalue of ``L Lᵀ`` by inverse iteration; exact where it stands apart.

    The pivots alone would not do: a matrix can be singular to rounding without a tiny pivot.
    """
    start = torch.randn(len(factor), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = start.to(factor)
    growth = 0.0
    for _ in range(steps):
        vector = torch.cholesky_solve(vector / torch.linalg.norm(vector), factor)
        growth = float(torch.linalg.norm(vector))
    return 1 / growth


def spectrum(matrix: Tensor, rounding: float | None = None) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a second moment, descending, with their eigenvectors; none that is rounding.

    Args:
        matrix: symmetric, ``[d, d]``.
        rounding: up to here an eigenvalue is; ``d`` units in the last place of the largest one unless given.

    Returns:
        ``[r]`` and ``[d, r]``.
    """
    values, axes = torch.linalg.eigh(symmetrized(matrix))
    values, axes = values.flip(0), axes.flip(1)
    least = len(matrix) * torch.finfo(values.dtype).eps * values[:1].clamp(min=0) if rounding is None else rounding
    there = values > least
    return values[there], axes[:, there]
