"""How pictures are made: steps, guidance, scheduler, and the call of a pipeline with prompt embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError, check_count, nearest
from rece_lightning.models.denoisers import denoisers_of, known_family
from rece_lightning.models.family_sampling import family_arguments, length_of
from rece_lightning.models.text import Embedded


class Guarding(Protocol):
    """What stands around a pipeline while it draws; see :class:`rece_lightning.baselines.Guard`."""

    @property
    def title(self) -> str: ...
    def draw(self, pipeline: Any, arguments: Mapping[str, Any], texts: Sequence[str | None]) -> Any: ...
    def check_guidance(self, field: str, scale: float) -> None: ...


@dataclass(frozen=True)
class Sampling:
    """How pictures are made: this many steps, this guidance."""

    steps: int = 20
    guidance_scale: float = 7.5
    batch_size: int = 32
    scheduler: str | None = None
    """Name of diffusers' class, such as ``LMSDiscreteScheduler``; the model's own unless given."""
    guard: Guarding | None = None
    """What changes how a pipeline draws."""
    owner: InitVar[str] = "Evaluation"
    """The callback that was given these, for messages."""

    def __post_init__(self, owner: str) -> None:
        for name in ("steps", "batch_size"):
            check_count(f"{owner}.{name}", getattr(self, name))
        if not 0 <= self.guidance_scale < float("inf"):
            raise ConfigurationError(f"{owner}.guidance_scale: {self.guidance_scale!r}; give 0 or more.")
        if self.scheduler is not None:
            _scheduler_class(f"{owner}.scheduler", self.scheduler)
        if self.guard is not None:
            self.guard.check_guidance(f"{owner}.guidance_scale", self.guidance_scale)

    def with_values(self, values: Mapping[str, Any], owner: str) -> Sampling:
        """The same with other values, which the callback ``owner`` was given."""
        return replace(self, **values, owner=owner)

    @property
    def unguarded(self) -> Sampling:
        """The same with nothing around the pipeline."""
        return replace(self, guard=None)

    def __str__(self) -> str:
        """What decides a picture beside its seed."""
        scheduler = f"{self.scheduler}, " if self.scheduler else ""
        under = f", under {self.guard.title}" if self.guard is not None else ""
        return f"{scheduler}{self.steps} steps, guidance {self.guidance_scale:g}{under}"


def _scheduler_class(field: str, name: str) -> Any:
    known = [one for one in dir(diffusers) if one.endswith("Scheduler") and not one.startswith("Flax")]
    if name not in known:
        raise ConfigurationError(f"{field}: {name!r} is no scheduler of diffusers; {nearest(name, known)}.")
    scheduler = getattr(diffusers, name)
    try:
        _ = scheduler.set_timesteps
    except (ImportError, AttributeError) as error:  # diffusers' placeholder for a class that needs another package
        lacking = (package for package in getattr(scheduler, "_backends", ()) if package != "torch")
        named = next(lacking, "another package")
        raise ConfigurationError(f"{field}: {name} needs {named}: pip install {named}, or choose another.") from error
    return scheduler


_LOADED_WITH: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Pipeline → the scheduler that it was loaded with."""


def use_scheduler(pipeline: Any, name: str | None) -> None:
    """Put another scheduler in, with the noise schedule that the model was trained with; without a name its own."""
    first = _LOADED_WITH.setdefault(pipeline, pipeline.scheduler)
    pipeline.scheduler = _scheduler_class("scheduler", name).from_config(first.config) if name else first


@dataclass(frozen=True)
class Request:
    """One picture to make."""

    embedding: Tensor
    """Prompt embedding, ``[positions, d]``."""
    seed: int
    guidance_scale: float | None = None
    """In place of the sampling's own."""
    pooled: Tensor | None = None
    """The pooled embedding, ``[p]``, where the model reads one."""
    text: str | None = None
    """What the embedding was made from; ``None`` where it stands for no text."""
    latents: Tensor | None = None
    """The noise to start from, as the pipeline takes ``latents``; that of the seed unless given."""
    call: Mapping[str, Tensor] = field(default_factory=dict)
    """What a pipeline of a declared family takes in place of the prompt, by the names of its arguments; embedding and
    pooled embedding stand for those of their names."""


def requests_of(encoded: Embedded) -> list[Request]:
    """A request for each text, with everything that a pipeline takes in its place and the seed 0."""
    requests = []
    for row in range(len(encoded.embeddings)):
        pooled = None if encoded.pooled is None else encoded.pooled[row]
        requests.append(
            Request(encoded.embedding(row), 0, pooled=pooled, call=encoded.calls[row] if encoded.calls else {})
        )
    return requests


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
        requests: one a picture.
        unconditional: the empty prompt, for guidance.
        sampling: how.
        on_batch: called with the number of pictures after every batch (progress).

    Returns:
        ``[n, 3, h, w]`` in [0, 1], float32, on the CPU.
    """
    pictures: dict[int, Tensor] = {}
    by_guidance: dict[tuple[float, Any, bool], list[int]] = {}
    family = known_family(pipeline)
    use_scheduler(pipeline, sampling.scheduler)
    for index, request in enumerate(requests):
        scale = sampling.guidance_scale if request.guidance_scale is None else request.guidance_scale
        alike = (scale, length_of(request, family), request.latents is None)
        by_guidance.setdefault(alike, []).append(index)
    for (scale, _, _), indices in by_guidance.items():
        for first in range(0, len(indices), sampling.batch_size):
            places = indices[first : first + sampling.batch_size]
            batch = [requests[index] for index in places]
            if family is None:
                arguments = {
                    **prompt_arguments(pipeline, batch, unconditional),
                    **_whole_picture(pipeline, len(batch)),
                    "guidance_scale": scale,
                }
            else:
                arguments = family_arguments(pipeline, family, batch, unconditional, scale)
            arguments |= {
                "generator": [torch.Generator().manual_seed(request.seed) for request in batch],
                "num_inference_steps": sampling.steps,
                "output_type": "pt",
            }
            given = [request.latents for request in batch if request.latents is not None]
            if given:
                example = next(next(iter(denoisers_of(pipeline).values())).parameters())
                arguments["latents"] = torch.stack(given).to(example)
            if sampling.guard is None:
                answer = pipeline(**arguments)
            else:
                answer = sampling.guard.draw(pipeline, arguments, [request.text for request in batch])
            made = answer.images if hasattr(answer, "images") else answer.frames[:, 0]
            pictures |= dict(zip(places, made.float().cpu(), strict=True))
            if on_batch:
                on_batch(len(batch))
    return torch.stack([pictures[index] for index in range(len(requests))]) if pictures else torch.zeros(0, 3, 1, 1)


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


def _whole_picture(pipeline: Any, count: int) -> dict[str, Any]:
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
