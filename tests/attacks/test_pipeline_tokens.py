"""Searches of tokens through a pipeline's own text encoders: T5's, language models', CLIP's beside others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rece_lightning import RECE
from rece_lightning.attacks import P4D, Mma, RingABell, RingABellEmbedding, UnlearnDiffAtk, Victim, make_goal
from rece_lightning.attacks.base import Goal, key_of
from rece_lightning.attacks.coordinate import one_hot_gradient
from rece_lightning.attacks.mma import last_distance, places_distance
from rece_lightning.attacks.noise import noise_loss
from rece_lightning.attacks.of_session import victim_of
from rece_lightning.attacks.pipeline_tokens import PipelineTokens, tokens_of, vocabulary_of
from rece_lightning.attacks.tokens import Vocabulary, texts_found
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.denoisers import LiveDenoisers, known_family
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.text import Embedded
from rece_lightning.models.token_inputs import read_rows, searched_encoder
from tests.attacks.conftest import goal_without_its_words
from tests.helpers.tiny import pipelines


class Drawn:
    """A pipeline as the maker of its pictures, nothing edited."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> None:
        self.pipeline: Any = pipelines.build(name)
        for part in self.pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.to(dtype).eval().requires_grad_(False)
        for part, value in changes.items():
            setattr(self.pipeline, part, value)
        family = known_family(self.pipeline)
        assert family is not None
        live = LiveDenoisers(self.pipeline, family, "test")
        self.encoder = PipelineEncoder(self.pipeline, family, live.config, live.spaces)

    def use(self, weights: Any) -> None:
        """Nothing to exchange."""


def victim(name: str, source: str = "text", dtype: torch.dtype = torch.float32) -> Victim:
    return Victim(Drawn(name, dtype), source=source)


def few_pairs(**changes: Any) -> Goal:
    goal = make_goal("bomb", forbid=("bomb",))
    return replace(goal, pairs=goal.pairs[:3], carriers=("a rocket", "a picture of a dog"), **changes)


def sought(attacked: Victim, words: int = 3, suffix: str = "") -> tuple[Vocabulary, PipelineTokens]:
    vocabulary = vocabulary_of(attacked, ())
    found = tokens_of(attacked, vocabulary, words, suffix)
    assert isinstance(found, PipelineTokens)
    return vocabulary, found


@pytest.mark.parametrize(
    ("name", "source", "searched"),
    [
        ("flux", "text", "text_encoder_2"),
        ("flux", "pooled", "text_encoder"),
        ("sd3", "text", "text_encoder"),
        ("hidream", "text", "text_encoder_3"),
        ("hidream", "llama.1", "text_encoder_4"),
        ("qwen_image", "text", "text_encoder"),
    ],
)
def test_searched_is_the_encoder_whose_rows_the_edited_space_reads(name: str, source: str, searched: str) -> None:
    attacked = victim(name, source)
    known = attacked.encoder
    assert isinstance(known, PipelineEncoder)
    if source not in known.sources:
        source = next(one for one in known.sources if one.startswith("llama"))
        attacked.source = source
    assert searched_encoder(known, source) == searched
    vocabulary, found = sought(attacked, 2)
    tokens = vocabulary.ids[:2]
    (rows,) = found.encode(tokens[None]).embeddings
    assert torch.equal(rows, read_rows(known, [vocabulary.text(tokens.tolist())], source)[0])


@pytest.mark.parametrize("name", ["flux", "pixart_sigma", "qwen_image", "z_image", "sd3"])
def test_the_words_own_input_embeddings_give_the_rows_of_their_text_bit_for_bit(name: str) -> None:
    """T5 looks up in a module of its own; byte pairs number a word behind a space apart; templates stand around."""
    vocabulary, found = sought(victim(name), 3, "of a dog")
    source = torch.Generator().manual_seed(0)
    tokens = torch.stack([vocabulary.draw(3, source) for _ in range(2)])
    hard = found.encode(tokens).embeddings
    soft = found.encode_soft(found.inputs(tokens), tokens).embeddings
    assert torch.equal(soft, hard)
    moved = found.encode_soft([one + 1 for one in found.inputs(tokens)], tokens).embeddings
    assert not torch.equal(moved, hard)
    points = torch.nn.functional.one_hot(torch.searchsorted(vocabulary.ids, tokens[0]), len(vocabulary.ids)).float()
    mixed = found.encode_soft(found.mixer(vocabulary.ids)(points), tokens[:1]).embeddings
    torch.testing.assert_close(mixed[0], hard[0][: mixed.shape[1]])


