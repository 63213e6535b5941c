"""Prompts encoded once, and latents that the model draws for them: what a baseline is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from rece_lightning.distributed import gathered, rank_and_world
from rece_lightning.models.denoisers import denoisers_of, known_family
from rece_lightning.models.family_sampling import family_arguments
from rece_lightning.models.noising import FLOW, prediction_of
from rece_lightning.models.sampling import Request, prompt_arguments
from rece_lightning.models.text import EncodesPrompts

TOGETHER = 64
"""Prompts that are encoded together."""


class Reached(Exception):
    """Carries the latents ``[n, c, h, w]`` after the step that was asked for."""

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.latents = latents


class Texts:
    """Prompts with their embeddings.

    Args:
        encoder: of the model.
        prompts: any; each is encoded once.
        zero_empty: whether the model was trained with zeros in place of the empty prompt, as SDXL.
    """

    def __init__(self, encoder: EncodesPrompts, prompts: Sequence[str], *, zero_empty: bool = False) -> None:
        self.prompts = list(dict.fromkeys([*prompts, ""]))
        self.requests: list[Request] = []
        for first in range(0, len(self.prompts), TOGETHER):
            with torch.no_grad():
                encoded = encoder.encode(self.prompts[first : first + TOGETHER])
            for row in range(len(self.prompts[first : first + TOGETHER])):
                call = dict(encoded.calls[row]) if encoded.calls else {}
                pooled = None if encoded.pooled is None else encoded.pooled[row]
                self.requests.append(Request(encoded.embedding(row), seed=0, pooled=pooled, call=call))
        places = {prompt: place for place, prompt in enumerate(self.prompts)}
        self.place = places.__getitem__
        """Prompt → its place."""
        self._rows = torch.stack([request.embedding for request in self.requests])
        every = [request.pooled for request in self.requests if request.pooled is not None]
        self._pooled = torch.stack(every) if every else None
        if zero_empty:
            self._rows[places[""]] = 0
            if self._pooled is not None:
                self._pooled[places[""]] = 0

    def at(self, places: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings ``[n, positions, d]`` and pooled ones ``[n, p]`` of the prompts at some places."""
        places = places.to(self._rows.device)
        return self._rows[places], None if self._pooled is None else self._pooled[places]


@torch.no_grad()
def partly_drawn(
    pipeline: Any,
    requests: Sequence[Request],
    empty: Request,
    noise: Tensor,
    *,
    steps: int,
    guidance: float,
    until: int,
) -> tuple[Tensor, Tensor]:
    """Latents of pictures that are drawn for a number of steps, and the timestep that they then are at.

    Noise and velocity are sampled with DDIM, flow with the model's own scheduler: so the latents are what the denoiser
    itself reads.

    Args:
        pipeline: whose denoiser draws.
        requests: one a picture.
        empty: the empty prompt.
        noise: where each begins, ``[n, c, h, w]``.
        steps: of the whole way.
        guidance: classifier-free.
        until: steps that are done, 0 to ``steps``; with all of them the timestep is the last one's.

    Returns:
        ``[n, c, h, w]`` and ``[n]``.
    """
    own, family = pipeline.scheduler, known_family(pipeline)
    denoiser: Any = next(iter(denoisers_of(pipeline).values()))
    flow = prediction_of(own, "baselines") == FLOW
    pipeline.scheduler = own if flow else DDIMScheduler.from_config(own.config, clip_sample=False)

    def stop(drawn: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step + 1 == until < steps:
            raise Reached(tensors["latents"])
        return {}

    latents = noise.to(denoiser.device, denoiser.dtype)
    try:
        if family is None:
            arguments = {**prompt_arguments(pipeline, requests, empty), "guidance_scale": guidance}
        else:
            arguments = family_arguments(pipeline, family, requests, empty, guidance)
        arguments |= {"num_inference_steps": steps, "output_type": "latent", "callback_on_step_end": stop}
        if until:
            latents = pipeline(**arguments, latents=latents).images
        else:
            pipeline.scheduler.set_timesteps(steps, device=denoiser.device)
    except Reached as reached:
        latents = reached.latents
    finally:
        times, pipeline.scheduler = pipeline.scheduler.timesteps, own
    return latents, times[min(until, len(times) - 1)].to(denoiser.device).expand(len(latents))


def noise_shape(pipeline: Any) -> tuple[int, int, int]:
    """``(c, h, w)`` of a picture's latents."""
    denoiser: Any = next(iter(denoisers_of(pipeline).values()))
    return denoiser.config.in_channels, denoiser.config.sample_size, denoiser.config.sample_size


def noise_of(pipeline: Any, seeds: Sequence[int]) -> Tensor:
    """A picture's noise for every seed, ``[n, c, h, w]``: the same whatever the batch and the device."""
    shape = noise_shape(pipeline)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def drawn_latents(
    pipeline: Any,
    texts: Texts,
    prompts: Sequence[str],
    *,
    seed: int,
    steps: int,
    guidance: float,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Latents of a picture for every prompt, ``[n, c, h, w]``, on the CPU; the processes share the work.

    Args:
        pipeline: whose denoiser draws.
        texts: that hold the prompts.
        prompts: one a picture; the same ones on every process.
        seed: of the first picture; every further one has the next.
        steps: of the sampler.
        guidance: classifier-free.
        batch_size: pictures that are drawn together.
        on_batch: called with the number of pictures after every batch.
    """
    rank, world = rank_and_world()
    empty, made = texts.requests[texts.place("")], dict[int, Tensor]()
    for number, first in enumerate(range(0, len(prompts), batch_size)):
        if number % world != rank:
            continue
        places = range(first, min(first + batch_size, len(prompts)))
        requests = [texts.requests[texts.place(prompts[place])] for place in places]
        noise = noise_of(pipeline, [seed + place for place in places])
        latents, _ = partly_drawn(pipeline, requests, empty, noise, steps=steps, guidance=guidance, until=steps)
        made |= dict(zip(places, latents.float().cpu(), strict=True))
        on_batch(len(requests))
    whole = {place: latent for part in gathered(made) for place, latent in part.items()}
    return torch.stack([whole[place] for place in range(len(prompts))])
