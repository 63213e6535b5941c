"""A column of a comparison, batch by batch: what was detected in every picture, and small pictures of a few."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.distributed import gathered
from rece_lightning.evaluation.derived import Derived
from rece_lightning.evaluation.drawing import Shot, in_batches, own_share, shots_of
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.evaluation.quality import ColumnQuality, Quality
from rece_lightning.evaluation.results.apart import apart_lines
from rece_lightning.evaluation.results.comparison import LAST, ORIGINAL, TITLES, Column, Comparison
from rece_lightning.evaluation.results.costs import UNCHANGED, StateCost
from rece_lightning.evaluation.results.grid import PICTURES_A_CELL, rows_to_show
from rece_lightning.evaluation.results.sheets import MOST, small
from rece_lightning.metrics import ConceptDetector, detected, names_seen
from rece_lightning.models.sampling import Sampling


class Timed:
    """Seconds of pictures that are drawn batch by batch."""

    def __init__(self) -> None:
        self._seconds, self._pictures = 0.0, 0

    def add(self, seconds: float, pictures: int) -> None:
        """Count a batch."""
        self._seconds, self._pictures = self._seconds + seconds, self._pictures + pictures

    @contextmanager
    def drawing(self, pictures: int) -> Iterator[None]:
        """Count what is drawn within the block."""
        started = time.perf_counter()
        yield
        self.add(time.perf_counter() - started, pictures)

    @property
    def each(self) -> float | None:
        """Seconds a picture; ``None`` where none was drawn."""
        return self._seconds / self._pictures if self._pictures else None


class ColumnParts:
    """Takes pictures as they are made and lets them go: memory does not grow with their number.

    Kept are the small pictures that the sheet (its first :data:`MOST`) and the grid show. ``shots`` will come at most,
    prompt by prompt: in whatever order they come, this is the column's.
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
            self._hits += detected(self._detector, pictures, concepts).tolist()
            self._shown += names_seen(self._detector, pictures, concepts) or []
        self._shots += shots

    def column(self, key: str, title: str, norm_ratio: float | None = None) -> Column | None:
        """All of it, of every process; ``None`` where no picture came. Every process must call it."""
        parts = gathered((self._shots, self._hits, self._shown, self._tiles))
        self._tiles, first = {}, 0
        for shots, _, _, tiles in parts:
            self._tiles |= {first + index: tile for index, tile in tiles.items()}
            first += len(shots)
        self._shots = [shot for shots, _, _, _ in parts for shot in shots]
        self._hits = [hit for _, hits, _, _ in parts for hit in hits]
        self._shown = [name for _, _, names, _ in parts for name in names]
        order = sorted(range(len(self._shots)), key=lambda index: self._order[self._shots[index]])
        if not order:
            return None
        kept = [place for place, index in enumerate(order) if index in self._tiles]
        hits = None
        if self._detector is not None:
            hits = torch.tensor([self._hits[index] for index in order], dtype=torch.bool)
        return Column(
            key=key,
            title=title,
            rows=tuple(self._shots[index][0] for index in order),
            seeds=tuple(self._shots[index][1] for index in order),
            pictures=torch.stack([self._tiles[order[place]] for place in kept]),
            hits=hits,
            norm_ratio=norm_ratio,
            # A detector names what it sees in every picture, or in none.
            shown=tuple(self._shown[index] for index in order) if self._shown else None,
            places=tuple(kept),
        )