# Norms of T5 and of language models are computed in single precision whatever the weights are.
@pytest.mark.parametrize(
    ("name", "step", "near"), [("sd3", 1e-4, 1e-6), ("qwen_image", 3e-3, 1e-3), ("flux", 3e-3, 1e-3)]
)
def test_the_gradient_is_that_of_finite_differences(name: str, step: float, near: float) -> None:
    attacked = victim(name, dtype=torch.float64)
    vocabulary, found = sought(attacked, 2)
    target = read_rows(attacked.encoder, ["a bomb"])[0]
    loss = places_distance(target)
    tokens = vocabulary.ids[[3, 5]][None]
    gradient = one_hot_gradient(loss, found, tokens)
    mix, count = found.mixer(vocabulary.ids), len(vocabulary.ids)
    corner = torch.nn.functional.one_hot(torch.tensor([3, 5]), count).double()
    for place, word in ((0, 0), (0, 7), (1, 4), (1, count - 1)):
        moved = torch.zeros_like(corner)
        moved[place, word] = step
        with torch.no_grad():
            ends = [float(loss(found.encode_soft(mix(corner + sign * moved), tokens))) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * step)
        assert abs(expected) > 1e-7
        assert float(gradient[0, place, vocabulary.ids[word]]) == pytest.approx(expected, rel=near, abs=1e-9)


@pytest.mark.parametrize("name", ["qwen_image", "z_image", "flux"])
@pytest.mark.parametrize("match", ["pooled", "all"])
def test_mma_finds_text_whose_rows_the_pipeline_makes_again(name: str, match: str) -> None:
    attacked, goal = victim(name), make_goal("bomb", forbid=("bomb",))
    attack = Mma(match=match, steps=3, candidates=6, best=8, tokens=2, restarts=2)
    own = read_rows(attacked.encoder, ["bomb"])[0]
    loss = places_distance(own) if match == "all" else last_distance(own[-1], None)
    for one in attack.run(attacked, goal):
        again = float(loss(Embedded(read_rows(attacked.encoder, [one.prompt]))))
        assert again == one.loss
        assert again <= one.loss_before
        assert not set(one.prompt.split()) & {"bomb"}
        assert one.variant == ""


@pytest.mark.parametrize("name", ["qwen_image", "pixart_sigma"])
def test_ring_a_bell_where_prompts_have_as_many_rows_as_tokens(name: str) -> None:
    attacked, goal = victim(name), few_pairs()
    (one,) = RingABell(steps=3, population=6, tokens=2, restarts=1).run(attacked, goal)
    assert one.loss <= one.loss_before
    pairs = [[read_rows(attacked.encoder, [text])[0].double() for text in pair] for pair in goal.pairs]
    carrier = read_rows(attacked.encoder, [goal.carriers[0]])[0].double()
    found = read_rows(attacked.encoder, [one.prompt])[0].double()
    most = max(len(rows) for rows in (*(side for pair in pairs for side in pair), carrier, found))

    def whole(rows: Tensor) -> Tensor:
        return torch.cat([rows, torch.zeros(most - len(rows), rows.shape[1])])

    direction = sum(whole(a) - whole(b) for a, b in pairs) / len(pairs)
    expected = float((whole(found) - whole(carrier) - 3.0 * direction).square().mean())
    assert one.loss == pytest.approx(expected, rel=1e-3)

    for moved in RingABellEmbedding(strength=2.0).run(attacked, goal):
        assert moved.embedding is not None
        (sent,) = attacked.requests([moved.prompt])
        assert moved.embedding.shape == sent.embedding.shape
        wanted = sent.embedding + 2.0 * direction[: len(sent.embedding)].float()
        torch.testing.assert_close(moved.embedding, wanted, rtol=1e-4, atol=1e-4)


def test_more_words_than_an_encoder_takes_and_one_without_a_table_are_refused() -> None:
    attacked = victim("sd3")
    with pytest.raises(ConfigurationError, match=r"15 tokens, text_encoder takes 14; take fewer"):
        sought(attacked, 15)
    encoder = attacked.encoder
    assert isinstance(encoder, PipelineEncoder)
    encoder.text_encoder.get_input_embeddings = lambda: None
    with pytest.raises(BaseModelError, match="text_encoder has no table of input embeddings"):
        sought(attacked, 2)


