"""The MMDiT's training sees what the pipeline will feed, and its folder is one that diffusers loads."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPModel, CLIPTokenizer

from rece_lightning.emoji.catalog import WEIGHTS, load_catalog
from rece_lightning.emoji.clip import load_clip
from rece_lightning.emoji.training.folders import save_mmdit
from rece_lightning.emoji.training.mmdit import (
    CountedAttention,
    build_pipeline,
    build_transformer,
    projected_encoder,
    random_counts,
    random_times,
    training_caption,
)

PROMPTS = ["axe", "a photo of a dog in noto style", ""]


@pytest.fixture(scope="module")
def clip() -> tuple[CLIPModel, CLIPTokenizer]:
    return load_clip()


@pytest.fixture(scope="module")
def transformer() -> SD3Transformer2DModel:
    torch.manual_seed(0)
    built = build_transformer()
    for value in built.parameters():
        value.data += 0.02 * torch.randn_like(value)
    return built.eval()


@pytest.fixture(scope="module")
def pipeline(clip: tuple[CLIPModel, CLIPTokenizer], transformer: SD3Transformer2DModel) -> StableDiffusion3Pipeline:
    model, tokenizer = clip
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae")
    return build_pipeline(transformer, vae, projected_encoder(model), tokenizer)


@torch.no_grad()
def answer(pipeline: StableDiffusion3Pipeline, zeros: int) -> torch.Tensor:
    """The transformer's on the pipeline's own rows, with so many of zeros."""
    rows, _, pooled, _ = pipeline.encode_prompt(
        PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=zeros
    )
    noise = torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    return pipeline.transformer(noise, rows, pooled, torch.tensor([100.0, 500.0, 900.0])).sample


@pytest.mark.parametrize("zeros", [0, 1, 7, 256])
def test_one_row_stands_for_every_row_of_zeros_in_training(pipeline: StableDiffusion3Pipeline, zeros: int) -> None:
    plain = answer(pipeline, zeros)
    usual, counted = pipeline.transformer.attn_processors, CountedAttention()
    pipeline.transformer.set_attn_processor(counted)
    try:
        counted.count(torch.full((3,), zeros))
        torch.testing.assert_close(answer(pipeline, 1), plain, atol=1e-5, rtol=1e-5)
        counted.count(torch.full((3,), 50))
        # So many rows change the answer: the count is what brings it back.
        assert float((answer(pipeline, 1) - plain).abs().max()) > 1e-3
    finally:
        pipeline.transformer.set_attn_processor(usual)


def test_every_number_of_rows_is_met_in_training() -> None:
    counts = random_counts(4000, torch.Generator().manual_seed(0))
    assert torch.equal(counts, counts.round())
    assert 0.2 < float((counts == 0).float().mean()) < 0.3
    assert 0.25 < float(((counts > 0) & (counts <= 22)).float().mean()) < 0.5
    assert float(counts.max()) <= 512
    assert float((counts > 256).float().mean()) > 0.05


def test_times_are_logit_normal_and_every_step_sees_the_whole_range() -> None:
    times = random_times(64, torch.Generator().manual_seed(0))
    assert torch.equal(times, times.sort().values)
    logits = torch.logit(times)
    assert abs(float(logits.mean())) < 0.1
    assert abs(float(logits.std()) - 1) < 0.1


def test_captions_are_true_and_many_are_a_bare_name() -> None:
    catalog, source = load_catalog(), random.Random(0)
    axe = catalog.names.index("axe")
    texts = [training_caption(catalog, (axe, 0, 0), source) for _ in range(3000)]
    words = (catalog.objects[axe].name, *catalog.objects[axe].synonyms)
    assert 0.08 < texts.count("") / 3000 < 0.12
    assert 0.15 < sum(text in words for text in texts) / 3000 < 0.25
    for text in filter(None, texts):
        assert any(word in text for word in words)
        assert not any(style in text for style in catalog.styles[1:])


def test_the_folder_is_whole_for_diffusers_and_holds_shared_weights_once(
    tmp_path: Path, clip: tuple[CLIPModel, CLIPTokenizer], pipeline: StableDiffusion3Pipeline
) -> None:
    model, tokenizer = clip
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae")
    save_mmdit(tmp_path / "mmdit", tmp_path / "weights", tokenizer, model, vae, pipeline.transformer)
    own = [path for path in (tmp_path / "mmdit").rglob("*") if path.is_file() and not path.is_symlink()]
    large = [path for path in own if path.stat().st_size > 200_000]
    assert [path.parent.name for path in large] == ["transformer"]
    # Followed, the links give a folder that needs nothing beside it.
    shutil.copytree(tmp_path / "mmdit", tmp_path / "elsewhere" / "copy")
    shutil.rmtree(tmp_path / "weights")
    # Diffusers' own way to leave T5 out.
    without = {"text_encoder_3": None, "tokenizer_3": None}
    loaded = StableDiffusion3Pipeline.from_pretrained(tmp_path / "elsewhere" / "copy", **without)
    for rows, others in zip(
        loaded.encode_prompt(PROMPTS, None, None), pipeline.encode_prompt(PROMPTS, None, None), strict=True
    ):
        assert torch.equal(rows, others)
    assert loaded.vae.config.shift_factor == 0.0
    torch.testing.assert_close(answer(loaded, 0), answer(pipeline, 0), atol=5e-3, rtol=5e-3)
