"""An erasure as what is exported of it: the base model, what was edited, and the map that edits it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.gram import Gram
from rece_lightning.models.base import BaseModel


@dataclass(frozen=True)
class Erasure:
    """A finished erasure. It knows no trainer and no data: the same for a run, a checkpoint or a live pipeline."""

    base: BaseModel
    names: tuple[str, ...]
    """Diffusers names of the projections that are edited, in the order of the maps."""
    maps: AnyMap
    gram: Gram
    """Of the original projections under ``names``."""
    description: dict[str, Any]
    """Base, fingerprint, concepts, settings, epochs and version, as ``RECE.description`` gives them."""
    run: Path | None = None
    """The run's folder, where its measurements lie."""

    def original(self) -> Iterator[tuple[str, Tensor]]:
        """The projections before the edit: ``(name, [o, d])`` in the stored dtype, one at a time."""
        yield from self.base.read_projections(list(self.names))

    def edited(self) -> Iterator[tuple[str, Tensor]]:
        """The projections after the edit: ``(name, [o, d])`` in the base model's dtype, on the CPU, one at a time."""
        for layer, (name, weight) in enumerate(self.original()):
            yield name, self.maps.applied_to(weight, layer).cpu()

    @property
    def complete(self) -> bool:
        """Whether every text-reading projection is edited: only then does a map on the embeddings do the same."""
        return set(self.names) == set(self.base.projections)

    @property
    def concepts(self) -> list[str]:
        """The prompts that were erased."""
        return [row["prompt"] for row in self.description["concepts"].get("erased", [])]
