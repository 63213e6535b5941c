"""What an evaluation says of its counts."""

from __future__ import annotations

import torch

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.evaluation.results.comparison import FIRST, ORIGINAL, Column, Comparison
from rece_lightning.metrics import Share


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
    assert any("no difference, preserved concepts" in sentence for sentence in comparison().verdict())


def test_a_prompt_in_several_rows_is_one_prompt_of_intervals_and_tests() -> None:
    """Rows with seeds of their own, and one row with several seeds, say the same."""
    generator = torch.Generator().manual_seed(5)
    names = [f"fox {number}" for number in range(7)]
    hits = {key: torch.rand(7, 5, generator=generator) < chance for key, chance in ((ORIGINAL, 0.8), (FIRST, 0.4))}
    whole = Comparison(tuple(EvaluationPrompt(name, "fox", "preserved") for name in names))
    apart = Comparison(tuple(EvaluationPrompt(n, "fox", "preserved", seed=seed) for n in names for seed in range(5)))
    for key, found in hits.items():
        rows, seeds = tuple(row for row in range(7) for _ in range(5)), tuple(range(5)) * 7
        pictures, flags = torch.zeros(35, 3, 2, 2), found.flatten()
        whole.columns[key] = Column(key, key, rows, seeds, pictures, flags)
        apart.columns[key] = Column(key, key, tuple(range(35)), seeds, pictures, flags)
    share = apart.share(FIRST, ("kept",))
    assert share.clusters == tuple((int(row.sum()), 5) for row in hits[FIRST])
    assert share.interval == whole.share(FIRST, ("kept",)).interval
    test = apart.compare(ORIGINAL, FIRST, ("kept",))
    assert test == whole.compare(ORIGINAL, FIRST, ("kept",))
    assert test.test == "exact sign flips over prompts"
    # The same words for another concept are another prompt.
    other = Comparison((EvaluationPrompt("fox", "fox"), EvaluationPrompt("fox", "red background")))
    assert other.prompt_of(0) != other.prompt_of(1)


def test_another_editor_is_not_called_uce() -> None:
    found = comparison()
    assert found.title_of(FIRST) == "UCE (epoch 0)"
    assert found.verdict()[0].startswith("UCE alone")
    found.editor = "Projection"
    assert found.title_of(FIRST) == "Projection (epoch 0)"
    assert not any("UCE" in sentence for sentence in found.verdict())
