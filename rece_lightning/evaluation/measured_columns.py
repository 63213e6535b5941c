"""The columns of ``validate`` and ``test``: the model as it is, and the original beside it where a metric needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from rece_lightning.evaluation.collecting import ColumnParts
from rece_lightning.evaluation.drawing import Shot
from rece_lightning.evaluation.quality import Quality
from rece_lightning.metrics import ConceptDetector
from rece_lightning.prompts import EvaluationPrompt
from rece_lightning.reporting.comparison import LAST, ORIGINAL, TITLES, Comparison

Maker = Callable[[Sequence[EvaluationPrompt], Sequence[int]], Tensor]
"""Draws prompts with their seeds, ``[n, 3, h, w]`` in [0, 1]."""


class MeasuredColumns:
    """Takes what a module's ``validation_step`` gives, measures it and lets it go.

    Args:
        comparison: that the columns go into.
        detector: that looks at every picture; none without it.
        quality: the metrics.
        shots: that will come, at most.
        original: draws with the original model; where it is given, the original is a column too.
    """

    def __init__(
        self,
        comparison: Comparison,
        detector: ConceptDetector | None,
        quality: Quality,
        shots: Sequence[Shot],
        original: Maker | None,
    ) -> None:
        self.comparison, self.quality = comparison, quality
        keys = [LAST] if original is None else [ORIGINAL, LAST]
        self._make_original = original
        self._parts = {key: ColumnParts(comparison, detector, shots) for key in keys}
        compared = {ORIGINAL: quality.paired, LAST: quality.paired or original is not None}
        self._measured = {key: quality.column(key, compared=compared[key]) for key in keys}
        # Of rows that are alike the first.
        self._rows = {(name_of(comparison.prompts[row]), seed): row for row, seed in reversed(shots)}

    def take(self, made: Mapping[str, Any]) -> None:
        """Take a batch: ``prompts`` (mappings), ``seeds``, ``pictures`` ``[n, 3, h, w]`` in [0, 1]."""
        if not len(made["prompts"]):  # one process of several may have nothing to do
            return
        prompts = [EvaluationPrompt(**row) for row in made["prompts"]]
        seeds = [int(seed) for seed in made["seeds"]]
        shots = [(self._rows[name_of(prompt), seed], seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        kept = self.quality.references_of(shots)
        if self._make_original is not None:
            pictures = self._make_original(prompts, seeds)
            self._add(ORIGINAL, pictures, shots, kept)
            kept = kept or self.quality.kept_of(pictures)
        self._add(LAST, made["pictures"], shots, kept)

    def _add(self, key: str, pictures: Tensor, shots: list[Shot], kept: Sequence[Tensor | None] | None) -> None:
        self._measured[key].add(pictures, shots, kept)
        self._parts[key].add(pictures, shots)

    def finish(self, title: str) -> None:
        """Put the columns into the comparison, in place of what it holds. Every process must call it.

        Args:
            title: of the model's column.
        """
        titles = {**TITLES, LAST: title}
        columns = [parts.column(key, titles[key]) for key, parts in self._parts.items()]
        self.comparison.columns = {column.key: column for column in columns if column is not None}
        self.comparison.quality = [line for measured in self._measured.values() for line in measured.lines()]


def name_of(prompt: EvaluationPrompt) -> tuple[str, str, str]:
    """What tells a prompt's rows from those of others."""
    return prompt.prompt, prompt.concept, prompt.kind


def unmeasured(names: Sequence[str], *, existing: bool) -> str:
    """Why some metrics have nothing to compare with, and what to give.

    Args:
        names: of the metrics.
        existing: whether pictures that exist are measured; otherwise a model without an edit is.
    """
    why = "--images opens no model" if existing else "nothing was edited, so the model is the original itself"
    return (
        f"Evaluation.metrics: not measured: {', '.join(names)}: there are no pictures of the original model ({why}). "
        "Give references: FOLDER, what `rece predict` made with the original of the same prompts and seeds."
    )
