"""Safe Latent Diffusion against its equations written anew, for every kind of prediction, and what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

import rece_lightning
from rece_lightning.baselines import SLD
from rece_lightning.baselines.sld import STRENGTHS
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.pipelines import load_pipeline
from tests.helpers.tiny.pipelines import build

STEPS, SCALE = 6, 5.0
NUMBERS = {"warmup": 2, "scale": 40.0, "threshold": 0.02, "momentum_scale": 0.3, "momentum": 0.4}
"""Weights between 0 and 1, some elements beyond the threshold, momentum from the warm-up."""


def plain_sld(predictions: list[tuple[Tensor, Tensor, Tensor]], numbers: dict[str, float]) -> list[Tensor]:
    """The guided predictions of all steps from (prompt, concept, empty), element after element."""
    guided = []
    momentum = [0.0] * predictions[0][0].numel()
    for step, (prompt, concept, empty) in enumerate(predictions):
        made = []
        triples = zip(prompt.flatten().tolist(), concept.flatten().tolist(), empty.flatten().tolist(), strict=True)
        for place, (p, s, e) in enumerate(triples):
            weight = min(1.0, numbers["scale"] * abs(p - s)) if p - s < numbers["threshold"] else 0.0
            safety = weight * (s - e) + numbers["momentum_scale"] * momentum[place]
            momentum[place] = numbers["momentum"] * momentum[place] + (1 - numbers["momentum"]) * safety
            direction = p - e
            if step >= numbers["warmup"]:
                direction -= safety
            made.append(e + SCALE * direction)
        guided.append(torch.tensor(made).reshape(prompt.shape))
    return guided


def watched(pipeline: Any) -> list[Tensor]:
    """What the scheduler is given at every step of the calls to come."""
    given: list[Tensor] = []
    step = pipeline.scheduler.step

    def keep(prediction: Tensor, *args: Any, **kwargs: Any) -> Any:
        given.append(prediction.clone())
        return step(prediction, *args, **kwargs)

    pipeline.scheduler.step = keep
    return given


def predicted(pipeline: Any, name: str, latents: Tensor, time: Tensor, text: str) -> Tensor:
    """The denoiser's own answer under a text, asked alone."""
    if name == "unet":
        rows = pipeline.encode_prompt(text, "cpu", 1, False)[0]
        return pipeline.unet(latents, time, encoder_hidden_states=rows).sample
    rows, _, pooled, _ = pipeline.encode_prompt(text, text, text, do_classifier_free_guidance=False)
    return pipeline.transformer(latents, encoder_hidden_states=rows, pooled_projections=pooled, timestep=time).sample


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_every_step_is_that_of_the_equations(tiny_model: Path, kind: str) -> None:
    name = "transformer" if kind == "flow" else "unet"
    pipeline: Any = build("sd3") if kind == "flow" else load_pipeline(str(tiny_model))
    if kind != "flow":
        pipeline.scheduler = DDIMScheduler(clip_sample=False, prediction_type=kind)
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": 16, "width": 16} if kind == "flow" else {}
    given = watched(pipeline)
    seen: list[tuple[Tensor, Tensor]] = []

    def latents_of(pipe: Any, step: int, time: Tensor, values: dict[str, Any]) -> dict[str, Any]:
        seen.append((values["latents"].clone(), time))
        return {}

    start = torch.randn(1, 4, *([8, 8] if kind == "flow" else [4, 4]), generator=torch.Generator().manual_seed(1))
    guarded = rece_lightning.guard(pipeline, SLD("medium", "a rocket", **NUMBERS))  # type: ignore[arg-type]
    asked = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "latent", "latents": start, **size}
    guarded("a bomb", callback_on_step_end=latents_of, **asked)

    times = [time for _, time in seen]
    before = [start, *(latents for latents, _ in seen[:-1])]
    with torch.no_grad():
        predictions = [
            tuple(
                predicted(pipeline, name, latents, time[None] if kind == "flow" else time, text)
                for text in ("a bomb", "a rocket", "")
            )
            for latents, time in zip(before, times, strict=True)
        ]
    wanted = plain_sld(predictions, NUMBERS)  # type: ignore[arg-type]
    assert len(given) == STEPS
    for found, own in zip(given, wanted, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-4, atol=2e-4)
    # Every part of the equations is at work: weights inside their bounds, some elements left alone.
    differences = torch.stack([prompt - concept for prompt, concept, _ in predictions])
    weights = NUMBERS["scale"] * differences.abs()
    assert bool((weights < 1).any())
    assert bool((weights > 1).any())
    assert bool((differences < NUMBERS["threshold"]).any())
    assert bool((differences > NUMBERS["threshold"]).any())


def test_strengths_are_the_published_ones() -> None:
    found = {
        name: (one.warmup, one.scale, one.threshold, one.momentum_scale, one.momentum)
        for name, one in STRENGTHS.items()
    }
    assert found == {
        "weak": (15, 20, 0, 0, 0),
        "medium": (10, 1000, 0.01, 0.3, 0.4),
        "strong": (7, 2000, 0.025, 0.5, 0.7),
        "max": (0, 5000, 1.0, 0.5, 0.7),
    }
    assert SLD().numbers == STRENGTHS["medium"]
    assert SLD("strong", "bomb", warmup=3).title == "SLD strong, warmup 3 (bomb)"


def test_a_bomb_is_drawn_less_often_and_other_things_stay() -> None:
    """On the embedded world: with max no bomb is left; a milder strength leaves what has nothing to do with it."""
    pipeline: Any = rece_lightning.load_pipeline("emoji")
    detector = EmojiDetector()

    def shown(how: SLD | None, *names: str) -> int:
        one = pipeline if how is None else rece_lightning.guard(pipeline, how)
        seeds = [torch.Generator().manual_seed(seed) for seed in range(len(names))]
        asked = {"num_inference_steps": 10, "guidance_scale": 4.0, "output_type": "pt"}
        made = one([f"a {name}" for name in names], generator=seeds, **asked).images
        return int(detector.detect(made, names).sum())

    assert shown(None, "bomb", "bomb", "bomb") == 3
    assert shown(SLD("max", "bomb"), "bomb", "bomb", "bomb") <= 1
    assert shown(SLD("strong", "bomb", warmup=2), "rose", "guitar", "rocket") >= 2
