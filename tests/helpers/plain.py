"""UCE and RECE once more, slowly: every layer, every prompt, every row, as the papers write them. Float64.

An oracle for tests. It shares no code with ``rece_lightning``, knows neither moments nor Gram matrices nor maps,
and is written from the formulas of UCE (arXiv 2308.14761) and RECE (arXiv 2407.12383) alone.

What an epoch does:

* Epoch 0 edits with each pair's ``first_rows`` (the token positions that the run selects), which is UCE.
* Every later epoch derives ``c'`` from all ``rows`` of each pair, with the weights as they are now, and edits with
  ``c'`` in place of ``c`` and the pair's own ``target_rows``.
* The outputs to reach are those of the weights *before this edit*: ``W_t c*`` and, for what is kept, ``W_t c_j``.
* ``accumulate``: an epoch edits with its own rows and with those of every epoch before it (epoch 0's included).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PlainPair:
    """One prompt to erase, encoded, with its encoded target. All rows are ``[n, d]``."""

    first_rows: Tensor
    """The prompt's rows that epoch 0 edits."""
    first_target_rows: Tensor
    """What each of them becomes, ``[n, d]`` like ``first_rows``."""
    rows: Tensor
    """All rows of the prompt: what later epochs derive from."""
    target_rows: Tensor
    """What each of them becomes, ``[n, d]`` like ``rows``."""
    weight: float = 1.0
    """How much the prompt counts in the edit; the derivation is each row's own and has no weight."""


@dataclass(frozen=True)
class Erased:
    """The rows of one prompt that an edit erases."""

    rows: Tensor
    target_rows: Tensor
    weight: float


def plain_rece(
    weights: Sequence[Tensor],
    pairs: Sequence[PlainPair],
    kept_rows: Tensor | None,
    epochs: int,
    *,
    erase_scale: float = 1.0,
    preserve_scale: float = 0.1,
    lamb: float = 0.1,
    regular_scale: float = 0.1,
    regularizer: str = "norm",
    surrogate_items: str = "both",
    technique: str = "replace",
    accumulate: bool = False,
    first_edit: Mapping[str, float] | None = None,
) -> list[Tensor]:
    """The weights after ``epochs`` edits, one ``[o_l, d]`` in float64 for each of ``weights``.

    Args:
        weights: the original projections ``W_{0,l}``, ``[o_l, d]``, any dtype.
        pairs: what is erased.
        kept_rows: all rows of all preserved prompts, ``[m, d]``; ``None`` or no rows: nothing is preserved.
        epochs: edits in all, as ``trainer.max_epochs``: 0 leaves the weights alone, 1 is UCE, 1 + n is UCE and n
            epochs of RECE.
        erase_scale: η.
        preserve_scale: λ₁.
        lamb: λ₂.
        regular_scale: λ of the derivation.
        regularizer: ``norm``, ``standard`` or ``surrogate``.
        surrogate_items: ``first``, ``second`` or ``both``.
        technique: ``replace`` or ``tensor``. Under ``tensor`` each prompt of each epoch has its own scalar per layer.
        accumulate: see the module's docstring.
        first_edit: scales of epoch 0 where they differ: any of ``erase_scale``, ``preserve_scale``, ``lamb``.
    """
    result = [weight.double() for weight in weights]
    for result in plain_rece_epochs(  # noqa: B007  the last one is what is asked for
        weights,
        pairs,
        kept_rows,
        epochs,
        erase_scale=erase_scale,
        preserve_scale=preserve_scale,
        lamb=lamb,
        regular_scale=regular_scale,
        regularizer=regularizer,
        surrogate_items=surrogate_items,
        technique=technique,
        accumulate=accumulate,
        first_edit=first_edit,
    ):
        pass
    return result


