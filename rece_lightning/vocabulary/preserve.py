"""Which prompts an erasure would harm most, found without a picture: ``data.preserve: auto``."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.gram import Gram
from rece_lightning.data.concepts import PromptPair
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.erasure.encoding import ConceptEncoder
from rece_lightning.erasure.erasers import SpaceErasers
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.erasure.statistics import ConceptStatistics
from rece_lightning.erasure.wide import names_in_factors
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.models.text_space import TEXT

ROUNDS = 20
ROOM = 256 << 20
"""Bytes of embeddings that are held between the rounds."""


def drifts(gram: Gram, embedding_map: EmbeddingMap, embeddings: Tensor) -> Tensor:
    """How far an edit moves the keys and values of each prompt.

    ``Σ‖W_l (M − I) c‖² / Σ‖W_l c‖² = Σ (c − Mc)ᵀG(c − Mc) / Σ cᵀGc`` over the prompt's positions, the preservation
    drift of one prompt.

    Args:
        gram: ``G`` of the original projections.
        embedding_map: ``M``.
        embeddings: ``[n, positions, d]``.

    Returns:
        ``[n]``, float64.
    """
    rows = embeddings.to(gram.total.device).double()
    moved = rows @ embedding_map.matrix.mT - rows
    return ((moved @ gram.total) * moved).sum((1, 2)) / ((rows @ gram.total) * rows).sum((1, 2))


class Vocabulary:
    """Prompts to choose from, with their embeddings where there is room for them; otherwise encoded anew each time.

    Args:
        encoder: of the prompts.
        words: to choose from.
        size: prompts that are encoded together.
        space: whose rows their embeddings are.
    """

    def __init__(self, encoder: EncodesPrompts, words: Sequence[str], size: int = 64, space: str = TEXT) -> None:
        self.encoder, self.words, self.size, self.space = encoder, list(words), size, space
        self._held: dict[int, Tensor] = {}
        self._bytes = 0

    def batches(self) -> Iterator[tuple[list[str], Tensor]]:
        """Words with their embeddings ``[n, positions, d]``."""
        for first in range(0, len(self.words), self.size):
            part = self.words[first : first + self.size]
            embeddings = self._held.get(first)
            if embeddings is None:
                # Where a text encoder pads nothing, rows of zeros behind a shorter prompt count for nothing.
                rows = [one.rows for one in self.encoder.encode(part).rows(self.space)]
                embeddings = pad_sequence(rows, batch_first=True)
                self._bytes += embeddings.numel() * embeddings.element_size()
                if self._bytes <= ROOM:
                    self._held[first] = embeddings
            yield part, embeddings

    def harmed_most(
        self, gram: Gram, embedding_map: EmbeddingMap, count: int, without: Collection[str] = ()
    ) -> list[tuple[str, float, Tensor]]:
        """The words that an edit moves furthest, the furthest first, with their drifts and embeddings.

        Args:
            gram: ``G`` of the original projections.
            embedding_map: ``M``.
            count: how many.
            without: words that are left out.
        """

        def scored() -> Iterator[tuple[str, float, Tensor]]:
            for words, embeddings in self.batches():
                found = drifts(gram, embedding_map, embeddings).tolist()
                yield from (item for item in zip(words, found, embeddings, strict=True) if item[0] not in without)

        return heapq.nlargest(count, scored(), key=lambda item: item[1])


@torch.no_grad()
def choose_preserved(session: ErasureSession, data: ConceptData) -> list[str]:
    """What ``data.preserve: auto`` stands for: the words of the vocabulary that UCE's edit of the concepts harms most.

    In rounds: a few of the furthest, then the edit that preserves these too, then the furthest of the others. The
    furthest at once are near to each other; preserved together they push the edit towards other words. The concepts are
    encoded once more for it.

    Args:
        session: of the model; the scales of its method decide the edit.
        data: with concepts and vocabulary.
    """
    first = first_edit(session, data)
    vocabulary = Vocabulary(session.encoder, data.vocabulary_left(), data.batch_size, first.space)
    wanted, chosen = min(data.preserve_count, len(vocabulary.words)), list[str]()
    while len(chosen) < wanted:
        maps = first.maps()
        part = min(-(-wanted // ROUNDS), wanted - len(chosen))
        found = vocabulary.harmed_most(first.gram, maps, part, set(chosen))
        chosen += [word for word, _, _ in found]
        first.statistics.update(preserved={first.space: [rows for _, _, rows in found]})
    return chosen


class FirstEdit:
    """UCE's edit of what was counted so far, in one text space.

    Args:
        session: of the model.
        encoder: of that one text space.
    """

    def __init__(self, session: ErasureSession, encoder: ConceptEncoder) -> None:
        self.space = encoder.spaces[0]
        space = next(one for one in session.base.spaces if one.name == self.space)
        edited = next((one for one in session.spaces if one.name == self.space), space)
        self.method, self.encoder = session.method.first_edit(), encoder
        self.gram = session.loaded.gram(edited, self.method)
        self.statistics = ConceptStatistics(
            {self.space: space.width},
            self.method.tokens,
            session.loaded.algebra,
            factors=names_in_factors([edited], self.method),
        )

    def maps(self) -> EmbeddingMap:
        """``M`` of the edit."""
        maps = SpaceErasers(self.method, self.statistics.evidence(), {self.space: self.gram}).run(1).maps[self.space]
        assert isinstance(maps, EmbeddingMap)
        return maps


def first_edit(session: ErasureSession, data: ConceptData) -> FirstEdit:
    """The edit of what the data asks for so far.

    Args:
        session: of the model.
        data: with concepts and preserved prompts.
    """
    # Words are compared in the first space that is edited.
    first = FirstEdit(session, ConceptEncoder(session.encoder, [session.spaces[0].name]))
    for batch in data.batches():
        if batch.kind == "erased":
            pairs = [PromptPair(*one) for one in zip(batch.prompts, batch.targets, batch.weights, strict=True)]
            first.statistics.update(first.encoder.pairs(pairs))
        elif batch.kind == "preserved":
            first.statistics.update(preserved=first.encoder.rows(batch.prompts))
    return first
