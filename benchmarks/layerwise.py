"""UCE and RECE a layer at a time, twice: as well as the formulas can be written, and in the published order of work.

Both are here to be timed against the map. They share no code with ``rece_lightning``. Embeddings come as one prompt
pair with its rows (``[n, d]``), weights as a list of ``[o, d]``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def best_layerwise(
    weights: Sequence[Tensor],
    concept: Tensor,
    target: Tensor,
    kept: Tensor,
    epochs: int,
    *,
    preserve_scale: float = 0.1,
    lamb: float = 0.1,
    regular_scale: float = 0.1,
) -> list[Tensor]:
    """Float64, with what the layers share computed once an epoch: outer products over all rows at once, one Cholesky
    factor for all layers, no inverse.

    Args:
        weights: original projections, ``[o_l, d]``.
        concept: rows to erase, ``[n, d]``.
        target: what they become, ``[n, d]``.
        kept: rows to keep, ``[m, d]``.
        epochs: edits; the first is UCE.
        preserve_scale: λ₁.
        lamb: λ₂.
        regular_scale: λ.
    """
    original = [weight.double() for weight in weights]
    present = list(original)
    c, anchor, keep = concept.double(), target.double(), kept.double()
    eye = torch.eye(c.shape[1], dtype=torch.float64, device=c.device)
    preserved = preserve_scale * (keep.mT @ keep) + lamb * eye
    for epoch in range(epochs):
        rows = c
        if epoch:
            system = regular_scale * eye + sum(weight.mT @ weight for weight in present)
            right = sum(new.mT @ (old @ c.mT) for new, old in zip(present, original, strict=True))
            rows = torch.cholesky_solve(right, torch.linalg.cholesky(system)).mT
        factor = torch.linalg.cholesky(rows.mT @ rows + preserved)
        left = anchor.mT @ rows + preserved
        present = [torch.cholesky_solve((weight @ left).mT, factor).mT for weight in present]
    return present


def published_order(
    weights: Sequence[Tensor],
    concept: Tensor,
    target: Tensor,
    kept: Tensor,
    epochs: int,
    *,
    preserve_scale: float = 0.1,
    lamb: float = 0.1,
    regular_scale: float = 0.1,
    layers: int | None = None,
) -> list[Tensor]:
    """Float32, in the order of work of the published code: for every layer the outputs of all layers are evaluated
    for every prompt, sums run over the token positions as batched outer products, and systems are inverted.

    Args:
        weights: original projections, ``[o_l, d]``.
        concept: rows to erase, ``[n, d]``.
        target: what they become, ``[n, d]``.
        kept: rows to keep, ``[m, d]``.
        epochs: edits; the first is UCE.
        preserve_scale: λ₁.
        lamb: λ₂.
        regular_scale: λ.
        layers: edit so many of them only, to estimate the time of all; the others stay.
    """
    present = [weight.clone() for weight in weights]
    count = len(present) if layers is None else layers
    eye = torch.eye(concept.shape[1], device=concept.device)
    for epoch in range(epochs):
        rows = concept
        if epoch:
            system, right = regular_scale * eye, torch.zeros_like(eye)
            for new, old in zip(present, weights, strict=True):
                system = system + new.mT @ new
                right = right + new.mT @ old
            inverse = torch.inverse(system)
            rows = torch.stack([inverse @ right @ row for row in concept])
        before = [weight.clone() for weight in present]
        for layer in range(count):
            left, system = lamb * before[layer], lamb * eye
            for old, new, scale in ((rows, target, 1.0), (kept, kept, preserve_scale)):
                values = [new @ weight.mT for weight in before]
                context = old[:, :, None]
                left = left + scale * (values[layer][:, :, None] @ context.mT).sum(0)
                system = system + scale * (context @ context.mT).sum(0)
            present[layer] = left @ torch.inverse(system)
    return present
