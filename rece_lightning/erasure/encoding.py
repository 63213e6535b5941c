"""Prompts → rows: each text is encoded once, for every text space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from rece_lightning.core.eraser import Evidence
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.factored import Factored
from rece_lightning.core.moments import Moments, RowPairs
from rece_lightning.data.concepts import PromptPair
from rece_lightning.models.text import EncodesPrompts, PromptRows, aligned_rows

TOGETHER = 64
"""Prompts that are encoded, and counted, together."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class EncodedPair:
    """Rows of one erased prompt and its target, in one text space."""

    concept: Tensor
    """``[positions, d]``."""
    target: Tensor
    """``[positions, d]``."""
    last: int
    """Position of the concept's last subject token."""
    target_last: int
    weight: float
    more: tuple[tuple[int, int, int], ...] = ()
    """Where rows of further text encoders begin, with both last subject tokens of each."""

    def selected(self, rule: str) -> tuple[Tensor, Tensor]:
        """Rows ``[r, d]`` of concept and target at the positions that epoch 0 edits, encoder by encoder."""
        if not self.more:
            return aligned_rows(self.concept, self.last, self.target, self.target_last, rule)
        parts = [(0, self.last, self.target_last), *self.more]
        ends = [start for start, _, _ in self.more] + [len(self.concept)]
        chosen = [
            aligned_rows(self.concept[start:end], last - start, self.target[start:end], target_last - start, rule)
            for (start, last, target_last), end in zip(parts, ends, strict=True)
        ]
        return torch.cat([one for one, _ in chosen]), torch.cat([other for _, other in chosen])

    def first_moments(self, rule: str) -> Moments:
        """Moments of the positions that epoch 0 edits."""
        return Moments.of(*self.selected(rule), self.weight)

    def whole_moments(self) -> Moments:
        """Moments of all positions."""
        return Moments.of(self.concept, self.target, self.weight)


Pairs = Mapping[str, list[EncodedPair]]
"""Text space → encoded pairs, in the order of the prompts."""
Rows = Mapping[str, list[Tensor]]
"""Text space → rows ``[positions, d]`` of every prompt."""


class ConceptEncoder:
    """Encodes prompts for the text spaces that an erasure edits.

    Args:
        encoder: tokenizers and text encoders of the model.
        spaces: names of the spaces.
    """

    def __init__(self, encoder: EncodesPrompts, spaces: Sequence[str]) -> None:
        self.encoder, self.spaces = encoder, tuple(spaces)

    def pairs(self, pairs: Sequence[PromptPair]) -> Pairs:
        """Erased prompts with their targets, each distinct text once, all of them together."""
        texts = list(dict.fromkeys([*(pair.prompt for pair in pairs), *(pair.target for pair in pairs)]))
        if not texts:
            return {space: [] for space in self.spaces}
        encoded, index = self.encoder.encode(texts), {text: row for row, text in enumerate(texts)}
        found: dict[str, list[EncodedPair]] = {}
        for space in self.spaces:
            rows = encoded.rows(space)
            found[space] = [paired(rows[index[pair.prompt]], rows[index[pair.target]], pair.weight) for pair in pairs]
        return found

    def pairs_in_parts(self, pairs: Iterable[PromptPair]) -> Pairs:
        """The same of any number of prompts, so many together as memory always has room for."""
        found: dict[str, list[EncodedPair]] = {space: [] for space in self.spaces}
        for part in in_parts(pairs):
            for space, encoded in self.pairs(part).items():
                found[space] += encoded
        return found

    def rows(self, prompts: Sequence[str]) -> Rows:
        """Every row of some prompts, all of them together."""
        if not prompts:
            return {space: [] for space in self.spaces}
        encoded = self.encoder.encode(list(prompts))
        return {space: [one.rows for one in encoded.rows(space)] for space in self.spaces}

    def invariants(self) -> dict[str, Tensor]:
        """Rows of the empty prompt, ``[positions, d]`` a space: guidance reads it at every step.

        Its first row is the begin-of-text token's, which under a causal text encoder is the same in every prompt.
        """
        return {space: rows[0] for space, rows in self.rows([""]).items()}


