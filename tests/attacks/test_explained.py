"""Searches of tokens that follow the denoiser's loss, on families whose pipelines take the step themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rece_lightning.attacks import P4D, UnlearnDiffAtk, Victim, make_goal
from rece_lightning.attacks.coordinate import one_hot_gradient
from rece_lightning.attacks.explained import Explained, explained
from rece_lightning.attacks.pipeline_tokens import tokens_of, vocabulary_of
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.denoisers import LiveDenoisers, known_family
from rece_lightning.models.sampling import requests_of
from rece_lightning.models.text import Embedded
from tests.helpers.tiny import pipelines

GOAL = make_goal("bomb", forbid=("bomb",))


class Exchanged:
    """A tiny pipeline whose readers can be made half as large."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32) -> None:
        self.pipeline: Any = pipelines.build(name, dtype=dtype)
        for part in self.pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
        family = known_family(self.pipeline)
        assert family is not None
        live = LiveDenoisers(self.pipeline, family, "test")
        self.encoder = live.encoder(self.pipeline)
        self.readers = {weight: live.module.get_parameter(weight) for space in live.spaces for weight in space.readers}
        self.own = {name: weight.clone() for name, weight in self.readers.items()}

    def use(self, weights: Iterable[tuple[str, Tensor]] | None) -> None:
        for name, weight in self.own.items() if weights is None else weights:
            self.readers[name].copy_(weight)


def drawn(count: int) -> Tensor:
    """Pictures that the original model may have drawn."""
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(4))


def attacked(name: str, dtype: torch.dtype = torch.float32, source: str = "text") -> Victim:
    """With pictures that it need not draw first: the real families' smallest size is large."""
    model = Exchanged(name, dtype)
    victim = Victim(model, weights={name: 0.5 * weight for name, weight in model.own.items()}, source=source)
    victim.drawn["original", GOAL.concept, GOAL.prompt, 2] = drawn(2)
    return victim


# T5 sums in single precision; CLIP, of which the pooled embedding is searched too, does not. PixArt's loss bends more.
CASES = [("flux", 1e-3, 3e-3), ("pixart_sigma", 2e-4, 2e-3), ("sd3", 1e-4, 1e-4)]


@pytest.mark.parametrize(("name", "step", "near"), CASES)
def test_the_gradient_in_soft_tokens_is_that_of_finite_differences(name: str, step: float, near: float) -> None:
    """Of the loss at two noise levels, through the text encoder, the pipeline's call and the denoiser."""
    victim = attacked(name, torch.float64)
    vocabulary = vocabulary_of(victim, ())
    encoder = tokens_of(victim, vocabulary, 2, "of a dog", of_denoiser=True)
    pictures = explained(victim, "bomb", drawn(2), "test")
    made = pictures.noised(torch.arange(2), torch.tensor([700, 300]), torch.Generator().manual_seed(0))

    def loss(texts: Embedded) -> Tensor:
        return pictures.losses(made, requests_of(texts))

    tokens = vocabulary.ids[[3, 5]][None]
    gradient = one_hot_gradient(loss, encoder, tokens)[0][:, vocabulary.ids]
    mix, count = encoder.mixer(vocabulary.ids), len(vocabulary.ids)
    corner = torch.nn.functional.one_hot(torch.tensor([3, 5]), count).double()
    steepest = torch.zeros_like(gradient)
    steepest.view(-1)[int(gradient.abs().argmax())] = 1
    for direction in (gradient / gradient.norm(), steepest):
        with torch.no_grad():
            ahead, behind = (
                float(loss(encoder.encode_soft(mix(corner + size * direction), tokens))) for size in (step, -step)
            )
        slope = float((gradient * direction).sum())
        assert abs(slope) > 1e-7
        assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=near)


def again(victim: Victim, pictures: Explained, judge: Any, prompts: list[str], *, edited: bool = True) -> list[float]:
    """Losses of prompts as texts, one after the other."""
    with victim.edited() if edited else victim.original(), torch.no_grad():
        return [float(pictures.losses(judge, victim.requests([prompt]))) for prompt in prompts]


