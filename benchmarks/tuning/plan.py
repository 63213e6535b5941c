"""What the rule was chosen on and what it is judged on: edits, and figures of them without a picture."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from benchmarks.harness import Settings, World, method_of
from benchmarks.results.plan import objects
from benchmarks.robust import plan as robust
from rece_lightning import ConceptData, Method
from rece_lightning.core.diagnostics import (
    mapped_residual,
    preservation_drift,
    regeneration_residual,
    remaining_answer,
)
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import solve_positive_definite
from rece_lightning.core.moments import Moments
from rece_lightning.core.reaching import Reaching
from rece_lightning.core.robust import WITHIN
from rece_lightning.core.tuning import regained
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.erasure.erasers import SpaceErasers
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.text_space import TEXT, edited_spaces
from rece_lightning.models.vocabulary import vocabulary_words
from rece_lightning.sweep.grid import Setting
from rece_lightning.sweep.ranking import Ranking
from rece_lightning.vocabulary.rows import subject_rows, vocabulary_rows

OBJECTS = tuple(one.name for one in objects())
CHOSEN_ON, JUDGED_ON = OBJECTS[::2], OBJECTS[1::2]
"""Every second one, from the first on: the rule was chosen on these, and is judged on the others."""
UNASKED = (
    "bomb", "axe", "parachute", "rose", "camera", "lemon", "anchor", "trophy", "volcano", "turtle", "violin", "hammer",
    "mushroom",
)  # fmt: skip
"""Erased by one line without settings."""
WIDE = ("bomb", "axe", "kitchen knife")
"""Of the half that the rule was chosen on."""
MMDIT = ("bomb", "rocket", "monkey")
KAPPA = 0.3
"""Of the discriminant, beside the preserved scatter."""
PLAIN = {"editor.preserve_scale": 0.1, "editor.lamb": 0.1}
OTHERS: dict[str, tuple[Settings, int]] = {
    "UCE, published scales": (PLAIN, 1),
    "RECE, published": ({**PLAIN, "derivation.scale": 0.1}, 4),
}
"""Beside the front of the grid."""
FIGURES = (
    "remaining",
    "remaining_values",
    "distance_values",
    "discriminant",
    "nearest",
    "nearest_values",
    "words_values",
    "regained",
    "drift",
)


@dataclass(frozen=True)
class Figures:
    """Of an edit, without a picture. All but ``drift`` and the first are of one concept."""

    remaining: float
    """Over keys and values, edited or not: what a sweep ranked by before."""
    remaining_values: float
    distance_values: float
    """``Σ‖W M c − W c*‖²/Σ‖W c − W c*‖²`` of values."""
    discriminant: float
    """What remains along the direction that tells concept and target apart best beside the preserved scatter."""
    nearest: float
    """How near the nearest word of the vocabulary comes to the concept's original keys and values, after the edit."""
    nearest_values: float
    words_values: float
    """The mean of that over the words that meant the concept before the edit, of values."""
    regained: float
    drift: float


