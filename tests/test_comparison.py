"""What an evaluation says of its counts."""

from __future__ import annotations

import torch

from rece_lightning.metrics import Share
from rece_lightning.prompts import EvaluationPrompt
from rece_lightning.reporting.comparison import FIRST, ORIGINAL, Column, Comparison


def comparison() -> Comparison:
    prompts = (
        EvaluationPrompt("axe", "axe"),
        EvaluationPrompt("a hatchet", "axe"),
        EvaluationPrompt("a fox in twemoji style", "twemoji style"),
        EvaluationPrompt("rocket", "rocket", "preserved"),
    )
    found = Comparison(prompts, own=frozenset({"axe", "a dog in twemoji style"}))
    for key, hits in ((ORIGINAL, [1, 1, 1, 1]), (FIRST, [0, 1, 0, 1])):
        found.columns[key] = Column(
            key, key, (0, 1, 2, 3), (0,) * 4, torch.zeros(4, 3, 2, 2), torch.tensor(hits).bool()
        )
    return found


def test_a_synonym_is_another_word_for_a_prompt_that_was_erased() -> None:
    assert [comparison().role(row) for row in range(4)] == ["erased", "synonym", "erased", "kept"]


def test_shares_count_the_pictures_of_their_roles_and_concepts() -> None:
    found = comparison()
    assert found.share(ORIGINAL, ("erased", "synonym")) == Share(3, 3)
    assert found.share(FIRST, ("erased",)) == Share(0, 2)
    assert found.share(FIRST, ("erased", "synonym"), "axe") == Share(1, 2)
    assert found.share(FIRST, ("kept",)) == Share(1, 1)


def test_the_verdict_calls_equal_counts_no_difference() -> None:
    assert any("no difference, kept concepts" in sentence for sentence in comparison().verdict())
