"""What is drawn where a concept was asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rece_lightning.evaluation.results.comparison import ORIGINAL, Comparison
from rece_lightning.metrics.intervals import Share

MOST = 4


@dataclass(frozen=True)
class Drawn:
    """What a state's pictures of one concept show, the most frequent first."""

    names: tuple[tuple[str, int], ...]
    others: int
    total: int

    def __str__(self) -> str:
        parts = [f"{name} {count}" for name, count in self.names]
        return ", ".join([*parts, f"others {self.others}"] if self.others else parts)


@dataclass(frozen=True)
class ConceptRow:
    """One concept before and after."""

    concept: str
    role: str
    """``erased`` (synonyms included) or ``kept``."""
    before: Share
    after: Share
    drawn_before: Drawn | None
    drawn_after: Drawn | None


def concept_rows(comparison: Comparison) -> list[ConceptRow]:
    """Every concept with its detections, and what was drawn in its place where the detector can say."""
    rows = []
    for kind, role, roles in (("erased", "erased", ("erased", "synonym")), ("preserved", "kept", ("kept",))):
        for concept in dict.fromkeys(prompt.concept for prompt in comparison.prompts if prompt.kind == kind):
            rows.append(
                ConceptRow(
                    concept,
                    role,
                    comparison.share(ORIGINAL, roles, concept),
                    comparison.share(comparison.last, roles, concept),
                    _drawn(comparison, ORIGINAL, roles, concept),
                    _drawn(comparison, comparison.last, roles, concept),
                )
            )
    return [row for row in rows if row.before.total or row.after.total]


def _drawn(comparison: Comparison, key: str, roles: tuple[str, ...], concept: str) -> Drawn | None:
    column = comparison.columns.get(key)
    if column is None or column.shown is None:
        return None
    counts = Counter(
        name
        for row, name in zip(column.rows, column.shown, strict=True)
        if comparison.role(row) in roles and comparison.prompts[row].concept == concept
    )
    first = tuple(counts.most_common(MOST))
    return Drawn(first, counts.total() - sum(count for _, count in first), counts.total())
