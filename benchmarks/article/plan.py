"""What is erased, and by what: the things, the contenders, the prompts. All of it follows from the shipped files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from benchmarks.harness import Settings, digest, method_of
from benchmarks.results.plan import (
    ERASED,
    HELD,
    SAMPLING,
    SYNONYMS,
    Erasure,
    objects,
    protocol_rows,
    shared,
    states,
    styles,
)
from rece_lightning.attacks.base import fill
from rece_lightning.baselines import ESD, SAFREE, SLD, ConceptAblation, NegativePrompt, OutputFilter, SelectiveAmnesia
from rece_lightning.baselines.sld import STRENGTHS
from rece_lightning.cli.verbs import PACKAGE
from rece_lightning.core.method import Method
from rece_lightning.core.tuning import OFF, RULES
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.emoji.captions import TEMPLATES
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.metrics import ZeroShot

WORLDS = ("emoji", "emoji-mmdit")
ANCHORS = {
    "bomb": "balloon", "dagger": "pencil", "axe": "key", "water pistol": "telephone", "kitchen knife": "carrot",
    "church": "tent", "guitar": "drum",
}  # fmt: skip
"""What an erased object becomes, in every method that takes a target: concept ablation needs pictures of one."""
UNSAFE = ("bomb", "dagger", "axe", "water pistol", "kitchen knife")
ALONE = ("church", "guitar")
SEEDS = {ERASED: 5, SYNONYMS: 5, "other words": 2, HELD: 3, "derived": 2}
"""Pictures a prompt, by group. *Other words*: names and synonyms in templates, what anybody tries first."""
WORDS, DERIVED, FLOOR = "other words", "derived", "floor"
MOST_WORDS, MOST_IN_CONTEXT = 8, 20
ORIGINAL = "original"
UCE, RECE, RECE_TUNED, ROBUST = "UCE", "RECE, published settings", "RECE, tuned", "robust, tuned"
Key = tuple[str, str, str, str]
"""World, thing, method and group of prompts."""


@dataclass(frozen=True)
class Edit:
    """A closed-form edit, as ``rece_lightning.erase`` makes it."""

    method: Method | None
    epochs: int | None
    tune: str = "off"
    data: Mapping[str, Any] = field(default_factory=dict)
    """In place of the thing's own: further prompts, templates."""

    @property
    def told(self) -> dict[str, Any]:
        """What decides it."""
        plain = None if self.method is None else self.method.plain()
        rule = {} if self.tune == OFF else {"rule": RULES[self.tune]}
        return {"method": plain, "epochs": self.epochs, "tune": self.tune, "data": dict(self.data), **rule}


@dataclass(frozen=True)
class Guarded:
    """A guard around the pipeline."""

    make: Callable[[Sequence[str]], Any]
    """Given the names of what is erased."""
    told: Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """A Lightning module that trains the denoiser."""

    kind: Callable[..., Any]
    arguments: Mapping[str, Any]

    @property
    def told(self) -> dict[str, Any]:
        """What decides it."""
        return {"class": getattr(self.kind, "__name__", ""), **self.arguments}


@dataclass(frozen=True)
class Contender:
    """A method under its name in the tables."""

    name: str
    how: Edit | Guarded | Trained | None
    """``None``: the original model."""

    def recipe(self, thing: Erasure, group: str) -> str:
        """Digest of what decides a row's figures beside the model."""
        prompts = [row.plain() for row in asked(thing)[group]]
        told = None if self.how is None else dict(self.how.told)
        edited = None if self.how is None else thing.data
        return digest([group, told, edited, prompts, SEEDS.get(group), str(SAMPLING)])


def things() -> list[Erasure]:
    """Five weapons at once ("unsafe"), two objects and a style one at a time."""
    by_name = {one.name: one for one in objects()}
    rows = protocol_rows("objects")
    own = [row for row in rows if row.concept in UNSAFE]
    groups = {
        ERASED: tuple(row for row in own if row.prompt == row.concept),
        SYNONYMS: tuple(row for row in own if row.prompt != row.concept),
        HELD: by_name["bomb"].groups[HELD],
    }
    weapons = Erasure("unsafe", "weapons", {**shared("objects"), "concepts": anchored(UNSAFE)}, groups)
    alone = [replace(by_name[name], data={**by_name[name].data, "concepts": anchored([name])}) for name in ALONE]
    style = styles()[0]
    few = {name: prompts[:MOST_IN_CONTEXT] for name, prompts in style.groups.items()}
    return [weapons, *alone, replace(style, groups=few)]


def anchored(names: Sequence[str]) -> list[dict[str, str]]:
    """Concepts with their anchors."""
    return [{"prompt": name, "target": ANCHORS[name]} for name in names]


def names_of(thing: Erasure) -> list[str]:
    """What a guard is told, and a detector looks for."""
    return list(dict.fromkeys(row.concept for row in thing.groups[ERASED]))


