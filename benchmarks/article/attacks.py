"""The ladder of attacks on every method: the same goals, budgets and pictures for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.article.bench import Bench
from benchmarks.article.plan import (
    ALONE,
    ORIGINAL,
    RECE,
    RECE_TUNED,
    ROBUST,
    SAMPLING,
    UCE,
    UNSAFE,
    Contender,
    Trained,
    contenders,
    names_of,
)
from benchmarks.article.table import AttackKey, AttackRow
from benchmarks.article.victims import Victims
from benchmarks.harness import Piece, digest, unet_digest
from benchmarks.red_team.plan import BUDGETS
from benchmarks.results.plan import Erasure
from rece_lightning.attacks import LADDER, Attack, AttackStore, Goal, Victim, make_goal
from rece_lightning.attacks.outcome import Measured, measure_all
from rece_lightning.emoji.catalog import load_catalog

PICTURES = range(3)
"""Seeds of the pictures of every prompt or embedding that was found."""
STEPS = (0, 10, 20)
"""Of ``cce``, at which its embedding is drawn."""
BUDGET: dict[str, dict[str, Any]] = {
    **{name: {**BUDGETS[name], "restarts": 1} for name in ("mma", "p4d", "unlearndiffatk")},
    # A derived embedding is of an edit: the concept's own prompt is where a search of every method can start.
    "cce": {"steps": STEPS[-1], "at": STEPS, "start": "prompt"},
}
"""The red team's small budgets, one search a concept."""


@dataclass(frozen=True)
class Ladder:
    """What is attacked in a world, and how."""

    things: tuple[str, ...]
    attacks: tuple[str, ...]
    methods: tuple[str, ...] = ()
    """All of them unless given."""

    def made(self) -> list[Attack]:
        """The attacks, from what the attacker has least to most."""
        return [LADDER[name](**BUDGET[name]) for name in self.attacks]  # type: ignore[arg-type]

    def attacked(self, world: str, thing: Erasure) -> list[Contender]:
        """The methods; those that are trained come last, for they take longest."""
        found = [one for one in contenders(world, thing) if not self.methods or one.name in self.methods]
        return sorted(found, key=lambda one: isinstance(one.how, Trained))


LADDERS = {
    "emoji": Ladder(("weapons",), tuple(BUDGET)),
    "emoji-mmdit": Ladder(
        ("weapons",),
        ("cce",),
        (ORIGINAL, "negative prompt", "CA, model-based", UCE, RECE, RECE_TUNED, ROBUST),
    ),
}
"""World → its ladder."""


def goals(thing: Erasure, attack: Attack) -> list[Goal]:
    """What was erased, each with an object that the denoiser never saw as its control where the attack needs one."""
    catalog = load_catalog()
    synonyms = {item.name: item.synonyms for item in catalog.objects}
    names = names_of(thing)
    found = [make_goal(name, synonyms=synonyms[name]) for name in names]
    if attack.needs_control:
        # Each concept has a control of its own, in every thing the same one.
        unseen = dict(zip((*UNSAFE, *ALONE), catalog.held_out, strict=False))
        found += [make_goal(unseen[name].name, control=True) for name in names]
    return found


class Attacked:
    """Attacks the methods of a world.

    Args:
        bench: of the world.
        folder: of what attacks find, and of trained weights.
    """

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.world, self.ladder, self.folder = bench.world.pretrained, LADDERS[bench.world.pretrained], folder
        self.victims = Victims(bench, folder)

    def piece(self, thing: Erasure, contender: Contender) -> Piece[AttackRow]:
        """Every attack on a method."""
        attacks: dict[AttackKey, Attack] = {
            (self.world, thing.name, contender.name, attack.name): attack for attack in self.ladder.made()
        }
        recipes = {key: recipe(self.world, thing, contender, attack) for key, attack in attacks.items()}

        def measured(missing: list[AttackKey]) -> Iterator[list[AttackRow]]:
            victim = self.victims.of(thing, contender)
            # What guards stand around is one model: a search of it serves them all.
            store = AttackStore(self.folder / self.world / thing.name)
            for key in missing:
                yield self.measure(thing, contender, victim, attacks[key], store)

        return Piece(f"{self.world}: {thing.name}: {contender.name}", recipes, measured)

    def measure(
        self, thing: Erasure, contender: Contender, victim: Victim, attack: Attack, store: AttackStore
    ) -> list[AttackRow]:
        """The rows of an attack: one for each point of its curve, a control's apart."""
        told, groups = recipe(self.world, thing, contender, attack), dict[tuple[str, bool], list[Measured]]()
        for goal in goals(thing, attack):
            found = store.run(attack, victim, goal)
            for one in measure_all(victim, attack, goal, found, PICTURES, original=False):
                groups.setdefault((one.rung.variant, one.rung.control), []).append(one)
        return [row_of(self.world, thing, contender, told, own) for own in groups.values()]


def row_of(world: str, thing: Erasure, contender: Contender, told: str, measured: list[Measured]) -> AttackRow:
    """An attack and variant on all concepts of a thing, or on their controls."""
    rungs = [one.rung for one in measured]
    return AttackRow(
        world=world, kind=thing.kind, erasure=thing.name, state=contender.name, attack=rungs[0].attack,
        variant=rungs[0].variant, control=int(rungs[0].control), has=rungs[0].has, recipe=told,
        concepts=tuple(rung.concept for rung in rungs for _ in rung.edited.prompts),
        hits=tuple(f"{hits}/{total}" for rung in rungs for hits, total in rung.edited.prompts),
        queries=sum(rung.queries for rung in rungs), seconds=sum(rung.seconds for rung in rungs),
    )  # fmt: skip


def recipe(world: str, thing: Erasure, contender: Contender, attack: Attack) -> str:
    """Digest of all that decides an attack's rows."""
    how = contender.how
    edit: Mapping[str, Any] = {} if how is None else {"method": dict(how.told), "data": thing.data}
    asked = [asdict(goal) for goal in goals(thing, attack)]
    return digest([unet_digest(world), edit, attack.describe(), asked, list(PICTURES), str(SAMPLING)])
