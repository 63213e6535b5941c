"""What is erased and kept where many concepts go at once, by which methods, and the grid of settings."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.harness import Settings, digest, former, plain_shots, told
from benchmarks.results.plan import ruled
from rece_lightning.core.tuning import BALANCED
from rece_lightning.data.concepts import PromptPair
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.sampling import Sampling

COUNTS = (1, 10, 50, 100)
SAMPLING = Sampling(steps=12, guidance_scale=4.0, batch_size=64)
ERASED_PICTURES = {1: 40, 10: 80, 50: 100, 100: 100}
"""Of erased concepts' own prompts: as many seeds a concept as that makes."""
KEPT_PICTURES = 80
"""Kept prompts that are drawn, the same at every count, one picture each."""
TARGET = " "
ORIGINAL = "original"
ALL, AUTO = "all", "auto"
AUTO_SHARE = 2
"""``data.preserve: auto`` keeps one of so many kept names: SPEED keeps those that are harmed more than the mean."""


@dataclass(frozen=True)
class Way:
    """A way to erase."""

    name: str
    settings: Settings
    epochs: int
    """0 where tuning chooses them too."""
    tune: str | None = None
    """How tuning chooses what ``settings`` leave at its default."""

    def told(self, session: ErasureSession) -> str:
        """What was run, for the table, in short."""
        choice = session.tuned.choice
        chosen = {} if choice is None else choice["chosen"]["settings"]
        return told(former({**self.settings, **chosen}), len(session.history))


LOOP = {"derivation.scale": 1e-3}
"""λ of RECE's loop where the published 0.1 brings the concepts back."""


def ways() -> list[Way]:
    """The editors with their defaults, alone and inside RECE's loop; RECE as published and accumulated."""
    confined = {"editor": "NullSpace"}
    return [
        Way("UCE", {}, 1),
        Way("RECE, published", {}, 4),
        Way("RECE, accumulated", {**LOOP, "accumulate": True}, 4),
        Way("projection", {"editor": "Projection"}, 1),
        Way("null space", confined, 1),
        Way("null space in RECE's loop", {**confined, **LOOP}, 4),
    ]


def of_values() -> list[Way]:
    """Edits that leave the keys alone: those that trade best where one concept is erased, and SPEED's own objective."""
    scales = {"projections": "v", "editor.preserve_scale": 1.0}
    return [
        Way("UCE of values", scales, 1),
        Way("RECE of values", {**scales, **LOOP}, 4),
        Way("RECE of values, accumulated", {**scales, **LOOP, "accumulate": True}, 4),
        Way("projection of values", {"editor": "Projection", "projections": "v", "editor.rank": 0.9}, 1),
        Way("SPEED", {"editor": "NullSpace", "projections": "v", "editor.preserve_scale": 0.0}, 1),
    ]


BOUND = "any linear edit"
"""What no map gets below: no picture, no editor."""
LEFT = (0.1, 0.25, 0.5)
"""Shares of the concepts' way to their targets that an edit leaves."""


def tuned() -> list[Way]:
    """What ``model.tune: balanced`` chooses for each count, as a user gets it."""
    values: Settings = {"projections": "v"}
    return [
        Way("RECE, tuned", {}, 0, BALANCED),
        Way("UCE of values, tuned", values, 1, BALANCED),
        Way("RECE of values, tuned", values, 0, BALANCED),
        Way("null space of values, tuned", {"editor": "NullSpace", **values}, 0, BALANCED),
    ]


CHOSEN = ("UCE, chosen", "RECE, chosen", "null space, chosen")
"""The most promising of each part of the grid, found anew for every count."""


