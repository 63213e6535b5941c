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
    factor, info = torch.linalg.cholesky_ex(symmetrized(matrix))
    if bool((info != 0).any()) or not bool(torch.isfinite(factor).all()):
        raise ConfigurationError(f"The {what} is singular. {remedy}".strip())
    # A tiny last pivot means a solution without a correct digit: refuse it as singular too.
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    if float(pivots.min()) <= float(pivots.max()) * 1e-8:
        raise ConfigurationError(f"The {what} is singular to rounding. {remedy}".strip())
    return torch.cholesky_solve(right, factor)
