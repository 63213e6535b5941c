"""Guards around every family's pipeline: the right half of guidance is changed, with the right texts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import rece_lightning
from rece_lightning.baselines import SLD, Guard, NegativePrompt
from rece_lightning.baselines.branches import branch_of, unconditional_of
from rece_lightning.baselines.guard import guidance_argument
from rece_lightning.baselines.steps import steps_changed
from rece_lightning.baselines.text_arguments import as_given
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.denoisers import known_family
from tests.helpers.tiny.pipelines import BUILDERS, build, smallest

INSTRUCTED = ("lumina2", "sana", "cascade_decoder")
"""Words stand before a prompt and not before a negative prompt, or pictures come before it."""
GUIDED = [name for name in BUILDERS if (family := known_family(build(name))) is None or family.negative]


@cache
def opened(name: str) -> Any:
    pipeline = build(name)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(name: str, pipeline: Any, prompts: Sequence[str], scale: float = 3.0, **more: Any) -> Tensor:
    """Latents, or whatever a stage makes, after two steps."""
    argument = guidance_argument(pipeline)
    arguments = dict(smallest(name))
    if "negative_prompt" in more and "negative_prompt" not in inspect.signature(pipeline.__call__).parameters:
        more["negative_prompt_embeds"] = pipeline.encode_prompt(more.pop("negative_prompt"))[0]
    if "image_embeddings" in arguments:
        arguments["image_embeddings"] = arguments["image_embeddings"].float().expand(len(prompts), -1, -1, -1)
    answer = pipeline(
        prompt=list(prompts),
        num_inference_steps=2,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        output_type="pt" if name == "cascade_prior" else "latent",
        **{argument: scale},
        **arguments,
        **more,
    )
    return torch.as_tensor(answer[0])


def apart(one: Tensor, other: Tensor) -> float:
    """The largest distance of two elements: some of these random models hardly read their text."""
    return float((one - other).abs().max())


@dataclass(frozen=True)
class Instead(Guard):
    """Another text's prediction in the place of the prompt's, or the prediction without a prompt."""

    text: str | None

    @property
    def title(self) -> str:
        return "instead"

    def draw(self, pipeline: Any, arguments: Mapping[str, Any], texts: Sequence[str | None]) -> Any:
        other = branch_of(pipeline, arguments, as_given(pipeline, arguments, [self.text or "a dog"] * len(texts)))
        without = unconditional_of(pipeline, arguments, other.rows)

        def change(prompt: Tensor, empty: Tensor | None, further: list[Tensor]) -> Tensor:
            assert empty is not None
            return empty if self.text is None else further[0]

        with steps_changed(pipeline, [other], change, without, guided=True):
            return pipeline(**arguments)


@pytest.mark.parametrize("name", GUIDED)
def test_a_further_text_in_the_prompts_place_draws_that_text(name: str) -> None:
    """Which rows are the prompt's, and what the denoiser is given under another text, are the pipeline's own."""
    pipeline = opened(name)
    plain = drawn(name, pipeline, ["a bomb", "a dog"], negative_prompt=["a key"] * 2)
    wanted = drawn(name, pipeline, ["a rocket of"] * 2, negative_prompt=["a key"] * 2)
    guarded = rece_lightning.guard(pipeline, Instead("a rocket of"))

    found = drawn(name, guarded, ["a bomb", "a dog"], negative_prompt=["a key"] * 2)

    assert not torch.equal(plain, wanted)
    assert apart(found, wanted) < 0.03 * apart(plain, wanted)


@pytest.mark.parametrize("name", [name for name in GUIDED if name not in INSTRUCTED])
def test_the_prediction_without_the_prompt_is_the_pipelines_own(name: str) -> None:
    """In the prompt's place it is what the pipeline draws where prompt and negative prompt are the same."""
    pipeline = opened(name)
    plain = drawn(name, pipeline, ["a bomb"], negative_prompt=["a key"])
    wanted = drawn(name, pipeline, ["a key"], negative_prompt=["a key"])

    found = drawn(name, rece_lightning.guard(pipeline, Instead(None)), ["a bomb"], negative_prompt=["a key"])

    assert apart(found, wanted) < 0.03 * apart(plain, wanted)


@pytest.mark.parametrize("name", GUIDED)
def test_a_negative_prompt_is_the_pipelines_own(name: str) -> None:
    pipeline = opened(name)
    wanted = drawn(name, pipeline, ["a bomb"], negative_prompt=["a rocket"])

    found = drawn(name, rece_lightning.guard(pipeline, NegativePrompt("a rocket")), ["a bomb"])

    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found, drawn(name, pipeline, ["a bomb"]))


@pytest.mark.parametrize("guard", [SLD("max", "bomb"), NegativePrompt("bomb")])
def test_a_model_without_the_unconditional_branch_is_refused(guard: Guard) -> None:
    """FLUX's guidance is a number that the model is given."""
    pipeline = rece_lightning.guard(opened("flux"), guard)

    with pytest.raises(ConfigurationError, match=r"unconditional branch of guidance.*drawn without one.*OutputFilter"):
        pipeline("a bomb", num_inference_steps=1, **smallest("flux"))


def test_flux_with_true_guidance_is_guarded() -> None:
    """Its pipeline takes a negative prompt and the scale of a guidance of its own."""
    pipeline = opened("flux")
    call: dict[str, Any] = {"true_cfg_scale": 3.0, "num_inference_steps": 2, **smallest("flux")}

    def run(one: Any, prompt: str) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return one(prompt, negative_prompt="a key", output_type="latent", generator=generator, **call).images

    found = run(rece_lightning.guard(pipeline, Instead("a rocket")), "a bomb")

    wanted = run(pipeline, "a rocket")
    assert apart(found, wanted) < 0.03 * apart(run(pipeline, "a bomb"), wanted)
