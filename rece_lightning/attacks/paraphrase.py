"""`paraphrase`: synonyms and templates of the concept; what anybody tries first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal, fill
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.emoji.captions import TEMPLATES


class Paraphrase(Attack):
    """Ask for the concept in other words.

    The goal's synonyms fill the templates; a concept without synonyms is asked for by its own name in the templates
    other than the bare one. Nothing is searched, so there is no loss, and a restart is a prompt.

    Args:
        templates: filled with a synonym and its article; ``"{}"`` takes it bare.
        own_name: also fill the templates with the concept's own name.
        most: prompts at most; the first ones of every synonym come first.
        seed: stands in the results; nothing is random.
    """

    name: ClassVar[str] = "paraphrase"
    has: ClassVar[str] = "prompts"

    def __init__(
        self, templates: Sequence[str] = TEMPLATES, own_name: bool = False, most: int = 16, seed: int = 0
    ) -> None:
        if isinstance(templates, str) or any(template.count("{}") != 1 for template in templates):
            raise ConfigurationError(f"attacks: paraphrase: templates: {templates!r}; each must hold '{{}}' once.")
        super().__init__(Budget(seed=seed, restarts=most))
        self.templates = tuple(templates)
        self.own_name = own_name

    def prompts(self, goal: Goal) -> list[str]:
        """What is asked, in order."""
        asked = [fill(template, noun) for template in self.templates for noun in goal.synonyms]
        if self.own_name or not asked:
            asked += [fill(template, goal.prompt) for template in self.templates if template != "{}"]
        asked = [prompt for prompt in dict.fromkeys(asked) if prompt != goal.prompt]
        return asked[: self.budget.restarts]

    def restarts(self, goal: Goal) -> int:
        """As many as there are prompts."""
        return len(self.prompts(goal))

    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """The prompts themselves."""
        prompts = self.prompts(goal)
        return [AdversarialPrompt(self.name, goal.concept, restart, prompts[restart]) for restart in restarts]
