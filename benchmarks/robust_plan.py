"""What the robust loop is measured on: the cases of ablation and frontier, and the prompts that are looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from rece_lightning.cli.verbs import PACKAGE
from rece_lightning.core.editors.base import EDITORS
from rece_lightning.emoji.catalog import load_catalog

SHIPPED, HALF, EVERYTHING = "shipped list", "every other one of it", "all other objects"
CONCEPTS = ("bomb", "dagger", "axe", "water pistol", "kitchen knife", "church")
ABLATION, FRONTIER, CHOICES = "ablation", "frontier", "choices"
PUBLISHED, FOUND, ALL, ATTACKED = "published loop", "found", "all together", "attacks: cce"
RATIOS = (0.25, 0.5, 1.0, 2.0, 8.0)
"""Norms of the derived embedding; the strongest of them stands for any norm: the free optimum is shorter than the
concept's own embedding."""
SWITCHES: dict[str, dict[str, Any]] = {
    "norms": {"norms": [0.25, 0.5, 1.0, 2.0]},
    "ridges": {"ridges": [0.01, 0.1, 1.0]},
    "templates": {"templates": ["a photo of {}", "{} in twemoji style"]},
    "synonyms": {"synonyms": 5},
    "neighbours": {"neighbours": 20},
}
IN_LOOP = {"attacks": ["cce"]}
"""A gradient attack before every epoch but the first: all the others stay closed-form."""
# λ₂ on the scale of the moments: the published 0.1 leaves a map that no switch keeps out of reach.
BASES: dict[str, tuple[dict[str, Any], int]] = {
    "uce": ({"editor": "uce", "lamb": 10.0, "regular_scale": 1e-3}, 4),
    "projection": ({"editor": "projection", "regular_scale": 1e-3}, 3),
}
KEPT = 12


@dataclass(frozen=True)
class Case:
    """One way to erase, measured on every concept."""

    part: str
    editor: str
    label: str
    model: dict[str, Any]
    """Arguments of ``RECE``."""
    epochs: int
    robust: dict[str, Any] = field(default_factory=dict)
    """Switches; ``found`` is filled in for each concept."""
    target: str | None = None
    """In place of the empty prompt."""
    preserve: str = SHIPPED
    """Which prompts are preserved."""

    @property
    def uses_found(self) -> bool:
        """Whether it is given what broke the published loop."""
        return self.part == ABLATION and self.label in (FOUND, ALL)


def ablation() -> list[Case]:
    """Each switch alone, all closed-form ones together, and a gradient attack in the loop.

    The published loop comes first, because it is attacked for ``found``.
    """
    cases = []
    everything = {key: value for switch in SWITCHES.values() for key, value in switch.items()}
    for editor, (model, epochs) in BASES.items():
        for label, robust in {PUBLISHED: {}, **SWITCHES, FOUND: {}, ALL: everything, ATTACKED: IN_LOOP}.items():
            cases.append(Case(ABLATION, editor, label, model, epochs, robust))
    return cases


def frontier() -> list[Case]:
    """Every editor over its own settings, on keys and values and on values alone; UCE with the robust loop too."""
    cases = []

    def add(label: str, epochs: int = 1, robust: dict[str, Any] | None = None, **model: Any) -> None:
        cases.append(Case(FRONTIER, model["editor"], label, model, epochs, robust or {}))

    for lamb in (0.1, 1.0, 10.0):
        for scale in (0.1, 1.0):
            uce = {"editor": "uce", "lamb": lamb, "preserve_scale": scale, "regular_scale": 1e-3}
            add(f"λ₂ {lamb:g}, λ₁ {scale:g}, 1 epoch", **uce)
            add(f"λ₂ {lamb:g}, λ₁ {scale:g}, 4 epochs", 4, **uce)
            add(f"λ₂ {lamb:g}, λ₁ {scale:g}, norms", 4, SWITCHES["norms"], **uce)
        add(f"λ₂ {lamb:g}, λ₁ 0.1, values", editor="uce", lamb=lamb, projections="v")
    for shrinkage in (0.03, 0.3, 1.0, 3.0, 10.0):
        for rank in (1, 0.99):
            for kinds in ("kv", "v"):
                label = f"κ {shrinkage:g}, r {rank:g}" + (", values" if kinds == "v" else "")
                add(label, editor="projection", shrinkage=shrinkage, erased_rank=rank, projections=kinds)
    for editor in EDITORS:
        if editor not in ("uce", "projection"):
            for lamb in (0.1, 1.0, 10.0):
                add(f"λ₂ {lamb:g}", editor=editor, lamb=lamb)
                add(f"λ₂ {lamb:g}, values", editor=editor, lamb=lamb, projections="v")
    return cases