def plain_rece_epochs(
    weights: Sequence[Tensor],
    pairs: Sequence[PlainPair],
    kept_rows: Tensor | None,
    epochs: int,
    *,
    erase_scale: float,
    preserve_scale: float,
    lamb: float,
    regular_scale: float,
    regularizer: str,
    surrogate_items: str,
    technique: str,
    accumulate: bool,
    first_edit: Mapping[str, float] | None,
) -> Iterator[list[Tensor]]:
    """The weights after every epoch in turn; arguments as for :func:`plain_rece`."""
    original = [weight.double() for weight in weights]
    scales = {"erase_scale": erase_scale, "preserve_scale": preserve_scale, "lamb": lamb}
    kept = original[0].new_zeros(0, original[0].shape[1]) if kept_rows is None else kept_rows.double()
    present = original
    earlier: list[Erased] = []
    for epoch in range(epochs):
        now = []
        for pair in pairs:
            if epoch == 0:
                now.append(Erased(pair.first_rows.double(), pair.first_target_rows.double(), pair.weight))
                continue
            derived = [
                plain_derive(original, present, row, target, regular_scale, regularizer, surrogate_items)
                for row, target in zip(pair.rows.double(), pair.target_rows.double(), strict=True)
            ]
            now.append(Erased(torch.stack(derived), pair.target_rows.double(), pair.weight))
        erased = earlier + now if accumulate else now
        used = {**scales, **(first_edit or {})} if epoch == 0 else scales
        present = [plain_edit(weight, erased, kept, technique=technique, **used) for weight in present]
        earlier = erased
        yield present


def plain_edit(
    weight: Tensor,
    erased: Sequence[Erased],
    kept_rows: Tensor,
    *,
    erase_scale: float,
    preserve_scale: float,
    lamb: float,
    technique: str = "replace",
) -> Tensor:
    """UCE's closed form for one layer (its equation 7):

    ``W = (η Σ w v* cᵀ + λ₁ Σ W_t c_j c_jᵀ + λ₂ W_t) (η Σ w c cᵀ + λ₁ Σ c_j c_jᵀ + λ₂ I)⁻¹``.
    """
    width = weight.shape[1]
    left = lamb * weight.clone()
    system = lamb * torch.eye(width, dtype=torch.float64)
    for prompt in erased:
        outputs = plain_targets(weight, prompt, technique)
        for row, output in zip(prompt.rows, outputs, strict=True):
            left += erase_scale * prompt.weight * torch.outer(output, row)
            system += erase_scale * prompt.weight * torch.outer(row, row)
    for row in kept_rows:
        left += preserve_scale * torch.outer(weight @ row, row)
        system += preserve_scale * torch.outer(row, row)
    return torch.linalg.solve(system, left, left=False)


def plain_targets(weight: Tensor, prompt: Erased, technique: str) -> list[Tensor]:
    """``v*`` of each row: ``W c*``; under ``tensor`` without its component along the prompt's old output ``W c``."""
    olds = [weight @ row for row in prompt.rows]
    targets = [weight @ row for row in prompt.target_rows]
    if technique == "replace":
        return targets
    if technique != "tensor":
        raise ValueError(technique)
    # Old output and target output of all positions, each read as one long vector.
    old, target = torch.cat(olds), torch.cat(targets)
    if not old.any():
        # No old output, so no direction to take out.
        return targets
    direction = old / torch.linalg.norm(old)
    reduced = target - (direction @ target) * direction
    return list(reduced.split(weight.shape[0]))


def plain_derive(
    original: Sequence[Tensor],
    present: Sequence[Tensor],
    concept: Tensor,
    target: Tensor,
    regular_scale: float,
    regularizer: str = "norm",
    surrogate_items: str = "both",
) -> Tensor:
    """RECE's ``argmin_{c'} Σ_l ‖W_{t,l} c' − W_{0,l} c‖² + penalty`` for one row, from its normal equations."""
    width = concept.shape[0]
    system = torch.zeros(width, width, dtype=torch.float64)
    right = torch.zeros(width, dtype=torch.float64)
    for before, now in zip(original, present, strict=True):
        system += now.T @ now
        right += now.T @ (before @ concept)
        if regularizer == "surrogate" and surrogate_items in ("first", "both"):
            # λ ‖W_t c' − W_t c‖²
            system += regular_scale * now.T @ now
            right += regular_scale * now.T @ (now @ concept)
    if regularizer == "norm":
        # λ ‖c'‖²
        system += regular_scale * torch.eye(width, dtype=torch.float64)
    elif regularizer == "standard":
        # λ ‖c' − c*‖²
        system += regular_scale * torch.eye(width, dtype=torch.float64)
        right += regular_scale * target
    elif regularizer == "surrogate":
        if surrogate_items in ("second", "both"):
            # λ ‖c' − c‖²
            system += regular_scale * torch.eye(width, dtype=torch.float64)
            right += regular_scale * concept
    else:
        raise ValueError(regularizer)
    return torch.linalg.solve(system, right)
