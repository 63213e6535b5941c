"""Tokens: which may be used, how they are encoded, and the gradient at them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from rece_lightning.attacks import Victim
from rece_lightning.attacks.coordinate import coordinate_search, one_hot_gradient
from rece_lightning.attacks.mma import cosine_distance
from rece_lightning.attacks.noise import add_noise, noise_loss
from rece_lightning.attacks.tokens import TokenEncoder, Vocabulary
from rece_lightning.attacks.unlearndiffatk import project_to_simplex
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.text import PromptEncoder


def double(encoder: PromptEncoder) -> PromptEncoder:
    return PromptEncoder(encoder.tokenizer, copy.deepcopy(encoder.text_encoder).double())


def mixed(tokenized: TokenEncoder, soft: torch.Tensor) -> list[torch.Tensor]:
    """Input embeddings of soft tokens ``[n, k, vocabulary]``, for every tower."""
    return [soft.to(table) @ table for table in tokenized.tables()]


def test_a_vocabulary_holds_whole_words_and_nothing_forbidden(encoder: PromptEncoder) -> None:
    tokenizer = encoder.tokenizer
    vocabulary = Vocabulary(tokenizer, ("bomb", "kitchen knife"))
    assert not set(vocabulary.ids.tolist()) & set(tokenizer.all_special_ids)
    words = set(vocabulary.words.values())
    assert {"dog", "axe", "blue"} <= words
    assert not {"bomb", "kitchen", "knife"} & words
    assert "bomb" in Vocabulary(tokenizer).words.values()
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        tokens = vocabulary.draw(6, generator).tolist()
        assert tokenizer(vocabulary.text(tokens), add_special_tokens=False)["input_ids"] == tokens
        assert vocabulary.is_read_back(tokens)


def test_a_text_that_is_read_as_other_tokens_is_known_as_such(encoder: PromptEncoder) -> None:
    """Pieces of a word, written with a space between them, are two words."""
    tokens = encoder.tokenizer("zzzq", add_special_tokens=False)["input_ids"]
    assert len(tokens) > 1
    assert not Vocabulary(encoder.tokenizer).is_read_back(tokens)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padding hidden"])
def test_tokens_are_encoded_as_their_text_is(
    encoder: PromptEncoder, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder.text_encoder.config, "use_attention_mask", masked, raising=False)
    prompts = ["bomb on a blue background", "dog on a blue background"]
    ids = torch.tensor(encoder.tokenizer(prompts, add_special_tokens=False)["input_ids"])
    found = TokenEncoder(encoder, 1, ids[0, 1:].tolist()).encode(ids[:, :1])
    torch.testing.assert_close(found.embeddings, encoder.encode(prompts).embeddings)


def test_soft_one_hot_tokens_are_encoded_as_hard_ones(encoder: PromptEncoder) -> None:
    tokens = encoder_tokens(encoder, "dog bomb")
    tokenized = TokenEncoder(encoder, 2, encoder_tokens(encoder, "in blue").tolist())
    one_hot = torch.nn.functional.one_hot(tokens[None], len(tokenized.tables()[0])).float()
    soft = tokenized.encode_soft(mixed(tokenized, one_hot))
    torch.testing.assert_close(soft.embeddings, encoder.encode(["dog bomb in blue"]).embeddings)


def encoder_tokens(encoder: PromptEncoder, text: str) -> Tensor:
    return torch.tensor(encoder.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_too_many_tokens_are_refused(encoder: PromptEncoder) -> None:
    with pytest.raises(ConfigurationError, match="takes 14"):
        TokenEncoder(encoder, 15)


def test_the_one_hot_gradient_is_that_of_finite_differences(encoder: PromptEncoder) -> None:
    precise = double(encoder)
    tokenized = TokenEncoder(precise, 3, encoder_tokens(encoder, "on blue").tolist())
    loss = cosine_distance(precise.encode(["a photo of a bomb"]).embeddings[0])
    tokens = torch.stack([encoder_tokens(encoder, "dog axe red"), encoder_tokens(encoder, "a green fish")])
    gradient = one_hot_gradient(loss, tokenized, tokens)
    one_hot = torch.nn.functional.one_hot(tokens, gradient.shape[-1]).double()
    source, step = torch.Generator().manual_seed(0), 1e-4
    for _ in range(12):
        row, place, token = (int(torch.randint(size, (), generator=source)) for size in gradient.shape)
        moved = torch.zeros_like(one_hot)
        moved[row, place, token] = step
        ends = [loss(tokenized.encode_soft(mixed(tokenized, one_hot + sign * moved)))[row] for sign in (1, -1)]
        expected = float((ends[0] - ends[1]) / (2 * step))
        assert float(gradient[row, place, token]) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_gradient_of_the_noise_loss_is_that_of_finite_differences(original: Victim) -> None:
    pipeline = original.pipeline
    embedding = original.encoder.encode(["a bomb"]).embeddings.double()
    source = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 8, 8, 8, generator=source, dtype=torch.float64)
    noised = add_noise(pipeline, latents, torch.tensor([200, 700]), source)
    with original.original() as unet:
        precise = copy.deepcopy(unet).double()
    start = embedding.clone().requires_grad_()
    loss = noise_loss(precise, noised, start)
    (gradient,) = torch.autograd.grad(loss.sum(), start)
    for place, feature in ((1, 3), (2, 40), (15, 127)):
        moved = torch.zeros_like(embedding)
        moved[0, place, feature] = 1e-4
        with torch.no_grad():
            ends = [noise_loss(precise, noised, embedding + sign * moved) for sign in (1, -1)]
        assert float(gradient[0, place, feature]) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=1e-4, abs=1e-9)


def test_the_gradient_through_text_encoder_and_unet_is_that_of_finite_differences(original: Victim) -> None:
    """At the points of the simplex that `unlearndiffatk` moves, whose one-hot corners are where `p4d` looks."""
    precise = double(original.encoder)
    tokenized = TokenEncoder(precise, 2, encoder_tokens(original.encoder, "on blue").tolist())
    source = torch.Generator().manual_seed(4)
    with original.original() as unet:
        wide = copy.deepcopy(unet).double()
    latents = torch.randn(2, 8, 8, 8, generator=source, dtype=torch.float64)
    noised = add_noise(original.pipeline, latents, torch.tensor([300, 800]), source)

    def loss(points: Tensor) -> Tensor:
        return noise_loss(wide, noised, tokenized.encode_soft(mixed(tokenized, points[None])).embeddings)[0]

    points = torch.rand(2, len(tokenized.tables()[0]), generator=source, dtype=torch.float64)
    points = project_to_simplex(points).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(points), points)
    for place, token in ((0, int(gradient[0].abs().argmax())), (1, 500), (1, int(gradient[1].argmin()))):
        moved = torch.zeros_like(points)
        moved[place, token] = 1e-4
        with torch.no_grad():
            ends = [loss(points + sign * moved) for sign in (1, -1)]
        assert float(gradient[place, token]) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=1e-4, abs=1e-9)


def test_the_answer_is_the_velocity_that_the_scheduler_names(original: Victim) -> None:
    scheduler, source = original.pipeline.scheduler, torch.Generator().manual_seed(1)
    latents, times = torch.randn(3, 8, 8, 8, generator=source), torch.tensor([10, 500, 900])
    noise = torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(5))
    noised = add_noise(original.pipeline, latents, times, torch.Generator().manual_seed(5))
    torch.testing.assert_close(noised.noisy, scheduler.add_noise(latents, noise, times))
    torch.testing.assert_close(noised.answer, scheduler.get_velocity(latents, noise, times))


def test_the_projection_on_the_simplex_is_the_nearest_point() -> None:
    source = torch.Generator().manual_seed(2)
    rows = torch.randn(20, 7, generator=source, dtype=torch.float64) * 2
    found = project_to_simplex(rows)
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(dim=1), torch.ones(20, dtype=torch.float64))
    corners = torch.rand(20, 500, 7, generator=source, dtype=torch.float64).log().neg()
    others = corners / corners.sum(dim=2, keepdim=True)
    assert bool(((found - rows).norm(dim=1)[:, None] <= (others - rows[:, None]).norm(dim=2)).all())
    # The condition of the nearest point of a convex set: no other point lies on the far side.
    angle = ((rows - found)[:, None] * (others - found[:, None])).sum(dim=2)
    assert float(angle.max()) < 1e-12


def test_the_search_finds_a_token_that_it_was_hidden(encoder: PromptEncoder) -> None:
    """One free token, all candidates tried: the search ends at the best of them."""
    vocabulary = Vocabulary(encoder.tokenizer)
    tokenized = TokenEncoder(encoder, 1)
    loss = cosine_distance(encoder.encode(["guitar"]).embeddings[0])
    start = encoder_tokens(encoder, "dog")[None]
    found = coordinate_search(
        loss, tokenized, vocabulary, start, [torch.Generator().manual_seed(0)], steps=8, candidates=200, best=1200
    )
    assert vocabulary.text(found.tokens[0].tolist()) == "guitar"
    assert float(found.after) < 1e-5 < float(found.before)
    assert found.queries == 1 + 8 * 201
