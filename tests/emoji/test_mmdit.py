"""The second embedded world: plain diffusers loads it and draws what it is asked for."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors import safe_open

from benchmarks.harness import weights_digest
from benchmarks.world import WORLDS
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.placement import Placement
from rece_lightning.emoji.captions import describe, with_article
from rece_lightning.emoji.catalog import MMDIT, load_catalog
from rece_lightning.emoji.clip import load_clip
from rece_lightning.emoji.training.clip import tokenize
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.sampling import Sampling

MEASURED = Path(__file__).parents[2] / "benchmarks" / "world.json"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusion3Pipeline:
    # Diffusers' own way to leave T5 out.
    loaded = StableDiffusion3Pipeline.from_pretrained(MMDIT, text_encoder_3=None, tokenizer_3=None)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def drawn(pipeline: StableDiffusion3Pipeline, prompts: list[str], **how: object) -> torch.Tensor:
    seeds = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    options = {"num_inference_steps": 12, "guidance_scale": 4.0, "output_type": "pt", **how}
    return pipeline(prompts, generator=seeds, **options).images


def test_it_draws_objects_styles_and_backgrounds(pipeline: StableDiffusion3Pipeline) -> None:
    catalog, source, detector = load_catalog(), random.Random(0), EmojiDetector()
    items = catalog.trained[::8]
    styles = [source.choice(catalog.styles) for _ in items]
    backgrounds = [source.choice(list(catalog.backgrounds)) for _ in items]
    said = zip(items, styles, backgrounds, strict=True)
    pictures = drawn(pipeline, [describe(with_article(i.name), s, b) for i, s, b in said], max_sequence_length=0)
    for concepts in (
        [item.name for item in items],
        [f"{style} style" for style in styles],
        [f"{background} background" for background in backgrounds],
    ):
        # Of ten; chance finds an object in one of two hundred, a style in one of four.
        assert float(detector.detect(pictures, concepts).float().mean()) > 0.75
    bare = drawn(pipeline, [item.name for item in items], max_sequence_length=0)
    assert float(detector.detect(bare, [item.name for item in items]).float().mean()) > 0.75


def test_the_rows_of_zeros_in_place_of_t5_change_no_object(pipeline: StableDiffusion3Pipeline) -> None:
    """However many a caller asks for: training met every number."""
    names = [item.name for item in load_catalog().trained[3:200:50]]
    default = drawn(pipeline, names, num_inference_steps=6)
    assert float(EmojiDetector().detect(default, names).float().mean()) > 0.7
    # The number of rows is no part of the prompt: the same seeds give nearly the same pictures.
    none = drawn(pipeline, names, num_inference_steps=6, max_sequence_length=0)
    apart = float((default - none).abs().mean())
    assert apart < 0.25 * float((default - default.roll(1, 0)).abs().mean())


def test_both_encoders_are_the_first_worlds(pipeline: StableDiffusion3Pipeline) -> None:
    clip, tokenizer = load_clip()
    prompts = ["a photo of an axe", "dog"]
    rows, _, pooled, _ = pipeline.encode_prompt(prompts, None, None, max_sequence_length=3)
    states = clip.text_model(tokenize(tokenizer, prompts), output_hidden_states=True)
    assert rows.shape == (2, 16 + 3, 256)
    assert torch.equal(rows[:, :16], torch.cat([states.hidden_states[-2]] * 2, dim=-1))
    assert not rows[:, 16:].any()
    assert torch.equal(pooled, torch.cat([clip.text_projection(states.pooler_output)] * 2, dim=-1))


def test_the_project_draws_what_plain_diffusers_draws(pipeline: StableDiffusion3Pipeline) -> None:
    base, names = find_base("emoji-mmdit"), ["dog", "a lemon in ink style"]
    maker = PictureMaker.load(base, load_encoder(base), Placement(), torch.device("cpu"))
    rows = [EvaluationPrompt(name, name) for name in names]
    made = maker.make(rows, range(2), Sampling(steps=3, guidance_scale=4.0))
    plain = drawn(pipeline, names, num_inference_steps=3, max_sequence_length=0)
    torch.testing.assert_close(made, plain, atol=1e-4, rtol=0)


def test_weights_are_float16_and_take_30_megabytes_at_most() -> None:
    own = [path for path in MMDIT.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in own) <= 30e6
    for path in MMDIT.rglob("*.safetensors"):
        with safe_open(path, "pt") as stored:
            assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.float16}  # noqa: SIM118


@pytest.mark.parametrize("world", list(WORLDS))
def test_the_measured_weights_are_those_that_ship(world: str) -> None:
    assert json.loads(MEASURED.read_text(encoding="utf-8"))[world]["weights"] == weights_digest(world)
