"""Pictures of a setting: drawn and counted once, kept in the sweep's ``evaluation.csv`` and sheets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.evaluation.results.comparison import Column, Comparison
from rece_lightning.evaluation.results.counts import Count, by_column, counts_of, read_counts, write_counts
from rece_lightning.evaluation.results.sheets import save_sheet, sheet_path
from rece_lightning.metrics import detected, names_seen
from rece_lightning.sweep.grid import Setting
from rece_lightning.sweep.parts import Measure
from rece_lightning.sweep.ranking import Ranking


class Measuring:
    """Measures settings with pictures, one at a time; what is in the folder is not measured again.

    Args:
        folder: of the sweep.
        ranking: that runs the epochs.
        measure: prompts, detector, sampling, seeds, and what draws.
    """

    def __init__(self, folder: Path, ranking: Ranking, measure: Measure) -> None:
        self.folder = folder
        self._ranking, self._measure = ranking, measure
        self._shots: list[tuple[int, EvaluationPrompt, int]] = [
            (row, prompt, seed)
            for row, prompt in enumerate(measure.comparison.prompts)
            for seed in ([prompt.seed] if prompt.seed is not None else measure.seeds)
        ]
        path = folder / "evaluation.csv"
        self.counts: list[Count] = read_counts(path) if path.exists() else []

    def __len__(self) -> int:
        """Pictures of a setting."""
        return len(self._shots)

    @property
    def columns(self) -> dict[str, list[Count]]:
        """``original`` and ``setting-N`` → counts."""
        return by_column(self.counts)

    def measure(self, column: str, setting: Setting | None, on_batch: Callable[[int], None] | None = None) -> None:
        """Draw and count a setting; ``None`` is the unedited model.

        Raises:
            BaseModelError: if the pipeline cannot be loaded.
        """
        maker = self._measure.pictures()
        comparison = replace(self._measure.comparison, columns={})
        if self._measure.floors is not None:
            self._measure_floors(comparison, maker)
        maker.use(None if setting is None else self._ranking.erasure(setting).weights())
        prompts = [prompt for _, prompt, _ in self._shots]
        seeds = tuple(seed for _, _, seed in self._shots)
        sampling = self._measure.sampling.unguarded if setting is None else self._measure.sampling
        pictures = maker.make(prompts, list(seeds), sampling, on_batch=on_batch)
        concepts = [prompt.concept for prompt in prompts]
        comparison.columns[column] = Column(
            key=column,
            title=column,
            rows=tuple(row for row, _, _ in self._shots),
            seeds=seeds,
            pictures=pictures,
            hits=detected(self._measure.detector, pictures, concepts),
            shown=names_seen(self._measure.detector, pictures, concepts),
        )
        # The counts come last: where they are, the sheet is.
        save_sheet(pictures, sheet_path(self.folder / "images", column))
        self.counts += counts_of(comparison)
        write_counts(self.counts, self.folder / "evaluation.csv")

    def _measure_floors(self, comparison: Comparison, maker: PictureMaker) -> None:
        """Of what an earlier part of the sweep measured the counts know; the rest is drawn once."""
        known = {count.shot: count.floor for count in self.counts if count.floor is not None}
        shots = [(row, seed) for row, _, seed in self._shots]
        of_shot = {(row, seed): comparison.shot(row, seed) for row, seed in shots}
        if known and all(shot in known for at, shot in of_shot.items() if comparison.floor_prompts[at[0]] is not None):
            comparison.floors = {at: known[shot] for at, shot in of_shot.items() if shot in known}
            return
        assert self._measure.floors is not None
        maker.use(None)
        sampling = self._measure.sampling
        self._measure.floors.measure(
            comparison,
            self._measure.detector,
            shots,
            lambda rows, seeds: maker.make(rows, seeds, sampling),
            sampling,
            "",
        )


def column_of(number: int) -> str:
    """Of a setting in the sweep's counts."""
    return f"setting-{number}"