class FitColumns:
    """Draws and measures columns; of the original's pictures it keeps what the metrics compare others with.

    ``seeds`` are for prompts that bring none of their own.
    """

    def __init__(
        self,
        comparison: Comparison,
        detector: ConceptDetector | None,
        quality: Quality,
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> None:
        self.comparison, self.detector, self.quality = comparison, detector, quality
        self.seeds, self.sampling = seeds, sampling
        self._original: dict[Shot, list[Tensor | None]] = {}

    def shots(self, *, attacked: bool) -> list[Shot]:
        """This process's shots of a column; derived embeddings are given for erased concepts alone."""
        prompts = self.comparison.prompts
        shots = own_share(shots_of(prompts, self.seeds), self.sampling.batch_size)
        return [shot for shot in shots if not attacked or prompts[shot[0]].kind == "erased"]

    def add(
        self,
        pictures: PictureMaker,
        key: str,
        title: str,
        weights: Iterable[tuple[str, Tensor]] | None,
        on_batch: Callable[[int], None],
        derived: Derived | None = None,
    ) -> None:
        """Draw a column, measure it, put it into the comparison.

        ``weights`` are the edited ones of the model state, ``None`` the original. ``on_batch`` is called with the
        number of pictures after every batch. ``derived`` gives embeddings that were derived to bring the concepts back.
        """
        shots = self.shots(attacked=derived is not None)
        parts = ColumnParts(self.comparison, self.detector, shots_of(self.comparison.prompts, self.seeds))
        measured = ColumnQuality(self.quality, key, compared=key != ORIGINAL or self.quality.paired)
        pictures.use(weights)
        # What others are compared with is the original as it is.
        sampling = self.sampling.unguarded if key == ORIGINAL else self.sampling
        watch = Timed()
        for batch in in_batches(shots, self.comparison.prompts, self.sampling):
            prompts, seeds = [self.comparison.prompts[row] for row, _ in batch], [seed for _, seed in batch]
            with watch.drawing(len(batch)):
                drawn = pictures.make(prompts, seeds, sampling, derive=derived)
            measured.add(drawn, batch, self._reference(key, drawn, batch))
            parts.add(drawn, batch)
            on_batch(len(batch))
        column = parts.column(key, title, derived.norm_ratio() if derived else None)
        if column is not None:
            self.comparison.columns[key] = column
            self.comparison.costs[key] = StateCost(picture_seconds=watch.each)
        others = [line for line in self.comparison.quality if line.column != key]
        self.comparison.quality = others + measured.lines() + apart_lines(self.comparison, key)

    def _reference(self, key: str, pictures: Tensor, batch: list[Shot]) -> list[Tensor | None] | None:
        """What a batch is compared with: the folder's pictures, or the original's, which is compared with nothing."""
        if self.quality.paired:
            return self.quality.references_of(batch)
        if key == ORIGINAL:
            whole = self.quality.kept_of(pictures)
            for index, shot in enumerate(batch):
                self._original[shot] = [None if kept is None else kept[index].clone() for kept in whole]
            return None
        return self.quality.stacked([self._original[shot] for shot in batch])


class MeasuredColumns:
    """Takes what a module's ``validation_step`` gives, measures it and lets it go.

    ``shots`` will come at most. ``original`` draws prompts with seeds with the original model, ``[n, 3, h, w]`` in
    [0, 1]; where it is given, the original is a column too.
    """

    def __init__(
        self,
        comparison: Comparison,
        detector: ConceptDetector | None,
        quality: Quality,
        shots: Sequence[Shot],
        original: Callable[[Sequence[EvaluationPrompt], Sequence[int]], Tensor] | None,
    ) -> None:
        self.comparison, self.quality = comparison, quality
        keys = [LAST] if original is None else [ORIGINAL, LAST]
        self._make_original, self._timed = original, {key: Timed() for key in keys}
        self._parts = {key: ColumnParts(comparison, detector, shots) for key in keys}
        compared = {ORIGINAL: quality.paired, LAST: quality.paired or original is not None}
        self._measured = {key: ColumnQuality(quality, key, compared=compared[key]) for key in keys}
        # Of rows that are alike the first.
        self._rows = {(_name_of(comparison.prompts[row]), seed): row for row, seed in reversed(shots)}

    def take(self, made: Mapping[str, Any]) -> None:
        """Take a batch: ``prompts`` (mappings), ``seeds``, ``pictures`` ``[n, 3, h, w]`` in [0, 1]."""
        if not len(made["prompts"]):  # one process of several may have nothing to do
            return
        prompts = [EvaluationPrompt(**row) for row in made["prompts"]]
        seeds = [int(seed) for seed in made["seeds"]]
        shots = [(self._rows[_name_of(prompt), seed], seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        kept = self.quality.references_of(shots)
        if self._make_original is not None:
            with self._timed[ORIGINAL].drawing(len(prompts)):
                pictures = self._make_original(prompts, seeds)
            self._add(ORIGINAL, pictures, shots, kept)
            kept = kept or self.quality.kept_of(pictures)
        self._add(LAST, made["pictures"], shots, kept)
        if "seconds" in made:
            self._timed[LAST].add(made["seconds"], len(prompts))

    def _add(self, key: str, pictures: Tensor, shots: list[Shot], kept: Sequence[Tensor | None] | None) -> None:
        self._measured[key].add(pictures, shots, kept)
        self._parts[key].add(pictures, shots)

    def finish(self, title: str, cost: StateCost = UNCHANGED) -> None:
        """Put the columns, the model's under ``title``, in place of the comparison's. Every process must call it.

        ``cost`` is the model's, its pictures apart.
        """
        titles = {**TITLES, LAST: title}
        columns = [parts.column(key, titles[key]) for key, parts in self._parts.items()]
        self.comparison.columns = {column.key: column for column in columns if column is not None}
        known = {ORIGINAL: replace(UNCHANGED, device=cost.device), LAST: cost}
        self.comparison.costs = {key: replace(known[key], picture_seconds=self._timed[key].each) for key in self._parts}
        self.comparison.quality = [
            line
            for key, measured in self._measured.items()
            for line in (*measured.lines(), *apart_lines(self.comparison, key))
        ]


def _name_of(prompt: EvaluationPrompt) -> tuple[str, str, str, str]:
    """What tells a prompt's rows from those of others: "una bomba" is Spanish and Italian."""
    return prompt.prompt, prompt.concept, prompt.kind, prompt.group


def unmeasured(names: Sequence[str], *, existing: bool) -> str:
    """Why metrics have nothing to compare with, and what to give; of ``existing`` pictures no model is known."""
    why = "--images opens no model" if existing else "nothing was edited, so the model is the original itself"
    return (
        f"Evaluation.metrics: not measured: {', '.join(names)}: there are no pictures of the original model ({why}). "
        "Give references: FOLDER, what `rece predict` made with the original of the same prompts and seeds."
    )
