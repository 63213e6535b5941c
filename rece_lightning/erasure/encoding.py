"""Prompts → evidence: encode once, count the positions that each epoch needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rece_lightning.core.eraser import Evidence
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.moments import Moments, RowPairs
from rece_lightning.models.text import PromptEncoder, aligned_rows

PROMPTS_AN_UPDATE = 64


@dataclass(frozen=True)
class EncodedPair:
    """Embeddings of one erased prompt and its target."""

    concept: Tensor
    """``[positions, d]``."""
    target: Tensor
    """``[positions, d]``."""
    last: int
    """Position of the concept's last subject token."""
    target_last: int
    weight: float

    def first_moments(self, rule: str) -> Moments:
        """Moments of the positions that epoch 0 edits."""
        concept, target = aligned_rows(self.concept, self.last, self.target, self.target_last, rule)
        return Moments.of(concept, target, self.weight)

    def whole_moments(self) -> Moments:
        """Moments of all positions."""
        return Moments.of(self.concept, self.target, self.weight)


def encode_pairs(
    encoder: PromptEncoder, prompts: list[str], targets: list[str], weights: list[float]
) -> list[EncodedPair]:
    """Encode erased prompts with their targets, each distinct text once."""
    texts = list(dict.fromkeys([*prompts, *targets]))
    encoded = encoder.encode(texts)
    index = {text: row for row, text in enumerate(texts)}
    pairs = []
    for prompt, target, weight in zip(prompts, targets, weights, strict=True):
        row, anchor = index[prompt], index[target]
        pairs.append(
            EncodedPair(
                encoded.embeddings[row],
                encoded.embeddings[anchor],
                int(encoded.last_subject[row]),
                int(encoded.last_subject[anchor]),
                weight,
            )
        )
    return pairs


def gather_evidence(
    pairs: list[EncodedPair],
    kept: list[Tensor],
    rule: str,
    device: torch.device | str,
    *,
    keep_prompts: bool = False,
    preserved: Tensor | None = None,
) -> Evidence:
    """Moments of encoded prompts.

    Args:
        pairs: what is erased.
        kept: embeddings ``[positions, d]`` of what is preserved: always all positions.
        rule: token selection of epoch 0.
        device: of the algebra.
        keep_prompts: also keep every prompt's own moments, as the technique ``tensor`` needs them.
        preserved: ``P`` of what is kept, in place of its rows.
    """
    width = pairs[0].concept.shape[-1]
    first = whole = Moments.zeros(width, device)
    if preserved is None and kept:
        preserved = Moments.preserving(torch.cat(kept).to(device)).preserved
    if preserved is not None:
        first = whole = replace(first, preserved=preserved)
    if keep_prompts:
        first_prompts = tuple(pair.first_moments(rule).to(device) for pair in pairs)
        whole_prompts = tuple(pair.whole_moments().to(device) for pair in pairs)
        summed = sum(first_prompts, start=first), sum(whole_prompts, start=whole)
        return Evidence(*summed, first_prompts, whole_prompts, prompts=len(pairs))
    if stay_rows(sum(len(pair.concept) for pair in pairs), width):
        first_rows, whole_rows = _rows(pairs, rule, device), _rows(pairs, "all", device)
        return Evidence(
            first_rows.moments(first.preserved),
            whole_rows.moments(whole.preserved),
            first_rows=first_rows,
            whole_rows=whole_rows,
            prompts=len(pairs),
        )
    # Rank-k updates over all rows of some prompts at once: a product of matrices, not one of rows a prompt.
    for start in range(0, len(pairs), PROMPTS_AN_UPDATE):
        of_part = pair_moments(pairs[start : start + PROMPTS_AN_UPDATE], rule, device)
        first, whole = first.erasing_also(of_part[0]), whole.erasing_also(of_part[1])
    return Evidence(first, whole, prompts=len(pairs))


def stay_rows(rows: int, width: int) -> bool:
    """Whether erased rows are so few that a loop works on them faster than on their moments."""
    return 2 * rows <= width


def pair_moments(pairs: list[EncodedPair], rule: str, device: torch.device | str) -> tuple[Moments, Moments]:
    """Moments of some prompts together: of the positions that epoch 0 edits, and of all of them."""
    nothing = torch.zeros(pairs[0].concept.shape[-1], pairs[0].concept.shape[-1], dtype=torch.float64, device=device)
    return _rows(pairs, rule, device).moments(nothing), _rows(pairs, "all", device).moments(nothing)


def _rows(pairs: list[EncodedPair], rule: str, device: torch.device | str) -> RowPairs:
    """The rows of prompt pairs that a token rule selects, in float64."""
    rows = [aligned_rows(pair.concept, pair.last, pair.target, pair.target_last, rule) for pair in pairs]
    weights = torch.cat([
        torch.full((len(concept),), pair.weight, dtype=torch.float64)
        for pair, (concept, _) in zip(pairs, rows, strict=True)
    ])  # fmt: skip
    concepts, targets = torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])
    return RowPairs(concepts.to(device).double(), targets.to(device).double(), weights.to(device))


def invariant_rows(encoder: PromptEncoder) -> Tensor:
    """Rows of the empty prompt, ``[positions, d]``: guidance reads it at every step.

    Its first row is the begin-of-text token's, which under a causal text encoder is the same in every prompt.
    """
    return encoder.encode([""]).embeddings[0]


def with_invariants(evidence: Evidence, rows: Tensor | None, device: torch.device | str) -> Evidence:
    """The evidence with rows that an edit has to leave as they are.

    Args:
        evidence: of the prompts.
        rows: ``[m, d]``; ``None``: there are none.
        device: of the algebra.

    Raises:
        ConfigurationError: if the rows, which may come from a checkpoint, do not fit the evidence.
    """
    if rows is None:
        return evidence
    if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.shape[1] != evidence.whole.width:
        raise ConfigurationError(
            f"The rows of the empty prompt do not fit: embeddings are {evidence.whole.width} wide; if they come from a "
            "checkpoint, it is damaged."
        )
    return replace(evidence, invariants=rows.to(device).double())
