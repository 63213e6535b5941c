"""Pictures of families of transformers, by their own pipelines, original and edited."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableCascadeDecoderPipeline

from rece_lightning import RECE, ConceptData
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.models.sampling import Sampling
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny.pipelines import build

PROMPTS = [EvaluationPrompt("a bomb", "bomb"), EvaluationPrompt("a dog of a rocket", "dog")]


def erased(path: Path) -> RECE:
    module = RECE(str(path), tune="off")
    fit_quietly(module, ConceptData(["bomb"]))
    return module


@pytest.mark.parametrize("name", ["flux", "sd3", "cogview4"])
def test_pictures_are_those_of_the_pipeline_called_with_the_prompt(tmp_path: Path, name: str) -> None:
    """With a batch of two prompts of other lengths, and one by one, original and edited."""
    build(name).save_pretrained(tmp_path / name)
    module = erased(tmp_path / name)
    sampling = Sampling(steps=2, guidance_scale=3.0)

    made = {}
    for state, weights in (("original", None), ("edited", module.erasure().weights())):
        module.pictures.use(weights)
        made[state] = module.pictures.make(PROMPTS, [3, 4], sampling)

    assert not torch.equal(made["original"], made["edited"])
    pipeline = module.pipeline()
    for place, prompt in enumerate(PROMPTS):
        own = pipeline(
            prompt.prompt,
            num_inference_steps=2,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(3 + place),
            output_type="pt",
        ).images[0]
        torch.testing.assert_close(made["edited"][place], own, rtol=1e-3, atol=1e-4)


def test_one_of_two_models_makes_no_picture(tmp_path: Path) -> None:
    pipeline = build("cascade_decoder")
    assert isinstance(pipeline, StableCascadeDecoderPipeline)
    pipeline.save_pretrained(tmp_path / "decoder")
    module = erased(tmp_path / "decoder")

    with pytest.raises(ConfigurationError, match=r"no pictures can be made.*two models make a picture in turn"):
        _ = module.pictures
