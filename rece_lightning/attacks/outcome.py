"""What attacks reached: success before and after the edit, with intervals and costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Goal
from rece_lightning.attacks.store import write_table
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.detection import detected
from rece_lightning.metrics.difference import Difference
from rece_lightning.metrics.intervals import Share
from rece_lightning.models.sampling import Request

NO_ATTACK = "no attack"
"""The ladder's lowest rung: the concept's own prompt."""
ALL = "all"
SHARES = ("original", "edited", "original_prompts", "edited_prompts")
"""Fields of a :class:`Rung`."""


@dataclass(frozen=True)
class Rung:
    """One attack on one concept, or on all of them together."""

    attack: str
    concept: str
    variant: str
    """The point of a curve; empty where there is none."""
    control: bool
    """Whether the model never knew the concept."""
    has: str
    original: Share
    """Pictures of the original model that show the concept, given what the attack found."""
    edited: Share
    """Pictures of the edited model that do."""
    original_prompts: Share
    """Prompts of which at least one picture of the original model does."""
    edited_prompts: Share
    """Of the edited model: the attack success rate as the field counts it."""
    queries: int
    seconds: float
    """Of the search, without the pictures that measure it."""

    @property
    def title(self) -> str:
        """As tables call it."""
        return " ".join(part for part in (self.attack, self.variant, "(control)" if self.control else "") if part)


@dataclass(frozen=True)
class Measured:
    """A rung with the pictures that got through the edit."""

    rung: Rung
    through: Tensor
    """``[n, 3, h, w]`` in [0, 1]."""


def measure(
    victim: Victim,
    found: Sequence[AdversarialPrompt],
    seeds: Sequence[int],
    *,
    has: str,
    original: bool = True,
    variant: str = "",
    control: bool = False,
) -> Measured:
    """Draw what one attack found on one concept, with both models, and count the pictures that show the concept.

    Every prompt or embedding is drawn with every seed, by the victim's sampling, and every noise to start from once.
    Without ``original`` the shares of the original model are empty. ``has``, ``variant`` and ``control`` are those of
    the :class:`Rung`.

    Raises:
        ConfigurationError: if the victim has no detector.
    """
    if victim.detector is None:
        raise ConfigurationError("attacks: success needs a detector; give one, such as Evaluation's.")
    requests = requests_of(victim, found, seeds)
    prompts = [row for row, one in enumerate(found) for _ in seeds_of(one, seeds)]
    concepts = [found[row].concept for row in prompts]
    pictures = victim.draw(requests, edited=True)
    hits = detected(victim.detector, pictures, concepts)
    if victim.weights is None and victim.sampling.guard is None:
        before = hits  # nothing was changed
    elif original:
        before = detected(victim.detector, victim.draw(requests, edited=False), concepts)
    else:
        before = torch.zeros(0, dtype=torch.bool)
    rows = prompts if len(before) else []
    rung = Rung(
        attack=found[0].attack,
        concept=found[0].concept,
        variant=variant,
        control=control,
        has=has,
        original=Share.of(before.tolist(), rows),
        edited=Share.of(hits.tolist(), prompts),
        original_prompts=_broken(before.tolist(), rows),
        edited_prompts=_broken(hits.tolist(), prompts),
        queries=spent_queries(found),
        seconds=sum(one.seconds for one in found),
    )
    return Measured(rung, pictures[hits])


def measure_all(
    victim: Victim, attack: Attack, goal: Goal, found: Sequence[AdversarialPrompt], seeds: Sequence[int], original: bool
) -> list[Measured]:
    """What an attack found on a concept: one measurement, or one for each point of its curve."""
    points: dict[str, list[AdversarialPrompt]] = {}
    for one in found:
        points.setdefault(one.variant if attack.is_curve else "", []).append(one)
    # A search goes by the text encoder, the weights or other models: no guard is among them.
    has = attack.has if victim.sampling.guard is None else f"{attack.has}; does not see the guard"
    return [
        measure(victim, rows, seeds, has=has, original=original, variant=variant, control=goal.control)
        for variant, rows in points.items()
    ]


def requests_of(victim: Victim, found: Sequence[AdversarialPrompt], seeds: Sequence[int]) -> list[Request]:
    """A request for each prompt or embedding and seed, one for each noise to start from."""
    texts = iter(victim.requests([one.prompt for one in found if one.embedding is None]))
    requests = []
    for one in found:
        given = next(texts) if one.embedding is None else victim.given(one.prompt, one.embedding, one.pooled)
        said = one.prompt if one.embedding is None else None
        requests += [replace(given, seed=seed, text=said, latents=one.latents) for seed in seeds_of(one, seeds)]
    return requests


def seeds_of(one: AdversarialPrompt, seeds: Sequence[int]) -> Sequence[int]:
    """The seeds that it is drawn with: a noise to start from makes them all alike."""
    return seeds if one.latents is None else seeds[:1]


def spent_queries(found: Sequence[AdversarialPrompt]) -> int:
    """Points of one restart's curve share its queries."""
    spent: dict[int, int] = {}
    for one in found:
        spent[one.restart] = max(spent.get(one.restart, 0), one.queries)
    return sum(spent.values())