def grid() -> dict[str, list[Way]]:
    """What is ranked without a picture for each of ``CHOSEN``."""
    uce, rece, confined = CHOSEN
    loops = [
        {"derivation.scale": scale, "accumulate": held} for scale, held in itertools.product((1e-3, 0.1), (False, True))
    ]
    found: dict[str, list[Way]] = {name: [] for name in CHOSEN}
    for preserved, lamb in itertools.product((0.1, 0.3, 1.0, 3.0, 10.0), (0.1, 10.0)):
        scales = {"editor.preserve_scale": preserved, "editor.lamb": lamb}
        found[uce].append(Way(uce, scales, 1))
        for loop, epochs in itertools.product(loops, (2, 4)):
            found[rece].append(Way(rece, {**scales, **loop}, epochs))
    for preserved, threshold in itertools.product((0.0, 0.3, 1.0, 3.0), (0.01, 0.1, 1.0)):
        scales = {"editor": "NullSpace", "editor.preserve_scale": preserved, "editor.threshold": threshold}
        found[confined].append(Way(confined, scales, 1))
        found[confined] += [Way(confined, {**scales, **loop}, 4) for loop in loops[:2]]
    return found


@dataclass(frozen=True)
class Task:
    """So many concepts erased at once."""

    count: int

    @property
    def erased(self) -> list[str]:
        """The first of the trained objects: what one count erases, larger ones erase too."""
        return ordered_objects()[: self.count]

    @property
    def kept(self) -> list[str]:
        """The others."""
        return ordered_objects()[self.count :]

    @property
    def pairs(self) -> list[PromptPair]:
        """As the sweep takes them."""
        return [PromptPair(name, TARGET, 1.0) for name in self.erased]

    @property
    def looked_at(self) -> list[str]:
        """Kept names that are drawn: of those that no count erases, so that every count shows the same."""
        return ordered_objects()[max(COUNTS) :][:KEPT_PICTURES]

    def data(self, preserve: str) -> dict[str, Any]:
        """Arguments of ``ConceptData``."""
        asked: dict[str, Any] = {"concepts": self.erased, "target": TARGET}
        if preserve == AUTO:
            return {
                **asked, "preserve": "auto", "preserve_vocabulary": self.kept,
                "preserve_count": len(self.kept) // AUTO_SHARE,
            }  # fmt: skip
        return {**asked, "preserve": [" ", *self.kept]}

    @cached_property
    def shots(self) -> dict[str, list[tuple[EvaluationPrompt, int]]]:
        """Prompts with their seeds, erased and kept."""
        seeds = max(1, ERASED_PICTURES[self.count] // self.count)
        return {
            "erased": [(EvaluationPrompt(name, name), seed) for name in self.erased for seed in range(seeds)],
            "kept": [(EvaluationPrompt(name, name), 0) for name in self.looked_at],
        }

    def limited(self, pictures: int | None) -> dict[str, list[tuple[EvaluationPrompt, int]]]:
        """The same, of each role evenly so many; all without a limit."""
        if pictures is None:
            return self.shots
        return {role: shots[:: max(1, len(shots) // pictures)][:pictures] for role, shots in self.shots.items()}


def ordered_objects() -> list[str]:
    """The trained objects in an order that nobody chose: that of their names' digests."""
    names = [item.name for item in load_catalog().trained]
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def recipe(task: Task, way: Way, preserve: str, pictures: int | None) -> str:
    """Digest of what decides a row's figures beside the model."""
    shots = plain_shots(task.limited(pictures))
    made: dict[str, Any] = {}
    if way.name != ORIGINAL:
        made = {"model": former(way.settings), "epochs": way.epochs, **task.data(preserve)}
    if way.tune is not None:
        made |= ruled(way.settings, way.tune)
    if way.name == BOUND:
        made |= {"left": LEFT}
    return digest({**made, "shots": shots, "sampling": str(SAMPLING)})


def cells(task: Task, chosen: Sequence[Way]) -> Iterator[tuple[Way, str]]:
    """What is measured of a task: the original, every way with both preserve lists, and what was chosen."""
    yield Way(ORIGINAL, {}, 0), ""
    for preserve in (ALL, AUTO):
        for way in ways():
            yield way, preserve
    for way in (*of_values(), *chosen, *tuned(), Way(BOUND, {"projections": "v"}, 0)):
        yield way, ALL
