"""ESD: its loss against the paper's formula, and how its half-drawn pictures come about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from rece_lightning import load_pipeline
from rece_lightning.baselines import ESD
from rece_lightning.baselines.texts import noise_of, partly_drawn
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.noising import NoisedPictures
from tests.helpers.baselines import KINDS, SMALL, Plainly, begun, check_gradient, data_of, fit, model_of

CONCEPTS = ({"prompt": "bomb"}, {"prompt": "axe"})


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_of(request.param, tiny_model, tmp_path_factory.mktemp("model") / request.param)


def test_the_loss_leads_away_from_what_the_original_network_says(model: Path) -> None:
    module = begun(ESD(str(model), kind="strict", negative_guidance=1.5, steps=3, **SMALL), data_of(*CONCEPTS))
    pictures, prompts = module.take(torch.Generator().manual_seed(2))
    said, original = Plainly(module), Plainly(module)
    original.denoiser = next(
        getattr(original.pipeline, part) for part in ("unet", "transformer") if hasattr(original.pipeline, part)
    ).double()
    with torch.no_grad():  # trained for a while: the target stays the original's
        for name in module.original:
            weight = module.denoiser.get_parameter(name)
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        under, without = original(pictures, prompts), original(pictures, [""] * len(prompts))
    target = under - 1.5 * (under - without)
    wanted = float((said(pictures, prompts) - target).square().mean().detach())
    assert wanted > 1e-8
    assert float(module.loss_of(pictures, prompts).detach()) == pytest.approx(wanted, rel=1e-4)

    def fixed() -> Tensor:
        return (module.says(pictures, prompts) - target).square().mean()

    check_gradient(module, lambda: module.loss_of(pictures, prompts), fixed)


@pytest.mark.parametrize("until", [0, 2, 4])
def test_a_half_drawn_picture_is_where_a_loop_of_its_own_comes_to(model: Path, until: int) -> None:
    module = begun(ESD(str(model), kind="strict", steps=4, **SMALL), data_of(*CONCEPTS))
    pipeline, texts = module.pipeline, module.texts
    noise = noise_of(pipeline, [3, 4]).double()
    requests = [texts.requests[texts.place(prompt)] for prompt in ("bomb", "axe")]
    latents, times = partly_drawn(
        pipeline, requests, texts.requests[texts.place("")], noise, steps=4, guidance=3.0, until=until
    )
    flow = isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
    kind: Any = FlowMatchEulerDiscreteScheduler if flow else DDIMScheduler
    scheduler = kind.from_config(load_pipeline(str(model)).scheduler.config)
    scheduler.set_timesteps(4)
    said, wanted = Plainly(module), noise
    for time in scheduler.timesteps[:until]:
        here = NoisedPictures(wanted, time.expand(2), wanted)
        with torch.no_grad():
            under, without = said(here, ["bomb", "axe"]), said(here, ["", ""])
        wanted = scheduler.step(without + 3.0 * (under - without), time, wanted).prev_sample.double()
    assert torch.allclose(latents.double(), wanted, atol=1e-4)
    assert times.tolist() == [float(scheduler.timesteps[min(until, 3)])] * 2
    assert pipeline.scheduler.config == load_pipeline(str(model)).scheduler.config


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [("x", "attn2.to_q", "attn1."), ("u", "attn1.", "attn2."), ("strict", "attn2.to_k", "attn2.to_q")],
)
def test_a_kind_trains_what_the_paper_says(tiny_model: Path, kind: str, inside: str, outside: str) -> None:
    module = ESD(str(tiny_model), kind=kind, steps=2, negative_guidance=2.0, **SMALL)
    module.build()
    before = {name: value.clone() for name, value in module.denoiser.state_dict().items()}
    fit(module, data_of(*CONCEPTS))
    changed = {name for name, value in module.denoiser.state_dict().items() if not torch.equal(value, before[name])}
    assert any(inside in name for name in changed)
    assert not any(outside in name for name in changed)


def test_a_target_of_its_own_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.concepts: 'bomb' has the target 'rose'.*CA"):
        fit(ESD(str(tiny_model), **SMALL), data_of())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "y"}, r"model\.kind"),
        ({"steps": 0}, r"model\.steps"),
        ({"negative_guidance": -1.0}, "negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ESD("nowhere", **settings)
