"""Adversarial prompts on disk: resumed, and read by others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rece_lightning.attacks import AttackStore, Derived, Mma, Paraphrase, Victim, key_of, make_goal, read_embeddings
from rece_lightning.attacks.base import AdversarialPrompt
from rece_lightning.attacks.store import EMBEDDINGS, PROMPTS
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.prompts import read_prompts


def small(restarts: int = 2, seed: int = 0) -> Mma:
    return Mma(steps=1, candidates=4, restarts=restarts, seed=seed)


def test_a_finished_restart_is_not_searched_again(
    original: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goal = make_goal("bomb")
    first = AttackStore(tmp_path).run(small(), original, goal)
    searched: list[list[int]] = []
    whole = Mma.search

    def counted(self: Mma, victim: Victim, goal: object, restarts: list[int]) -> object:
        searched.append(list(restarts))
        return whole(self, victim, goal, restarts)  # type: ignore[arg-type]

    monkeypatch.setattr(Mma, "search", counted)
    again = AttackStore(tmp_path).run(small(), original, goal)
    assert searched == []
    assert [(one.restart, one.prompt, one.queries, one.seed) for one in again] == [
        (one.restart, one.prompt, one.queries, one.seed) for one in first
    ]
    assert [one.loss for one in again] == pytest.approx([one.loss for one in first])
    more = AttackStore(tmp_path).run(small(restarts=3), original, goal)
    assert searched == [[2]]
    assert [one.restart for one in more] == [0, 1, 2]
    AttackStore(tmp_path).run(small(seed=1), original, goal)
    assert searched == [[2], [0, 1]]
    # What others found stays.
    assert len(AttackStore(tmp_path).run(small(restarts=3), original, goal)) == 3
    assert len(searched) == 2


def test_the_prompt_reader_reads_what_was_found(original: Victim, tmp_path: Path) -> None:
    goal = make_goal("bomb", synonyms=("explosion",))
    store = AttackStore(tmp_path)
    found = [*store.run(Paraphrase(), original, goal), *store.run(small(), original, goal)]
    rows = read_prompts("data.predict", str(tmp_path / PROMPTS))
    assert [row.prompt for row in rows] == [one.prompt for one in found]
    assert {(row.concept, row.kind, row.seed, row.guidance_scale) for row in rows} == {("bomb", "erased", None, None)}


def test_embeddings_are_read_back_bit_for_bit(edited: Victim, tmp_path: Path) -> None:
    goal = make_goal("bomb")
    found = AttackStore(tmp_path).run(Derived(ratios=[0.5, 1.0]), edited, goal)
    for rows in (read_embeddings(tmp_path / EMBEDDINGS), AttackStore(tmp_path).run(Derived([0.5, 1.0]), edited, goal)):
        assert [row.variant for row in rows] == ["ratio=0.5", "ratio=1"]
        for row, one in zip(rows, found, strict=True):
            assert row.embedding is not None
            assert one.embedding is not None
            assert torch.equal(row.embedding, one.embedding)
            assert row.loss == one.loss
    assert not (tmp_path / PROMPTS).exists()


def test_variants_may_share_a_pooled_embedding(tmp_path: Path) -> None:
    """As those of one search do, of a model that reads one."""
    shared = torch.arange(3.0)
    rows = [
        AdversarialPrompt(
            "cce", "bomb", 0, "bomb", variant=f"steps={steps}", embedding=torch.ones(2, 3) * steps, pooled=shared
        )
        for steps in (0, 10)
    ]
    AttackStore(tmp_path).add("key", rows)
    again = AttackStore(tmp_path).found("key")
    assert [one.variant for one in again] == ["steps=0", "steps=10"]
    for one, row in zip(again, rows, strict=True):
        assert one.embedding is not None
        assert row.embedding is not None
        assert one.pooled is not None
        assert torch.equal(one.embedding, row.embedding)
        assert torch.equal(one.pooled, shared)


def test_only_attacks_that_look_at_the_weights_depend_on_them(original: Victim, edited: Victim) -> None:
    goal = make_goal("bomb")
    assert key_of(small(), original, goal) == key_of(small(), edited, goal)
    assert key_of(Derived(), original, goal) != key_of(Derived(), edited, goal)
    assert key_of(small(), original, goal) != key_of(small(seed=1), original, goal)
    assert key_of(small(), original, goal) != key_of(small(), original, make_goal("axe"))
    assert key_of(small(1), original, goal) == key_of(small(4), original, goal)


@pytest.mark.parametrize(("name", "content"), [(PROMPTS, "prompt,concept\nbomb,bomb\n"), (EMBEDDINGS, "nothing")])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError, match=name):
        AttackStore(tmp_path)
    assert (tmp_path / name).read_text() == content


def test_the_victim_leaves_the_model_as_it_was(edited: Victim) -> None:
    name = next(iter(edited.weights or {}))
    unet = edited.pipeline.unet
    before = unet.get_parameter(name).clone()
    with edited.edited():
        inside = unet.get_parameter(name).clone()
        with edited.original():
            assert torch.equal(unet.get_parameter(name), before)
        assert torch.equal(unet.get_parameter(name), inside)
    assert not torch.equal(inside, before)
    assert torch.equal(unet.get_parameter(name), before)
