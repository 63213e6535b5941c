"""What the robust loop is measured on: the cases of ablation and frontier, and the prompts that are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import FORMER_EDITORS, Configuration, Settings, digest_of, former
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
IN_LOOP = ("cce",)
"""A gradient attack before every epoch but the first: all the others stay closed-form."""
# λ₂ on the scale of the moments: the published 0.1 leaves a map that no switch keeps out of reach.
BASES: dict[str, tuple[Settings, int]] = {
    "uce": ({"editor": "UCE", "editor.lamb": 10.0, "derivation.scale": 1e-3}, 4),
    "projection": ({"editor": "Projection", "derivation.scale": 1e-3}, 3),
}
KEPT = 12


@dataclass(frozen=True)
class Case:
    """One way to erase, measured on every concept."""

    part: str
    label: str
    settings: Settings
    epochs: int
    robust: Mapping[str, Any] = field(default_factory=dict)
    """Switches; ``found`` is filled in for each concept."""
    between_epochs: tuple[str, ...] = ()
    """Attacks whose finds join the loop."""
    target: str | None = None
    """In place of the empty prompt."""
    preserve: str = SHIPPED
    """Which prompts are preserved."""

    @property
    def editor(self) -> str:
        """As the table calls it."""
        return FORMER_EDITORS[self.settings["editor"]]

    @property
    def uses_found(self) -> bool:
        """Whether it is given what broke the published loop."""
        return self.part == ABLATION and self.label in (FOUND, ALL)

    def recipe(self, concept: str, pictures: int, steps: int, attacks: str) -> str:
        """Digest of what decides a case's figures on a concept beside the model.

        Args:
            concept: that is erased.
            pictures: of each prompt or embedding.
            steps: of the sampler.
            attacks: beside the derived embedding.
        """
        switches = {**self.robust, **({"attacks": list(self.between_epochs)} if self.between_epochs else {})}
        made = [former(self.settings), self.epochs, switches, self.uses_found, data_of(self, concept), RATIOS]
        return digest_of(repr([made, [pictures, steps, "" if self.part == FRONTIER else attacks]]))


def ablation() -> list[Case]:
    """Each switch alone, all closed-form ones together, and a gradient attack in the loop.

    The published loop comes first, because it is attacked for ``found``.
    """
    cases = []
    everything = {key: value for switch in SWITCHES.values() for key, value in switch.items()}
    for settings, epochs in BASES.values():
        for label, robust in {PUBLISHED: {}, **SWITCHES, FOUND: {}, ALL: everything}.items():
            cases.append(Case(ABLATION, label, settings, epochs, robust))
        cases.append(Case(ABLATION, ATTACKED, settings, epochs, between_epochs=IN_LOOP))
    return cases


def frontier() -> list[Case]:
    """Every editor over its own settings, on keys and values and on values alone; UCE with the robust loop too."""
    cases = []

    def add(label: str, settings: Settings, epochs: int = 1, robust: Mapping[str, Any] | None = None) -> None:
        cases.append(Case(FRONTIER, label, settings, epochs, robust or {}))

    values = {"projections": "v"}
    for lamb in (0.1, 1.0, 10.0):
        uce = {"editor": "UCE", "editor.lamb": lamb}
        for scale in (0.1, 1.0):
            scales = {**uce, "editor.preserve_scale": scale, "derivation.scale": 1e-3}
            add(f"λ₂ {lamb:g}, λ₁ {scale:g}, 1 epoch", scales)
            add(f"λ₂ {lamb:g}, λ₁ {scale:g}, 4 epochs", scales, 4)
            add(f"λ₂ {lamb:g}, λ₁ {scale:g}, norms", scales, 4, SWITCHES["norms"])
        add(f"λ₂ {lamb:g}, λ₁ 0.1, values", {**uce, **values})
    for shrinkage in (0.03, 0.3, 1.0, 3.0, 10.0):
        for rank in (1, 0.99):
            for kinds in ("kv", "v"):
                label = f"κ {shrinkage:g}, r {rank:g}" + (", values" if kinds == "v" else "")
                taken = {"editor": "Projection", "editor.shrinkage": shrinkage, "editor.rank": rank}
                add(label, {**taken, "projections": kinds})
    for lamb in (0.1, 1.0, 10.0):
        confined = {"editor": "NullSpace", "editor.lamb": lamb}
        add(f"λ₂ {lamb:g}", confined)
        add(f"λ₂ {lamb:g}, values", {**confined, **values})
    return cases


def choices() -> list[Case]:
    """What else can be chosen where the projection editor is, one thing at a time."""
    base = {
        "editor": "Projection", "derivation.scale": 1e-3, "projections": "v", "editor.shrinkage": 3.0,
        "editor.rank": 0.99,
    }  # fmt: skip
    cases = [Case(CHOICES, "values, κ 3, r 0.99", base, 1)]

    def other(label: str, settings: Settings, epochs: int = 1, **case: Any) -> None:
        cases.append(Case(CHOICES, label, {**base, **settings}, epochs, **case))

    other("keys and values", {"projections": "kv"})
    other("keys", {"projections": "k"})
    other("values of the way down and the middle", {"layers": "down_blocks|mid_block"})
    other("values of the way up", {"layers": "up_blocks"})
    for shrinkage in (1.0, 10.0, 30.0):
        other(f"κ {shrinkage:g}", {"editor.shrinkage": shrinkage})
    for rank in (1, 4, 0.9, 0.999):
        other(f"r {rank:g}", {"editor.rank": rank})
    for target in ("a toy", "tool"):
        other(f"target “{target}”", {}, target=target)
    for preserve in (HALF, EVERYTHING):
        other(f"preserved: {preserve}", {}, preserve=preserve)
    other("2 rounds", {}, 2)
    words = {**SWITCHES["synonyms"], **SWITCHES["neighbours"]}
    other("synonyms and neighbours", {}, robust=words)
    other("synonyms and neighbours, 2 rounds", {}, 2, robust=words)
    return cases


def data_of(case: Case, concept: str) -> dict[str, Any]:
    """Arguments of ``ConceptData``."""
    shipped, kept = shipped_list(), kept_objects(concept)
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


def shipped_list() -> list[str]:
    """What ``configs/emoji.yaml`` preserves."""
    listed: list[str] = Configuration.shipped("emoji.yaml").data["preserve"]
    return listed


def kept_objects(concept: str) -> list[str]:
    """Objects that are in nobody's list and should stay, evenly over the catalog; never mined as words."""
    taken = {concept, *CONCEPTS, *shipped_list()}
    names = [item.name for item in load_catalog().trained if item.name not in taken]
    return names[:: max(len(names) // KEPT, 1)][:KEPT]


def synonyms_of(concept: str) -> list[str]:
    """The catalog's, which the loop does not see."""
    return next(list(item.synonyms) for item in load_catalog().objects if item.name == concept)
