"""Erasure problems to try the core on: models, concepts, what is preserved, settings. And the core's epochs on them."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import (
    UCE,
    Derivation,
    Editor,
    EmbeddingMap,
    Eraser,
    Evidence,
    Gram,
    Method,
    Moments,
    RowPairs,
    TensorUCE,
)
from rece_lightning.core.embedding_map import AnyMap, apply_to_weight
from tests.helpers.plain import PlainPair

MOMENTS = ("erased", "cross", "target", "preserved")
ROWS = ("independent", "repeated", "common")
"""How embeddings lie: anywhere; several times the same (padding); a large part shared (as a text encoder's)."""
LAYERS = ("full", "low_rank", "scaled")
"""How projections look: any matrix; of rank 1; very different in size."""


@dataclass(frozen=True)
class Problem:
    """A model, what is erased from it and what is preserved, and the settings."""

    weights: list[Tensor]
    pairs: list[PlainPair]
    preserved: Tensor
    scales: UCE
    derivation_scale: float

    @property
    def width(self) -> int:
        return self.weights[0].shape[1]

    @property
    def gram(self) -> Gram:
        return Gram.of([(f"layer {i}", weight) for i, weight in enumerate(self.weights)], keep_layers=True)

    @property
    def preserving(self) -> Moments:
        return Moments.preserving(self.preserved)

    @property
    def first_prompts(self) -> list[Moments]:
        """Each prompt's moments for epoch 0."""
        return [Moments.of(pair.first_rows, pair.first_target_rows, pair.weight) for pair in self.pairs]

    @property
    def prompts(self) -> list[Moments]:
        """Each prompt's moments over all rows."""
        return [Moments.of(pair.rows, pair.target_rows, pair.weight) for pair in self.pairs]

    @property
    def first_moments(self) -> Moments:
        return sum(self.first_prompts, self.preserving)

    @property
    def moments(self) -> Moments:
        return sum(self.prompts, self.preserving)

    @property
    def evidence(self) -> Evidence:
        return Evidence(
            self.first_moments,
            self.moments,
            tuple(self.first_prompts),
            tuple(self.prompts),
            prompts=len(self.pairs),
        )

    @property
    def row_pairs(self) -> RowPairs:
        """All rows with their targets and weights."""
        return RowPairs(self.rows, self.target_rows, torch.tensor(self.row_weights, dtype=torch.float64))

    @property
    def rows(self) -> Tensor:
        """All concept rows, ``[n, d]``."""
        return torch.cat([pair.rows for pair in self.pairs])

    @property
    def target_rows(self) -> Tensor:
        return torch.cat([pair.target_rows for pair in self.pairs])

    @property
    def row_weights(self) -> list[float]:
        return [pair.weight for pair in self.pairs for _ in pair.rows]

    def with_pairs(self, pairs: list[PlainPair]) -> Problem:
        return replace(self, pairs=pairs)


def random_rows(count: int, width: int, kind: str, generator: torch.Generator) -> Tensor:
    rows = torch.randn(count, width, generator=generator, dtype=torch.float64)
    if kind == "repeated":
        rows = rows[torch.randint(0, max(count // 2, 1), (count,), generator=generator)] if count else rows
    if kind == "common":
        rows = rows + 3 * torch.linspace(-1, 1, width, dtype=torch.float64)
    return rows


def drawn_pairs(count: int, width: int, seed: int) -> RowPairs:
    """Random rows to erase, ``[count, width]``, with targets and weights between 0.5 and 1.5."""
    generator = torch.Generator().manual_seed(seed)
    concept, target = (torch.randn(count, width, generator=generator, dtype=torch.float64) for _ in range(2))
    return RowPairs(concept, target, 0.5 + torch.rand(count, generator=generator, dtype=torch.float64))


def drawn_preserved(width: int, seed: int = 9) -> Tensor:
    """``P`` of six random rows."""
    sample = torch.randn(6, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return sample.mT @ sample


def random_layer(out: int, width: int, kind: str, generator: torch.Generator) -> Tensor:
    weight = torch.randn(out, width, generator=generator, dtype=torch.float64) / width**0.5
    if kind == "low_rank":
        column, row = (torch.randn(size, generator=generator, dtype=torch.float64) for size in (out, width))
        return torch.outer(column, row) / width**0.5
    if kind == "scaled":
        return weight * float(torch.logspace(-2, 1, 8)[torch.randint(0, 8, (1,), generator=generator)])
    return weight


def random_problem(
    seed: int,
    *,
    width: int = 8,
    outs: tuple[int, ...] = (5, 8, 13),
    tokens: tuple[int, ...] = (3, 2),
    preserved: int = 4,
    rows: str = "independent",
    layers: tuple[str, ...] = ("full",),
    weights: tuple[float, ...] = (1.0, 2.5, 0.4),
    scales: UCE | None = None,
    derivation_scale: float = 0.1,
) -> Problem:
    """A problem of a given shape: ``tokens[i]`` rows of concept i, of which epoch 0 takes the last ones."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for index, count in enumerate(tokens):
        concept, target = (random_rows(count, width, rows, generator) for _ in range(2))
        first = count // 2
        # Aligned at the subject: epoch 0 pairs rows that differ in position, so not a slice of (rows, target_rows).
        pairs.append(
            PlainPair(concept[first:], target[: count - first], concept, target, weights[index % len(weights)])
        )
    return Problem(
        [random_layer(out, width, layers[i % len(layers)], generator) for i, out in enumerate(outs)],
        pairs,
        random_rows(preserved, width, rows, generator),
        scales or UCE(erase_scale=0.8, preserve_scale=0.3, lamb=0.2),
        derivation_scale,
    )


@st.composite
def erasure_problems(
    draw: st.DrawFn, *, width: int = 12, narrowest: int = 1, kinds: tuple[str, ...] = LAYERS
) -> Problem:
    """Models up to ``width`` wide, one to three concepts, fewer or more rows than that, perhaps none preserved."""
    return random_problem(
        draw(st.integers(0, 2**20)),
        width=draw(st.integers(2, width)),
        outs=tuple(draw(st.lists(st.integers(narrowest, 16), min_size=1, max_size=4))),
        tokens=tuple(draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))),
        preserved=draw(st.sampled_from([0, 0, 1, 5, 20])),
        rows=draw(st.sampled_from(ROWS)),
        layers=tuple(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3))),
        weights=tuple(draw(st.lists(st.sampled_from([0.3, 1.0, 2.0, 5.0]), min_size=1, max_size=3))),
        scales=UCE(
            erase_scale=draw(st.sampled_from([0.5, 1.0, 3.0])),
            preserve_scale=draw(st.sampled_from([0.0, 0.1, 1.0])),
            lamb=draw(st.sampled_from([0.1, 0.5, 2.0])),
        ),
        derivation_scale=draw(st.sampled_from([0.05, 0.1, 1.0])),
    )


def tensor_problems() -> st.SearchStrategy[Problem]:
    """Problems that :class:`TensorUCE` keeps its digits on.

    Where a layer has one output direction, the target loses all of itself: ``W (X − α S)`` is then a difference of
    equal numbers that are as large as ``α``, and α has no bound.
    """
    return erasure_problems(narrowest=3, kinds=("full", "scaled"))


def method_of(
    problem: Problem,
    *,
    regularizer: str = "norm",
    surrogate_items: str = "both",
    technique: str = "replace",
    editor: Editor | None = None,
    **settings: Any,
) -> Method:
    """A problem's method: UCE with its scales, or ``tensor`` as the oracle calls it, unless an editor is given."""
    editor = editor or (TensorUCE(*astuple(problem.scales)) if technique == "tensor" else problem.scales)
    derivation = Derivation(problem.derivation_scale, regularizer, surrogate_items)
    return Method(editor=editor, derivation=derivation, **settings)


def core_maps(problem: Problem, epochs: int, **settings: Any) -> AnyMap:
    """The core's epochs, as a run takes them: edit, derive, edit, …; ``epochs`` edits in all.

    Settings are those of :func:`method_of`.
    """
    return Eraser(method_of(problem, **settings), problem.evidence, problem.gram).run(epochs).maps


def projected_map(problem: Problem, editor: Editor, epochs: int = 1, *, accumulate: bool = False) -> EmbeddingMap:
    """The one map of an editor such as the projection."""
    found = Eraser(Method(editor=editor, accumulate=accumulate), problem.evidence, problem.gram).run(epochs).maps
    assert isinstance(found, EmbeddingMap)
    return found


def core_weights(problem: Problem, maps: AnyMap) -> list[Tensor]:
    """Every layer's weight under the maps."""
    return [apply_to_weight(weight, maps.of_layer(layer)) for layer, weight in enumerate(problem.weights)]


def edited_maps(problem: Problem) -> list[AnyMap]:
    """The map of the unedited model, of UCE, of one RECE epoch, and one a layer."""
    return [
        EmbeddingMap.identity(problem.width),
        core_maps(problem, 1),
        core_maps(problem, 2),
        core_maps(problem, 2, technique="tensor"),
    ]


def relative(found: Tensor, expected: Tensor) -> float:
    """``‖found − expected‖ / ‖expected‖`` (Frobenius)."""
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))


def assert_same_moments(found: Moments, expected: Moments) -> None:
    for field in MOMENTS:
        one, other = getattr(found, field), getattr(expected, field)
        assert torch.linalg.norm(one - other) <= 1e-12 * torch.linalg.norm(other), field
