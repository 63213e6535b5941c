"""What is drawn of a state: prompts with seeds, floors, and derived embeddings of several norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import digest, former
from benchmarks.results.plan import ERASED, HELD, REFERENCE, SAMPLING, SYNONYMS, Erasure, Key, State
from rece_lightning import ConceptData
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.evaluation.floor_prompts import floors_of

FLOOR, DERIVED = "floor", "derived"
RIDGES = (1e-6, 1e-4, 1e-2, 1e-1, 1.0)
"""Of the derived embedding, as shares of ``tr(G)/d`` of each space: the strongest of them stands for any norm."""
IN_CONTEXT = 3
"""Prompts of which a style's or a background's embedding is derived."""
OF_A_NAME, OF_A_PROMPT = 3, 2
"""Pictures of a derived embedding: of an object's name, and of each prompt in context."""


@dataclass(frozen=True)
class Group:
    """Prompts that are drawn with each of some seeds."""

    prompts: tuple[EvaluationPrompt, ...]
    seeds: tuple[int, ...]
    ridge: float | None = None
    """Of the embedding that is derived of each prompt; ``None``: the prompt's own is given."""

    @property
    def shots(self) -> list[tuple[EvaluationPrompt, int]]:
        """Every prompt with every seed."""
        return [(row, seed) for row in self.prompts for seed in self.seeds]


def derived(ridge: float) -> str:
    """The group of embeddings with this ridge."""
    return f"{DERIVED} {ridge:g}"


def floor_prompts(erasure: Erasure, rows: Sequence[EvaluationPrompt]) -> tuple[EvaluationPrompt, ...]:
    """Erased prompts without what is erased, as an evaluation finds them from concepts and targets.

    Args:
        erasure: whose concepts and targets say what to ask for instead.
        rows: erased prompts.
    """
    data = ConceptData(**{name: value for name, value in erasure.data.items() if name != "validation"})
    found = floors_of(rows, data)
    return tuple(EvaluationPrompt(text or " ", row.concept) for text, row in zip(found, rows, strict=True))


def derived_groups(erasure: Erasure, name_seeds: Sequence[int], prompt_seeds: Sequence[int]) -> dict[str, Group]:
    """Derived embeddings of an object's name, or of a few prompts in context; a group a ridge."""
    own = erasure.groups[ERASED]
    alone = erasure.kind == "objects"
    asked, seeds = (own, name_seeds) if alone else (own[:IN_CONTEXT], prompt_seeds)
    return {derived(ridge): Group(asked, tuple(seeds), ridge) for ridge in RIDGES}


def groups(erasure: Erasure, state: State, seeds: Sequence[int]) -> dict[str, Group]:
    """What is drawn of a state. The original is asked for the floor too, an edited one for derived embeddings."""
    names = (ERASED, SYNONYMS, HELD)
    found = {name: Group(erasure.groups[name], tuple(seeds)) for name in names if erasure.groups[name]}
    if state.is_original:
        unwanted = (*erasure.groups[ERASED], *erasure.groups[SYNONYMS])
        return {**found, FLOOR: Group(floor_prompts(erasure, unwanted), tuple(seeds))}
    return {**found, **derived_groups(erasure, seeds[:OF_A_NAME], seeds[:OF_A_PROMPT])}


def recipe(erasure: Erasure, state: State, group: Group) -> str:
    """Digest of what decides a row's figures beside the model."""
    made: dict[str, Any] = {}
    if not state.is_original:
        made = {"data": erasure.data, "model": former(state.settings or {}), "epochs": state.epochs, **state.chosen_by}
    if group.ridge is not None:
        made["ridge"] = group.ridge
    prompts = [row.plain() for row in group.prompts]
    what = {**made, "prompts": prompts, "seeds": list(group.seeds), "reference": REFERENCE, "sampling": str(SAMPLING)}
    return digest(what)


def recipes(erasure: Erasure, state: State, seeds: Sequence[int]) -> dict[Key, str]:
    """The digests of the rows of a state: one a group."""
    return {
        (erasure.kind, erasure.name, state.name, name): recipe(erasure, state, group)
        for name, group in groups(erasure, state, seeds).items()
    }