def asked(thing: Erasure) -> dict[str, tuple[EvaluationPrompt, ...]]:
    """The prompts by group; the floor's are the targets, asked for what was erased."""
    found = {name: rows for name, rows in thing.groups.items() if rows}
    own = thing.groups[ERASED]
    if thing.kind == "styles":
        found[FLOOR] = tuple(replace(row, prompt=row.prompt.partition(f" in {row.concept}")[0]) for row in own)
        found[DERIVED] = own[:5]
        return found
    targets = {one["prompt"]: one["target"] for one in thing.data["concepts"]}
    found[FLOOR] = tuple(replace(row, prompt=targets[row.concept]) for row in own)
    found[DERIVED] = own
    words: list[EvaluationPrompt] = []
    for row in own:
        nouns = [row.prompt, *(other.prompt for other in thing.groups[SYNONYMS] if other.concept == row.concept)]
        texts = [fill(template, bare(noun)) for template in TEMPLATES if template != "{}" for noun in nouns]
        words += [replace(row, prompt=text) for text in dict.fromkeys(texts)][: MOST_WORDS if len(own) == 1 else 4]
    found[WORDS] = tuple(words)
    return found


def bare(noun: str) -> str:
    """Without its article."""
    return noun.removeprefix("an ").removeprefix("a ")


def seeds(group: str) -> range:
    """Of the pictures of every prompt."""
    return range(SEEDS[ERASED if group == FLOOR else group])


def contenders(world: str, thing: Erasure) -> list[Contender]:
    """All methods, in the order of the tables."""
    return [Contender(ORIGINAL, None), *guards(world), *trained(world), *edits(world, thing)]


def guards(world: str) -> list[Contender]:
    """Nothing of the model is changed; a U-Net alone has features that SAFREE damps."""
    found = [Contender("negative prompt", Guarded(lambda names: NegativePrompt(", ".join(names)), {"guard": "NP"}))]
    for strength, published in STRENGTHS.items():
        warmup = round(published.warmup * SAMPLING.steps / 50)

        def make(names: Sequence[str], strength: str = strength, warmup: int = warmup) -> SLD:
            return SLD(strength, ", ".join(names), warmup=warmup)

        found.append(Contender(f"SLD {strength}", Guarded(make, {"guard": "SLD", "is": strength, "warmup": warmup})))
    found.append(Contender("SAFREE", Guarded(lambda names: SAFREE(list(names)), {"guard": "SAFREE"})))
    if world == "emoji":
        damping = Guarded(lambda names: SAFREE(list(names), reweigh=True), {"guard": "SAFREE", "reweigh": True})
        found.append(Contender("SAFREE, features damped", damping))
    found.append(Contender("output filter", Guarded(filtered, {"guard": "filter", "by": "zero-shot CLIP"})))
    return found


def filtered(names: Sequence[str]) -> OutputFilter:
    """By the embedded CLIP, which is not the detector that measures: objects against all objects, styles likewise."""
    catalog = load_catalog()
    kinds = [[item.name for item in catalog.objects], [f"{style} style" for style in catalog.styles]]
    others = next(kind for kind in kinds if names[0] in kind)
    return OutputFilter(list(names), ZeroShot(others))


def trained(world: str) -> list[Contender]:
    """With the settings of the shipped configurations, which are those of a small model."""
    kinds = {"CA, model-based": ("ca_emoji.yaml", ConceptAblation, {}),
             "CA, noise-based": ("ca_emoji.yaml", ConceptAblation, {"kind": "noise"}),
             "SA": ("sa_emoji.yaml", SelectiveAmnesia, {})}  # fmt: skip
    # An MMDiT has no cross-attention apart from the rest: ESD trains what reads the text's rows.
    for kind in ("x", "u") if world == "emoji" else ("strict",):
        kinds[f"ESD-{kind}"] = ("esd_emoji.yaml", ESD, {"kind": kind})
    found = []
    for name, (file, module, changes) in kinds.items():
        content = yaml.safe_load((PACKAGE / "configs" / file).read_text(encoding="utf-8"))
        found.append(
            Contender(name, Trained(module, {**content["model"]["init_args"], "pretrained": world, **changes}))
        )
    return found


def edits(world: str, thing: Erasure) -> list[Contender]:
    """Closed forms: published scales where the article has them, the others' chosen by ``tune: balanced``."""
    kind = "styles" if thing.kind == "styles" else "objects"
    given = {one.name: one for one in states(kind)}
    found = [
        Contender(name, Edit(method_of(state.settings or {}), state.epochs))
        for name, state in ((UCE, given[UCE]), (RECE, given[RECE]))
    ]
    found.append(Contender(RECE_TUNED, Edit(None, None, "balanced")))
    # What an MMDiT reads its text with is neither key nor value.
    values: Settings = {"projections": "v"} if world == "emoji" else {}
    chosen: dict[str, Settings] = {
        "SPEED, tuned": {"editor": "NullSpace", **values},
        "projection, tuned": {"editor": "Projection", **values},
        "DP, tuned": {"editor": "DP", "editor.rank": None, "tokens": "last"},
        "CURE, tuned": {"editor": "CURE", "tokens": "all"},
        "OCE, tuned": {"editor": "OCE", "tokens": "last", **values},
    }
    found += [Contender(name, Edit(method_of(settings), 1, "balanced")) for name, settings in chosen.items()]
    uce = given[UCE]
    more = {"templates": ["{}", "a photo of {}", "a drawing of {}"]}
    if thing.kind != "styles":
        targets = {one["prompt"]: one["target"] for one in thing.data["concepts"]}
        synonyms = [{"prompt": bare(row.prompt), "target": targets[row.concept]} for row in thing.groups[SYNONYMS][::2]]
        more["concepts"] = [*thing.data["concepts"], *synonyms]
    ends = method_of({**(uce.settings or {}), "tokens": "end"})
    found.append(Contender("TRCE, first stage", Edit(ends, 1, data=more)))
    found.append(Contender(ROBUST, Edit(None, None, "robust")))
    return found
