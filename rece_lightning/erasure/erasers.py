"""A model's text spaces, each with its eraser, in step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rece_lightning.core.embedding_map import AnyMap, map_from, tensors_of
from rece_lightning.core.eraser import EpochRecord, Eraser, Evidence
from rece_lightning.core.gram import Gram
from rece_lightning.core.method import Method
from rece_lightning.distributed import agreed


def stored_maps(state: Mapping[str, Any], device: torch.device | str = "cpu") -> dict[str, AnyMap]:
    """Text space → the map in ``rece`` of a checkpoint."""
    return {name: map_from(one, device) for name, one in state["erasers"].items()}


class SpaceErasers:
    """The epochs of a method in every text space that it edits: the one place where erasers are made.

    Args:
        method: how to erase.
        evidence: text space → what the prompts say in it.
        grams: text space → ``G`` of what reads it.
        state: of erasers, to be as far as those; see :meth:`Eraser.from_state`.
    """

    def __init__(
        self,
        method: Method,
        evidence: Mapping[str, Evidence],
        grams: Mapping[str, Gram],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.spaces = {
            name: Eraser(method, evidence[name], gram)
            if state is None
            else Eraser.from_state(state[name], method, evidence[name], gram)
            for name, gram in grams.items()
        }

    @property
    def first(self) -> Eraser:
        """Of the first text space."""
        return next(iter(self.spaces.values()))

    @property
    def epoch(self) -> int:
        """How many epochs were run."""
        return self.first.epoch

    @property
    def maps(self) -> dict[str, AnyMap]:
        """Text space → ``M`` so far."""
        return {name: eraser.maps for name, eraser in self.spaces.items()}

    @property
    def first_maps(self) -> dict[str, AnyMap]:
        """Text space → ``M`` after epoch 0."""
        return {name: eraser.first_maps for name, eraser in self.spaces.items() if eraser.first_maps is not None}

    @property
    def grams(self) -> dict[str, Gram]:
        """Text space → ``G``."""
        return {name: eraser.gram for name, eraser in self.spaces.items()}

    def step(self, *, together: bool = True) -> dict[str, EpochRecord]:
        """One epoch in every space; every rank goes on with the same bits.

        Args:
            together: every rank takes this step. Otherwise none waits for another, and unlike machines may come to
                other last digits.

        Raises:
            ConfigurationError: if a system is singular.
        """
        records = {name: eraser.step() for name, eraser in self.spaces.items()}
        if together:
            self.agree()
        return records

    def agree(self) -> None:
        """Take rank 0's maps where the ranks solved to other last digits."""
        for eraser in self.spaces.values():
            own = tensors_of(eraser.maps)
            first = {name: agreed(one) for name, one in own.items()}
            if any(one is not None for one in first.values()):
                eraser.maps = map_from({name: own[name] if one is None else one for name, one in first.items()})

    def run(self, epochs: int, *, together: bool = True) -> SpaceErasers:
        """Run so many further epochs."""
        for _ in range(epochs):
            self.step(together=together)
        return self

    def measure(self, records: Mapping[str, EpochRecord], attacker_scale: float | None = None) -> dict[str, float]:
        """Figures of an epoch; those of further text spaces carry the space's name: ``pooled/map_change``."""
        figures: dict[str, float] = {}
        for place, (name, eraser) in enumerate(self.spaces.items()):
            own = eraser.measure(records[name], attacker_scale)
            figures |= own if place == 0 else {f"{name}/{key}": value for key, value in own.items()}
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Text space → its eraser's state."""
        return {name: eraser.state_dict() for name, eraser in self.spaces.items()}
