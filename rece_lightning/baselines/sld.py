"""Safe Latent Diffusion (Schramowski et al., arXiv 2211.05105): guidance away from a concept where it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rece_lightning.baselines.branches import branch_of, unconditional_of
from rece_lightning.baselines.guard import Guard
from rece_lightning.baselines.steps import steps_changed
from rece_lightning.baselines.text_arguments import as_given
from rece_lightning.baselines.words import PUBLISHED, Concept, named, words_of
from rece_lightning.core.errors import check_choice, check_number
from rece_lightning.models.denoisers import known_family


@dataclass(frozen=True)
class Strength:
    """The five numbers of Safe Latent Diffusion."""

    warmup: int
    """δ: steps before the guidance is used."""
    scale: float
    """s_S: of the element-wise weight."""
    threshold: float
    """λ: below it an element is led away from the concept."""
    momentum_scale: float
    """s_m."""
    momentum: float
    """β_m."""


STRENGTHS = {
    "weak": Strength(15, 20.0, 0.0, 0.0, 0.0),
    "medium": Strength(10, 1000.0, 0.01, 0.3, 0.4),
    "strong": Strength(7, 2000.0, 0.025, 0.5, 0.7),
    "max": Strength(0, 5000.0, 1.0, 0.5, 0.7),
}
"""As published, for 50 steps."""


@dataclass(frozen=True)
class SLD(Guard):
    """A third prediction a step, under the concept; where the prompt's is on its way there, it is led away.

    With ``ε_p``, ``ε_S`` and ``ε_∅`` under the prompt, under the concept and without either, element by element::

        μ = min(1, s_S |ε_p − ε_S|)  where  ε_p − ε_S < λ,  else 0
        γ = μ (ε_S − ε_∅) + s_m ν;   ν ← β_m ν + (1 − β_m) γ,  at first 0, also within the warm-up
        ε = ε_∅ + s (ε_p − ε_∅ − γ),  from step δ on

    The predictions may be of the noise, the velocity or the flow. Where a pipeline asks for the prediction without the
    prompt in a call of its own, a step costs four forwards of the denoiser, elsewhere three.

    Args:
        strength: ``weak``, ``medium``, ``strong`` or ``max``. Warm-ups are published for 50 steps.
        concept: what to lead away from; the published one unless given. Several are joined by commas.
        warmup: in place of the strength's δ.
        scale: in place of its s_S.
        threshold: in place of its λ.
        momentum_scale: in place of its s_m.
        momentum: in place of its β_m.

    Raises:
        ConfigurationError: for a value that makes no sense.
    """

    strength: str = "medium"
    concept: Concept = PUBLISHED
    warmup: int | None = None
    scale: float | None = None
    threshold: float | None = None
    momentum_scale: float | None = None
    momentum: float | None = None

    def __post_init__(self) -> None:
        check_choice("SLD.strength", self.strength, tuple(STRENGTHS))
        words_of("SLD.concept", self.concept)
        for name, value in self._own().items():
            check_number(f"SLD.{name}", value)

    def _own(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in Strength.__dataclass_fields__}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def numbers(self) -> Strength:
        """What it works with."""
        return Strength(**{**vars(STRENGTHS[self.strength]), **self._own()})

    @property
    def title(self) -> str:
        own = "".join(f", {name} {value:g}" for name, value in self._own().items())
        return f"SLD {self.strength}{own} ({named(words_of('SLD.concept', self.concept))})"

    def draw(self, pipeline: Any, arguments: Mapping[str, Any], texts: Sequence[str | None]) -> Any:
        """Call the pipeline with the guidance of every step changed; see :meth:`Guard.draw`."""
        self.check_call(pipeline, arguments)
        words = words_of("SLD.concept", self.concept)
        concept = branch_of(pipeline, arguments, as_given(pipeline, arguments, [words] * len(texts)))
        # A U-Net's pipelines ask for both predictions at once.
        apart = known_family(pipeline) is not None
        without = unconditional_of(pipeline, arguments, concept.rows) if apart else None
        with steps_changed(pipeline, [concept], SafetyGuidance(self.numbers), without, guided=True):
            return pipeline(**arguments)


class SafetyGuidance:
    """The equations of :class:`SLD`, step by step: keeps the momentum and counts.

    Args:
        numbers: of a strength.
    """

    def __init__(self, numbers: Strength) -> None:
        self.numbers = numbers
        self._momentum: Tensor | float = 0.0
        self._step = 0

    def __call__(self, prompt: Tensor, without: Tensor | None, further: list[Tensor]) -> Tensor:
        """``ε_p − γ``, ``ε_p`` within the warm-up: the pipeline's guidance makes the rest of it.

        Args:
            prompt: prediction under the prompt.
            without: that without it.
            further: that under the concept, alone.
        """
        assert without is not None
        (concept,), numbers = further, self.numbers
        difference = prompt - concept
        weight = (difference.abs() * numbers.scale).clamp(max=1.0)
        weight = torch.where(difference < numbers.threshold, weight, torch.zeros_like(weight))
        safety = weight * (concept - without) + numbers.momentum_scale * self._momentum
        self._momentum = numbers.momentum * self._momentum + (1 - numbers.momentum) * safety
        self._step += 1
        return prompt if self._step <= numbers.warmup else prompt - safety
