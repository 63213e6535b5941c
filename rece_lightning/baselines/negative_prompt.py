"""The negative prompt: guidance away from a concept in the place of guidance away from nothing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rece_lightning.baselines.guard import Guard
from rece_lightning.baselines.text_arguments import embedded
from rece_lightning.baselines.words import PUBLISHED, Concept, named, words_of
from rece_lightning.core.errors import ConfigurationError


@dataclass(frozen=True)
class NegativePrompt(Guard):
    """``ε = ε_neg + s (ε_p − ε_neg)``: the prediction under the concept takes the place of the one without a prompt.

    It costs nothing. A negative prompt that a call brings itself stays, and the concept follows it.

    Args:
        concept: what to lead away from; that of Safe Latent Diffusion unless given. Several are joined by commas.

    Raises:
        ConfigurationError: if there is none.
    """

    concept: Concept = PUBLISHED

    def __post_init__(self) -> None:
        words_of("NegativePrompt.concept", self.concept)

    @property
    def title(self) -> str:
        return f"negative prompt ({named(words_of('NegativePrompt.concept', self.concept))})"

    def draw(self, pipeline: Any, arguments: Mapping[str, Any], texts: Sequence[str | None]) -> Any:
        """Call the pipeline with the concept as negative prompt; see :meth:`Guard.draw`."""
        self.check_call(pipeline, arguments)
        words = words_of("NegativePrompt.concept", self.concept)
        given = {name: value for name, value in arguments.items() if not name.startswith("negative")}
        taken = inspect.signature(pipeline.__call__).parameters
        if not any(name.startswith("negative") for name in taken):
            raise ConfigurationError(f"guard: {self.no_branch(type(pipeline).__name__)}")
        if arguments.get("prompt") is None or "negative_prompt" not in taken:
            whole = embedded(pipeline, arguments, [words] * len(texts))
            negative = {name: value for name, value in whole.items() if name.startswith("negative")}
            return pipeline(**given, **negative)
        own = arguments.get("negative_prompt") or ""
        if isinstance(arguments["prompt"], str) and isinstance(own, str):
            return pipeline(**given, negative_prompt=_joined(own, words))
        each = [own] * len(texts) if isinstance(own, str) else list(own)
        return pipeline(**given, negative_prompt=[_joined(one, words) for one in each])


def _joined(own: str, words: str) -> str:
    return f"{own}, {words}" if own.strip() else words
