"""A guard around a pipeline: what it leaves alone, what it composes with, what it refuses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPVisionConfig

import rece_lightning
from rece_lightning.baselines import SAFREE, SLD, Guard, NegativePrompt, OutputFilter
from rece_lightning.baselines.text_arguments import LENGTH, encoder_of, requests_of
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics import ConceptDetector, EmojiDetector, SafetyChecker, detected, names_seen
from rece_lightning.models.denoisers import config_of, known_family
from rece_lightning.models.family_sampling import family_arguments
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.pipelines import load_pipeline
from rece_lightning.models.sampling import Sampling, generate
from tests.helpers.tiny.pipelines import build

LEADING: list[Guard] = [SLD("max", "bomb"), NegativePrompt("bomb")]


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> StableDiffusionPipeline:
    loaded = load_pipeline(str(tiny_model))
    assert isinstance(loaded, StableDiffusionPipeline)
    return loaded


def latents(pipeline: Any, *prompts: str, seed: int = 0, **more: Any) -> Tensor:
    asked = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent", **more}
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
    return pipeline(list(prompts), generator=generators, **asked)[0]


class Bright(ConceptDetector):
    """Brighter than half: a rule that a test can follow."""

    protocol = "bright"

    def check(self, concept: str) -> None:
        if concept != "light":
            raise ConfigurationError(f"concept: {concept!r} is no light.")

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        return pictures.flatten(1).mean(1) > 0.5


# What is left alone


@pytest.mark.parametrize("how", LEADING)
def test_the_callers_pipeline_is_left_as_it_is(pipeline: Any, how: Guard) -> None:
    before, known = latents(pipeline, "a bomb"), dict(vars(pipeline))

    guarded = rece_lightning.guard(pipeline, how)
    changed = latents(guarded, "a bomb")

    assert not torch.equal(before, changed)
    assert torch.equal(before, latents(pipeline, "a bomb"))
    assert torch.equal(changed, latents(guarded, "a bomb"))
    assert {name: id(value) for name, value in vars(pipeline).items() if name in pipeline.components} == {
        name: id(value) for name, value in known.items() if name in pipeline.components
    }
    assert not pipeline.unet._forward_hooks
    assert not pipeline.unet._forward_pre_hooks
    assert isinstance(guarded, StableDiffusionPipeline)
    assert inspect.signature(guarded.__call__) == inspect.signature(pipeline.__call__)


def test_a_call_that_fails_leaves_no_hook(pipeline: Any) -> None:
    def stop(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    guarded = rece_lightning.guard(pipeline, SLD("max", "bomb"))
    with pytest.raises(KeyboardInterrupt):
        guarded("a bomb", num_inference_steps=2, guidance_scale=4.0, callback_on_step_end=stop)

    assert not pipeline.unet._forward_hooks
    assert not pipeline.unet._forward_pre_hooks


def test_noise_is_drawn_as_without_the_guard(pipeline: Any) -> None:
    """Torch's own generator and one that is handed over stand afterwards where they stood without it."""
    guarded = rece_lightning.guard(pipeline, SLD("weak", "bomb"))
    ends = []
    for one in (pipeline, guarded):
        torch.manual_seed(7)
        handed = torch.Generator().manual_seed(3)
        one("a bomb", num_inference_steps=1, guidance_scale=4.0, output_type="latent", generator=handed)
        first = one("a bomb", num_inference_steps=1, guidance_scale=4.0, output_type="latent").images
        ends.append((torch.get_rng_state(), handed.get_state(), first))

    # One step is within the warm-up: the pictures are the same too.
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


def test_what_is_set_on_the_guarded_pipeline_is_used(pipeline: Any) -> None:
    """A scheduler that is put in stays in; the caller's pipeline keeps its own."""
    from diffusers import EulerDiscreteScheduler

    guarded, own = rece_lightning.guard(pipeline, NegativePrompt("bomb")), pipeline.scheduler
    first = latents(guarded, "a dog")
    guarded.scheduler = EulerDiscreteScheduler.from_config(own.config)

    assert not torch.allclose(first, latents(guarded, "a dog"))
    assert pipeline.scheduler is own


def test_a_guarded_pipeline_saves_itself_as_the_plain_one(pipeline: Any, tmp_path: Path) -> None:
    rece_lightning.guard(pipeline, SLD("max", "bomb")).save_pretrained(tmp_path / "saved")

    saved = DiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)

    assert type(saved) is StableDiffusionPipeline
    torch.testing.assert_close(latents(saved, "a dog"), latents(pipeline, "a dog"))


# Prompts, embeddings, batches


@pytest.mark.parametrize("how", LEADING)
def test_pictures_in_batches_are_those_of_one_by_one_and_of_their_prompts(pipeline: Any, how: Guard) -> None:
    *own, empty = requests_of(encoder_of(pipeline), ["a bomb", "a dog", "a rocket", ""])
    requests = [replace(one, seed=seed) for seed, one in enumerate(own)]

    together = generate(pipeline, requests, empty, Sampling(2, 3.0, 3, guard=how))
    apart = torch.cat([generate(pipeline, [one], empty, Sampling(2, 3.0, guard=how)) for one in requests])
    asked = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    prompted = latents(rece_lightning.guard(pipeline, how), "a bomb", "a dog", "a rocket", **asked)

    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, prompted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", LEADING)
