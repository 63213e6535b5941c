"""What the MMDiT is measured on: the erasures of ``benchmarks.results``, model states, groups of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Configuration, Settings, digest, former, told
from benchmarks.results.groups import FLOOR, Group, derived_groups, floor_prompts
from benchmarks.results.plan import (
    ERASED,
    HELD,
    KINDS,
    ORIGINAL,
    PUBLISHED,
    RECOMMENDED,
    SCALES,
    SYNONYMS,
    UCE,
    UCE_RECOMMENDED,
    Erasure,
    Key,
    erasures,
)
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.text_space import POOLED, TEXT

PRETRAINED = "emoji-mmdit"
SAMPLING = Sampling(steps=12, guidance_scale=4.0, batch_size=64)
SEEDS, FEWER, FEWEST = tuple(range(5)), tuple(range(3)), tuple(range(2))
PROJECTION, NULL_SPACE = "projection", "null space"
NEAREST = "nearest point, then UCE"
STRONGER = (30.0, 300.0)
"""κ beside the 3 of ``configs/emoji_robust.yaml``: the readers here have fewer outputs than their rows are wide, and a
κ of 3 leaves certificates of 0.1, where on the U-Net it leaves 0.5. Chosen by that, without a picture."""
METHODS, SINGULAR, SPACES, TOKENS = "methods", "singular", "spaces", "tokens"
PARTS = (METHODS, SINGULAR, SPACES, TOKENS)
BOTH = ""
ALONE = {f"{name} alone": [name] for name in (TEXT, POOLED)}
"""How a page calls it → the spaces that are edited."""
RULES = ("aligned", "last", "end", "all")
NEAREST_KAPPA = (10.0, 100.0)
"""κ of the nearest point: its default, and more."""
COMPARED = (UCE_RECOMMENDED, RECOMMENDED, PROJECTION)
"""Methods that are compared over spaces and tokens: UCE and RECE at the same scales."""


@dataclass(frozen=True)
class State:
    """A model state."""

    part: str
    method: str
    settings: Settings | None
    """``None``: the model is not edited."""
    epochs: int
    variant: str = BOTH
    """What differs from the method's defaults: both spaces, tokens ``aligned``."""

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"{self.method}, {self.variant}" if self.variant else self.method

    @property
    def told(self) -> str:
        """For the table, in short."""
        return "" if self.settings is None else told(former(self.settings), self.epochs)


def methods(kind: str) -> list[State]:
    """Every method with its defaults, the original first."""
    recommended = Configuration.shipped("emoji_mmdit.yaml")
    published = Configuration.shipped(KINDS[kind][1])
    found = [State(METHODS, ORIGINAL, None, 0)]
    for uce, rece, source in ((UCE, PUBLISHED, published), (UCE_RECOMMENDED, RECOMMENDED, recommended)):
        alone = {key: value for key, value in source.settings.items() if key in SCALES}
        found += [State(METHODS, uce, alone, 1), State(METHODS, rece, source.settings, int(source.epochs or 1))]
    projection = {"editor": "Projection", "editor.rank": 0.99, "editor.shrinkage": 3.0}
    return [*found, State(METHODS, PROJECTION, projection, 1), State(METHODS, NULL_SPACE, {"editor": "NullSpace"}, 1)]


def singular(kind: str) -> list[State]:
    """Singular editors that certify more: the projection with a larger κ, and the nearest reachable point."""
    settings = {one.method: one.settings or {} for one in methods(kind)}
    nearest = {"editor": "ProjectedUCE", **settings[UCE_RECOMMENDED], "editor.rank": 0.99}
    given = ((PROJECTION, settings[PROJECTION], STRONGER), (NEAREST, nearest, NEAREST_KAPPA))
    return [
        State(SINGULAR, name, {**own, "editor.shrinkage": value}, 1, f"κ {value:g}")
        for name, own, values in given
        for value in values
    ]


def spaces(kind: str) -> list[State]:
    """One text space alone: what goes through the other is left open."""
    return [
        State(SPACES, one.method, {**(one.settings or {}), "spaces": names}, one.epochs, told)
        for told, names in ALONE.items()
        for one in methods(kind)
        if one.method in COMPARED
    ]


def tokens(kind: str) -> list[State]:
    """Other rows of a prompt than those from its last subject token on."""
    return [
        State(TOKENS, one.method, {**(one.settings or {}), "tokens": rule}, one.epochs, f"tokens {rule}")
        for rule in RULES[1:]
        for one in methods(kind)
        if one.method in COMPARED
    ]


def groups(erasure: Erasure, state: State) -> dict[str, Group]:
    """What is drawn of a state. The original is asked for the floor too: the prompts without what is erased.

    Embeddings are derived of an edited model alone, of the object's name or of a few prompts in context.
    """
    own = erasure.groups[ERASED]
    found = {ERASED: Group(own, SEEDS), HELD: Group(erasure.groups[HELD], FEWER)}
    if erasure.groups[SYNONYMS]:
        found[SYNONYMS] = Group(erasure.groups[SYNONYMS], SEEDS)
    if state.settings is None:
        return {**found, FLOOR: Group(floor_prompts(erasure, own), SEEDS)}
    return {**found, **derived_groups(erasure, FEWER, FEWEST)}


def recipe(erasure: Erasure, state: State, group: Group) -> str:
    """Digest of what decides a row's figures beside the model."""
    made: dict[str, Any] = {}
    if state.settings is not None:
        made = {"data": erasure.data, "model": former(state.settings), "epochs": state.epochs}
    prompts = [row.plain() for row in group.prompts]
    what = {"prompts": prompts, "seeds": list(group.seeds), "ridge": group.ridge, "sampling": str(SAMPLING)}
    return digest({**made, **what})


def recipes(erasure: Erasure, state: State) -> dict[Key, str]:
    """The digests of the rows of a state: one a group of prompts."""
    return {
        (erasure.kind, erasure.name, state.name, name): recipe(erasure, state, group)
        for name, group in groups(erasure, state).items()
    }


def work(parts: Sequence[str], chosen: Sequence[Erasure] | None = None) -> list[tuple[Erasure, State]]:
    """Erasures and states in the order in which they are measured: whole comparisons first, and objects first.

    A run that is stopped early holds every method, then what one space leaves open, then the choice of tokens.
    """
    given = erasures() if chosen is None else chosen
    objects = [one for one in given if one.kind == "objects"]
    others = [one for one in given if one.kind != "objects"]
    order = [
        (METHODS, objects, methods), (SINGULAR, objects, singular), (SPACES, objects, spaces),
        (METHODS, others, methods), (SINGULAR, others, singular), (TOKENS, objects, tokens),
        (SPACES, others, spaces), (TOKENS, others, tokens),
    ]  # fmt: skip
    return [(one, state) for part, own, made in order if part in parts for one in own for state in made(one.kind)]
