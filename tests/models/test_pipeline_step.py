"""A denoising step as every family's own pipeline makes it: latents in its layout, predictions, gradients."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from rece_lightning.baselines.text_arguments import encoder_of
from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.noising import noised
from rece_lightning.models.pipeline_step import PipelineStep
from rece_lightning.models.sampling import Request, requests_of
from tests.helpers.tiny import pipelines

WITHOUT = ("cascade_prior", "cascade_decoder")
NAMES = [name for name in pipelines.BUILDERS if name not in WITHOUT]


def side_of(name: str) -> int:
    """Of the smallest picture; HiDream draws one size alone."""
    return 16 if name == "hidream" else int(pipelines.smallest(name).get("height", 32))


@cache
def step_of(name: str, dtype: torch.dtype = torch.float32) -> PipelineStep:
    pipeline = pipelines.build(name, dtype=dtype)
    if name == "lumina2":
        pipeline.vae_scale_factor = 2  # written down in the pipeline, not asked of the autoencoder
    request = requests_of(encoder_of(pipeline).encode(["a bomb"]))[0]
    return PipelineStep(pipeline, request, side_of(name), side_of(name), "attacks: cce")


def pictures_for(step: PipelineStep, count: int = 2) -> Tensor:
    return torch.rand(count, 3, step.height, step.width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_every_familys_pipeline_predicts_with_gradients_on_its_rows(name: str) -> None:
    step = step_of(name)
    known = {key: id(value) for key, value in vars(step.pipeline).items()}
    parts, state = dict(step.pipeline.config), torch.get_rng_state()

    latents = step.latents_of(pictures_for(step))
    noisy = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    rows = step.request.embedding.clone().requires_grad_()
    own, flipped = (replace(step.request, embedding=one) for one in (rows, rows.detach().flip(1)))
    said = step.prediction(noisy, torch.tensor(700.0), own)
    other = step.prediction(noisy, torch.tensor(700.0), flipped)
    later = step.prediction(noisy, torch.tensor(300.0), step.request)
    said.square().sum().backward()

    assert said.shape == latents.shape
    assert not latents.requires_grad
    assert rows.grad is not None
    assert bool(rows.grad.isfinite().all())
    assert bool(rows.grad.any())
    assert not torch.equal(said, other)
    assert not torch.equal(said, later)
    # The pipeline is as it was, and so is everybody's randomness.
    assert {key: id(value) for key, value in vars(step.pipeline).items()} == known
    assert dict(step.pipeline.config) == parts
    assert torch.equal(torch.get_rng_state(), state)


def packed(latents: Tensor) -> Tensor:
    """FLUX.1's rows: a row for every 2 × 2 patch, ``[n, h w / 4, 4 c]``."""
    n, channels, height, width = latents.shape
    rows = [
        latents[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(n, 4 * channels)
        for y in range(height // 2)
        for x in range(width // 2)
    ]
    return torch.stack(rows, dim=1)


def plain_latents(name: str, pipeline: Any, pictures: Tensor) -> Tensor:
    """By the autoencoder and the papers' formulas."""
    vae, given = pipeline.vae, pictures * 2 - 1
    with torch.no_grad():
        if name == "sana":
            return vae.encode(given).latent * vae.config.scaling_factor
        if name in ("qwen_image", "wan"):
            mean, std = (
                torch.tensor(one).view(1, -1, 1, 1, 1) for one in (vae.config.latents_mean, vae.config.latents_std)
            )
            found = (vae.encode(given[:, :, None]).latent_dist.mean - mean) / std
            return found if name == "wan" else packed(found[:, :, 0])
        found = vae.encode(given).latent_dist.mean
        if name == "flux2_klein":
            patches = packed(found).mT.reshape(len(found), -1, found.shape[2] // 2, found.shape[3] // 2)
            spread = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
            patches = (patches - vae.bn.running_mean.view(1, -1, 1, 1)) / spread.view(1, -1, 1, 1)
            return patches.flatten(2).mT
        found = (found - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
        return packed(found) if name == "flux" else found


@pytest.mark.parametrize("name", ["flux", "flux2_klein", "qwen_image", "pixart_sigma", "sana", "wan", "z_image"])
def test_latents_are_those_of_the_autoencoder_in_the_layout_that_is_denoised(name: str) -> None:
    step = step_of(name)
    vae = step.pipeline.vae
    if name in ("flux", "z_image"):
        vae.register_to_config(scaling_factor=0.36, shift_factor=0.12)
    if name in ("qwen_image", "wan"):
        vae.register_to_config(latents_mean=[0.5, -1.0, 0.1, 2.0], latents_std=[1.5, 0.3, 2.0, 1.0])
    if name == "flux2_klein":
        vae.bn.running_mean.copy_(torch.linspace(-1, 1, 16))
        vae.bn.running_var.copy_(torch.linspace(0.5, 3, 16))
    pictures = pictures_for(step)

    torch.testing.assert_close(
        step.latents_of(pictures), plain_latents(name, step.pipeline, pictures), rtol=1e-4, atol=1e-5
    )


def plain_prediction(name: str, pipeline: Any, request: Request, noisy: Tensor, time: float) -> Tensor:
    """The denoiser called with what diffusers' documentation names."""
    denoiser, count = pipeline.transformer, len(noisy)
    rows = request.embedding.expand(count, -1, -1)
    if name == "pixart_sigma":
        answer = denoiser(
            noisy, rows, timestep=torch.full((count,), int(time)),
            encoder_attention_mask=request.call["prompt_attention_mask"].expand(count, -1),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample  # fmt: skip
        return answer.chunk(2, dim=1)[0]  # the other half is a variance
    at = torch.full((count,), time / 1000, dtype=noisy.dtype)
    if name == "z_image":
        answer = denoiser(list(noisy[:, :, None].unbind()), 1 - at, list(rows.unbind()), return_dict=False)[0]
        return -torch.stack(list(answer))[:, :, 0]
    side = int(noisy.shape[1] ** 0.5)
    places = torch.tensor([[0.0, y, x] for y in range(side) for x in range(side)], dtype=noisy.dtype)
    assert request.pooled is not None
    return denoiser(
        noisy, encoder_hidden_states=rows, pooled_projections=request.pooled.expand(count, -1), timestep=at,
        img_ids=places, txt_ids=torch.zeros(rows.shape[1], 3, dtype=noisy.dtype),
        guidance=torch.ones(count, dtype=noisy.dtype),
    ).sample  # fmt: skip


@pytest.mark.parametrize("name", ["flux", "pixart_sigma", "z_image"])
def test_predictions_are_the_denoisers_as_its_scheduler_takes_them(name: str) -> None:
    step = step_of(name)
    latents = step.latents_of(pictures_for(step))

    with torch.no_grad():
        found = step.prediction(latents, torch.tensor(600.0), step.request)
        wanted = plain_prediction(name, step.pipeline, step.request, latents, 600.0)

    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_the_gradient_is_that_of_finite_differences() -> None:
    step = step_of("pixart_sigma", torch.float64)  # the others' norms sum in float32
    latents = step.latents_of(pictures_for(step).double())
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    made = noised(step.pipeline.scheduler, latents, torch.tensor([600, 600]), noise)

    def loss(rows: Tensor) -> Tensor:
        given = replace(step.request, embedding=rows)
        return (step.prediction(made.noisy, made.timesteps[0], given) - made.answer).square().mean()

    rows = step.request.embedding.double().clone().requires_grad_()
    loss(rows).backward()
    assert rows.grad is not None
    # Where the gradient is large, and in a direction of all rows.
    directions = [torch.zeros_like(rows), torch.randn(rows.shape, generator=torch.Generator().manual_seed(3)).double()]
    directions[0].view(-1)[int(rows.grad.abs().argmax())] = 1
    for direction in directions:
        with torch.no_grad():
            ahead, behind = (float(loss(rows + size * direction)) for size in (1e-4, -1e-4))
        slope = float((rows.grad * direction).sum())
        assert abs(slope) > 1e-9
        assert (ahead - behind) / 2e-4 == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("name", WITHOUT)
def test_without_an_autoencoder_it_says_so(name: str) -> None:
    pipeline = pipelines.build(name)
    step = PipelineStep(pipeline, Request(torch.zeros(2, 16), 0), 32, 32, "attacks: cce")
    with pytest.raises(BaseModelError, match=r"attacks: cce: StableCascade\w+ has no autoencoder.*take paraphrase"):
        step.latents_of(torch.zeros(1, 3, 32, 32))


def test_pictures_of_a_size_that_is_never_drawn_are_refused() -> None:
    pipeline = pipelines.build("hidream")  # it scales whatever is asked for
    request = requests_of(encoder_of(pipeline).encode(["a bomb"]))[0]
    step = PipelineStep(pipeline, request, 32, 32, "attacks: cce")
    with pytest.raises(BaseModelError, match=r"HiDreamImagePipeline does not draw pictures of 32 × 32 pixels"):
        step.latents_of(torch.zeros(1, 3, 32, 32))
