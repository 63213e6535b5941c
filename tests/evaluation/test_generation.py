"""PictureMaker: every prompt is encoded once, the empty one too, and long prompt files do not fill the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.placement import Placement
from rece_lightning.evaluation.generation import ENCODED_TOGETHER, KEPT_EMBEDDINGS, PictureMaker
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.text import Encoded, PromptEncoder


class Counting(PromptEncoder):
    """Remembers what it was asked for."""

    def __init__(self, encoder: PromptEncoder) -> None:
        super().__init__(*encoder.towers[0])
        self.asked: list[list[str]] = []

    def encode(self, prompts: list[str]) -> Encoded:
        self.asked.append(list(prompts))
        return super().encode(prompts)


@pytest.fixture
def encoder() -> Counting:
    return Counting(load_encoder(find_base("emoji")))


def test_embeddings_are_those_of_the_prompt_alone(encoder: Counting) -> None:
    prompts = ["a dog", "bomb", "a dog", ""]
    requests = PictureMaker(None, encoder, {}).embed(prompts)
    assert encoder.asked == [["a dog", "bomb", ""]]
    for prompt, request in zip(prompts, requests, strict=True):
        torch.testing.assert_close(request.embedding, encoder.encode([prompt]).embeddings[0])
        # Nothing but its own rows hangs on it.
        assert request.embedding.untyped_storage().nbytes() == request.embedding.numel() * 4


def test_a_long_prompt_file_leaves_a_bounded_number_of_embeddings(encoder: Counting) -> None:
    maker = PictureMaker(None, encoder, {})
    prompts = [f"a dog {k} times" for k in range(KEPT_EMBEDDINGS + 40)]
    first = maker.embed(prompts)
    assert len(first) == len(prompts)
    assert {len(part) for part in encoder.asked} <= {ENCODED_TOGETHER, len(prompts) % ENCODED_TOGETHER}
    assert len(maker._embedded) == KEPT_EMBEDDINGS
    encoder.asked.clear()
    # The latest stay, the earliest are encoded again, and what is used stays the longest.
    maker.embed(prompts[-10:])
    assert encoder.asked == []
    maker.embed(prompts[40:41])
    maker.embed(prompts[:20])
    assert encoder.asked == [prompts[:20]]
    encoder.asked.clear()
    maker.embed(prompts[40:41])
    assert encoder.asked == []


def test_the_empty_prompt_is_encoded_with_the_others(encoder: Counting) -> None:
    base = find_base("emoji")
    maker = PictureMaker.load(base, encoder, Placement(), torch.device("cpu"))
    rows = [EvaluationPrompt("bomb", "bomb"), EvaluationPrompt("a key", "key")]
    made = maker.make(rows, [0, 1], Sampling(steps=1, guidance_scale=4.0, batch_size=2))
    assert encoder.asked == [["bomb", "a key", ""]]
    # Diffusers' own call with the same prompts and noise.
    arguments: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 4.0, "output_type": "pt"}
    noise = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    plain = maker.pipeline([row.prompt for row in rows], generator=noise, **arguments).images
    torch.testing.assert_close(made, plain.float(), atol=1 / 255, rtol=0)
