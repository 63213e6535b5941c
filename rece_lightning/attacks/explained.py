"""Pictures of a concept with noise in them, and how well a text explains them: the loss of attacks on the denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rece_lightning.attacks.noise import NoisedPictures, add_noise, latents_of, noise_loss, predict
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.models.denoisers import denoisers_of, known_family
from rece_lightning.models.noising import check_calls, check_reads_latents, noised, prediction_of
from rece_lightning.models.pipeline_step import PipelineStep, without_autoencoder
from rece_lightning.models.sampling import Request

CALLED_HERE = (None, "sd3")
"""Families whose denoisers this project calls itself, many noise levels at once; ``None`` for U-Nets with CLIP."""
TOGETHER = 32
"""Noised pictures that go through such a denoiser at once, those of one text at least where a loss is asked for."""


class Explained(ABC):
    """Latents of pictures under the denoiser that is in a pipeline now, with its weights as they are now.

    A text is a request, with everything that the pipeline takes in its place: rows, pooled embedding, masks. Gradients
    reach all of them.
    """

    pipeline: Any
    latents: Tensor
    """Without noise, ``[n, …]``, in the layout that is denoised."""

    @property
    def levels(self) -> int:
        """How many noise levels the model was trained on."""
        return int(self.pipeline.scheduler.config.num_train_timesteps)

    @abstractmethod
    def noised(self, rows: Tensor, timesteps: Tensor, generator: torch.Generator) -> NoisedPictures:
        """Some of the latents with noise in them.

        Args:
            rows: which ones, ``[m]``.
            timesteps: of each, ``[m]``, whole numbers below :attr:`levels`.
            generator: of the noise.
        """

    @abstractmethod
    def prediction(self, noisy: Tensor, timesteps: Tensor, text: Request) -> Tensor:
        """What the denoiser says of noised latents ``[m, …]`` under a text, of the same shape.

        Args:
            noisy: in the layout that is denoised.
            timesteps: of the scheduler, ``[m]``.
            text: of all of them.
        """

    @abstractmethod
    def losses(self, noised: NoisedPictures, texts: Sequence[Request]) -> Tensor:
        """Mean squared distance of the predictions from the answers, for every text, ``[n]``."""


def check_explains(victim: Victim, field: str) -> None:
    """Refuse a model that cannot be asked to explain pictures, before any are drawn.

    Args:
        victim: the model.
        field: who asks, for messages.

    Raises:
        BaseModelError: if it has no autoencoder, no known kind of prediction or no known call.
    """
    pipeline = victim.pipeline
    if getattr(pipeline, "vae", None) is None:
        raise BaseModelError(without_autoencoder(pipeline, field))
    prediction_of(pipeline.scheduler, field)
    if _is_called_here(pipeline):
        check_calls(_first_denoiser(pipeline), field)
        check_reads_latents(_first_denoiser(pipeline), pipeline.vae.config.latent_channels, field)


def size_drawn(victim: Victim, prompt: str, field: str) -> tuple[int, int]:
    """Height and width in pixels of the pictures that a model draws.

    Args:
        victim: the model, which passed :func:`check_explains`.
        prompt: any; what a pipeline is called with where no text matters.
        field: who asks, for messages.
    """
    pipeline = victim.pipeline
    if known_family(pipeline) is None:  # a U-Net: its configuration says what its pipeline draws
        side = pipeline.unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor
    (own,) = victim.requests([prompt])
    return PipelineStep(pipeline, own, None, None, field).own_size()


def explained(victim: Victim, prompt: str, pictures: Tensor, field: str) -> Explained:
    """What of pictures a denoiser can be asked to explain, by the call of its family.

    Args:
        victim: the model, which passed :func:`check_explains`.
        prompt: any; what a pipeline is called with where no text matters.
        pictures: ``[n, 3, h, w]`` in [0, 1].
        field: who asks, for messages.

    Raises:
        BaseModelError: if the pipeline makes something of its latents that cannot be undone.
        ConfigurationError: if it does not take pictures of this size.
    """
    pipeline = victim.pipeline
    if _is_called_here(pipeline):
        return _CalledHere(pipeline, pictures)
    (own,), (height, width) = victim.requests([prompt]), pictures.shape[-2:]
    try:
        return _ThroughPipeline(PipelineStep(pipeline, own, height, width, field), pictures)
    except BaseModelError:
        raise
    except ValueError as error:  # what a pipeline's own check says of the size
        raise ConfigurationError(
            f"{field}: {type(pipeline).__name__} does not draw pictures of {width} × {height} pixels ({error}); "
            "give a source of pictures of a size that it draws."
        ) from error


class _CalledHere(Explained):
    def __init__(self, pipeline: Any, pictures: Tensor) -> None:
        self.pipeline, self.latents = pipeline, latents_of(pipeline, pictures)

    def noised(self, rows: Tensor, timesteps: Tensor, generator: torch.Generator) -> NoisedPictures:
        return add_noise(self.pipeline, self.latents[rows], timesteps, generator)

    def prediction(self, noisy: Tensor, timesteps: Tensor, text: Request) -> Tensor:
        denoiser, given = _first_denoiser(self.pipeline), _together([text])
        parts = zip(noisy.split(TOGETHER), timesteps.split(TOGETHER), strict=True)
        return torch.cat([predict(denoiser, *part, *given)[0] for part in parts])

    def losses(self, noised: NoisedPictures, texts: Sequence[Request]) -> Tensor:
        denoiser, size = _first_denoiser(self.pipeline), max(1, TOGETHER // len(noised))
        parts = (texts[first : first + size] for first in range(0, len(texts), size))
        return torch.cat([noise_loss(denoiser, noised, *_together(part)) for part in parts])


def _is_called_here(pipeline: Any) -> bool:
    family = known_family(pipeline)
    return (None if family is None else family.name) in CALLED_HERE


def _first_denoiser(pipeline: Any) -> Any:
    return next(iter(denoisers_of(pipeline).values()))


def _together(texts: Sequence[Request]) -> tuple[Tensor, Tensor | None]:
    """Embeddings ``[n, positions, d]`` and pooled ones ``[n, p]``."""
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return torch.stack([text.embedding for text in texts]), torch.stack(pooled) if pooled else None


class _ThroughPipeline(Explained):
    """The pipeline's own step, one text and one noise level after the other: that is how pipelines are written."""

    def __init__(self, step: PipelineStep, pictures: Tensor) -> None:
        self._step, self.pipeline, self.latents = step, step.pipeline, step.latents_of(pictures)

    def noised(self, rows: Tensor, timesteps: Tensor, generator: torch.Generator) -> NoisedPictures:
        latents = self.latents[rows]
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        return noised(self.pipeline.scheduler, latents, timesteps, noise, self._step.field)

    def prediction(self, noisy: Tensor, timesteps: Tensor, text: Request) -> Tensor:
        levels = timesteps.unique()
        places = [(timesteps == level).nonzero().flatten() for level in levels]
        pairs = zip(places, levels, strict=True)
        said = torch.cat([self._step.prediction(noisy[place], level, text) for place, level in pairs])
        return said[torch.cat(places).argsort()]

    def losses(self, noised: NoisedPictures, texts: Sequence[Request]) -> Tensor:
        said = (self.prediction(noised.noisy, noised.timesteps, text) for text in texts)
        return torch.stack([(one - noised.answer.to(one)).square().mean() for one in said])
