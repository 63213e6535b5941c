"""Pictures of families of transformers, by their own pipelines, original and edited."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from diffusers import StableCascadeDecoderPipeline

from rece_lightning import RECE, ConceptData
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.models.denoisers import LiveDenoisers, known_family
from rece_lightning.models.family_sampling import family_arguments
from rece_lightning.models.sampling import Sampling, requests_of
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny.pipelines import BUILDERS, build

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


@pytest.mark.parametrize("name", BUILDERS)
def test_a_call_with_embeddings_draws_what_the_pipeline_draws_of_the_prompt(name: str) -> None:
    """Bit for bit, with guidance: the empty prompt is the one that the pipeline itself leads away from."""
    pipeline = build(name)
    family = known_family(pipeline)
    assert family is not None
    if not family.draws:
        pytest.skip("one of two models of which each makes no picture alone")
    taken = inspect.signature(type(pipeline).__call__).parameters
    small = {"height": 32, "width": 32, "use_resolution_binning": False}
    common = {name: value for name, value in small.items() if name in taken}
    common |= {"num_inference_steps": 2, "output_type": "latent"}
    encoder = LiveDenoisers(pipeline, family, "pipeline").encoder(pipeline)
    request, empty = requests_of(encoder.encode(["a dog of a rocket", ""]))

    given = family_arguments(pipeline, family, [request], empty, 3.0)

    own = {name: value for name, value in given.items() if name in family.call} | {family.guidance: 3.0}
    if family.negative and "negative_prompt" in taken:
        own["negative_prompt"] = ""  # without one some do not guide
    made = [
        pipeline(**arguments, **common, generator=torch.Generator().manual_seed(3), return_dict=False)[0]
        for arguments in (given, {"prompt": "a dog of a rocket", **own})
    ]
    assert torch.equal(*(torch.as_tensor(one) for one in made))
