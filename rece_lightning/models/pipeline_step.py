"""What a pipeline gives and takes around its denoiser, whatever its family: asked of its own call.

Pipelines differ in how they pack latents, tell the time, guide and sign a prediction; their schedulers and
autoencoders do not. So the pipeline's own call is run on a copy whose scheduler holds one noise level and is stopped at
the scheduler's step, where the denoiser's answer has become a prediction of the scheduler's kind; or it is run with no
level at all and stopped at the autoencoder, which shows how latents become what the autoencoder decodes. Nothing is
written for a family.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.denoisers import known_family
from rece_lightning.models.family_sampling import family_arguments
from rece_lightning.models.sampling import Request

LARGEST_ERROR = 0.02
"""Relative, of latents that come back from the layout of a pipeline: bfloat16 rounds by up to 0.004 an operation."""


PROBE = 64
"""Side in pixels of the picture that shows how much smaller the autoencoder's latents are: by 32 at most."""


class _Stopped(Exception):
    """What was asked for was seen."""


@dataclass(frozen=True)
class PipelineStep:
    """One denoising step of a declared family's pipeline without guidance, differentiable in what a text becomes."""

    pipeline: Any
    """Of diffusers; it is left as it is, and its denoiser answers as its weights are."""
    request: Request
    """A prompt with which latents are found, with everything that the pipeline takes in its place."""
    height: int | None
    """Of the pictures, in pixels; the pipeline's own unless given."""
    width: int | None
    field: str
    """Who asks, for messages."""

    def own_size(self) -> tuple[int, int]:
        """Height and width in pixels of what the pipeline draws where it is asked for none.

        Raises:
            BaseModelError: if there is no autoencoder, or the pipeline decodes nothing in the way of diffusers'.
        """
        if getattr(self.pipeline, "vae", None) is None:
            raise BaseModelError(without_autoencoder(self.pipeline, self.field))
        asked = replace(self, height=None, width=None)
        decoded = self._first(asked._run([self.request], torch.zeros(0), lambda latents: latents))
        probe = torch.zeros(1, 3, PROBE, PROBE)
        scale = PROBE // _encoded(self.pipeline.vae, probe, decoded.ndim).shape[-1]
        height, width = decoded.shape[-2:]
        return height * scale, width * scale

    def latents_of(self, pictures: Tensor) -> Tensor:
        """Means of the autoencoder's latents, in the layout that the pipeline denoises.

        Before it decodes, a pipeline orders, scales and shifts its latents, each number by itself: ``z = A l + b``,
        where ``A`` has one entry in a row and a column. Hence ``l = Aᵀ (z − b) / a²``: one product with the transposed
        Jacobian.

        Args:
            pictures: ``[n, 3, height, width]`` in [0, 1].

        Returns:
            ``[n, …]``; whether channels, rows of patches or frames follow is the pipeline's.

        Raises:
            BaseModelError: if there is no autoencoder, or the pipeline does more with its latents than that.
        """
        if getattr(self.pipeline, "vae", None) is None:
            raise BaseModelError(without_autoencoder(self.pipeline, self.field))
        return torch.cat([self._layout(part) for part in pictures.split(4)])

    @torch.enable_grad()
    def _layout(self, pictures: Tensor) -> Tensor:
        count = len(pictures)
        zero = torch.zeros_like(self._first_latents(count)).requires_grad_()
        shift = self._decoded(zero)
        scale = (self._decoded(torch.ones_like(zero)) - shift).detach()
        latents = _encoded(self.pipeline.vae, pictures, shift.ndim).to(shift)
        if latents.shape != shift.shape:
            raise BaseModelError(
                f"{self.field}: {type(self.pipeline).__name__} does not draw pictures of {self.width} × {self.height} "
                f"pixels (latents of {tuple(shift.shape[1:])}, the autoencoder's are {tuple(latents.shape[1:])}); give "
                "pictures of a size that it draws."
            )
        (found,) = torch.autograd.grad(shift, zero, (latents - shift.detach()) / scale / scale)
        missed = float((self._decoded(found) - latents).abs().max())
        if not missed <= LARGEST_ERROR * float(latents.abs().max()):
            raise BaseModelError(
                f"{self.field}: {type(self.pipeline).__name__} changes its latents before they are decoded in a way "
                "that cannot be undone; take paraphrase or derived."
            )
        return found

    def _first_latents(self, count: int) -> Tensor:
        """Those that the pipeline begins with: their shape and type."""
        seen: list[Tensor] = []

        def keep(latents: Tensor) -> NoReturn:
            seen.append(latents)
            raise _Stopped

        self._run([self.request] * count, torch.zeros(0), keep)
        return self._first(seen)

    def _decoded(self, latents: Tensor) -> Tensor:
        """What the autoencoder is given to decode where the pipeline ends with these latents."""
        return self._first(self._run([self.request] * len(latents), torch.zeros(0), latents.to))

    def prediction(self, noisy: Tensor, timestep: Tensor, request: Request) -> Tensor:
        """What the pipeline makes of its denoiser's answer: noise, velocity or flow, as its scheduler takes it.

        Args:
            noisy: latents in the pipeline's layout, ``[m, …]``.
            timestep: of the scheduler, one for all.
            request: the text, whose seed does not matter; gradients reach its embedding and whatever else the pipeline
                takes in its place.

        Returns:
            Of the shape of ``noisy``.
        """
        return self._first(self._run([request] * len(noisy), timestep.reshape(1), noisy.to))

    def _first(self, seen: Sequence[Tensor]) -> Tensor:
        if not seen:
            raise BaseModelError(
                f"{self.field}: {type(self.pipeline).__name__} prepares no latents, takes no step or decodes nothing "
                "in the way of diffusers' pipelines; take paraphrase or derived."
            )
        return seen[0]

    def _run(self, requests: list[Request], timesteps: Tensor, latents: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The pipeline's own call on a copy of it, up to the scheduler's step or the autoencoder."""
        family = known_family(self.pipeline)
        assert family is not None
        seen: list[Tensor] = []

        def stop(first: Tensor, *_: Any, **__: Any) -> NoReturn:
            seen.append(first)
            raise _Stopped

        asked = copy(self.pipeline)
        scheduler, vae = copy(self.pipeline.scheduler), copy(self.pipeline.vae)

        def set_timesteps(
            num_inference_steps: int | None = None,
            device: Any = None,
            timesteps: Any = None,
            sigmas: Any = None,
            **_: Any,
        ) -> None:
            scheduler.timesteps = levels.to(device)

        def prepare_latents(*args: Any, **kwargs: Any) -> Any:
            made = self.pipeline.prepare_latents(*args, **kwargs)
            if isinstance(made, tuple):  # with the places of their patches
                return (latents(made[0]), *made[1:])
            return latents(made)

        levels = timesteps
        scheduler.set_timesteps, scheduler.step = set_timesteps, stop
        scheduler.scale_model_input = lambda sample, *_, **__: sample  # noised as in training already
        vae.decode = stop
        # Not through the pipeline's own setter, which would write the copies down as its parts.
        quiet = {**getattr(self.pipeline, "_progress_bar_config", {}), "disable": True}
        vars(asked).update(scheduler=scheduler, vae=vae, prepare_latents=prepare_latents, _progress_bar_config=quiet)
        # Up to this scale a pipeline does not guide; a guidance that a distilled model is given is none at 1.
        scale = family.unguided if family.negative else 1.0
        arguments = family_arguments(self.pipeline, family, requests, requests[0], scale)
        arguments = {name: value for name, value in arguments.items() if not name.startswith("negative_")}
        call = inspect.unwrap(type(self.pipeline).__call__)  # without its no_grad
        taken = inspect.signature(call).parameters
        fixed = {"height": self.height, "width": self.width, "use_resolution_binning": False}
        arguments |= {name: value for name, value in fixed.items() if name in taken and value is not None}
        with suppress(_Stopped):
            call(asked, **arguments, num_inference_steps=1, generator=torch.Generator(), output_type="pt")
        return seen


def without_autoencoder(pipeline: Any, field: str) -> str:
    """What to say of a pipeline that has none.

    Args:
        pipeline: of diffusers.
        field: who asks.
    """
    return (
        f"{field}: {type(pipeline).__name__} has no autoencoder, and the loss is about its latents of the concept's "
        "pictures; take paraphrase or derived."
    )


@torch.no_grad()
def _encoded(vae: Any, pictures: Tensor, dimensions: int) -> Tensor:
    """The autoencoder's own latents of pictures, one frame each where it is one of videos."""
    given = pictures.to(vae.device, vae.dtype) * 2 - 1
    answer = vae.encode(given[:, :, None] if dimensions == 5 else given)
    found: Tensor = answer.latent_dist.mean if hasattr(answer, "latent_dist") else answer.latent
    return found