@pytest.mark.parametrize("name", ["sd3", "chroma", "z_image", "hidream"])
def test_embeddings_give_what_their_prompts_give(name: str, how: Guard) -> None:
    """Pipelines that guide in one batch, in two calls, with lists, and with several layers of rows."""
    pipeline = build(name)
    pipeline.set_progress_bar_config(disable=True)
    family = known_family(pipeline)
    assert family is not None
    *own, empty = requests_of(encoder_of(pipeline), ["a bomb", "a dog", ""])
    embeddings = family_arguments(pipeline, family, own, empty, 3.0)
    found = []
    for given in ({"prompt": ["a bomb", "a dog"], "negative_prompt": ["", ""], "guidance_scale": 3.0}, embeddings):
        seeds = [torch.Generator().manual_seed(seed) for seed in range(2)]
        asked = {"num_inference_steps": 2, "output_type": "latent", "height": 32, "width": 32, "generator": seeds}
        found.append(rece_lightning.guard(pipeline, how)(**given, **asked)[0])

    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", [*LEADING, SAFREE("bomb", most=50)], ids=lambda how: type(how).__name__)
@pytest.mark.parametrize("name", ["sd3", "chroma"])
def test_texts_of_the_guard_are_padded_as_the_call_has_them(name: str, how: Guard) -> None:
    """Stable Diffusion 3 refuses a negative embedding of another length than the prompt's."""
    pipeline = build(name)
    pipeline.set_progress_bar_config(disable=True)
    family = known_family(pipeline)
    assert family is not None
    config = config_of(pipeline.transformer)
    shorter = PipelineEncoder(pipeline, family, config, (), asked={LENGTH: 9})
    texts = ["a bomb", "a dog"]
    *own, empty = requests_of(shorter, [*texts, ""])
    requests = [replace(one, text=text, seed=seed) for seed, (text, one) in enumerate(zip(texts, own, strict=True))]
    assert len(own[0].embedding) != len(requests_of(encoder_of(pipeline), ["a bomb"])[0].embedding)

    embedded = generate(pipeline, requests, empty, Sampling(2, 3.0, 2, guard=how))

    seeds = [torch.Generator().manual_seed(seed) for seed in range(2)]
    asked = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt", "generator": seeds}
    guarded = rece_lightning.guard(pipeline, how)
    prompted = guarded(prompt=texts, negative_prompt=["", ""], max_sequence_length=9, **family.call, **asked)[0]
    torch.testing.assert_close(embedded, prompted.float(), rtol=1e-4, atol=1e-4)


def test_a_negative_prompt_of_the_call_stays(pipeline: Any) -> None:
    guarded = rece_lightning.guard(pipeline, NegativePrompt(["bomb", "axe"]))

    found = latents(guarded, "a dog", "a key", negative_prompt=["rose", ""])

    wanted = latents(pipeline, "a dog", "a key", negative_prompt=["rose, bomb, axe", "bomb, axe"])
    assert torch.equal(found, wanted)


# A filter of finished pictures


@pytest.mark.parametrize("kind", ["pil", "np", "pt", "tuple"])
def test_a_filter_paints_what_is_found_black_and_nothing_else(pipeline: Any, kind: str) -> None:
    def run(one: Any) -> list[np.ndarray]:
        how = {"output_type": "pt", "return_dict": False} if kind == "tuple" else {"output_type": kind}
        generators = [torch.Generator().manual_seed(seed) for seed in range(6)]
        made = one(["a dog"] * 6, num_inference_steps=1, generator=generators, **how)[0]
        if kind == "pil":
            assert isinstance(made[0], Image.Image)
        return [np.asarray(picture, dtype=np.float32) for picture in made]

    plain = run(pipeline)
    scale = 255 if kind == "pil" else 1
    means = [float(picture.mean()) / scale for picture in plain]
    middle = float(np.median(means))

    class Middle(Bright):
        def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
            return pictures.flatten(1).mean(1) > middle

    painted = run(rece_lightning.guard(pipeline, OutputFilter("light", Middle())))

    wanted = [np.zeros_like(one) if mean > middle else one for one, mean in zip(plain, means, strict=True)]
    assert sum(mean > middle for mean in means) == 3
    for found, own in zip(painted, wanted, strict=True):
        np.testing.assert_array_equal(found, own)


def test_a_black_picture_shows_nothing() -> None:
    """Not even to a detector that always sees something."""
    detector, black = EmojiDetector(), torch.zeros(1, 3, 32, 32)
    seen = detector.name(black, ["bomb"])[0]

    assert detector.detect(black, [seen]).tolist() == [True]
    assert detected(detector, black, [seen]).tolist() == [False]
    assert names_seen(detector, black, ["bomb"]) == ("nothing: a black picture",)


