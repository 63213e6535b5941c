"""What a loader hands out: prompts that are encoded together, prompts that pictures are made for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import IterableDataset

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.distributed import rank_and_world


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that the module encodes together."""

    prompts: tuple[str, ...]
    targets: tuple[str, ...]
    """Of erased prompts; empty text for the others."""
    weights: tuple[float, ...]
    kind: str
    """``erased``, ``preserved``, or ``held_out`` (measured only)."""
    number: int = 0
    """Its place among all batches. Of several processes each encodes every n-th batch, whole: a text encoder's last
    digits depend on what it is given together."""


class PromptBatches(IterableDataset[PromptBatch]):
    """Batches of one kind each. An IterableDataset, so that no trainer puts a sampler in front of it.

    Every process is given every batch and encodes those of its turn: a sampler would pad, and count prompts twice.

    Args:
        batches: makes them, one at a time.
        count: how many they are.
        known: whether their prompts were encoded before; then the batches are empty, and nothing is read.
    """

    def __init__(self, batches: Callable[[], Iterator[PromptBatch]], count: int, known: Callable[[], bool]) -> None:
        self._batches, self._count, self._known = batches, count, known

    def __iter__(self) -> Iterator[PromptBatch]:
        if self._known():
            return itertools.repeat(PromptBatch((), (), (), "erased"), self._count)
        return self._batches()

    def __len__(self) -> int:
        return self._count


class EvaluationBatches(IterableDataset[tuple[EvaluationPrompt, ...]]):
    """Batches of prompts to generate for.

    With several processes each takes every n-th batch, whole: the pictures are those of one process, none is made
    twice and none left out. One that would have none gets an empty batch, so that it takes part in what all do.
    """

    def __init__(self, prompts: Sequence[EvaluationPrompt], size: int) -> None:
        self.prompts, self.size = tuple(prompts), size

    def _starts(self) -> range:
        rank, world = rank_and_world()
        return range(rank * self.size, len(self.prompts), world * self.size)

    def __len__(self) -> int:
        return max(len(self._starts()), int(rank_and_world()[1] > 1 and bool(self.prompts)))

    def __iter__(self) -> Iterator[tuple[EvaluationPrompt, ...]]:
        for first in self._starts():
            yield self.prompts[first : first + self.size]
        if not self._starts() and len(self):
            yield ()

    def mine(self) -> list[int]:
        """Places of this process's prompts among all of them, in the order in which they come."""
        return [place for first in self._starts() for place in range(len(self.prompts))[first : first + self.size]]
