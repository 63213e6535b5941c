"""ESD: Erased Stable Diffusion (Gandikota et al., *Erasing Concepts from Diffusion Models*, arXiv 2303.07345)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from rece_lightning.baselines.parameters import CROSS, KEYS_VALUES, REST
from rece_lightning.baselines.texts import noise_shape, partly_drawn
from rece_lightning.baselines.trained import TrainedErasure, squares
from rece_lightning.core.errors import ConfigurationError, check_choice, check_count, check_number
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.models.noising import NoisedPictures

KINDS = {"x": CROSS, "u": REST, "strict": KEYS_VALUES}
"""Published name → what is trained."""


class ESD(TrainedErasure):
    """Train a concept's prediction to be guided away from it (ESD, arXiv 2303.07345).

    ``‖ε_θ(x_t, c, t) − [ε₀(x_t, c, t) − η (ε₀(x_t, c, t) − ε₀(x_t, ∅, t))]‖²``, where ``ε₀`` is the original network,
    ``∅`` the empty prompt, and ``x_t`` what the original network draws of ``c`` with guidance in a random number of
    steps. What the model predicts in place of the noise (a velocity, a flow) takes its place: all of it is linear.
    The pictures of a batch share their number of steps. There is no target: ``data.target`` stays the empty prompt.

    Args:
        pretrained: ``emoji``, a diffusers folder, a checkpoint file, or a hub id.
        revision: of the hub repository.
        variant: of the weight files, such as ``fp16``.
        config: of a checkpoint file.
        kind: ``x`` trains the cross-attention (published for styles), ``u`` all but it (for nudity), ``strict`` keys
            and values of the cross-attention; an MMDiT has ``strict`` alone.
        negative_guidance: η.
        learning_rate: of Adam.
        batch_size: pictures of a batch, on every process.
        batches: of an epoch; published: 1,000 in all.
        steps: of the whole way from noise to picture.
        guidance_scale: that ``x_t`` is drawn with.
        seed: of everything random.

    Raises:
        ConfigurationError: for every setting that makes no sense, before any model is touched.
    """

    name: ClassVar[str] = "ESD"

    def __init__(
        self,
        pretrained: str = "emoji",
        revision: str | None = None,
        variant: str | None = None,
        config: str | None = None,
        kind: str = "x",
        negative_guidance: float = 1.0,
        learning_rate: float = 1e-5,
        batch_size: int = 1,
        batches: int = 1000,
        steps: int = 50,
        guidance_scale: float = 3.0,
        seed: int = 0,
    ) -> None:
        check_choice("model.kind", kind, KINDS)
        super().__init__(
            pretrained, revision, variant, config, KINDS[kind], learning_rate, batch_size, batches, seed
        )  # fmt: skip
        check_number("model.negative_guidance", negative_guidance)
        check_number("model.guidance_scale", guidance_scale)
        check_count("model.steps", steps)
        self.save_hyperparameters()
        self.negative_guidance, self.steps, self.guidance_scale = negative_guidance, steps, guidance_scale

    def check_data(self, data: ConceptData) -> None:
        """Refuse concepts with a target of their own."""
        aimed = next((pair for pair in self.pairs if pair.target.strip()), None)
        if aimed is not None:
            raise ConfigurationError(
                f"data.concepts: {aimed.prompt!r} has the target {aimed.target!r}, and ESD leads to the empty prompt "
                "alone; leave the target out, or take CA."
            )

    def take(self, generator: torch.Generator) -> tuple[NoisedPictures, list[str]]:
        """Half-drawn pictures of some concepts, by the original network, and their prompts."""
        rows = torch.randint(len(self.pairs), (self.batch_size,), generator=generator)
        prompts = [self.pairs[row].prompt for row in rows.tolist()]
        until = int(torch.randint(self.steps, (), generator=generator))
        noise = torch.randn(self.batch_size, *noise_shape(self.pipeline), generator=generator)
        requests = [self.texts.requests[self.texts.place(prompt)] for prompt in prompts]
        empty = self.texts.requests[self.texts.place("")]
        with self.holding(self.original):
            latents, times = partly_drawn(
                self.pipeline, requests, empty, noise, steps=self.steps, guidance=self.guidance_scale, until=until
            )  # fmt: skip
        return NoisedPictures(latents, times, torch.zeros_like(latents)), prompts

    def loss(self, generator: torch.Generator) -> Tensor:
        """Of a batch."""
        return self.loss_of(*self.take(generator))

    def loss_of(self, pictures: NoisedPictures, prompts: list[str]) -> Tensor:
        """The loss of half-drawn pictures, a number."""
        with torch.no_grad(), self.holding(self.original):
            under, without = self.says(pictures, prompts), self.says(pictures, [""] * len(prompts))
        return squares(self.says(pictures, prompts), under - self.negative_guidance * (under - without))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over what is trained."""
        return torch.optim.Adam(self.trained(), lr=self.learning_rate)
