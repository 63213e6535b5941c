"""CA: Concept Ablation (Kumari et al., *Ablating Concepts in Text-to-Image Diffusion Models*, arXiv 2303.13516)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rece_lightning.baselines.parameters import KEYS_VALUES
from rece_lightning.baselines.trained import TrainedErasure, squares
from rece_lightning.core.errors import check_choice, check_count, check_number
from rece_lightning.models.noising import NoisedPictures

MODEL, NOISE = "model", "noise"


@dataclass(frozen=True)
class Drawn:
    """A batch: noised latents of anchor pictures, and which pair of prompts each is of."""

    noised: NoisedPictures
    pairs: Tensor
    """``[n]``."""


class ConceptAblation(TrainedErasure):
    """Train the prompt of a concept to mean its anchor (CA, arXiv 2303.13516).

    With pictures ``x`` that the original model draws of the anchor prompt ``c`` and the concept's prompt ``c*``:

    - ``kind: model``: ``E ‖ε̂(x_t, c*, t) − sg[ε̂(x_t, c, t)]‖²``, the target from the same network without a gradient;
    - ``kind: noise``: ``E ‖ε̂(x_t, c*, t) − ε‖²``;

    and, weighed by ``anchor_weight``, ``E ‖ε̂(x_t, c, t) − ε‖²``, which keeps the anchor where both prompts share words.
    What the model predicts in place of the noise (a velocity, a flow) takes its place in all three. The anchor of a
    concept is its target in ``data``: ``{prompt: grumpy cat, target: cat}``, with ``templates`` for whole sentences.
    Not done: the random crops that the published code masks its loss by.

    Args:
        pretrained: ``emoji``, a diffusers folder, a checkpoint file, or a hub id.
        revision: of the hub repository.
        variant: of the weight files, such as ``fp16``.
        config: of a checkpoint file.
        kind: ``model`` or ``noise``.
        parameters: what is trained; see :class:`rece_lightning.baselines.trained.TrainedErasure`.
        learning_rate: of AdamW; published: 2e-6 times the batch of all devices (2 of 4).
        batch_size: pictures of a batch, on every process.
        batches: of an epoch; published: 100 in all.
        anchor_weight: λ; published: 1 where anchor and concept share words.
        pictures: of the anchors, that the original model draws before the first step.
        steps: of the sampler that draws them.
        guidance_scale: that they are drawn with.
        draw_together: pictures that are drawn at once.
        seed: of everything random.

    Raises:
        ConfigurationError: for every setting that makes no sense, before any model is touched.
    """

    name: ClassVar[str] = "CA"

    def __init__(
        self,
        pretrained: str = "emoji",
        revision: str | None = None,
        variant: str | None = None,
        config: str | None = None,
        kind: str = MODEL,
        parameters: str = KEYS_VALUES,
        learning_rate: float = 1.6e-5,
        batch_size: int = 4,
        batches: int = 100,
        anchor_weight: float = 0.0,
        pictures: int = 1000,
        steps: int = 50,
        guidance_scale: float = 6.0,
        draw_together: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__(
            pretrained, revision, variant, config, parameters, learning_rate, batch_size, batches, seed
        )  # fmt: skip
        check_choice("model.kind", kind, (MODEL, NOISE))
        check_number("model.anchor_weight", anchor_weight)
        check_number("model.guidance_scale", guidance_scale)
        for setting, value in (("pictures", pictures), ("steps", steps), ("draw_together", draw_together)):
            check_count(f"model.{setting}", value)
        self.save_hyperparameters()
        self.kind, self.anchor_weight, self.pictures = kind, anchor_weight, pictures
        self.steps, self.guidance_scale, self.draw_together = steps, guidance_scale, draw_together
        self.latents = torch.zeros(0)
        """Of the anchor pictures, ``[n, c, h, w]``."""
        self.pair_of = torch.zeros(0, dtype=torch.long)
        """Number of the pair that each is of, ``[n]``."""

    def prepare(self) -> None:
        """Draw the anchor pictures with the original model."""
        count = len(self.pairs) if self.trainer.fast_dev_run else max(self.pictures, len(self.pairs))  # type: ignore[attr-defined]
        self.pair_of = torch.arange(count) % len(self.pairs)
        anchors = [self.pairs[pair].target for pair in self.pair_of.tolist()]
        self.latents = self.draw(
            anchors, seed=1000, steps=self.steps, guidance=self.guidance_scale, together=self.draw_together
        )

    def take(self, generator: torch.Generator) -> Drawn:
        """A batch of noised anchor pictures."""
        rows = torch.randint(len(self.latents), (self.batch_size,), generator=generator)
        return Drawn(self.noised(self.latents[rows], generator), self.pair_of[rows])

    def loss(self, generator: torch.Generator) -> Tensor:
        """Of a batch."""
        return self.loss_of(self.take(generator))

    def loss_of(self, drawn: Drawn) -> Tensor:
        """The loss of noised anchor pictures, a number."""
        pairs = [self.pairs[place] for place in drawn.pairs.tolist()]
        concepts, anchors = [pair.prompt for pair in pairs], [pair.target for pair in pairs]
        target = drawn.noised.answer
        if self.kind == MODEL:
            with torch.no_grad():
                target = self.says(drawn.noised, anchors)
            torch.clear_autocast_cache()  # what it cast without a gradient
        loss = squares(self.says(drawn.noised, concepts), target)
        if self.anchor_weight:
            loss = loss + self.anchor_weight * squares(self.says(drawn.noised, anchors), drawn.noised.answer)
        return loss