def test_guards_go_around_one_another(pipeline: Any) -> None:
    both = rece_lightning.guard(rece_lightning.guard(pipeline, SLD("max", "bomb")), OutputFilter("light", Bright()))
    inner = rece_lightning.guard(pipeline, SLD("max", "bomb"))
    asked: Mapping[str, Any] = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "pt"}

    found = both("a bomb", generator=torch.Generator().manual_seed(1), **asked).images
    alone = inner("a bomb", generator=torch.Generator().manual_seed(1), **asked).images

    assert torch.equal(found, alone * (alone.mean() <= 0.5))


def test_the_safety_checker_says_what_diffusers_class_says(tmp_path: Path) -> None:
    """A small random one in the layout of Stable Diffusion's folders, with thresholds that some pictures pass."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    torch.manual_seed(2)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = CLIPTextConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    )
    torch.nn.init.normal_(checker.concept_embeds)
    torch.nn.init.normal_(checker.special_care_embeds)
    checker.save_pretrained(tmp_path / "safety_checker")
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path / "feature_extractor")
    pictures = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    embeddings = checker.visual_projection(
        checker.vision_model(
            processor(list((pictures * 255).round().byte()), return_tensors="pt")["pixel_values"]
        ).pooler_output
    )
    cosines = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(checker.concept_embeds).mT
    thresholds = cosines.quantile(0.95, dim=0)
    checker.concept_embeds_weights.data = thresholds.detach()
    checker.special_care_embeds_weights.data.fill_(2.0)  # no cosine is above
    checker.save_pretrained(tmp_path / "safety_checker")
    detector = SafetyChecker(str(tmp_path), batch_size=5)
    detector.check("nudity")

    found = detector.detect(pictures, ["nudity"] * 12)

    # Its class rounds the distance to a threshold to three digits.
    wanted = ((cosines - thresholds).detach() > 5e-4).any(1)
    assert 0 < int(wanted.sum()) < 12
    assert torch.equal(found, wanted)
    with pytest.raises(ConfigurationError, match=r"safety checker looks for nudity.*not for 'bomb'"):
        detector.check("bomb")


# What is refused


@pytest.mark.parametrize("how", LEADING)
def test_guidance_that_is_off_is_refused(pipeline: Any, how: Guard) -> None:
    guarded = rece_lightning.guard(pipeline, how)

    with pytest.raises(ConfigurationError, match=r"guidance_scale: 1 switches guidance off.*give more than 1"):
        guarded("a bomb", guidance_scale=1.0, num_inference_steps=1)
    with pytest.raises(ConfigurationError, match=r"Evaluation.guidance_scale: 1 switches guidance off"):
        Sampling(guidance_scale=1.0, guard=how)


def test_no_prediction_without_a_prompt_is_noticed_before_a_picture_is_made() -> None:
    """Qwen-Image guides only where it is given a negative prompt."""
    guarded = rece_lightning.guard(build("qwen_image"), SLD("max", "bomb"))

    with pytest.raises(ConfigurationError, match=r"guidance is off; give true_cfg_scale above 1 \(and a negative_pr"):
        guarded("a bomb", true_cfg_scale=3.0, num_inference_steps=2, height=32, width=32)


def test_a_compiled_denoiser_and_a_control_net_are_refused(tiny_model: Path) -> None:
    compiled = load_pipeline(str(tiny_model))
    unet = compiled.unet
    compiled.unet = torch.compile(unet)
    with pytest.raises(ConfigurationError, match=r"pipeline.unet is compiled"):
        latents(rece_lightning.guard(compiled, SLD("max", "bomb")), "a bomb")
    compiled.unet = unet
    compiled.controlnet = ControlNetModel.from_unet(unet)
    with pytest.raises(ConfigurationError, match=r"pipeline.controlnet: a ControlNet"):
        latents(rece_lightning.guard(compiled, SLD("max", "bomb")), "a bomb")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SLD("maximal", "bomb"), r"SLD.strength: unknown value 'maximal'.*max"),
        (lambda: SLD("max", ""), r"SLD.concept: ''; name what to lead away from"),
        (lambda: SLD("max", "bomb", scale=-1.0), r"SLD.scale: -1.0 makes no sense"),
        (lambda: NegativePrompt([]), r"NegativePrompt.concept: \[\]"),
        (lambda: OutputFilter("dark", Bright()), r"OutputFilter.concept: .*'dark' is no light"),
        (lambda: OutputFilter("light", "Bright"), r"OutputFilter.detector: 'Bright' is none"),  # type: ignore[arg-type]
        (lambda: rece_lightning.guard(object(), "SLD"), r"'SLD' is no guard"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_filter_of_latents_is_refused(pipeline: Any) -> None:
    guarded = rece_lightning.guard(pipeline, OutputFilter("light", Bright()))
    with pytest.raises(ConfigurationError, match=r"output_type: 'latent'.*take 'pil'"):
        latents(guarded, "a dog")
