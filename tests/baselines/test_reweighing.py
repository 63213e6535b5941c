"""SAFREE's re-weighing of a U-Net's features against the definition written anew: Fourier sums, plain calls, no FFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rece_lightning
from rece_lightning.baselines import SAFREE
from rece_lightning.baselines.masked import Masking
from rece_lightning.baselines.reweighing import damped
from rece_lightning.baselines.text_arguments import encoder_of, requests_of
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.pipelines import load_pipeline
from tests.helpers.tiny import pipelines, unets

CONCEPTS = ["bomb", "a big axe"]
PROMPT = "a photo of a bomb and a dog"
ASKED = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent"}
SCALES = (0.6, 0.2)
BELOW = {(0, 0): 0.6, (0, 1): 0.6, (1, 0): 0.6, (1, 1): 0.2}
"""Block and resnet of a U-Net of two widths → the scale: three get the wider features from below, one the narrower."""


def safree(**changed: Any) -> SAFREE:
    """Half of the steps of four read the changed prompt."""
    return SAFREE(CONCEPTS, alpha=0.0, steepness=0.0, most=4, **changed)


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> Any:
    loaded = load_pipeline(str(tiny_model))
    loaded.set_progress_bar_config(disable=True)
    return loaded


def plain_damped(changed: np.ndarray, own: np.ndarray, scale: float) -> np.ndarray:
    """The box of two by two around the middle of a shifted spectrum, number by number."""
    result = changed.astype(np.complex128)
    height, width = changed.shape[-2:]
    y, x = np.mgrid[:height, :width]
    for u in (-1, 0):
        for v in (-1, 0):
            wave = np.exp(-2j * np.pi * (u * y / height + v * x / width))
            found, other = (np.asarray(one * wave).sum((-2, -1)) for one in (changed.astype(np.float64), own))
            bigger = np.abs(found) > np.abs(other) * (1 + 1e-5)
            part = np.where(bigger, (scale - 1) * found, 0) / (height * width)
            result += part[..., None, None] * wave.conj()
    return result.real


def skips_of(unet: Any, seen: dict[tuple[int, int], Tensor], change: Any = None) -> list[Any]:
    """Hooks on the resnets of the up blocks: the tail of what each reads is the skip connection's."""
    handles = []
    for block, module in enumerate(unet.up_blocks):
        for place, resnet in enumerate(module.resnets):
            narrow = (block, place) == (1, 1)
            below = unet.config.block_out_channels[0 if narrow else -1]

            def hook(
                _: nn.Module, args: tuple[Any, ...], key: tuple[int, int] = (block, place), below: int = below
            ) -> Any:
                tail = args[0][:, below:]
                if change is None:
                    seen[key] = tail.clone()
                    return None
                given = torch.as_tensor(change(key, tail.double().numpy())).to(tail)
                return (torch.cat([args[0][:, :below], given], dim=1), *args[1:])

            handles.append(resnet.register_forward_pre_hook(hook))
    return handles


def drawn_plainly(pipeline: Any, how: SAFREE, read: int) -> tuple[Tensor, int]:
    """A sampling loop that calls the U-Net by itself, and how many features it damped."""
    changed = how.cleaned(Masking(pipeline), PROMPT).request.embedding[None]
    own, empty = (one.embedding[None] for one in requests_of(encoder_of(pipeline), [PROMPT, ""]))
    unet, scheduler = pipeline.unet, pipeline.scheduler
    scheduler.set_timesteps(ASKED["num_inference_steps"])
    side = unet.config.sample_size
    shape = (1, unet.config.in_channels, side, side)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    differences = 0
    for step, time in enumerate(scheduler.timesteps):
        seen: dict[tuple[int, int], Tensor] = {}

        def change(key: tuple[int, int], tail: np.ndarray, seen: dict[tuple[int, int], Tensor] = seen) -> np.ndarray:
            nonlocal differences
            result = plain_damped(tail, seen[key].double().numpy(), BELOW[key])
            differences += int(not np.allclose(result, tail))
            return result

        with torch.no_grad():
            given = scheduler.scale_model_input(latents, time)
            handles = skips_of(unet, seen)
            towards = unet(given, time, own).sample
            for handle in handles:
                handle.remove()
            without = unet(given, time, empty).sample
            if step < read:
                handles = skips_of(unet, seen, change)
                towards = unet(given, time, changed).sample
                for handle in handles:
                    handle.remove()
        latents = scheduler.step(without + ASKED["guidance_scale"] * (towards - without), time, latents).prev_sample
    return latents, differences