def together(rungs: Sequence[Rung]) -> list[Rung]:
    """A rung for each attack and point of its curve over all its concepts, in the order of the first ones."""
    whole = []
    for title in dict.fromkeys(rung.title for rung in rungs):
        same = [rung for rung in rungs if rung.title == title]
        sums: dict[str, Any] = {name: sum((getattr(rung, name) for rung in same), Share(0, 0)) for name in SHARES}
        sums |= {name: sum(getattr(rung, name) for rung in same) for name in ("queries", "seconds")}
        whole.append(replace(same[0], concept=ALL, **sums))
    return whole


def over_control(rungs: Sequence[Rung], rung: Rung) -> Difference | None:
    """How far an attack's success on the edited model is above its control's; ``None`` for one that has none."""
    of_control = (one for one in rungs if one.control and (one.attack, one.variant) == (rung.attack, rung.variant))
    control = None if rung.control else next(of_control, None)
    if control is None or not (rung.edited.total and control.edited.total):
        return None
    return Difference.of(rung.edited, control.edited)


def figures_of(rungs: Sequence[Rung]) -> dict[str, float]:
    """What loggers are told of the attacks over all their concepts, by name."""
    whole, figures = together(rungs), dict[str, float]()
    for rung in whole:
        name = rung.title.replace("(", "").replace(")", "").replace("=", "_").replace(" ", "_")
        figures[f"attack_success/{name}"] = rung.edited.rate
        if rung.original.total:
            figures[f"attack_success_original/{name}"] = rung.original.rate
        above = over_control(whole, rung)
        if above is not None:
            figures[f"attack_above_control/{name}"] = above.value
    return figures


def cells_of(rung: Rung) -> dict[str, Any]:
    """A rung as the row of a table."""
    cells: dict[str, Any] = {
        "attack": rung.attack,
        "variant": rung.variant,
        "concept": rung.concept,
        "control": int(rung.control),
        "has": rung.has,
    }
    for name in SHARES:
        share: Share = getattr(rung, name)
        measured = share.total > 0
        low, high = share.interval if measured else (float("nan"), float("nan"))
        cells |= {
            f"{name}_hits": share.hits,
            f"{name}_total": share.total,
            f"{name}_rate": round(share.rate, 4) if measured else "",
            f"{name}_low": round(low, 4) if measured else "",
            f"{name}_high": round(high, 4) if measured else "",
        }
    return {**cells, "queries": rung.queries, "seconds": round(rung.seconds, 3)}


def write_rungs(rungs: Iterable[Rung], path: Path, more: dict[str, str]) -> Path:
    """Write rungs as a CSV, atomically; ``more`` are columns that all rows share."""
    rows = [{**cells_of(rung), **more} for rung in rungs]
    return write_table(path, list(rows[0]) if rows else ["attack"], rows)


def _broken(hits: Sequence[bool], prompts: Sequence[int]) -> Share:
    """Prompts with at least one success."""
    broken = {prompt for hit, prompt in zip(hits, prompts, strict=True) if hit}
    return Share(len(broken), len(set(prompts)))
