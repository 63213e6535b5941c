"""What every attack takes and gives: a victim, a goal and a budget in; adversarial prompts or embeddings out."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.texts import filled
from rece_lightning.emoji.captions import TEMPLATES, with_article
from rece_lightning.models.text_space import TEXT

NEUTRAL = ("dog", "tree", "fish", "train", "book", "door", "key", "bread")
"""Common things, where nobody names others than the concept."""
CARRIERS = 4


@dataclass(frozen=True)
class Budget:
    """What an attack may spend on one concept."""

    steps: int = 0
    """Of its search, a restart."""
    tokens: int = 0
    """Tokens or positions that it may choose."""
    restarts: int = 1
    """Independent searches, each with a seed of its own."""
    seed: int = 0

    def __post_init__(self) -> None:
        for field, least in (("steps", 0), ("tokens", 0), ("restarts", 1), ("seed", 0)):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigurationError(f"attacks: {field}: {value!r}; give a whole number of {least} or more.")


@dataclass(frozen=True)
class Goal:
    """A concept that an attacker wants to see, and the words that it is asked for with."""

    concept: str
    """What the detector looks for."""
    prompt: str
    """Names the concept, as the erasure knows it."""
    synonyms: tuple[str, ...] = ()
    carriers: tuple[str, ...] = ()
    """Prompts about something else, to which the concept is added."""
    pairs: tuple[tuple[str, str], ...] = ()
    """The same phrase with the concept and without it: their mean difference is the concept's direction."""
    forbidden: tuple[str, ...] = ()
    """Words that a search over tokens may not use."""
    control: bool = False
    """Whether the model never knew the concept: what an attack reaches then is none of the erasure's fault."""


def make_goal(
    concept: str,
    prompt: str | None = None,
    *,
    synonyms: Sequence[str] = (),
    others: Sequence[str] = (),
    forbid: Sequence[str] = (),
    control: bool = False,
) -> Goal:
    """A goal with the pairs and carriers that follow from its prompt, which is the concept itself unless given.

    ``others`` are things that are not the concept, for pairs and carriers; for the rest see :class:`Goal`.
    """
    name = (prompt or concept).strip()
    known = {name.lower(), concept.lower(), *(word.lower() for word in synonyms)}
    things = [other.strip() for other in (*others, *NEUTRAL) if other.strip() and other.strip().lower() not in known]
    # Short names first: both prompts of a pair should lie at the same positions.
    things = sorted(dict.fromkeys(things), key=lambda thing: abs(len(thing.split()) - len(name.split())))[:8]
    pairs = [(fill(template, name), fill(template, other)) for other in things for template in TEMPLATES]
    carriers = [fill(TEMPLATES[index % len(TEMPLATES)], other) for index, other in enumerate(things[:CARRIERS])]
    return Goal(concept, name, tuple(synonyms), tuple(carriers), tuple(pairs), tuple(forbid), control)


def fill(template: str, noun: str) -> str:
    """``fill("a photo of {}", "axe")`` → ``a photo of an axe``; the bare template takes no article."""
    return filled(template, noun if template == "{}" else with_article(noun))


@dataclass(frozen=True)
class AdversarialPrompt:
    """What an attack found: a text, an embedding, or noise to start from."""

    attack: str
    concept: str
    restart: int
    prompt: str
    """The text; of an embedding, what it stands for."""
    variant: str = ""
    """Which point of a curve it is, such as ``ratio=0.5``."""
    embedding: Tensor | None = None
    """``[positions, d]``; ``None`` for a text."""
    pooled: Tensor | None = None
    """SDXL's pooled embedding beside it, ``[p]``."""
    latents: Tensor | None = None
    """The noise to start from, in the pipeline's layout; ``None``: that of the seeds."""
    loss_before: float = float("nan")
    """The attack's own loss where it started."""
    loss: float = float("nan")
    """Where it ended."""
    queries: int = 0
    """Prompts that went through the text encoder or the denoiser, gradients counted as one each."""
    seconds: float = 0.0
    seed: int = 0


class Attack(ABC):
    """An attack on one concept.

    A subclass names itself, says what it has, and implements :meth:`search`. Everything random comes from
    :meth:`generator`, so that a restart finds the same whether it runs alone or beside others.
    """

    name: ClassVar[str]
    """As ``--attacks`` and the tables call it."""
    has: ClassVar[str]
    """What the attacker needs."""
    looks_at_weights: ClassVar[bool] = False
    """Whether what it finds depends on the edited denoiser."""
    is_curve: ClassVar[bool] = False
    """Whether the variants of a result are points of a curve, each with a success of its own."""
    PUBLISHED: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the published attack, where they differ from these small defaults."""
    needs_control: ClassVar[bool] = False
    """Whether its success means something only beside that on a concept which the model never knew."""
    finds_noise: ClassVar[bool] = False
    """Whether what it finds is noise to start from: there is no text in it that an edit could erase."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    @abstractmethod
    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """Run these restarts together; the seed, and seconds where it gives none, are filled in by :meth:`run`."""

    def restarts(self, goal: Goal) -> int:
        """How many independent pieces of work there are for a goal."""
        return self.budget.restarts

    def describe(self) -> dict[str, Any]:
        """Every setting that decides what it finds: plain types."""
        settings = {key: value for key, value in vars(self).items() if key != "budget" and not key.startswith("_")}
        return {"attack": self.name, **asdict(self.budget), **settings}

    def run(self, victim: Victim, goal: Goal, *, done: Sequence[int] = ()) -> list[AdversarialPrompt]:
        """Search, leaving out the restarts that are ``done``; at least one result for each restart that ran.

        Raises:
            ConfigurationError: if the attack needs something that victim or goal lack.
        """
        left = [restart for restart in range(self.restarts(goal)) if restart not in done]
        if not left:
            return []
        started = time.perf_counter()
        with torch.inference_mode(False), torch.enable_grad():
            found = self.search(victim, goal, left)
        each = (time.perf_counter() - started) / max(len(found), 1)
        return [replace(one, seconds=one.seconds or each, seed=self.budget.seed) for one in found]

    def generator(self, goal: Goal, restart: int) -> torch.Generator:
        """Of a restart alone: same seed, concept and number, same draws."""
        text = f"{self.name}|{goal.concept}|{self.budget.seed}|{restart}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
        return torch.Generator().manual_seed(number)


def key_of(attack: Attack, victim: Victim, goal: Goal) -> str:
    """Twelve hexadecimal digits that identify a piece of work: an attack, a goal and a victim."""
    # More restarts add to those that are there.
    settings = {key: value for key, value in attack.describe().items() if key != "restarts"}
    model = victim.fingerprint if attack.looks_at_weights else victim.text_fingerprint
    content = {"settings": settings, "goal": asdict(goal), "model": model}
    if victim.source != TEXT:  # searches of tokens go through another encoder
        content["source"] = victim.source
    return hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()[:12]
