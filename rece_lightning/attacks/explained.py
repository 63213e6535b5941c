"""Pictures of a concept with noise in them, and how well an embedding explains them: what an inversion minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from rece_lightning.attacks.noise import NoisedPictures, add_noise, latents_of, noise_loss
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.models.denoisers import denoisers_of, known_family
from rece_lightning.models.noising import noised, prediction_of
from rece_lightning.models.pipeline_step import PipelineStep

CALLED_HERE = (None, "sd3")
"""Families whose denoisers this project calls itself, many noise levels at once; ``None`` for U-Nets with CLIP."""


class Explained(ABC):
    """Latents of pictures under the denoiser that is in a pipeline now."""

    latents: Tensor
    """Without noise, ``[n, …]``, in the layout that is denoised."""

    @abstractmethod
    def noised(self, rows: Tensor, timesteps: Tensor, generator: torch.Generator) -> NoisedPictures:
        """Some of the latents with noise in them.

        Args:
            rows: which ones, ``[m]``.
            timesteps: of each, ``[m]``, whole numbers up to the schedule's length.
            generator: of the noise.
        """

    @abstractmethod
    def loss(self, noised: NoisedPictures, embedding: Tensor) -> Tensor:
        """Mean squared distance of the predictions from the answers.

        Args:
            noised: ``m`` pictures.
            embedding: of the prompt, ``[positions, d]``; gradients reach it.
        """


def explained(victim: Victim, prompt: str, pooled: Tensor | None, pictures: Tensor, field: str) -> Explained:
    """What of pictures a denoiser can be asked to explain, by the call of its family.

    Args:
        victim: the model.
        prompt: whose mask, pooled embedding and further rows stand beside an embedding.
        pooled: the prompt's pooled embedding, ``[p]``, where there is one.
        pictures: ``[n, 3, h, w]`` in [0, 1].
        field: who asks, for messages.

    Raises:
        BaseModelError: if the model has no autoencoder or no known kind of prediction.
        ConfigurationError: if its pipeline does not take pictures of this size.
    """
    family = known_family(victim.pipeline)
    if (None if family is None else family.name) in CALLED_HERE:
        return _CalledHere(victim.pipeline, pooled, pictures)
    height, width = pictures.shape[-2:]
    step = PipelineStep(victim.pipeline, victim.requests([prompt])[0], height, width, field)
    prediction_of(victim.pipeline.scheduler, field)
    try:
        return _ThroughPipeline(step, step.latents_of(pictures), field)
    except BaseModelError:
        raise
    except ValueError as error:  # what a pipeline's own check says of the size
        raise ConfigurationError(
            f"{field}: {type(victim.pipeline).__name__} does not draw pictures of {width} × {height} pixels ({error}); "
            "give a source of pictures of a size that it draws."
        ) from error


class _CalledHere(Explained):
    def __init__(self, pipeline: Any, pooled: Tensor | None, pictures: Tensor) -> None:
        self._pipeline, self._pooled = pipeline, None if pooled is None else pooled[None]
        self.latents = latents_of(pipeline, pictures)

    def noised(self, rows: Tensor, timesteps: Tensor, generator: torch.Generator) -> NoisedPictures:
        return add_noise(self._pipeline, self.latents[rows], timesteps, generator)

    def loss(self, noised: NoisedPictures, embedding: Tensor) -> Tensor:
        denoiser = next(iter(denoisers_of(self._pipeline).values()))
        return noise_loss(denoiser, noised, embedding[None], self._pooled)[0]


class _ThroughPipeline(Explained):
    """The pipeline's own step, one noise level after the other: that is how pipelines are written."""

    def __init__(self, step: PipelineStep, latents: Tensor, field: str) -> None:
        self._step, self.latents, self._field = step, latents, field

    def noised(self, rows: Tensor, timesteps: Tensor, generator: torch.Generator) -> NoisedPictures:
        latents = self.latents[rows]
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        return noised(self._step.pipeline.scheduler, latents, timesteps, noise, self._field)

    def loss(self, noised: NoisedPictures, embedding: Tensor) -> Tensor:
        missed = []
        for timestep in noised.timesteps.unique():
            part = noised.rows(noised.timesteps == timestep)
            said = self._step.prediction(part.noisy, timestep, embedding)
            missed.append((said - part.answer.to(said)).square().flatten(1).mean(dim=1))
        return torch.cat(missed).mean()
