"""SAFREE against its projections written anew with numpy, and how many steps read what."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rece_lightning
from rece_lightning.baselines import SAFREE
from rece_lightning.baselines.masked import Masking
from rece_lightning.baselines.text_arguments import call_of, encoder_of, requests_of
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.pipelines import load_pipeline
from rece_lightning.models.sampling import Sampling, generate
from tests.helpers.tiny.pipelines import build

CONCEPTS = ["bomb", "a big axe"]
PROMPT = "a photo of a bomb and a dog"


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> Any:
    loaded = load_pipeline(str(tiny_model))
    loaded.set_progress_bar_config(disable=True)
    return loaded


def tokens_of(tokenizer: Any, text: str, length: int) -> tuple[list[int], list[int], int]:
    """All ids, positions of the text's own, and that of its end token."""
    ids = tokenizer(text, padding="max_length", max_length=length, truncation=True)["input_ids"]
    own = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = next(place for place in range(length) if ids[place : place + len(own)] == own)
    return ids, list(range(start, start + len(own))), start + len(own)


def rows_of(encoder: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return encoder(torch.tensor([ids])).last_hidden_state[0].double().numpy()


def plain_safree(
    tokenizer: Any, encoder: Any, length: int, alpha: float
) -> tuple[np.ndarray, list[int], list[int], float]:
    """Changed rows, positions of triggers, those of all own tokens, and β, of one encoder."""
    span = []
    for concept in CONCEPTS:
        ids, _, end = tokens_of(tokenizer, concept, length)
        span.append(rows_of(encoder, ids)[end])
    columns = np.stack(span, axis=1)
    concept_projector = columns @ np.linalg.pinv(columns.T @ columns) @ columns.T
    ids, places, end = tokens_of(tokenizer, PROMPT, length)
    masked = []
    for place in places:
        changed = list(ids)
        changed[place] = 0
        masked.append(rows_of(encoder, changed)[end])
    inputs = np.stack(masked, axis=1)
    input_projector = inputs @ np.linalg.pinv(inputs) @ np.eye(len(inputs))
    away = np.eye(len(columns)) - concept_projector
    distances = [float(np.linalg.norm(away @ row)) for row in masked]
    rows = rows_of(encoder, ids)
    changed_rows, triggers, cosines = rows.copy(), [], []
    for index, place in enumerate(places):
        turned = away @ input_projector @ rows[place]
        cosines.append(turned @ rows[place] / np.linalg.norm(turned) / np.linalg.norm(rows[place]))
        others = [distance for other, distance in enumerate(distances) if other != index]
        if distances[index] >= (1 + alpha) * np.mean(others):
            triggers.append(place)
            changed_rows[place] = turned
    return changed_rows, triggers, places, 1 - float(np.mean(cosines))


def test_rows_and_steps_are_those_of_the_definition(pipeline: Any) -> None:
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    how = SAFREE(CONCEPTS, alpha=0.005, midpoint=3.0)

    found = how.cleaned(Masking(pipeline), PROMPT)

    rows, triggers, places, share = plain_safree(tokenizer, encoder, 16, 0.005)
    assert 0 < len(triggers) < len(places)
    assert found.triggers == (tuple(triggers),)
    np.testing.assert_allclose(found.request.embedding.double().numpy(), rows, rtol=1e-4, atol=1e-5)
    assert found.share == pytest.approx(share, abs=1e-5)
    assert found.steps == round(10 / (1 + math.exp(-2 * 2.5 * (10 * share - 3.0))))


def test_every_encoder_has_its_own_rows(tmp_path: Path) -> None:
    """FLUX reads T5's rows, and CLIP's pooled embedding beside them; it needs no guidance for this."""
    flux = build("flux")
    flux.set_progress_bar_config(disable=True)
    masking, how = Masking(flux), SAFREE(CONCEPTS, alpha=0.0)
    whole = masking.whole(PROMPT)

    found = how.cleaned(masking, PROMPT)

    rows, triggers, _, _ = plain_safree(flux.tokenizer_2, flux.text_encoder_2, len(whole.embedding), 0.0)
    assert triggers
    assert found.triggers == (tuple(triggers),)
    np.testing.assert_allclose(found.request.embedding.double().numpy(), rows, rtol=1e-3, atol=1e-4)
    assert whole.pooled is not None
    assert found.request.pooled is not None
    assert torch.equal(found.request.pooled, whole.pooled)


@pytest.mark.parametrize("name", ["sd3", "qwen_image", "z_image", "lumina2", "wan", "pixart_sigma", "auraflow"])
def test_only_rows_of_the_prompts_own_tokens_change(name: str) -> None:
    """With masks, templates, padding on either side, packed rows, and two encoders behind one another."""
    opened = build(name)
    masking, how = Masking(opened), SAFREE(CONCEPTS, alpha=0.0)
    segments = masking.segments(PROMPT)
    own = [row for segment in segments for row in segment.rows]

    found, whole = how.cleaned(masking, PROMPT), masking.whole(PROMPT)
    other = masking.whole(PROMPT.replace("bomb", "key"))

    assert len(segments) == (2 if name == "sd3" else 1)
    changed = (found.request.embedding != whole.embedding).any(-1).nonzero().flatten().tolist()
    assert changed
    assert set(changed) == {row for triggers in found.triggers for row in triggers}
    assert set(changed) <= set(own)
    # Rows before the token in which two prompts differ are the same under a causal encoder: the own rows begin with it.
    if name in ("qwen_image", "z_image", "lumina2") and other.embedding.shape == whole.embedding.shape:
        first = (other.embedding - whole.embedding).abs().amax(-1).gt(1e-5).nonzero().flatten().tolist()[0]
        assert first in own


@pytest.mark.parametrize(("most", "read"), [(8, 4), (4, 2)])
def test_the_first_steps_read_the_changed_prompt(pipeline: Any, most: int, read: int) -> None:
    """Against diffusers' own way to exchange embeddings between steps."""
    how = SAFREE(CONCEPTS, alpha=0.0, steepness=0.0, most=most)
    changed = how.cleaned(Masking(pipeline), PROMPT)
    assert changed.steps == read
    plain, empty = requests_of(encoder_of(pipeline), [PROMPT, ""])
    asked = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "latent"}

    def exchange(_: Any, step: int, __: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        if step + 1 < read:
            return {}
        return {"prompt_embeds": torch.stack([empty.embedding, plain.embedding])}

    wanted = pipeline(
        prompt_embeds=changed.request.embedding[None], negative_prompt_embeds=empty.embedding[None],
        generator=torch.Generator().manual_seed(0), callback_on_step_end=exchange,
        callback_on_step_end_tensor_inputs=["prompt_embeds"], **asked,
    ).images  # fmt: skip
    guarded = rece_lightning.guard(pipeline, how)
    found = guarded([PROMPT, "a key"], generator=[torch.Generator().manual_seed(seed) for seed in range(2)], **asked)

    torch.testing.assert_close(found.images[:1], wanted, rtol=1e-4, atol=1e-4)
    original = pipeline(PROMPT, generator=torch.Generator().manual_seed(0), **asked).images
    assert not torch.allclose(original, wanted, rtol=1e-3, atol=1e-3)


def test_who_gives_embeddings_passes_it_by(pipeline: Any) -> None:
    """Alone, and beside a prompt in one batch, whose pictures are those of one by one."""
    how = SAFREE(CONCEPTS, alpha=0.0, steepness=0.0, most=8)
    one, empty = requests_of(encoder_of(pipeline), [PROMPT, ""])
    requests = [replace(one, seed=3), replace(one, seed=3, text=PROMPT)]

    def drawn(requests: list[Any], how: SAFREE | None) -> Tensor:
        return generate(pipeline, requests, empty, Sampling(4, 4.0, guard=how))

    unguarded, both = drawn(requests[:1], None), drawn(requests, how)

    assert torch.equal(drawn(requests[:1], how), unguarded)
    torch.testing.assert_close(both[:1], unguarded, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[1:], drawn(requests[1:], how), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both[0], both[1], rtol=1e-3, atol=1e-3)
    direct = call_of(pipeline, [one])
    assert set(direct) == {"prompt_embeds", "negative_prompt_embeds"}


def test_what_it_cannot_read_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"SAFREE: HiDream.* reads rows of several kinds"):
        rece_lightning.guard(build("hidream"), SAFREE("bomb"))("a bomb", num_inference_steps=1, height=32, width=32)
    with pytest.raises(ConfigurationError, match=r"SAFREE.concept: ''"):
        SAFREE("")
    with pytest.raises(ConfigurationError, match=r"SAFREE.most: 0"):
        SAFREE("bomb", most=0)
