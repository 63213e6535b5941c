"""What is erased, by which methods, and the pictures that are drawn of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import Settings, digest, told, weights_digest
from benchmarks.many_concepts.plan import ordered_objects
from benchmarks.results.plan import ERASED, HELD, OBLIQUE, SYNONYMS, objects, styles
from benchmarks.robust.plan import shipped_list, synonyms_of
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.models.sampling import Sampling

SAMPLING = Sampling(steps=12, guidance_scale=4.0, batch_size=64)
ORIGINAL = "original"
ONE, FIVE, TEN, STYLE, MMDIT = "one object", "five weapons", "ten objects", "one style", "five weapons, two spaces"
WEAPONS = ("bomb", "dagger", "axe", "water pistol", "kitchen knife")
JUDGED_TEN = slice(30, 40)
"""Of the objects in the order that nobody chose; the settings were chosen on others, those from 20 to 25."""
PRICED = "nearest point, price 15, λ₁ 10"
"""As in ``emoji_robust.yaml``."""
Prompts = tuple[EvaluationPrompt, ...]


@dataclass(frozen=True)
class State:
    """A way to erase; the original where there are no settings."""

    name: str
    settings: Settings | None = None

    @property
    def told(self) -> str:
        """For the page, in short."""
        return "" if self.settings is None else told(dict(self.settings), 1)


@dataclass(frozen=True)
class Task:
    """What is erased at once, and the pictures of it."""

    part: str
    name: str
    data: Mapping[str, Any]
    """Arguments of ``ConceptData``."""
    shots: Mapping[str, tuple[Prompts, int]]
    """Group → prompts and pictures of each."""
    states: Sequence[State]
    derived: Prompts = ()
    """Prompts whose derived embedding is given."""
    derived_seeds: int = 2
    pretrained: str = "emoji"
    drift: Sequence[str] = field(default=())
    """Prompts in nobody's list, which drift is measured on."""
    apart: bool = False
    """Whether every picture has a seed of its own: where no style is asked for, the seed decides on it."""

    def recipe(self, state: State) -> str:
        """Digest of what decides a row, the world's weights included."""
        shots = {group: [[one.plain() for one in prompts], seeds] for group, (prompts, seeds) in self.shots.items()}
        shots["derived"] = [[one.plain() for one in self.derived], self.derived_seeds]
        settings = None if state.settings is None else dict(state.settings)
        what = [weights_digest(self.pretrained), dict(self.data), settings, shots, list(self.drift), str(SAMPLING)]
        return digest([*what, "apart"] if self.apart else what)


NEAREST = {"editor": "ProjectedUCE", "projections": "v"}
HELD_FIRM = {**NEAREST, "editor.preserve_scale": 10.0}


def tasks() -> list[Task]:
    """All of the work."""
    several = [
        State(ORIGINAL),
        State("UCE of values, λ₁ 10", {"projections": "v", "editor.preserve_scale": 10.0}),
        State("nearest point, κ 10", NEAREST),
        State("nearest point, κ 3, λ₁ 10", {**HELD_FIRM, "editor.shrinkage": 3.0}),
    ]
    priced = State(PRICED, {**HELD_FIRM, "editor.price": 15.0})
    five = at_once(FIVE, "weapons", WEAPONS, [*several, priced], synonyms=True)
    ten = at_once(TEN, "ten objects", ordered_objects()[JUDGED_TEN], [several[0], priced])
    return [five, ten, *one_style(), both_spaces(), *one_object()]


def named(names: Sequence[str]) -> Prompts:
    """Prompts that are their concept's name."""
    return tuple(EvaluationPrompt(name, name) for name in names)


def held_out(erased: Sequence[str], preserved: Sequence[str]) -> list[str]:
    """Trained objects that are neither erased nor in the list."""
    return [name for name in ordered_objects() if name not in erased and name not in preserved]


def at_once(part: str, name: str, erased: Sequence[str], states: Sequence[State], *, synonyms: bool = False) -> Task:
    """Objects that are erased together."""
    preserved = [one for one in shipped_list() if one not in erased]
    rest = held_out(erased, preserved)
    shots: dict[str, tuple[Prompts, int]] = {ERASED: (named(erased), 10 // len(erased)), HELD: (named(rest[:48]), 1)}
    if synonyms:
        shots[SYNONYMS] = tuple(EvaluationPrompt(word, one) for one in erased for word in synonyms_of(one)), 1
    seeds = max(1, 10 // len(erased))
    data = {"concepts": list(erased), "preserve": preserved}
    return Task(part, name, data, shots, states, named(erased), seeds, drift=rest)


def one_object() -> list[Task]:
    """Four of the twelve of ``benchmarks.results``: nothing was chosen on them."""
    states = [
        State(ORIGINAL),
        State("oblique, κ 3", OBLIQUE),
        State("nearest point, κ 10", NEAREST),
    ]
    found = []
    for erasure in objects()[1::3]:
        shots = {group: (prompts, 1) for group, prompts in erasure.groups.items()}
        shots[ERASED] = erasure.groups[ERASED], 3
        own = named([erasure.name])
        rest = held_out([erasure.name], erasure.data["preserve"])
        found.append(Task(ONE, erasure.name, erasure.data, shots, states, own, 3, drift=rest))
    return found


def one_style() -> list[Task]:
    """The two styles that nothing was chosen on; the floor is the original's, for the prompts without a style."""
    one = {"editor": "ProjectedUCE", "editor.rank": 1, "editor.preserve_scale": 10.0}
    states = [
        State(ORIGINAL),
        State("UCE, shipped scales", {"editor.preserve_scale": 0.1, "editor.lamb": 10.0}),
        State("nearest point, one direction", one),
    ]
    found = []
    for erasure in styles()[2:]:
        own = erasure.groups[ERASED]
        plain = tuple(EvaluationPrompt(row.prompt.removesuffix(f" in {erasure.name}"), row.concept) for row in own)
        shots = {ERASED: (own, 2), "floor": (plain, 2), HELD: (erasure.groups[HELD], 1)}
        rest = [row.prompt for row in erasure.groups[HELD]]
        found.append(Task(STYLE, erasure.name, erasure.data, shots, states, own[:4], 2, drift=rest, apart=True))
    return found


def both_spaces() -> Task:
    """The weapons in the second embedded world, whose text enters through two spaces."""
    scales = {"editor.preserve_scale": 0.1, "editor.lamb": 1.0}
    states = [
        State(ORIGINAL),
        State("UCE, shipped scales", scales),
        *(
            State(
                f"nearest point, κ {shrinkage:g}, shipped scales",
                {**scales, "editor": "ProjectedUCE", "editor.shrinkage": shrinkage},
            )
            for shrinkage in (3.0, 30.0, 300.0)
        ),
        *(
            State(
                f"nearest point, price {price:g}, λ₁ 10",
                {**scales, "editor": "ProjectedUCE", "editor.preserve_scale": 10.0, "editor.price": price},
            )
            for price in (15.0, 10.0, 7.0)
        ),
    ]
    preserved = shipped_list()
    rest = held_out(WEAPONS, preserved)
    shots = {ERASED: (named(WEAPONS), 2), HELD: (named(rest[:32]), 1)}
    data = {"concepts": list(WEAPONS), "preserve": preserved}
    return Task(MMDIT, "weapons", data, shots, states, named(WEAPONS), 2, "emoji-mmdit", rest)