@pytest.mark.parametrize("name", ["tiny", "emoji"])
def test_pictures_are_those_of_the_definition(pipeline: Any, name: str) -> None:
    one = pipeline if name == "tiny" else load_pipeline("emoji")
    one.set_progress_bar_config(disable=True)
    assert len(one.unet.config.block_out_channels) == 2
    how = safree(reweigh=SCALES)
    wanted, damped_calls = drawn_plainly(one, how, 2)
    found = rece_lightning.guard(one, how)(PROMPT, generator=torch.Generator().manual_seed(0), **ASKED).images
    assert damped_calls >= 4
    torch.testing.assert_close(found, wanted.to(found), rtol=1e-3, atol=1e-3)
    alone = rece_lightning.guard(one, safree())(PROMPT, generator=torch.Generator().manual_seed(0), **ASKED).images
    assert float((alone - found).abs().max()) > 0.02


def test_damping_by_one_keeps_every_bit_and_the_pipeline_is_as_it_was() -> None:
    one = load_pipeline("emoji")
    one.set_progress_bar_config(disable=True)

    def drawn(how: SAFREE | None) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        guarded = one if how is None else rece_lightning.guard(one, how)
        found: Tensor = guarded([PROMPT, "a key"], generator=generators, **ASKED).images
        return found

    def hooks() -> int:
        return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in one.unet.modules())

    before, count = drawn(None), hooks()
    assert torch.equal(drawn(safree(reweigh=[1, 1])), drawn(safree()))
    assert not torch.equal(drawn(safree(reweigh=True)), drawn(safree()))
    assert torch.equal(drawn(None), before)
    assert hooks() == count == 0

    def fails(*_: Any) -> None:
        raise RuntimeError("in the middle of a step")

    handle = one.unet.up_blocks[-1].register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        drawn(safree(reweigh=True))
    handle.remove()
    assert hooks() == 0
    # Each picture beside its own prompt's features, whatever the batch.
    both = drawn(safree(reweigh=True))
    for seed, text in enumerate((PROMPT, "a key")):
        generator = torch.Generator().manual_seed(seed)
        alone = rece_lightning.guard(one, safree(reweigh=True))(text, generator=generator, **ASKED).images
        torch.testing.assert_close(both[seed : seed + 1], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(8, 8), (5, 6), (2, 2), (1, 3)])
def test_low_frequencies_are_damped_where_they_exceed_the_others(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    changed, own = (torch.randn(2, 5, *size, generator=generator) for _ in range(2))
    if min(size) > 1:  # along a side of one, −1 and 0 are the same frequency
        wanted = plain_damped(changed.numpy(), own.numpy(), 0.3)
        np.testing.assert_allclose(damped(changed, own, 0.3).numpy(), wanted, atol=1e-5)
    mean = damped(3 * own, own, 0.0).mean((-2, -1))
    assert float(mean.abs().max()) < 1e-5
    assert torch.equal(damped(own, own, 0.3), own)
    assert torch.equal(damped(own, 3 * own, 0.3), own)
    # What rounding alone makes of the same features is no difference.
    half = own.bfloat16()
    nearly = (half.float() * (1 + 0.004 * torch.randn(half.shape, generator=generator))).bfloat16()
    assert not torch.equal(nearly, half)
    assert torch.equal(damped(nearly, half, 0.3), nearly)


@pytest.mark.parametrize("name", ["sdxl", "tiny_sd"])
def test_other_unets_are_damped_too(name: str) -> None:
    """With a pooled embedding beside the rows; with one width alone."""
    one = unets.build(name)
    small = {**unets.smallest(name), **ASKED}
    plain, guarded = (
        rece_lightning.guard(one, how)(PROMPT, generator=torch.Generator().manual_seed(0), **small).images
        for how in (safree(), safree(reweigh=True))
    )
    assert not torch.equal(plain, guarded)


def test_what_has_no_unet_and_what_is_no_scale_is_refused() -> None:
    how = safree(reweigh=True)
    said = r"reweigh: FluxTransformer2DModel has no skip connections of a U-Net.*leave reweigh out"
    with pytest.raises(ConfigurationError, match=rf"guard: SAFREE: {said}"):
        rece_lightning.guard(pipelines.build("flux"), how)(PROMPT, num_inference_steps=1, height=32, width=32)
    with pytest.raises(ConfigurationError, match=r"Evaluation.guard: SAFREE: reweigh: the denoiser of FLUX"):
        how.check_asked("Evaluation.guard", "flux", [])
    how.check_asked("Evaluation.guard", "sd1", [])
    how.check_asked("Evaluation.guard", "kolors", [])
    for wrong in ([], [1.5], [-0.1], [True], "0.9", [float("nan")], 0.9):
        with pytest.raises(ConfigurationError, match=r"SAFREE.reweigh: .*; give true, false, or one or more numbers"):
            SAFREE("bomb", reweigh=wrong)  # type: ignore[arg-type]
    assert SAFREE("bomb").title == "SAFREE (bomb)"
    assert SAFREE("bomb", reweigh=True).title == "SAFREE, features by 0.9 and 0.2 (bomb)"
