"""What a loader hands out: prompts that are encoded together, prompts that pictures are made for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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

    def to(self, *_: Any, **__: Any) -> PromptBatch:
        """What a trainer asks of a batch: this is text, there is nothing to move."""
        return self


class PromptBatches:
    """Batches of one kind each. No DataLoader, so that no trainer puts a sampler in front of it.

    Every process is given every batch and encodes those of its turn: a sampler would pad, and count prompts twice.

    Args:
        batches: makes them, one at a time.
        count: how many they are now.
        known: whether their prompts were encoded before; then the batches are empty, and nothing is read.
        source: the data that they are of.
    """

    def __init__(
        self,
        batches: Callable[[], Iterator[PromptBatch]],
        count: Callable[[], int],
        known: Callable[[], bool],
        source: object = None,
    ) -> None:
        self._batches, self._count, self._known = batches, count, known
        self.source = source

    def __iter__(self) -> Iterator[PromptBatch]:
        # A trainer makes iterators that it takes nothing from: nothing may be read before the first batch.
        if self._known():
            yield from itertools.repeat(PromptBatch((), (), (), "erased"), self._count())
        else:
            yield from self._batches()

    def __len__(self) -> int:
        return self._count()


class EvaluationBatches:
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


class AskedBatches:
    """The batches that data has to generate for by the time that a trainer goes through them.

    A callback may change them between the making of a loader and its use.

    Args:
        now: gives them.
        source: the data that they are of.
    """

    def __init__(self, now: Callable[[], EvaluationBatches], source: object) -> None:
        self._now, self.source = now, source

    @property
    def prompts(self) -> tuple[EvaluationPrompt, ...]:
        """Whose pictures are asked for."""
        return self._now().prompts

    def __len__(self) -> int:
        return len(self._now())

    def __iter__(self) -> Iterator[tuple[EvaluationPrompt, ...]]:
        return iter(self._now())


class NoBatches:
    """What ``fit`` validates with: nothing. ``Evaluation`` makes its pictures when it is time."""

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[tuple[EvaluationPrompt, ...]]:
        return iter(())
