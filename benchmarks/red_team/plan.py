"""What the red team attacks: erasures, model states, goals and the budgets of the attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Configuration, Settings, digest, fitted
from benchmarks.results.plan import ERASED, KINDS, RECE_TUNED, Erasure, objects, styles, tuned
from benchmarks.results.plan import ROBUST as ROBUST_TUNED
from benchmarks.results.plan import State as TunedState
from rece_lightning.attacks import Attack, Goal, make_attacks, make_goal
from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.sampling import Sampling

ORIGINAL, UCE, PLAIN, ROBUST = "original", "UCE", "RECE", "robust RECE"
STATES = (ORIGINAL, UCE, PLAIN, ROBUST)
TUNED = (RECE_TUNED, ROBUST_TUNED)
"""States of ``--tuned``: objects of the default plan, the first seed, and these attacks."""
TUNED_ATTACKS = ("paraphrase", "mma", "p4d", "unlearndiffatk", "derived", "cce", "inverted")
UNASKED = "unasked"
"""The floor: the variant of no attack that does not ask for what was erased."""
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
    "inverted": {"steps": 30, "pictures": 4},
}
"""Arguments of the attacks where they are small; ``--published`` takes those of the papers."""


@dataclass(frozen=True)
class State:
    """How a model state is made; UCE is epoch 0 of plain RECE."""

    settings: Settings
    words: Mapping[str, Any]
    """The same under the former names, which recipes and page are in."""
    epochs: int
    data: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the data than those that the erasure decides."""
    configuration: Configuration | None = None
    """Whose certificate ends the run."""

    @property
    def described(self) -> dict[str, Any]:
        """Of a recipe."""
        return {"model": dict(self.words), "epochs": self.epochs, "data": dict(self.data)}

    def fit(self, erasure: Erasure) -> ErasureSession:
        """Run the epochs."""
        own = self.configuration
        return fitted(
            self.settings,
            self.epochs,
            {**erasure.data, **self.data},
            own.stopping if own else (),
            certificate=own.certificate if own else None,
        )


@dataclass(frozen=True)
class Plan:
    """What decides the erasures and the attacks."""

    robust: Path | None
    """A configuration whose ``model`` section is the robust state's; no such state without it."""
    attacks: tuple[str, ...]
    published: bool
    seeds: int
    pictures: int
    steps: int
    tuned: bool = False
    """Whether states whose settings choose themselves are measured too."""

    @property
    def sampling(self) -> Sampling:
        """Of every picture."""
        return Sampling(self.steps, 4.0, 64)

    def states(self) -> tuple[str, ...]:
        """Those that are measured of every erasure."""
        return STATES if self.robust is not None else STATES[:-1]

    def tuned_states(self, erasure: Erasure) -> tuple[str, ...]:
        """Those of an erasure whose settings choose themselves."""
        own = [one.name for one in objects()[:OBJECTS]]
        return TUNED if self.tuned and erasure.name in own else ()

    def attacks_on(self, state: str, seed: int, kind: str) -> list[Attack]:
        """The attacks on a state under a seed."""
        made = self.made(seed, kind)
        if state not in TUNED:
            return made
        return [] if seed else [attack for attack in made if attack.name in TUNED_ATTACKS]

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

    def edit(self, erasure: Erasure, state: str) -> dict[str, Any]:
        """Of a recipe: what decides the model of a state."""
        if state in TUNED:
            return {"data": erasure.data, "model": {"pretrained": "emoji", **_tuned(state).chosen_by}}
        return {} if state == ORIGINAL else {"data": erasure.data, "model": self.state(erasure.kind, state).described}

    def fit(self, erasure: Erasure, state: str) -> ErasureSession:
        """The erasure of a state."""
        if state in TUNED:
            return _tuned(state).fit(erasure.data)
        return self.state(erasure.kind, state).fit(erasure)

    def recipe(
        self, weights: str, erasure: Erasure, edit: Mapping[str, Any], attack: Mapping[str, Any], seed: int
    ) -> str:
        """Digest of all that decides a row."""
        sampling = [str(self.sampling), self.pictures]
        return digest(
            {"weights": weights, "erasure": erasure.name, **edit, "attack": attack, "seed": seed, "as": sampling}
        )

    def state(self, kind: str, name: str) -> State:
        """How a state of erasures of a kind is made. The robust one stands on the plain one's settings.

        Raises:
            ConfigurationError: if the configuration of the robust state cannot be read or has no ``model``.
        """
        plain = Configuration.shipped(KINDS[kind][0])
        words, epochs = {"pretrained": "emoji", **plain.words}, int(plain.epochs or 1)
        if name != ROBUST:
            return State(plain.settings, words, 1 if name == UCE else epochs)
        assert self.robust is not None
        said = Configuration.read(self.robust, "--robust")
        data = {key: value for key, value in said.data.items() if key not in NOT_SETTINGS}
        settings = {**plain.settings, **said.settings}
        return State(settings, {**words, **said.words}, int(said.epochs or epochs), data, said)


def _tuned(name: str) -> TunedState:
    return next(state for state in tuned() if state.name == name)


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
