"""The squared maximum mean discrepancy of two samples under KID's kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_kernel

KERNEL_ROWS = 512


def squared_discrepancy(first: Tensor, second: Tensor, *, paired: bool = False) -> Tensor:
    """Unbiased squared maximum mean discrepancy of two samples.

    Args:
        first: ``[n, d]``.
        second: ``[m, d]``.
        paired: row i of one depends on row i of the other (n = m). Then the kernel of these two is left out as well:
            pictures of one seed are alike, and with it the estimate would be far below zero (Gretton et al., *A Kernel
            Two-Sample Test*, JMLR 2012, lemma 6).

    Returns:
        The estimate; NaN below two rows.
    """
    if min(len(first), len(second)) < 2:
        return torch.tensor(float("nan"), dtype=first.dtype)
    within = _mean_kernel(first, first, apart=True) + _mean_kernel(second, second, apart=True)
    return within - 2 * _mean_kernel(first, second, apart=paired)


def _mean_kernel(first: Tensor, second: Tensor, *, apart: bool) -> Tensor:
    """Mean of the kernel over pairs of rows, ``apart``: without those of the same place; a few rows at a time."""
    total = first.new_zeros(())
    for start in range(0, len(first), KERNEL_ROWS):
        block = poly_kernel(first[start : start + KERNEL_ROWS], second)
        total += block.sum() - (block.diagonal(start).sum() if apart else 0)
    return total / (len(first) * (len(second) - apart))