def choices() -> list[Case]:
    """What else can be chosen where the projection editor is, one thing at a time."""
    model = {"editor": "projection", "regular_scale": 1e-3, "projections": "v", "shrinkage": 3.0, "erased_rank": 0.99}
    cases = [Case(CHOICES, "projection", "values, κ 3, r 0.99", model, 1)]

    def other(label: str, epochs: int = 1, robust: dict[str, Any] | None = None, **changed: Any) -> None:
        case = {key: changed.pop(key) for key in ("target", "preserve") if key in changed}
        cases.append(Case(CHOICES, "projection", label, {**model, **changed}, epochs, robust or {}, **case))

    other("keys and values", projections="kv")
    other("keys", projections="k")
    other("values of the way down and the middle", layers="down_blocks|mid_block")
    other("values of the way up", layers="up_blocks")
    for shrinkage in (1.0, 10.0, 30.0):
        other(f"κ {shrinkage:g}", shrinkage=shrinkage)
    for rank in (1, 4, 0.9, 0.999):
        other(f"r {rank:g}", erased_rank=rank)
    for target in ("a toy", "tool"):
        other(f"target “{target}”", target=target)
    other(f"preserved: {HALF}", preserve=HALF)
    other(f"preserved: {EVERYTHING}", preserve=EVERYTHING)
    other("2 rounds", 2)
    words = {**SWITCHES["synonyms"], **SWITCHES["neighbours"]}
    other("synonyms and neighbours", robust=words)
    other("synonyms and neighbours, 2 rounds", 2, words)
    return cases


def data_of(case: Case, concept: str) -> dict[str, Any]:
    """Arguments of ``ConceptData``."""
    shipped = yaml.safe_load((PACKAGE / "configs" / "emoji.yaml").read_text(encoding="utf-8"))["data"]["preserve"]
    kept = kept_objects(concept)
    preserve = {
        SHIPPED: shipped,
        HALF: shipped[::2],
        EVERYTHING: [*shipped, *(one.name for one in load_catalog().trained if one.name not in {*shipped, *kept})],
    }[case.preserve]
    data: dict[str, Any] = {
        "concepts": [concept],
        "preserve": [prompt for prompt in preserve if prompt != concept],
        "validation": [{"prompt": name, "kind": "preserved"} for name in kept],
    }
    return data if case.target is None else {**data, "target": case.target}


def kept_objects(concept: str) -> list[str]:
    """Objects that are in nobody's list and should stay, evenly over the catalog; never mined as words."""
    shipped = yaml.safe_load((PACKAGE / "configs" / "emoji.yaml").read_text(encoding="utf-8"))
    taken = {concept, *CONCEPTS, *shipped["data"]["preserve"]}
    names = [item.name for item in load_catalog().trained if item.name not in taken]
    return names[:: max(len(names) // KEPT, 1)][:KEPT]


def synonyms_of(concept: str) -> list[str]:
    """The catalog's, which the loop does not see."""
    return next(list(item.synonyms) for item in load_catalog().objects if item.name == concept)
