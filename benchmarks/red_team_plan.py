"""What the red team attacks: erasures, model states, goals and the budgets of the attacks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer

from benchmarks.results_plan import ERASED, KINDS, Erasure, configuration, objects, styles
from rece_lightning import RECE, ConceptData
from rece_lightning.attacks import Attack, Goal, Victim, make_attacks, make_goal
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.sampling import Sampling

ORIGINAL, UCE, PLAIN, ROBUST = "original", "UCE", "RECE", "robust RECE"
STATES = (ORIGINAL, UCE, PLAIN, ROBUST)
OBJECTS, STYLES = 6, 2
"""Erasures of the default plan; ``--concepts all`` takes twelve and four."""
STYLE_PROMPTS = 2
"""Prompts in which a style is attacked: it is named in context."""
NOT_SETTINGS = ("concepts", "preserve", "target", "templates", "validation", "test", "predict", "batch_size")
"""Keys of ``data`` that the erasure itself decides."""
BUDGETS: dict[str, dict[str, Any]] = {
    "paraphrase": {"most": 6},
    "ring-a-bell": {"restarts": 3},
    "ring-a-bell-embedding": {},
    "mma": {"restarts": 3},
    "p4d": {"restarts": 2},
    "unlearndiffatk": {"restarts": 2},
    "derived": {"ratios": (0.25, 0.5, 1.0, 2.0)},
    "cce": {"steps": 40, "at": (0, 10, 20, 40), "tokens": (2, 0)},
}
"""Arguments of the attacks where they are small; ``--published`` takes those of the papers."""


@dataclass(frozen=True)
class Settings:
    """What decides the erasures and the attacks."""

    robust: Path | None
    """A configuration whose ``model`` section is the robust state's; no such state without it."""
    attacks: tuple[str, ...]
    published: bool
    seeds: int
    pictures: int
    steps: int

    @property
    def sampling(self) -> Sampling:
        """Of every picture."""
        return Sampling(self.steps, 4.0, 64)

    def states(self) -> tuple[str, ...]:
        """Those that are measured."""
        return STATES if self.robust is not None else STATES[:-1]

    def picture_seeds(self, seed: int) -> range:
        """Other ones for every seed."""
        return range(seed * self.pictures, (seed + 1) * self.pictures)

    def made(self, seed: int, kind: str) -> list[Attack]:
        """The attacks under a seed; those that need a control have none among styles."""
        found: list[Attack] = []
        for name in self.attacks:
            (attack,) = make_attacks([name], "--attacks", published=self.published)
            arguments = {} if self.published else BUDGETS[name]
            published = dict(attack.PUBLISHED) if self.published else {}
            found.append(type(attack)(**{**published, **arguments, "seed": seed}))  # type: ignore[call-arg]
        return [attack for attack in found if kind == "objects" or not attack.needs_control]

    def recipe(self, weights: str, erasure: Erasure, state: str, attack: dict[str, Any], seed: int) -> str:
        """Digest of all that decides a row."""
        edit = {} if state == ORIGINAL else {"data": erasure.data, "model": self.model(erasure.kind, state)}
        sampling = [str(self.sampling), self.pictures]
        what = {"weights": weights, "erasure": erasure.name, **edit, "attack": attack, "seed": seed, "as": sampling}
        return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def model(self, kind: str, state: str) -> dict[str, Any]:
        """Model arguments, epochs and further data settings of a state; UCE is epoch 0 of plain RECE."""
        content = configuration(KINDS[kind][0])
        found = {"model": dict(content["model"]), "epochs": int(content["trainer"]["max_epochs"]), "data": {}}
        if state == UCE:
            found["epochs"] = 1
        if state == ROBUST:
            assert self.robust is not None
            said = read_robust(self.robust)
            found["model"] |= said.get("model") or {}
            found["epochs"] = int((said.get("trainer") or {}).get("max_epochs") or found["epochs"])
            found["data"] = {key: value for key, value in (said.get("data") or {}).items() if key not in NOT_SETTINGS}
        return found


def read_robust(path: Path) -> dict[str, Any]:
    """The configuration of the robust state.

    Raises:
        ConfigurationError: if it cannot be read or has no ``model``.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"--robust: {path} cannot be read ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ConfigurationError(f"--robust: {path} has no section 'model'; give a configuration such as emoji.yaml.")
    return content


def erasures(names: Sequence[str]) -> list[Erasure]:
    """Objects and styles by name; ``default`` and ``all`` are lists of them.

    Raises:
        ConfigurationError: for a name that is neither.
    """
    things, designs = objects(), styles()
    lists = {"default": [*things[:OBJECTS], *designs[:STYLES]], "all": [*things, *designs]}
    if len(names) == 1 and names[0] in lists:
        return lists[names[0]]
    known = {erasure.name: erasure for erasure in lists["all"]}
    for name in names:
        if name not in known:
            raise ConfigurationError(f"--concepts: {name!r} is not erased here; {nearest(name, known)}.")
    return [known[name] for name in names]


def goals(erasure: Erasure, attack: Attack | None, place: int) -> list[Goal]:
    """What an attack looks for: the object and its control, or the style in some prompts."""
    catalog = load_catalog()
    if erasure.kind == "styles":
        return [_style_goal(erasure, row.prompt) for row in erasure.groups[ERASED][:STYLE_PROMPTS]]
    synonyms = next(item.synonyms for item in catalog.objects if item.name == erasure.name)
    found = [make_goal(erasure.name, synonyms=synonyms)]
    if attack is not None and attack.needs_control:
        found.append(make_goal(catalog.held_out[place % len(catalog.held_out)].name, control=True))
    return found


def _style_goal(erasure: Erasure, prompt: str) -> Goal:
    """Pairs: what was erased and its targets, the same prompts with the style and without it."""
    plain = erasure.data.get("target", " ")
    pairs = [(one["prompt"], one.get("target", plain)) for one in erasure.data["concepts"]]
    return Goal(erasure.name, prompt, carriers=tuple(without for _, without in pairs[:4]), pairs=tuple(pairs))


def erased(settings: Settings, erasure: Erasure, state: str) -> RECE:
    """Run the epochs of a state."""
    made = settings.model(erasure.kind, state)
    module = RECE(**made["model"])
    trainer = Trainer(
        max_epochs=made["epochs"],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, ConceptData(**{**erasure.data, **made["data"]}))
    return module


def victims(settings: Settings, erasure: Erasure) -> Iterator[tuple[str, Victim]]:
    """Every state of an erasure. One ``fit`` serves the first three."""
    plain = erased(settings, erasure, PLAIN)
    maps: dict[str, tuple[RECE, AnyMap | None]] = {
        ORIGINAL: (plain, None),
        UCE: (plain, plain.first_maps),
        PLAIN: (plain, plain.maps),
    }
    for state in settings.states():
        if state == ROBUST:
            module = erased(settings, erasure, ROBUST)
            own: AnyMap | None = module.maps
        else:
            module, own = maps[state]
        weights = dict(module.edited_weights(own)) if own is not None else None
        gram, met = (module.gram, None) if own is None else module.attacked(own)
        yield (
            state,
            Victim(
                module.pictures,
                gram=gram,
                maps=met,
                weights=weights,
                detector=EmojiDetector(),
                sampling=settings.sampling,
            ),
        )
