"""CA: its losses against the paper's formulas, and what a training of it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from rece_lightning.baselines import ConceptAblation
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.models.noising import noised
from tests.helpers.baselines import KINDS, SMALL, Plainly, begun, check_gradient, data_of, fit, model_of

DRAWING = {"pictures": 4, "steps": 2, "draw_together": 4}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_of(request.param, tiny_model, tmp_path_factory.mktemp("model") / request.param)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noise_is_added_as_diffusers_adds_it(kind: str) -> None:
    scheduler = DDIMScheduler(prediction_type=kind, beta_schedule="scaled_linear")
    source = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 2, 2, generator=source) for _ in range(2))
    times = torch.tensor([0, 400, 999])
    made = noised(scheduler, latents, times, noise)
    assert torch.allclose(made.noisy, scheduler.add_noise(latents, noise, times), atol=1e-6)
    wanted = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, times)
    assert torch.allclose(made.answer, wanted, atol=1e-6)


def test_flow_is_noised_as_diffusers_does_it_whatever_was_sampled_before() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    source = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 2, 2, generator=source) for _ in range(2))
    fresh = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    made = noised(scheduler, latents, torch.tensor([0, 400, 999]), noise)
    assert made.timesteps.tolist() == [fresh.timesteps[place].item() for place in (-1, 599, 0)]
    assert torch.allclose(made.noisy, fresh.scale_noise(latents, made.timesteps, noise), atol=1e-6)
    # The straight way from picture to noise is walked in one unit of time.
    assert torch.allclose(made.answer, noise - latents)


@pytest.mark.parametrize(("kind", "anchor_weight"), [("model", 0.7), ("noise", 0.0)])
def test_the_loss_is_the_papers(model: Path, kind: str, anchor_weight: float) -> None:
    module = begun(ConceptAblation(str(model), kind=kind, anchor_weight=anchor_weight, **SMALL, **DRAWING), data_of())
    said = Plainly(module)
    drawn = module.take(torch.Generator().manual_seed(3))
    pairs = [module.pairs[place] for place in drawn.pairs.tolist()]
    concepts, anchors = [pair.prompt for pair in pairs], [pair.target for pair in pairs]
    target = said(drawn.noised, anchors).detach() if kind == "model" else drawn.noised.answer.double()

    def formula() -> torch.Tensor:
        loss = ((said(drawn.noised, concepts) - target) ** 2).mean()
        return loss + anchor_weight * ((said(drawn.noised, anchors) - drawn.noised.answer) ** 2).mean()

    wanted = float(formula().detach())
    assert wanted > 1e-6
    assert float(module.loss_of(drawn).detach()) == pytest.approx(wanted, rel=1e-5)

    def fixed() -> torch.Tensor:  # by the module's own predictions, which were just checked
        loss = ((module.says(drawn.noised, concepts) - target) ** 2).mean()
        return loss + anchor_weight * ((module.says(drawn.noised, anchors) - drawn.noised.answer) ** 2).mean()

    check_gradient(module, lambda: module.loss_of(drawn), fixed)


@pytest.mark.parametrize(
    ("parameters", "inside", "outside"),
    [
        ("keys_values", ("attn2.to_k", "attn2.to_v"), ("attn2.to_q", "attn1.", "conv", "ff.")),
        ("cross", ("attn2.",), ("attn1.", "conv", "ff.")),
        ("attention", ("attn1.", "attn2."), ("conv", "ff.")),
        ("rest", ("attn1.", "conv", "ff."), ("attn2.",)),
        ("all", ("attn1.", "attn2.", "conv", "ff."), ()),
    ],
)
def test_what_was_named_changes_and_nothing_else(
    tiny_model: Path, parameters: str, inside: tuple[str, ...], outside: tuple[str, ...]
) -> None:
    module = ConceptAblation(str(tiny_model), kind="noise", parameters=parameters, **SMALL, **DRAWING)
    module.build()
    before = {name: value.clone() for name, value in module.denoiser.state_dict().items()}
    fit(module, data_of())
    changed = {name for name, value in module.denoiser.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= set(module.original)
    assert all(any(part in name for name in changed) for part in inside)
    assert not any(part in name for name in changed for part in outside)
    assert 0 < module.change()["weight_change"] < 1


def test_of_an_mmdit_the_keys_and_values_of_its_text_are_trained(tmp_path: Path) -> None:
    model = model_of("flow", tmp_path, tmp_path / "sd3")
    module = ConceptAblation(str(model), **SMALL, **DRAWING)
    module.build()
    assert {name.split(".")[-2] for name in module.original} == {"add_k_proj", "add_v_proj"}
    with pytest.raises(ConfigurationError, match=r"model\.parameters: 'cross'.*joint attention.*keys_values"):
        ConceptAblation(str(model), parameters="cross", **SMALL, **DRAWING).build()


def test_a_seed_decides_everything(tiny_model: Path) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        module = ConceptAblation(str(tiny_model), seed=seed, **SMALL, **DRAWING)
        fit(module, data_of())
        return module.weights()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_gradients_flow_under_mixed_precision(tiny_model: Path) -> None:
    """Autocast must not give the prediction under the concept what it cast for the target, without a gradient."""
    module = ConceptAblation(str(tiny_model), **SMALL, **DRAWING)
    fit(module, data_of(), precision="bf16-mixed", accumulate_grad_batches=3)
    assert module.change()["weight_change"] > 0
    plain = ConceptAblation(str(tiny_model), **SMALL, **DRAWING)
    fit(plain, data_of(), accumulate_grad_batches=3)
    moved = [
        torch.cat([(one.weights()[name] - one.original[name]).flatten() for name in one.original])
        for one in (module, plain)
    ]
    # AdamW's first step is a sign: most of them agree.
    assert torch.cosine_similarity(*moved, dim=0) > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "both"}, r"model\.kind: unknown.*'both'|model\.kind: .*both"),
        ({"parameters": "attn2"}, r"model\.parameters: .*attn2"),
        ({"learning_rate": 0.0}, r"model\.learning_rate"),
        ({"batches": 0}, r"model\.batches"),
        ({"pictures": 0}, r"model\.pictures"),
        ({"anchor_weight": -1.0}, r"model\.anchor_weight"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_a_model_is_looked_for(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ConceptAblation("nowhere", **settings)  # type: ignore[arg-type]


def test_a_denoiser_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    from tests.helpers.tiny.pipelines import build

    build("flux").save_pretrained(tmp_path / "flux")
    with pytest.raises(BaseModelError, match=r"FluxTransformer2DModel takes its latents in a way of its own"):
        ConceptAblation(str(tmp_path / "flux")).build()
