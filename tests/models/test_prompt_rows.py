"""Rows of prompts are the pipeline's own, to the last bit, for every prompt that it treats specially."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import rece_lightning
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.text import PromptEncoder
from rece_lightning.vocabulary.rows import subject_rows
from tests.helpers.models import make_checkpoint
from tests.helpers.models_original import make_folder

PROMPTS = [
    "<x>",
    "a photo of <x> on a table",
    "<x> <x>",
    "<y>",
    "a <y> and <x>",
    "<x>_1",
    "",
    " ",
    "(a bomb:1.4), [dog]",
    "A  BOMB , naïve",
    " ".join(["bomb"] * 90),
    " ".join(["bomb"] * 12) + " <x> dog",
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stable Diffusion 1's structure, 16 positions, with ``<x>`` of three vectors and ``<y>`` of one."""
    folder = make_checkpoint(tmp_path_factory.mktemp("rows") / "base", seed=3)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    teach(pipeline, {"<x>": 3, "<y>": 1})
    return pipeline


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """SDXL's structure, with ``<x>`` known to both of its tokenizers and ``<y>`` to one."""
    pipeline = DiffusionPipeline.from_pretrained(make_folder(tmp_path_factory.mktemp("rows") / "base", "sdxl"))
    teach(pipeline, {"<x>": 3, "<y>": 2})
    teach(pipeline, {"<x>": 2}, "_2")
    return pipeline


def teach(pipeline: Any, words: dict[str, int], suffix: str = "") -> None:
    """Textual inversions of so many vectors, as diffusers loads them."""
    tokenizer, encoder = (getattr(pipeline, f"{part}{suffix}") for part in ("tokenizer", "text_encoder"))
    width = encoder.get_input_embeddings().weight.shape[1]
    for word, vectors in words.items():
        inversion = torch.randn(vectors, width, generator=torch.Generator().manual_seed(len(word) + vectors))
        pipeline.load_textual_inversion(inversion, token=word, tokenizer=tokenizer, text_encoder=encoder)


def own_rows(pipeline: Any, prompts: list[str]) -> tuple[Tensor, Tensor | None]:
    """What a call of the pipeline would give its U-Net."""
    with torch.no_grad():
        rows, _, *pooled = pipeline.encode_prompt(
            prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    return rows, pooled[0] if pooled else None


@pytest.mark.parametrize("model", ["small", "large"])
def test_rows_are_the_pipelines(model: str, request: pytest.FixtureRequest) -> None:
    pipeline = request.getfixturevalue(model)
    encoder = PromptEncoder.of_pipeline(pipeline)
    for prompts in ([PROMPTS[0]], PROMPTS):
        found, (rows, pooled) = encoder.encode(prompts), own_rows(pipeline, prompts)
        assert torch.equal(found.embeddings, rows)
        assert (found.pooled is None) == (pooled is None)
        if pooled is not None and found.pooled is not None:
            assert torch.equal(found.pooled, pooled)
    # Not vacuous: what is written out differs from what is not.
    ids = pipeline.tokenizer(["<x>"])["input_ids"][0]
    assert encoder.token_ids(["<x>"])[0] != ids
    assert len(encoder.token_ids(["<x>"], special=False)[0]) == 3


def test_a_saved_model_gives_the_same_rows(small: Any, tmp_path: Path) -> None:
    """``fit`` on the folder: its tokenizer holds the tokens, its text encoder their vectors."""
    small.save_pretrained(tmp_path / "model")
    encoder = load_encoder(find_base(str(tmp_path / "model")))
    assert torch.equal(encoder.encode(PROMPTS).embeddings, own_rows(small, PROMPTS)[0])


def test_a_tokenizer_that_takes_less_than_the_encoder(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline pads and cuts to the tokenizer's length; one that says none leaves it to the encoder."""
    positions = small.text_encoder.config.max_position_embeddings
    monkeypatch.setattr(small.tokenizer, "model_max_length", positions - 5)
    encoder = PromptEncoder.of_pipeline(small)
    assert torch.equal(encoder.encode(PROMPTS).embeddings, own_rows(small, PROMPTS)[0])
    assert encoder.encode([""]).embeddings.shape[1] == encoder.positions == positions - 5
    monkeypatch.setattr(small.tokenizer, "model_max_length", int(1e30))
    assert PromptEncoder.of_pipeline(small).positions == positions


def test_a_text_encoder_that_looks_at_the_mask(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small.text_encoder.config, "use_attention_mask", True, raising=False)
    encoder = PromptEncoder.of_pipeline(small)
    assert torch.equal(encoder.encode(PROMPTS).embeddings, own_rows(small, PROMPTS)[0])


def test_lengths_and_cuts_count_every_vector(small: Any) -> None:
    """What is said of a prompt is said of the tokens that are encoded."""
    encoder = PromptEncoder.of_pipeline(small)
    room = encoder.positions - 2
    fits, longer = " ".join([*["bomb"] * (room - 3), "<x>"]), " ".join([*["bomb"] * (room - 1), "<x>"])
    assert encoder.too_long([fits, longer]) == {longer: "<x>_1<x>_2"}
    assert encoder.cut(fits) is None
    last = int(encoder.encode(["<x>"]).last_subject)
    assert last == 3
    rows = own_rows(small, ["<x>"])[0][0, last : last + 2]
    torch.testing.assert_close(subject_rows(encoder, ["<x>"])[0].float(), rows, rtol=1e-2, atol=1e-2)


def test_every_vector_is_erased(small: Any) -> None:
    """Each row that the pipeline gives the U-Net becomes the target's, those of the later vectors too."""
    rows, target = (own_rows(small, [prompt])[0][0].double() for prompt in ("<x>", " "))
    with rece_lightning.erase(small, ["<x>"], preserve=[], epochs=1, method={"tokens": "all"}) as erasure:
        moved = rows @ erasure.maps["text"].of_layer(0).mT
    for row in range(1, len(rows)):  # the first is that of the token that begins a text, equal in both
        assert (moved - target)[row].norm() < 0.2 * (rows - target)[row].norm(), row
