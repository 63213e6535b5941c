"""Which other words mean an erased concept to the text encoder, and which lie near it and must stay. No picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import unedited
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.core.reaching import Reaching
from rece_lightning.core.robust import WITHIN
from rece_lightning.data.synonyms import TEMPLATE
from rece_lightning.data.texts import filled
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.models.text_space import TEXT
from rece_lightning.models.vocabulary import vocabulary_words
from rece_lightning.vocabulary.rows import subject_rows, vocabulary_rows

TOGETHER = 64
"""Concepts whose distances are held together: a vocabulary has 49,000 words."""


@dataclass(frozen=True)
class Mined:
    """Words that were found for some concepts."""

    synonyms: tuple[tuple[str, ...], ...]
    """Of every concept, the nearest first."""
    neighbours: tuple[str, ...]
    """That must stay, of all concepts together, each once."""


def mine(
    encoder: EncodesPrompts,
    gram: Gram,
    concepts: Sequence[tuple[str, str]],
    fingerprint: Callable[[], str],
    *,
    synonyms: int = 0,
    neighbours: int = 0,
    within: float = WITHIN,
    preserved: Collection[str] = (),
    space: str = TEXT,
) -> Mined:
    """Look through the words of the tokenizer's vocabulary.

    The distance of a word from a concept is that of their keys and values on the unedited model,
    ``Σ_l ‖W_l w − W_l c‖²`` at the last token of the word and at the end of the text, in the scan's template and over
    the concept's own distance from its target: 0 is the concept, 1 is as far as the target.

    The rule. A word that is preserved, or that is a concept itself, is neither. Of the others, those nearer than
    ``within`` to a concept mean it: the nearest are its synonyms, further ones are neither erased nor preserved. All
    words beyond ``within`` of every concept may be neighbours: of each concept the nearest.

    Args:
        encoder: of the model.
        gram: ``G`` of the original projections.
        concepts: each with its target.
        fingerprint: gives the hash of the text encoder's stored bytes, by which a large vocabulary's encoding is kept.
        synonyms: how many at most, for each concept.
        neighbours: how many, for each concept.
        within: where meaning ends.
        preserved: prompts that stay anyway.
        space: that ``gram`` is of.

    Raises:
        ConfigurationError: if a concept reads as its target does.
    """
    taken = {text.strip().lower() for text in (*preserved, *(concept for concept, _ in concepts))}
    listed = vocabulary_words(encoder.tokenizer)
    # All of them, so that another list of concepts finds the same file.
    encoded = vocabulary_rows(encoder, fingerprint, [filled(TEMPLATE, word) for word in listed], space=space)
    left = [place for place, word in enumerate(listed) if word.lower() not in taken]
    words, rows = [listed[place] for place in left], encoded[left]
    distances = _Distances(encoder, gram, rows, space)
    near: list[tuple[str, ...]] = []
    meaning = torch.zeros(len(words), dtype=torch.bool)
    for distance in distances.each(concepts):
        means = distance < within
        meaning |= means
        order = distance.argsort(stable=True)[: int(means.sum())]
        near.append(tuple(words[place] for place in order[:synonyms].tolist()))
    found: dict[str, None] = {}
    # Once more: which words mean another concept is known now, and all distances at once may not fit the memory.
    for distance in distances.each(concepts) if neighbours else ():
        order = distance.masked_fill(meaning, torch.inf).argsort(stable=True)[: int((~meaning).sum())]
        found |= dict.fromkeys(words[place] for place in order[:neighbours].tolist())
    return Mined(tuple(near), tuple(found))


class _Distances:
    """Of all words from some concepts."""

    def __init__(self, encoder: EncodesPrompts, gram: Gram, rows: Tensor, space: str) -> None:
        self.encoder, self.gram, self.rows, self.space = encoder, gram, rows, space
        self.unedited = unedited(gram)

    def each(self, concepts: Sequence[tuple[str, str]]) -> Iterator[Tensor]:
        """``[words]`` for each concept."""
        for first in range(0, len(concepts), TOGETHER):
            yield from self._of(concepts[first : first + TOGETHER])

    def _of(self, concepts: Sequence[tuple[str, str]]) -> Tensor:
        texts = [filled(TEMPLATE, text) for pair in concepts for text in pair]
        own = subject_rows(self.encoder, texts, space=self.space)
        for (concept, target), rows in zip(concepts, own.view(-1, 2, *own.shape[1:]), strict=True):
            if torch.equal(rows[0], rows[1]):
                raise ConfigurationError(
                    f"model.method.robust: {concept!r} and its target {target!r} read alike, so no word is near or "
                    "far; give another target."
                )
        return Reaching.of(self.gram, self.unedited, own[0::2], own[1::2]).measure(self.rows)[0].mT
