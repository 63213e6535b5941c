"""A column of a comparison, batch by batch: what was detected in every picture, and small pictures of a few."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rece_lightning.devices.ranks import gathered
from rece_lightning.evaluation.drawing import Shot
from rece_lightning.metrics import ConceptDetector, names_seen
from rece_lightning.reporting.comparison import Column, Comparison
from rece_lightning.reporting.grid import PICTURES_A_CELL, rows_to_show
from rece_lightning.reporting.sheets import MOST, small


class ColumnParts:
    """Takes pictures as they are made and lets them go: memory does not grow with their number.

    Kept are the small pictures that the sheet (its first :data:`MOST`) and the grid show.

    Args:
        comparison: with the prompts.
        detector: that looks at every picture; none without it.
        shots: that will come at most, prompt by prompt; in whatever order they come, this is the column's.
    """

    def __init__(self, comparison: Comparison, detector: ConceptDetector | None, shots: Sequence[Shot]) -> None:
        self._comparison, self._detector = comparison, detector
        ordered = sorted(shots, key=lambda shot: shot[0])
        self._order = {shot: place for place, shot in reversed(list(enumerate(ordered)))}
        shown = set(rows_to_show(comparison))
        of_grid = [(row, [shot for shot in ordered if shot[0] == row][:PICTURES_A_CELL]) for row in shown]
        self._wanted = {*ordered[:MOST], *(shot for _, first in of_grid for shot in first)}
        self._shots: list[Shot] = []
        self._hits: list[bool] = []
        self._shown: list[str] = []
        self._tiles: dict[int, Tensor] = {}

    def add(self, pictures: Tensor, shots: Sequence[Shot]) -> None:
        """Take pictures ``[n, 3, h, w]`` in [0, 1] of some shots."""
        for index, shot in enumerate(shots):
            if shot in self._wanted:
                self._tiles[len(self._shots) + index] = small(pictures[index : index + 1])[0]
        if self._detector is not None:
            concepts = [self._comparison.prompts[row].concept for row, _ in shots]
            self._hits += self._detector.detect(pictures, concepts).tolist()
            self._shown += names_seen(self._detector, pictures, concepts) or []
        self._shots += shots

    def column(self, key: str, title: str, norm_ratio: float | None = None) -> Column | None:
        """All of it, of every process; ``None`` where no picture came. Every process must call it."""
        self._gather()
        order = sorted(range(len(self._shots)), key=lambda index: self._order[self._shots[index]])
        if not order:
            return None
        kept = [place for place, index in enumerate(order) if index in self._tiles]
        hits = [self._hits[index] for index in order] if self._detector is not None else None
        return Column(
            key=key,
            title=title,
            rows=tuple(self._shots[index][0] for index in order),
            seeds=tuple(self._shots[index][1] for index in order),
            pictures=torch.stack([self._tiles[order[place]] for place in kept]),
            hits=None if hits is None else torch.tensor(hits, dtype=torch.bool),
            norm_ratio=norm_ratio,
            # A detector names what it sees in every picture, or in none.
            shown=tuple(self._shown[index] for index in order) if self._shown else None,
            places=tuple(kept),
        )

    def _gather(self) -> None:
        """Put the parts of all processes together."""
        parts = gathered((self._shots, self._hits, self._shown, self._tiles))
        self._tiles, first = {}, 0
        for shots, _, _, tiles in parts:
            self._tiles |= {first + index: tile for index, tile in tiles.items()}
            first += len(shots)
        self._shots = [shot for shots, _, _, _ in parts for shot in shots]
        self._hits = [hit for _, hits, _, _ in parts for hit in hits]
        self._shown = [name for _, _, names, _ in parts for name in names]