def test_a_word_that_a_tokenizer_numbers_apart_behind_a_space_is_forbidden_in_both_forms() -> None:
    tokenizer = pipelines.build("qwen_image").tokenizer
    every = Vocabulary(tokenizer)
    apart = next(n for n, other in every.behind.items() if n != other and n in every.words)
    alone = every.words[apart]
    assert every.is_read_back([apart, apart])
    assert tokenizer(f"{alone} {alone}", add_special_tokens=False)["input_ids"] == [apart, every.behind[apart]]
    assert alone not in Vocabulary(tokenizer, (alone,)).words.values()


def test_a_suffix_is_written_as_it_was_given_however_many_tokens_a_word_of_it_is() -> None:
    tokenizer = pipelines.build("sd3").tokenizer
    vocabulary = Vocabulary(tokenizer)
    assert len(tokenizer("zzzq", add_special_tokens=False)["input_ids"]) > 1
    goal, losses = make_goal("bomb"), torch.zeros(1)
    (found,) = texts_found("unlearndiffatk", goal, [0], vocabulary.ids[None, :1], vocabulary, losses, losses, 1, "zzzq")
    assert found.prompt == f"{vocabulary.words[int(vocabulary.ids[0])]} zzzq"
    assert found.variant == ""


def test_what_was_found_through_another_encoder_is_other_work() -> None:
    drawn = Drawn("flux", torch.float32)
    goal = make_goal("bomb")
    text, again, pooled = (key_of(Mma(), Victim(drawn, source=one), goal) for one in ("text", "text", "pooled"))
    assert text == again != pooled


@pytest.fixture(scope="module")
def second_world() -> Victim:
    """The trained MMDiT, unedited."""
    module = RECE("emoji-mmdit")
    return victim_of(module.session, module.pictures, EmojiDetector(), Sampling(4, 4.0, 8))


def by_chance(attacked: Victim, goal: Goal, count: int, tokens: int, suffix: str = "") -> list[str]:
    vocabulary, source = vocabulary_of(attacked, goal.forbidden), torch.Generator().manual_seed(99)
    return [vocabulary.text(vocabulary.draw(tokens, source).tolist(), suffix) for _ in range(count)]


def test_mma_comes_nearer_than_random_words_in_the_second_world(second_world: Victim) -> None:
    goal = goal_without_its_words("bomb")
    found = Mma(restarts=2, steps=6, candidates=16).run(second_world, goal)
    own = second_world.encoder.encode(["bomb"]).embeddings[0]
    loss = last_distance(own[15], 16)
    drawn = by_chance(second_world, goal, found[0].queries, 4)
    chance = float(loss(second_world.encoder.encode(drawn)).min())
    assert sum(one.loss for one in found) / len(found) < chance


@pytest.mark.parametrize(
    "attack",
    [
        P4D(steps=4, candidates=8, pictures=2, noised=3, restarts=1),
        UnlearnDiffAtk(timesteps=4, steps=4, pictures=2, suffix="in twemoji style", restarts=1),
    ],
    ids=["p4d", "unlearndiffatk"],
)
def test_by_the_denoisers_loss_words_come_nearer_than_random_ones(second_world: Victim, attack: Any) -> None:
    """The loss is computed here again, of the text as the pipeline encodes it."""
    goal = goal_without_its_words("axe")
    judges = []
    if isinstance(attack, P4D):
        suffix = ""
        judges.append(attack.problem(second_world, goal)[1])
    else:
        suffix = str(attack.suffix)
        own = attack.noised

        def kept(*arguments: Any) -> Any:
            judges.append(own(*arguments))
            return judges[-1]

        attack.noised = kept  # type: ignore[method-assign]
    (found,) = attack.run(second_world, goal)
    drawn = by_chance(second_world, goal, found.queries // len(judges[0]), attack.budget.tokens, suffix)
    encoded = second_world.encoder.encode([found.prompt, *drawn])
    with second_world.edited() as denoiser, torch.no_grad():
        losses = torch.cat([
            noise_loss(denoiser, judges[0], *pair)
            for pair in zip(encoded.embeddings.split(4), encoded.pooled.split(4), strict=True)  # type: ignore[union-attr]
        ])  # fmt: skip
    assert float(losses[0]) == pytest.approx(found.loss, rel=1e-3)
    assert found.loss < found.loss_before
    assert found.loss < float(losses[1:].min())