class Looking:
    """Figures of edits on a world, with what several of them need made once.

    Args:
        world: with its text encoder.
    """

    def __init__(self, world: World) -> None:
        self.loaded = world.loaded
        self._rankings: dict[str, tuple[Ranking, str]] = {}

    @cached_property
    def values(self) -> Gram:
        """``G`` of the value projections."""
        return self.loaded.gram(edited_spaces(self.loaded.base.spaces, Method(projections="v"))[0])

    @cached_property
    def words(self) -> torch.Tensor:
        """Rows of all words of the vocabulary."""
        encoder = self.loaded.encoder
        return vocabulary_rows(encoder, lambda: "", vocabulary_words(encoder.tokenizer))

    def ranking(self, data: Mapping[str, Any]) -> tuple[Ranking, str]:
        """Of what a ``ConceptData`` asks for; drift is measured on every second object that nobody named."""
        key = repr(sorted(data.items(), key=str))
        if key not in self._rankings:
            given = {name: value for name, value in data.items() if name != "validation"}
            asked = ConceptData(**given)
            taken = {*asked.preserved, *(pair.prompt for pair in asked.pairs)}
            held_out = [item.name for item in load_catalog().trained if item.name not in taken][::2]
            target = str(data.get("target", " "))
            ranking = Ranking(self.loaded, {target: list(asked.pairs)}, asked.preserved, held_out)
            self._rankings[key] = ranking, target
        return self._rankings[key]

    def erasers(
        self, settings: Settings, epochs: int, data: Mapping[str, Any]
    ) -> tuple[Setting, SpaceErasers, Ranking]:
        """The edit."""
        ranking, target = self.ranking(data)
        setting = Setting(method_of(settings), epochs, target)
        return setting, ranking.erasers(setting).run(epochs), ranking

    def at(self, settings: Settings, epochs: int, data: Mapping[str, Any], concept: str) -> Figures:
        """Figures of an edit that is run here."""
        setting, erasers, ranking = self.erasers(settings, epochs, data)
        evidence = ranking.evidence(setting)[TEXT]
        assert evidence.held_out is not None
        attacked = ranking.attacked(setting, erasers)
        values = ranking.answering(setting, erasers)
        share = ranking.figures(setting, erasers).regained
        return self.figures(attacked, values, evidence.whole, evidence.held_out, concept, setting.target, share)

    def drawn(self, session: ErasureSession, method: Method, epochs: int, concept: str) -> Figures:
        """Figures of an edit of all readers on a session's own prompts."""
        eraser = SpaceErasers(method, session.statistics.evidence(), session.grams).run(epochs).first
        whole, gram, maps = eraser.evidence.whole, eraser.gram, eraser.maps
        assert eraser.evidence.held_out is not None
        identity = EmbeddingMap.identity(gram.width)
        residuals = [regeneration_residual(gram, one, whole.erased) for one in (maps, identity)]
        share = regained(*residuals, mapped_residual(gram, whole))
        both, values = (gram, maps), (self.values, maps)
        return self.figures(both, values, whole, eraser.evidence.held_out, concept, " ", share)

    @torch.no_grad()
    def figures(
        self,
        attacked: tuple[Gram, AnyMap],
        values: tuple[Gram, AnyMap],
        whole: Moments,
        held_out: torch.Tensor,
        concept: str,
        target: str,
        share: float,
    ) -> Figures:
        """Figures of an edit.

        Args:
            attacked: ``G`` and ``M`` of all readers.
            values: of the values alone.
            whole: moments of the concept.
            held_out: ``P_h``.
            concept: that is looked at.
            target: of it.
            share: that the derived embedding regains.
        """
        gram, maps = values
        edited, cross = maps.grams(gram)
        size = _trace(gram.total, whole.erased - whole.cross - whole.cross.mT + whole.target)
        distance = _trace(edited, whole.erased) - 2 * _trace(cross, whole.cross) + _trace(gram.total, whole.target)
        near = [self._near(*pair, concept, target) for pair in (attacked, values)]
        return Figures(
            remaining=remaining_answer(*attacked, whole),
            remaining_values=remaining_answer(gram, maps, whole),
            distance_values=distance / size,
            discriminant=_discriminant(gram, maps, whole),
            nearest=near[0][0],
            nearest_values=near[1][0],
            words_values=near[1][1],
            regained=share,
            drift=preservation_drift(*attacked, held_out),
        )

    def _near(self, gram: Gram, maps: AnyMap, concept: str, target: str) -> tuple[float, float]:
        rows = subject_rows(self.loaded.encoder, [concept, target])
        before, after, _ = Reaching.of(gram, maps, rows[:1], rows[1:]).measure(self.words)
        means = before[:, 0] < WITHIN
        return float(after[:, 0].min()), float(after[means, 0].mean() if bool(means.any()) else after[:, 0].min())


def _trace(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left * right.mT).sum())


def _discriminant(gram: Gram, maps: AnyMap, whole: Moments) -> float:
    """``Σ vᵀ(M c − c*)/Σ vᵀ(c − c*)`` with ``v = (P/tr P + κ G⁻¹/tr G⁻¹)⁻¹ (c − c*)``; of one map alone."""
    if not isinstance(maps, EmbeddingMap):
        return float("nan")
    inverse = torch.linalg.pinv(gram.total, hermitian=True)
    system = whole.preserved / whole.preserved.trace() + KAPPA * inverse / inverse.trace()
    left = maps.matrix @ (whole.erased - whole.cross.mT) - whole.cross + whole.target
    plain = whole.erased - whole.cross - whole.cross.mT + whole.target
    answered, size = (solve_positive_definite(system, one, what="scatter").trace() for one in (left, plain))
    return float(answered / size)


def kept_names(concept: str, count: int) -> list[str]:
    """Objects that stay, in an order that nobody chose."""
    names = [item.name for item in load_catalog().trained if item.name not in {*OBJECTS, concept}]
    return sorted(names, key=lambda name: hashlib.sha256((concept + name).encode()).hexdigest())[:count]


def wide() -> Iterator[tuple[Settings, int]]:
    """The grid that the rule was chosen on: wider than the one that tuning lays out."""
    for preserve_scale in (0.01, 0.1, 1.0, 10.0):
        yield {"editor.preserve_scale": preserve_scale}, 1
    for preserve_scale, scale, accumulate, epochs in itertools.product(
        (0.1, 1.0, 10.0), (1e-3, 0.1), (False, True), (2, 4)
    ):
        loop = {"derivation.scale": scale, "accumulate": accumulate}
        yield {"editor.preserve_scale": preserve_scale, **loop}, epochs


def synonyms_of(concept: str) -> list[str]:
    """The catalog's."""
    return next((list(item.synonyms) for item in load_catalog().objects if item.name == concept), [])


def robust_cases() -> Iterator[tuple[robust.Case, str]]:
    """The edits of ``robust.csv`` that are settings alone, each with its concepts."""
    for case in [*robust.frontier(), *robust.choices(), *robust.ablation()]:
        if case.robust or case.between_epochs or case.uses_found or "layers" in case.settings:
            continue
        for concept in ("bomb", "axe", "church"):
            yield case, concept
