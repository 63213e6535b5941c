"""Diffusers pipelines of a base model, their projections exchanged, and pictures from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.models.base import BaseModel


@dataclass(frozen=True)
class Sampling:
    """How pictures are made: the model's own scheduler, this many steps, this guidance."""

    steps: int = 20
    guidance_scale: float = 7.5
    batch_size: int = 32

    def __post_init__(self) -> None:
        for field in ("steps", "batch_size"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"Evaluation.{field}: {value!r}; give a whole number of 1 or more.")
        if not 0 <= self.guidance_scale < float("inf"):
            raise ConfigurationError(f"Evaluation.guidance_scale: {self.guidance_scale!r}; give 0 or more.")


def load_pipeline(base: BaseModel, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Load the whole pipeline without a safety checker.

    Raises:
        BaseModelError: if diffusers cannot load it.
    """
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            base.folder,
            local_files_only=True,
            use_safetensors=True,
            variant=base.variant,
            torch_dtype=dtype,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except Exception as error:  # diffusers raises many kinds; each means that the folder is no whole model
        reason = str(error).strip().splitlines()[0]
        raise BaseModelError(
            f"model.pretrained: {base.folder} cannot be loaded as a pipeline ({reason}); copy the model anew."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def put_weights(unet: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy named tensors into the U-Net's parameters, cast to their dtype and device."""
    for name, weight in weights.items():
        parameter = unet.get_parameter(name)
        parameter.copy_(weight.to(parameter))


@dataclass(frozen=True)
class Request:
    """One picture to make."""

    embedding: Tensor
    """Prompt embedding, ``[positions, d]``."""
    seed: int
    guidance_scale: float | None = None
    """In place of the sampling's own."""


@torch.no_grad()
def generate(
    pipeline: DiffusionPipeline,
    requests: Sequence[Request],
    unconditional: Tensor,
    sampling: Sampling,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Pictures of prompt embeddings.

    Each picture's initial noise comes from its own seed on the CPU, so it does not depend on the batch or
    the device.

    Args:
        pipeline: a Stable Diffusion pipeline.
        requests: embeddings and seeds.
        unconditional: embedding of the empty prompt, ``[positions, d]``, for guidance.
        sampling: steps, guidance, batch size.
        on_batch: called with the number of pictures after every batch (progress).

    Returns:
        ``[n, 3, h, w]`` in [0, 1], float32, on the CPU.
    """
    pictures: list[Tensor | None] = [None] * len(requests)
    by_guidance: dict[float, list[int]] = {}
    for index, request in enumerate(requests):
        scale = sampling.guidance_scale if request.guidance_scale is None else request.guidance_scale
        by_guidance.setdefault(scale, []).append(index)
    unet = pipeline.unet
    for scale, indices in by_guidance.items():
        for first in range(0, len(indices), sampling.batch_size):
            part = indices[first : first + sampling.batch_size]
            embeddings = torch.stack([requests[index].embedding for index in part]).to(unet.device, unet.dtype)
            made = pipeline(
                prompt_embeds=embeddings,
                negative_prompt_embeds=unconditional.to(embeddings).expand_as(embeddings),
                generator=[torch.Generator().manual_seed(requests[index].seed) for index in part],
                num_inference_steps=sampling.steps,
                guidance_scale=scale,
                output_type="pt",
            ).images
            for index, picture in zip(part, made.float().cpu(), strict=True):
                pictures[index] = picture
            if on_batch:
                on_batch(len(part))
    if not pictures:
        return torch.zeros(0, 3, 1, 1)
    return torch.stack([picture for picture in pictures if picture is not None])
