"""How pictures are made: steps, guidance, scheduler, and the call of a pipeline with prompt embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError, nearest


@dataclass(frozen=True)
class Sampling:
    """How pictures are made: this many steps, this guidance."""

    steps: int = 20
    guidance_scale: float = 7.5
    batch_size: int = 32
    scheduler: str | None = None
    """Name of diffusers' class, such as ``LMSDiscreteScheduler``; the model's own unless given."""
    owner: InitVar[str] = "Evaluation"
    """The callback that was given these, for messages."""

    def __post_init__(self, owner: str) -> None:
        for field in ("steps", "batch_size"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{owner}.{field}: {value!r}; give a whole number of 1 or more.")
        if not 0 <= self.guidance_scale < float("inf"):
            raise ConfigurationError(f"{owner}.guidance_scale: {self.guidance_scale!r}; give 0 or more.")
        if self.scheduler is not None:
            _scheduler_class(f"{owner}.scheduler", self.scheduler)

    def with_values(self, values: Mapping[str, Any], owner: str) -> Sampling:
        """The same with other values, which the callback ``owner`` was given."""
        return replace(self, **values, owner=owner)

    def __str__(self) -> str:
        """What decides a picture beside its seed."""
        own = f"{self.scheduler}, " if self.scheduler else ""
        return f"{own}{self.steps} steps, guidance {self.guidance_scale:g}"


def _scheduler_class(field: str, name: str) -> Any:
    known = [one for one in dir(diffusers) if one.endswith("Scheduler") and not one.startswith("Flax")]
    if name not in known:
        raise ConfigurationError(f"{field}: {name!r} is no scheduler of diffusers; {nearest(name, known)}.")
    found = getattr(diffusers, name)
    try:
        _ = found.set_timesteps
    except (ImportError, AttributeError) as error:  # diffusers' placeholder for a class that needs another package
        lacking = [package for package in getattr(found, "_backends", ()) if package != "torch"]
        named = lacking[0] if lacking else "another package"
        raise ConfigurationError(f"{field}: {name} needs {named}: pip install {named}, or choose another.") from error
    return found


_OWN: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Pipeline → the scheduler that it was loaded with."""


def use_scheduler(pipeline: Any, name: str | None) -> None:
    """Put another scheduler in, with the noise schedule that the model was trained with.

    Args:
        pipeline: whose own scheduler is remembered.
        name: of diffusers' class; ``None`` puts the model's own back.
    """
    own = _OWN.setdefault(pipeline, pipeline.scheduler)
    pipeline.scheduler = own if name is None else _scheduler_class("scheduler", name).from_config(own.config)


@dataclass(frozen=True)
class Request:
    """One picture to make."""

    embedding: Tensor
    """Prompt embedding, ``[positions, d]``."""
    seed: int
    guidance_scale: float | None = None
    """In place of the sampling's own."""
    pooled: Tensor | None = None
    """SDXL's pooled embedding, ``[p]``."""


@torch.no_grad()
def generate(
    pipeline: DiffusionPipeline,
    requests: Sequence[Request],
    unconditional: Request,
    sampling: Sampling,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Pictures of prompt embeddings.

    Each picture's initial noise comes from its own seed on the CPU, so it does not depend on the batch or
    the device.

    Args:
        pipeline: of Stable Diffusion 1.x, 2.x or XL; an inpainting one paints the whole picture.
        requests: embeddings and seeds.
        unconditional: the empty prompt, for guidance.
        sampling: steps, guidance, batch size.
        on_batch: called with the number of pictures after every batch (progress).

    Returns:
        ``[n, 3, h, w]`` in [0, 1], float32, on the CPU.
    """
    pictures: list[Tensor | None] = [None] * len(requests)
    by_guidance: dict[float, list[int]] = {}
    use_scheduler(pipeline, sampling.scheduler)
    for index, request in enumerate(requests):
        scale = sampling.guidance_scale if request.guidance_scale is None else request.guidance_scale
        by_guidance.setdefault(scale, []).append(index)
    for scale, indices in by_guidance.items():
        for first in range(0, len(indices), sampling.batch_size):
            part = [requests[index] for index in indices[first : first + sampling.batch_size]]
            made = pipeline(
                **prompt_arguments(pipeline, part, unconditional),
                **whole_picture(pipeline, len(part)),
                generator=[torch.Generator().manual_seed(request.seed) for request in part],
                num_inference_steps=sampling.steps,
                guidance_scale=scale,
                output_type="pt",
            ).images
            for index, picture in zip(indices[first : first + sampling.batch_size], made.float().cpu(), strict=True):
                pictures[index] = picture
            if on_batch:
                on_batch(len(part))
    if not pictures:
        return torch.zeros(0, 3, 1, 1)
    return torch.stack([picture for picture in pictures if picture is not None])


def prompt_arguments(pipeline: Any, requests: Sequence[Request], unconditional: Request) -> dict[str, Tensor]:
    """The embeddings as a pipeline takes them."""
    unet = pipeline.unet
    embeddings = torch.stack([request.embedding for request in requests]).to(unet.device, unet.dtype)
    arguments = {
        "prompt_embeds": embeddings,
        "negative_prompt_embeds": unconditional.embedding.to(embeddings).expand_as(embeddings),
    }
    pooled = [request.pooled for request in requests if request.pooled is not None]
    if unconditional.pooled is not None and len(pooled) == len(requests):
        arguments["pooled_prompt_embeds"] = torch.stack(pooled).to(embeddings)
        negative = unconditional.pooled.to(embeddings).expand_as(arguments["pooled_prompt_embeds"])
        arguments["negative_pooled_prompt_embeds"] = negative
        # SDXL was trained with zeros in place of the empty prompt.
        if getattr(pipeline.config, "force_zeros_for_empty_prompt", False):
            for name in ("negative_prompt_embeds", "negative_pooled_prompt_embeds"):
                arguments[name] = torch.zeros_like(arguments[name])
    return arguments


def whole_picture(pipeline: Any, count: int) -> dict[str, Any]:
    """What an inpainting pipeline needs beside the prompt to paint everything: an empty picture, all of it masked."""
    if "mask_image" not in inspect.signature(pipeline.__call__).parameters:
        return {}
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    return {
        "image": torch.zeros(count, 3, size, size),
        "mask_image": torch.ones(count, 1, size, size),
        "height": size,
        "width": size,
        "strength": 1.0,
    }
