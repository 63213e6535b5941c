"""Which prompts an erasure would harm most, found without a picture: ``data.preserve: auto``."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.eraser import LoopSettings, RECELoop
from rece_lightning.core.gram import Gram
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.erasure.encoding import encode_pairs
from rece_lightning.erasure.statistics import PromptSums
from rece_lightning.models.text import PromptEncoder

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
    """

    def __init__(self, encoder: PromptEncoder, words: Sequence[str], size: int = 64) -> None:
        self.encoder, self.words, self.size = encoder, list(words), size
        self._held: dict[int, Tensor] = {}
        self._bytes = 0

    def batches(self) -> Iterator[tuple[list[str], Tensor]]:
        """Words with their embeddings ``[n, positions, d]``."""
        for first in range(0, len(self.words), self.size):
            part = self.words[first : first + self.size]
            embeddings = self._held.get(first)
            if embeddings is None:
                embeddings = self.encoder.encode(part).embeddings
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
def choose_preserved(
    data: ConceptData, encoder: PromptEncoder, gram: Gram, settings: LoopSettings, rule: str
) -> list[str]:
    """What ``data.preserve: auto`` stands for: the words of the vocabulary that UCE's edit of the concepts harms most.

    In rounds: a few of the furthest, then the edit that keeps these too, then the furthest of the others. The furthest
    at once are near to each other; kept together they push the edit towards other words. The concepts are encoded once
    more for it.

    Args:
        data: with concepts and vocabulary.
        encoder: of the prompts.
        gram: ``G`` of the original projections.
        settings: of the loop; its scales decide the edit.
        rule: token selection of epoch 0.
    """
    sums = encoded_sums(data, encoder, rule, gram.total.device)
    plain = replace(settings, technique="replace", editor="uce")
    vocabulary = Vocabulary(encoder, data.vocabulary_left(), data.batch_size)
    wanted, chosen = min(data.preserve_count, len(vocabulary.words)), list[str]()
    while len(chosen) < wanted:
        maps = RECELoop(gram, sums.evidence(gram.width), plain).run(1)
        assert isinstance(maps, EmbeddingMap)
        part = min(-(-wanted // ROUNDS), wanted - len(chosen))
        found = vocabulary.harmed_most(gram, maps, part, set(chosen))
        chosen += [word for word, _, _ in found]
        sums.add_kept([rows for _, _, rows in found])
    return chosen


def encoded_sums(data: ConceptData, encoder: PromptEncoder, rule: str, device: torch.device) -> PromptSums:
    """What is erased and kept so far, encoded.

    Args:
        data: with concepts and preserved prompts.
        encoder: of the prompts.
        rule: token selection of epoch 0.
        device: of the algebra.
    """
    sums = PromptSums(rule, device)
    for batch in data.batches():
        if batch.kind == "erased":
            pairs = encode_pairs(encoder, list(batch.prompts), list(batch.targets), list(batch.weights))
            sums.add_pairs(batch.prompts, pairs)
        elif batch.kind == "preserved":
            sums.add_kept(list(encoder.encode(list(batch.prompts)).embeddings))
    return sums