# A pooled embedding; a mask; two denoisers of a video.
@pytest.mark.parametrize("name", ["flux", "pixart_sigma", "wan"])
def test_p4d_finds_words_under_which_the_edited_model_predicts_what_the_original_did(name: str) -> None:
    victim = attacked(name)
    attack = P4D(steps=2, candidates=4, best=8, pictures=2, noised=3, tokens=2, restarts=2)

    found = attack.run(victim, GOAL)

    pictures, problem = attack.problem(victim, GOAL)
    (own,) = again(victim, pictures, problem, ["bomb"], edited=False)
    (edited,) = again(victim, pictures, problem, ["bomb"])
    assert own < 1e-4 * edited  # the answers are the original's under the concept's own prompt
    losses = again(victim, pictures, problem, [one.prompt for one in found])
    assert losses == pytest.approx([one.loss for one in found], rel=1e-3)
    assert all(one.loss <= one.loss_before for one in found)
    assert any(one.loss < one.loss_before for one in found)
    assert {one.queries for one in found} == {(1 + 2 * 5) * 3}
    assert not {word for one in found for word in one.prompt.split()} & {"bomb"}


@pytest.mark.parametrize("name", ["flux", "pixart_sigma", "wan"])
def test_unlearndiffatk_finds_a_prefix_that_explains_the_pictures_no_worse(name: str) -> None:
    """Random weights leave few words to find: on PixArt's there is a better one."""
    victim = attacked(name)
    judges: list[tuple[Explained, Any]] = []
    attack = UnlearnDiffAtk(
        timesteps=4, steps=3, tokens=2, learning_rate=1.0, warmup=1, pictures=2, restarts=2, suffix="of a dog"
    )
    own = attack.noised

    def kept(pictures: Explained, taken: Any, generator: torch.Generator) -> Any:
        made = own(pictures, taken, generator)
        if len(taken) > 1:  # what prefixes are judged on, one a restart
            judges.append((pictures, made))
        return made

    attack.noised = kept  # type: ignore[method-assign]
    found = attack.run(victim, GOAL)

    for one, judge in zip(found, judges, strict=True):
        (loss,) = again(victim, *judge, [one.prompt])
        assert loss == pytest.approx(one.loss, rel=1e-4)
        assert one.loss <= one.loss_before
        assert one.prompt.endswith(" of a dog")
        assert one.queries == 4 * (1 + 3 + 4)
    assert name != "pixart_sigma" or any(one.loss < one.loss_before for one in found)


def test_a_text_brings_everything_that_its_pipeline_takes() -> None:
    """Of FLUX.1 the pooled embedding, of PixArt the mask: each text's own, also where tokens are soft."""
    for name, argument in (("flux", "pooled_prompt_embeds"), ("pixart_sigma", "prompt_attention_mask")):
        victim = attacked(name)
        vocabulary = vocabulary_of(victim, ())
        encoder = tokens_of(victim, vocabulary, 2, of_denoiser=True)
        tokens = vocabulary.ids[[3, 5]][None]
        given = encoder.encode(tokens), encoder.encode_soft(encoder.inputs(tokens), tokens)
        (hard,), (soft,) = map(requests_of, given)
        (own,) = victim.requests([vocabulary.text(tokens[0].tolist())])
        for one in (hard, soft):
            assert set(one.call) == set(own.call)
            assert all(torch.equal(one.call[key], value) for key, value in own.call.items())
        pictures = explained(victim, "bomb", drawn(1), "test")
        made = pictures.noised(torch.tensor([0]), torch.tensor([600]), torch.Generator().manual_seed(0))
        (other,) = victim.requests(["a red dog of wood on a table"])
        mixed = replace(own, pooled=other.pooled, call={**own.call, argument: other.call[argument]})
        with torch.no_grad():
            first, second = pictures.losses(made, [own, mixed]).tolist()
        assert first != second


def test_the_search_goes_through_the_encoder_whose_rows_were_edited_first() -> None:
    """FLUX.1's pooled space alone: CLIP's words and CLIP's tokens, though the denoiser is given T5's rows too."""
    victim = attacked("flux", source="pooled")
    vocabulary = vocabulary_of(victim, ())
    encoder, tokens = tokens_of(victim, vocabulary, 2, of_denoiser=True), vocabulary.ids[[3, 5]][None]
    assert len(encoder.tables()[0]) == len(victim.pipeline.tokenizer)
    moved = [one + 1 for one in encoder.inputs(tokens)]
    (own,), (soft,) = requests_of(encoder.encode(tokens)), requests_of(encoder.encode_soft(moved, tokens))
    assert soft.pooled is not None
    assert own.pooled is not None
    assert torch.equal(soft.embedding, own.embedding)
    assert not torch.equal(soft.pooled, own.pooled)


def test_more_words_than_the_encoder_takes_are_refused_before_a_picture_is_drawn() -> None:
    victim = attacked("sd3")
    victim.drawn.clear()
    for attack in (P4D(tokens=15), UnlearnDiffAtk(tokens=15)):
        with pytest.raises(ConfigurationError, match=r"text_encoder takes 14; take fewer"):
            attack.run(victim, GOAL)
    assert not victim.drawn
