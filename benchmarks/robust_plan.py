"""What the robust loop is measured on: the cases of ablation and frontier, and the prompts that are looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from rece_lightning.core.editors import EDITORS
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.verbs import PACKAGE

CONCEPTS = ("bomb", "dagger", "axe", "water pistol", "kitchen knife", "church")
ABLATION, FRONTIER = "ablation", "frontier"
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
    """Every editor over its own settings; UCE and the projection with the robust loop too."""
    cases = []
    for lamb in (0.1, 1.0, 10.0, 100.0):
        for scale in (0.1, 1.0):
            model = {"editor": "uce", "lamb": lamb, "preserve_scale": scale, "regular_scale": 1e-3}
            cases.append(Case(FRONTIER, "uce", f"λ₂ {lamb:g}, λ₁ {scale:g}, 1 epoch", model, 1))
            cases.append(Case(FRONTIER, "uce", f"λ₂ {lamb:g}, λ₁ {scale:g}, 4 epochs", model, 4))
            cases.append(Case(FRONTIER, "uce", f"λ₂ {lamb:g}, λ₁ {scale:g}, norms", model, 4, SWITCHES["norms"]))
    for shrinkage in (0.03, 0.3, 1.0, 3.0, 10.0):
        for rank in (1, 2):
            model = {"editor": "projection", "shrinkage": shrinkage, "erased_rank": rank, "regular_scale": 1e-3}
            cases.append(Case(FRONTIER, "projection", f"κ {shrinkage:g}, r {rank}", model, 1))
        kept = {**SWITCHES["synonyms"], **SWITCHES["neighbours"]}
        cases.append(Case(FRONTIER, "projection", f"κ {shrinkage:g}, r 1, words", {**model, "erased_rank": 1}, 1, kept))
    for editor in EDITORS:
        if editor not in ("uce", "projection"):
            cases += [
                Case(FRONTIER, editor, f"λ₂ {lamb:g}", {"editor": editor, "lamb": lamb}, 1) for lamb in (0.1, 1.0, 10.0)
            ]
    return cases


def data_of(concept: str) -> dict[str, Any]:
    """Arguments of ``ConceptData``: the preserved prompts are those of the shipped configuration."""
    shipped = yaml.safe_load((PACKAGE / "configs" / "emoji.yaml").read_text(encoding="utf-8"))
    validation = [{"prompt": name, "kind": "preserved"} for name in kept_objects(concept)]
    preserve = [prompt for prompt in shipped["data"]["preserve"] if prompt != concept]
    return {"concepts": [concept], "preserve": preserve, "validation": validation}


def kept_objects(concept: str) -> list[str]:
    """Objects that are in nobody's list and should stay, evenly over the catalog; never mined as words."""
    shipped = yaml.safe_load((PACKAGE / "configs" / "emoji.yaml").read_text(encoding="utf-8"))
    taken = {concept, *CONCEPTS, *shipped["data"]["preserve"]}
    names = [item.name for item in load_catalog().trained if item.name not in taken]
    return names[:: max(len(names) // KEPT, 1)][:KEPT]


def synonyms_of(concept: str) -> list[str]:
    """The catalog's, which the loop does not see."""
    return next(list(item.synonyms) for item in load_catalog().objects if item.name == concept)
