"""Every attack finds a way to the concept on the original model that random tokens of the same budget do not find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rece_lightning.attacks import (
    P4D,
    AdversarialPrompt,
    Attack,
    Cce,
    Mma,
    Paraphrase,
    RingABell,
    RingABellEmbedding,
    UnlearnDiffAtk,
    Victim,
    make_goal,
)
from rece_lightning.attacks.mma import cosine_distance
from rece_lightning.attacks.noise import add_noise, latents_of, noise_loss
from rece_lightning.attacks.outcome import requests_of
from rece_lightning.attacks.pictures import EmojiPictures, OriginalPictures
from rece_lightning.attacks.ring_a_bell import concept_direction
from rece_lightning.attacks.tokens import TokenEncoder, Vocabulary
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.evaluation.generation import PictureMaker
from tests.attacks.conftest import goal_without_its_words

CONCEPTS = ("bomb", "axe", "church")


def random_prompts(victim: Victim, concept: str, count: int, tokens: int, seed: int = 99) -> list[str]:
    vocabulary = Vocabulary(victim.encoder.tokenizer, goal_without_its_words(concept).forbidden)
    source = torch.Generator().manual_seed(seed)
    return [vocabulary.text(vocabulary.draw(tokens, source).tolist()) for _ in range(count)]


@pytest.mark.parametrize("concept", CONCEPTS)
def test_mma_comes_nearer_than_random_tokens(original: Victim, concept: str) -> None:
    goal = goal_without_its_words(concept)
    found = Mma(restarts=2, steps=8, candidates=24).run(original, goal)
    loss = cosine_distance(original.encoder.encode([concept]).embeddings[0, -1:])
    drawn = random_prompts(original, concept, found[0].queries, 4)
    by_chance = float(loss(original.encoder.encode(drawn)).min())
    for one in found:
        again = float(loss(original.encoder.encode([one.prompt])))
        assert again == pytest.approx(one.loss, abs=1e-5)
        assert one.loss < one.loss_before
    assert sum(one.loss for one in found) / len(found) < by_chance


@pytest.mark.parametrize("concept", CONCEPTS[:2])
def test_ring_a_bell_comes_nearer_than_random_tokens(original: Victim, concept: str) -> None:
    goal = goal_without_its_words(concept)
    found = RingABell(restarts=1, steps=24, population=24).run(original, goal)
    target = original.encoder.encode([goal.carriers[0]]).embeddings + 3.0 * concept_direction(original.encoder, goal)
    drawn = original.encoder.encode(random_prompts(original, concept, found[0].queries, 3)).embeddings
    by_chance = float((drawn - target).square().mean(dim=(1, 2)).min())
    assert found[0].queries == 24 + 24 * 12
    again = original.encoder.encode([found[0].prompt]).embeddings
    assert float((again - target).square().mean()) == pytest.approx(found[0].loss, rel=1e-4)
    assert found[0].loss < by_chance


def test_the_direction_is_the_mean_difference_of_the_pairs(original: Victim) -> None:
    goal = make_goal("bomb", others=["dog", "fish"])
    encode = original.encoder.encode
    plain = sum((encode([a]).embeddings - encode([b]).embeddings)[0].double() for a, b in goal.pairs)
    found = RingABellEmbedding(strength=2.0).run(original, goal)
    assert [one.prompt for one in found] == list(goal.carriers)
    for one in found:
        expected = encode([one.prompt]).embeddings[0] + 2.0 * plain / len(goal.pairs)
        torch.testing.assert_close(one.embedding, expected.float(), rtol=1e-4, atol=1e-4)


def test_p4d_comes_nearer_than_random_tokens(edited: Victim) -> None:
    """Its loss is recomputed here: the edited U-Net under its prompt against the original one under the concept's."""
    goal = goal_without_its_words("axe")
    attack = P4D(steps=4, candidates=8, pictures=2, noised=3, restarts=1)
    (found,) = attack.run(edited, goal)
    _, problem = attack.problem(edited, goal)
    prompts = [found.prompt, *random_prompts(edited, "axe", found.queries // len(problem), 4)]
    with edited.edited() as unet, torch.no_grad():
        embeddings = edited.encoder.encode(prompts).embeddings
        losses = torch.cat([noise_loss(unet, problem, embedding[None]) for embedding in embeddings])
    with edited.original() as unet, torch.no_grad():
        own = noise_loss(unet, problem, edited.encoder.encode(["axe"]).embeddings)
    assert float(own) < 1e-8
    assert float(losses[0]) == pytest.approx(found.loss, rel=1e-3)
    assert found.loss < found.loss_before
    assert found.loss < float(losses[1:].min())


def test_unlearndiffatk_comes_nearer_than_the_best_of_as_many_random_prefixes(original: Victim) -> None:
    """On the original model, the concept's words forbidden and out of the prompt.

    The random prefixes are as many as its queries allow, judged on its own noised picture: the loss is recomputed here
    for both. On pictures neither finds the axe with so small a budget.
    """
    goal, suffix = goal_without_its_words("axe"), "in twemoji style"
    attack = UnlearnDiffAtk(suffix=suffix, restarts=1)
    (found,) = attack.run(original, goal)
    assert found.prompt.endswith(f" {suffix}")
    assert not set(found.prompt.split()) & set(goal.forbidden)
    latents = latents_of(original.pipeline, OriginalPictures().of(original, goal, attack.pictures))
    times = torch.linspace(950, 50, attack.timesteps).long()
    taken = latents[torch.arange(attack.timesteps) % len(latents)]
    judge = add_noise(original.pipeline, taken, times, attack.generator(goal, 0))
    drawn = random_prompts(original, "axe", found.queries // len(judge), 3)
    assert len(drawn) == attack.warmup + attack.budget.steps + attack.timesteps
    prompts = [found.prompt, *(f"{prefix} {suffix}" for prefix in drawn)]
    with original.original() as unet, torch.no_grad():
        embeddings = original.encoder.encode(prompts).embeddings
        losses = torch.cat([noise_loss(unet, judge, part) for part in embeddings.split(4)])
    assert float(losses[0]) == pytest.approx(found.loss, rel=1e-3)
    assert found.loss < found.loss_before
    assert found.loss < float(losses[1:].min())


def test_unlearndiffatk_is_never_worse_than_its_random_prefixes(original: Victim) -> None:
    """Without a step of its own it gives the best of them; they are its queries."""
    attack = UnlearnDiffAtk(timesteps=1, steps=0, tokens=2, suffix="in ink style", pictures=1, restarts=1, warmup=5)
    (found,) = attack.run(original, goal_without_its_words("axe"))
    assert found.queries == 5 + 0 + 1
    assert found.loss <= found.loss_before


def test_unlearndiffatk_prefixes_the_concepts_own_prompt(original: Victim) -> None:
    (found,) = UnlearnDiffAtk(timesteps=1, steps=1, tokens=2, restarts=1, pictures=1).run(original, make_goal("axe"))
    assert found.prompt.endswith(" axe")
    assert len(found.prompt.split()) == 3


def test_cce_learns_an_embedding_and_moves_the_free_positions_alone(edited: Victim) -> None:
    goal = make_goal("penguin", control=True)
    attack = Cce(steps=4, at=[0], tokens=2, start="noise", pictures=4, batch_size=4, learning_rate=0.1)
    first, last = attack.run(edited, goal)
    assert (first.variant, last.variant) == ("steps=0 tokens=2", "steps=4 tokens=2")
    assert last.loss < first.loss == first.loss_before
    assert first.embedding is not None
    assert last.embedding is not None
    empty = edited.encoder.encode([""]).embeddings[0]
    moved = (last.embedding - empty).abs().sum(dim=1) > 0
    assert moved.tolist() == [False, True, True, *[False] * 13]
    assert not torch.equal(first.embedding[1:3], last.embedding[1:3])


def test_cce_refuses_a_control_that_the_model_cannot_draw(edited: Victim) -> None:
    edited.detector = None
    with pytest.raises(ConfigurationError, match="cannot draw the control 'penguin'"):
        Cce(steps=1).run(edited, make_goal("penguin", control=True))


def test_pictures_of_the_world_show_what_was_asked(original: Victim) -> None:
    """Held-out objects too: the detector knows them, the U-Net does not."""
    assert original.detector is not None
    names = [item.name for item in (*load_catalog().held_out[:3], *load_catalog().trained[:3])]
    for name in names:
        pictures = EmojiPictures().of(original, make_goal(name), 8)
        assert int(original.detector.detect(pictures, [name] * 8).sum()) >= 7
        torch.testing.assert_close(pictures, EmojiPictures().of(original, make_goal(name), 8))


def test_paraphrases_name_the_concept_in_other_words(original: Victim) -> None:
    goal = make_goal("axe", synonyms=("hatchet", "ax"))
    found = Paraphrase(templates=["{}", "a photo of {}"]).run(original, goal)
    assert [one.prompt for one in found] == ["hatchet", "ax", "a photo of a hatchet", "a photo of an ax"]
    alone = Paraphrase(templates=["{}", "a photo of {}"]).run(original, make_goal("axe"))
    assert [one.prompt for one in alone] == ["a photo of an axe"]
    assert len(Paraphrase(most=3).run(original, goal)) == 3


@pytest.mark.parametrize(
    "attack",
    [Mma(steps=2, candidates=8, restarts=3), RingABell(steps=3, population=8, restarts=3)],
    ids=lambda attack: attack.name,
)
def test_the_same_seed_finds_the_same_and_restarts_do_not_depend_on_each_other(
    original: Victim, attack: Attack
) -> None:
    goal = goal_without_its_words("bomb")
    together = attack.run(original, goal)
    assert [one.prompt for one in together] == [one.prompt for one in attack.run(original, goal)]
    alone = attack.run(original, goal, done=[0, 2])
    assert [(one.restart, one.prompt) for one in alone] == [(1, together[1].prompt)]
    assert len({one.prompt for one in together}) == 3
    words = {word for one in together for word in one.prompt.split()}
    assert not words & set(goal.forbidden)
    other = type(attack)(**{**vars_of(attack), "seed": 1})
    assert [one.prompt for one in other.run(original, goal)] != [one.prompt for one in together]


def vars_of(attack: Attack) -> dict[str, int]:
    return {"steps": attack.budget.steps, "restarts": 3}


def test_what_mma_finds_shows_the_concept_and_random_tokens_do_not(original: Victim, maker: PictureMaker) -> None:
    """On the original model, the concept's words forbidden: the pictures decide."""
    assert original.detector is not None
    hits = {"attack": 0, "random": 0}
    for concept in CONCEPTS:
        goal = goal_without_its_words(concept)
        found = Mma(match="all", restarts=4).run(original, goal)
        drawn = random_prompts(original, concept, 4, 4)
        by_chance = [AdversarialPrompt("random", concept, row, prompt) for row, prompt in enumerate(drawn)]
        for name, prompts in (("attack", found), ("random", by_chance)):
            pictures = original.draw(requests_of(original, prompts, [0]), edited=False)
            hits[name] += int(original.detector.detect(pictures, [concept] * 4).sum())
    assert hits["attack"] >= hits["random"] + 3


def shown(victim: Victim, concept: str, found: Sequence[AdversarialPrompt]) -> int:
    """How many pictures of the original model show the concept, one for each."""
    assert victim.detector is not None
    pictures = victim.draw(requests_of(victim, found, [0]), edited=False)
    return int(victim.detector.detect(pictures, [concept] * len(found)).sum())


@pytest.mark.parametrize(
    ("attack", "margin"), [(RingABell(restarts=4), 2), (P4D(restarts=2), 2), (Cce(start="noise"), 2)],
    ids=["ring-a-bell", "p4d", "cce"],
)  # fmt: skip
def test_what_a_search_finds_shows_the_concept_and_as_much_at_random_does_not(
    original: Victim, attack: Attack, margin: int
) -> None:
    """On the original model, the concept's words forbidden: the pictures decide."""
    hits = {"attack": 0, "random": 0}
    source = torch.Generator().manual_seed(5)
    for concept in CONCEPTS:
        found = attack.run(original, goal_without_its_words(concept))
        drawn = random_prompts(original, concept, len(found), 4)
        by_chance = [AdversarialPrompt("random", concept, row, prompt) for row, prompt in enumerate(drawn)]
        if found[0].embedding is not None:
            own = original.encoder.encode([concept]).embeddings[0]
            noise = (torch.randn(own.shape, generator=source) * own.square().mean().sqrt() for _ in found)
            by_chance = [replace(one, embedding=rows) for one, rows in zip(found, noise, strict=True)]
        hits["attack"] += shown(original, concept, found)
        hits["random"] += shown(original, concept, by_chance)
    assert hits["attack"] >= hits["random"] + margin


def test_paraphrases_show_the_concept_and_as_many_random_prompts_do_not(original: Victim) -> None:
    hits = {"attack": 0, "random": 0}
    for concept in CONCEPTS:
        synonyms = next(item.synonyms for item in load_catalog().objects if item.name == concept)
        found = Paraphrase(most=3).run(original, make_goal(concept, synonyms=synonyms))
        drawn = random_prompts(original, concept, len(found), 3)
        by_chance = [AdversarialPrompt("random", concept, row, prompt) for row, prompt in enumerate(drawn)]
        hits["attack"] += shown(original, concept, found)
        hits["random"] += shown(original, concept, by_chance)
    assert hits["attack"] >= hits["random"] + 2


def test_the_concepts_direction_shows_it_and_random_ones_of_the_same_size_do_not(original: Victim) -> None:
    hits = {"attack": 0, "random": 0}
    source = torch.Generator().manual_seed(7)
    for concept in CONCEPTS[:2]:
        goal = make_goal(concept)
        found = RingABellEmbedding(strength=2.0).run(original, goal)
        direction = concept_direction(original.encoder, goal)
        by_chance = []
        for one in found:
            noise = torch.randn(direction.shape, generator=source, dtype=torch.float64)
            noise = noise / noise.norm(dim=1, keepdim=True) * direction.norm(dim=1, keepdim=True)
            moved = original.encoder.encode([one.prompt]).embeddings[0].double() + 2.0 * noise
            by_chance.append(replace(one, embedding=moved.float()))
        hits["attack"] += shown(original, concept, found)
        hits["random"] += shown(original, concept, by_chance)
    assert hits["attack"] >= hits["random"] + 3


def test_cce_denoises_better_than_as_many_random_embeddings(original: Victim) -> None:
    """From noise, judged on its own noised pictures."""
    goal = make_goal("axe")
    attack = Cce(steps=8, start="noise", pictures=4, batch_size=4, learning_rate=0.1)
    (found,) = attack.run(original, goal)
    latents = latents_of(original.pipeline, attack.source(original, goal).of(original, goal, 4))
    source = attack.generator(goal, -1)
    rows, last = torch.randint(len(latents), (16,), generator=source), 1000
    judge = add_noise(original.pipeline, latents[rows], torch.randint(200, last, (16,), generator=source), source)
    own, draws = original.encoder.encode(["axe"]).embeddings[0], torch.Generator().manual_seed(3)
    size = own.square().mean().sqrt()
    drawn = torch.stack([torch.randn(own.shape, generator=draws) * size for _ in range(found.queries // len(judge))])
    assert found.embedding is not None
    with original.original() as unet, torch.no_grad():
        losses = torch.cat([noise_loss(unet, judge, one[None]) for one in (found.embedding, *drawn)])
    assert float(losses[0]) == pytest.approx(found.loss, rel=1e-3)
    assert found.loss < float(losses[1:].min())


def test_cce_searches_every_number_of_free_positions_apart(edited: Victim) -> None:
    goal = make_goal("axe")
    settings: dict[str, Any] = {"steps": 2, "at": [0], "start": "prompt", "pictures": 2, "batch_size": 2}
    both = Cce(tokens=[1, 0], **settings).run(edited, goal)
    assert [one.variant for one in both] == ["steps=0 tokens=1", "steps=2 tokens=1", "steps=0", "steps=2"]
    (_, alone) = Cce(tokens=1, **settings).run(edited, goal)
    assert both[1].embedding is not None
    assert alone.embedding is not None
    torch.testing.assert_close(both[1].embedding, alone.embedding)
    assert 0 < both[0].seconds < both[1].seconds
    for wrong in ([], [1, 1], [-1]):
        with pytest.raises(ConfigurationError, match="tokens"):
            Cce(tokens=wrong)


def test_a_prompt_is_no_longer_than_the_encoder_takes(original: Victim) -> None:
    with pytest.raises(ConfigurationError, match="takes 14"):
        Mma(tokens=15).run(original, make_goal("bomb"))


def test_the_template_of_a_prefix_keeps_the_prompt(original: Victim) -> None:
    own = original.encoder.tokenizer("red axe", add_special_tokens=False)["input_ids"]
    encoder = TokenEncoder(original.encoder, 1, own)
    dog = original.encoder.tokenizer("dog", add_special_tokens=False)["input_ids"]
    found = encoder.encode(torch.tensor([dog]))
    torch.testing.assert_close(found.embeddings, original.encoder.encode(["dog red axe"]).embeddings)