def in_parts(items: Iterable[Item], size: int = TOGETHER) -> Iterator[list[Item]]:
    """At most so many at a time."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def paired(concept: PromptRows, target: PromptRows, weight: float) -> EncodedPair:
    """A prompt's rows beside its target's, position by position.

    Where a text encoder pads neither to the same number, the shorter target's last row stands in for what it lacks; a
    target's rows beyond the concept's are read in no prompt that names the concept. A position that the denoiser does
    not read of the concept is zero, and so counts for nothing.
    """
    own, other = concept.rows, target.rows
    if len(other) < len(own):
        other = torch.cat([other, other[-1:].expand(len(own) - len(other), -1)])
    more = tuple((start, last, there) for (start, last), (_, there) in zip(concept.more, target.more, strict=True))
    last = min(target.last, len(own) - 1)
    return EncodedPair(own, _where_read(own, other[: len(own)]), concept.last, last, weight, more)


def _where_read(own: Tensor, target: Tensor) -> Tensor:
    """The target's rows, its last that is read in place of those that are hidden."""
    hidden = ~target.any(dim=-1)
    if not bool(hidden.any()) or bool(hidden.all()):
        return target
    last = int((~hidden).nonzero().max())
    filled = target.clone()
    filled[hidden & own.any(dim=-1)] = target[last]
    return filled


# Rows → evidence


def gather_evidence(
    pairs: list[EncodedPair],
    preserved: Tensor,
    rule: str,
    device: torch.device | str,
    *,
    keep_prompts: bool = False,
) -> Evidence:
    """Moments of encoded prompts in one text space.

    Args:
        pairs: what is erased.
        preserved: ``P`` of what is preserved, ``[d, d]``; in factors where all moments shall be.
        rule: token selection of epoch 0.
        device: of the algebra.
        keep_prompts: also keep every prompt's own moments, for an editor that is ``per_layer``.
    """
    width = pairs[0].concept.shape[-1]
    factors = isinstance(preserved, Factored)
    if not keep_prompts and (factors or stay_rows(sum(len(pair.concept) for pair in pairs), width)):
        first_rows, whole_rows = rows_of(pairs, rule, device), rows_of(pairs, "all", device)
        return Evidence(
            first_rows.moments(preserved),
            whole_rows.moments(preserved),
            first_rows=first_rows,
            whole_rows=whole_rows,
            prompts=len(pairs),
        )
    first = whole = replace(Moments.zeros(width, device), preserved=preserved)
    if keep_prompts:
        first_prompts = tuple(pair.first_moments(rule).to(device) for pair in pairs)
        whole_prompts = tuple(pair.whole_moments().to(device) for pair in pairs)
        summed = sum(first_prompts, start=first), sum(whole_prompts, start=whole)
        return Evidence(*summed, first_prompts, whole_prompts, prompts=len(pairs))
    # Rank-k updates over all rows of some prompts at once: a product of matrices, not one of rows a prompt.
    for part in in_parts(pairs):
        of_part = pair_moments(part, rule, device)
        first, whole = first.erasing_also(of_part[0]), whole.erasing_also(of_part[1])
    return Evidence(first, whole, prompts=len(pairs))


def stay_rows(rows: int, width: int) -> bool:
    """Whether erased rows are so few that an epoch works on them faster than on their moments."""
    return 2 * rows <= width


def pair_moments(pairs: list[EncodedPair], rule: str, device: torch.device | str) -> tuple[Moments, Moments]:
    """Moments of some prompts together: of the positions that epoch 0 edits, and of all of them."""
    nothing = torch.zeros(pairs[0].concept.shape[-1], pairs[0].concept.shape[-1], dtype=torch.float64, device=device)
    return rows_of(pairs, rule, device).moments(nothing), rows_of(pairs, "all", device).moments(nothing)


def rows_of(pairs: list[EncodedPair], rule: str, device: torch.device | str) -> RowPairs:
    """The rows of prompt pairs that a token rule selects, in float64."""
    rows = [pair.selected(rule) for pair in pairs]
    weights = torch.cat([
        torch.full((len(concept),), pair.weight, dtype=torch.float64)
        for pair, (concept, _) in zip(pairs, rows, strict=True)
    ])  # fmt: skip
    concepts, targets = (torch.cat([row[side].to(device) for row in rows]) for side in (0, 1))
    return RowPairs(concepts.double(), targets.double(), weights.to(device))


def scatter(rows: Sequence[Tensor], width: int, device: torch.device | str, *, in_factors: bool = False) -> Tensor:
    """``Σ c cᵀ`` of the rows of some prompts, ``[d, d]``, float64."""
    if in_factors:
        whole = torch.cat([torch.zeros(0, width, device=device), *(row.to(device) for row in rows)]).double()
        return Factored.of_rows(whole[whole.any(dim=1)])  # rows of zeros would only make the systems larger
    if not rows:
        return torch.zeros(width, width, dtype=torch.float64, device=device)
    return Moments.preserving(torch.cat([row.to(device) for row in rows])).preserved


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
