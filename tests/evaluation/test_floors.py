"""Floors: what the original model shows where nobody asks for what is erased."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rece_lightning.data.concepts import Concept, prompt_pairs
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.evaluation.floor_prompts import FloorPrompts
from rece_lightning.evaluation.floors import Floors, without_floor
from rece_lightning.evaluation.results.comparison import FIRST, ORIGINAL, Column, Comparison, comparison_rows
from rece_lightning.evaluation.results.counts import counts_of, read_counts, write_counts
from rece_lightning.evaluation.results.outcome import column_figures, final_figures
from rece_lightning.metrics import Share
from rece_lightning.models.sampling import Sampling

OBJECTS = [Concept("bomb", " "), Concept("axe", "flower"), Concept("Van Gogh", "art", templates=("painting by {}",))]
STYLES = [Concept("a dog in ink style", "a dog"), Concept("a church, pixel art", "a church")]


@pytest.mark.parametrize(
    ("concepts", "prompt", "concept", "floor"),
    [
        (OBJECTS, "bomb", "bomb", " "),
        (OBJECTS, "axe", "axe", "flower"),
        (OBJECTS, "a photo of an axe", "axe", "a photo of a flower"),
        ([Concept("bomb", "apple")], "A bomb, and a bomb", "bomb", "An apple, and an apple"),
        (OBJECTS, "a photo of a bomb", "bomb", "a photo"),
        (OBJECTS, "A photo of a Bomb on a table.", "bomb", "A photo on a table."),
        (OBJECTS, "a hatchet", "axe", "flower"),  # other words for it: its target
        (OBJECTS, "explosion", "bomb", " "),
        (OBJECTS, "painting by Van Gogh", "Van Gogh", "painting by art"),
        (OBJECTS, "Starry night by Van Gogh, oil", "Vincent van Gogh", "Starry night by art, oil"),
        (OBJECTS, "a flag", "flag", None),  # nobody erased it
        (OBJECTS, "bombastic", "x", None),  # no word of it
        (STYLES, "a fox in ink style", "ink style", "a fox"),
        (STYLES, "a fox, pixel art", "pixel art", "a fox"),
        (STYLES, "a flat fox", "ink style", None),  # a style in other words: what of it is the style is not known
        ([Concept("ink style", " ")], "a fox in ink style", "ink style", "a fox"),
        ([Concept("nude", " ")], "a nude woman", "nude", "a woman"),
        ([Concept("woman", "clothed woman")], "a woman and a woman", "woman", "a clothed woman and a clothed woman"),
        ([Concept("bomb", " "), Concept("water bomb", "jug")], "a water bomb", "water bomb", "a jug"),
    ],
)
def test_a_floor_prompt_asks_for_the_target(
    concepts: list[Concept], prompt: str, concept: str, floor: str | None
) -> None:
    assert FloorPrompts(concepts, prompt_pairs(concepts)).of(EvaluationPrompt(prompt, concept)) == floor


class Counting:
    """Draws pictures that say in their first pixels which prompt and seed they are of."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, int]] = []

    def __call__(self, prompts: Sequence[EvaluationPrompt], seeds: Sequence[int]) -> Tensor:
        self.drawn += [(row.prompt, seed) for row, seed in zip(prompts, seeds, strict=True)]
        pictures = torch.zeros(len(prompts), 3, 2, 2)
        pictures[:, 0, 0, 0] = torch.tensor([float(len(row.prompt)) for row in prompts])
        pictures[:, 1, 0, 0] = torch.tensor([float(seed) for seed in seeds])
        return pictures


class OddBombs:
    """Sees a bomb in pictures of odd seeds, and an axe in those of long prompts."""

    protocol = "odd"

    def check(self, concept: str) -> None: ...

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        odd, long = pictures[:, 1, 0, 0] % 2 == 1, pictures[:, 0, 0, 0] > 1
        return torch.where(torch.tensor([concept == "bomb" for concept in concepts]), odd, long)


def asked() -> Comparison:
    prompts = (
        EvaluationPrompt("bomb", "bomb"),
        EvaluationPrompt("explosion", "bomb"),
        EvaluationPrompt("axe", "axe"),
        EvaluationPrompt("an axe", "axe", seed=7),
        EvaluationPrompt("something", "thing"),
        EvaluationPrompt("rocket", "rocket", "preserved"),
    )
    return Comparison(prompts, own=frozenset({"bomb", "axe"}), floor_prompts=(" ", " ", " ", "a flower", None, None))


SHOTS = [(row, seed) for row in (0, 1, 2, 4, 5) for seed in range(4)] + [(3, 7)]


def test_floors_are_drawn_once_and_shared_by_what_asks_alike() -> None:
    floors, draw, sampling = Floors(), Counting(), Sampling(steps=1, batch_size=3)
    for _ in range(2):  # validate, then test: what is known is not drawn again
        found = asked()
        floors.measure(found, OddBombs(), SHOTS, draw, sampling, "model")
        assert sorted(draw.drawn) == [*((" ", seed) for seed in range(4)), ("a flower", 7)]
        assert {shot: hit for shot, hit in found.floors.items() if shot[0] == 0} == {
            (0, seed): seed % 2 == 1 for seed in range(4)
        }
        # The same pictures are looked at for another concept.
        assert [found.floors[2, seed] for seed in range(4)] == [False] * 4
        assert found.floors[3, 7]
        assert not {4, 5} & {row for row, _ in found.floors}
    floors.measure(asked(), OddBombs(), SHOTS, draw, sampling, "another model")
    assert len(draw.drawn) == 10
    assert without_floor(found) is not None
    assert "'something'" in str(without_floor(found))


def measured(hits: list[int], floors: list[int]) -> Comparison:
    """Sixteen pictures of a style, four of a preserved rocket, all of which are there."""
    prompts = (EvaluationPrompt("a fox in ink style", "ink style"), EvaluationPrompt("rocket", "rocket", "preserved"))
    found = Comparison(prompts, protocol="d", floor_prompts=("a fox", None))
    rows, seeds = (0,) * 16 + (1,) * 4, (*range(16), *range(4))
    for key, seen in ((ORIGINAL, [1] * 16), (FIRST, hits)):
        flags = torch.tensor([*seen, 1, 1, 1, 1]).bool()
        found.columns[key] = Column(key, key, rows, seeds, torch.zeros(20, 3, 2, 2), flags)
    found.floors = {(0, seed): bool(hit) for seed, hit in enumerate(floors)}
    return found


def test_an_erasure_at_its_floor_is_called_complete_and_counts_as_one() -> None:
    """A quarter of the pictures shows the style though nobody asks: 27 % after the erasure are no failure."""
    found = measured([1, 1, 1, 1] + [0] * 12, [1, 1, 1, 1] + [0] * 12)
    assert (found.share(FIRST, ("erased",)).rate, found.floor().rate) == (0.25, 0.25)
    figures = column_figures(found, FIRST)
    assert (figures["detected_erased"], figures["floor_erased"], figures["excess_erased"]) == (0.25, 0.25, 0)
    assert figures["harmonic_mean"] == final_figures(found)["harmonic_mean"] == 1
    assert column_figures(found, ORIGINAL)["excess_erased"] == 0.75
    row = comparison_rows(found)[0]
    assert row[2] == str(Share(4, 16))
    assert "complete" in row[3]
    assert any("at this floor: complete" in sentence for sentence in found.verdict())


def test_what_is_above_the_floor_is_not_complete() -> None:
    found = measured([1] * 12 + [0] * 4, [1, 1, 1, 1] + [0] * 12)
    assert column_figures(found, FIRST)["harmonic_mean"] == pytest.approx(2 * 0.5 / 1.5)
    assert not any("complete" in sentence for sentence in found.verdict())
    assert any("+50 points" in sentence for sentence in found.verdict())


def test_floors_come_back_from_the_counts(tmp_path: Path) -> None:
    found = measured([1] + [0] * 15, [0, 1] * 8)
    counts = read_counts(write_counts(counts_of(found), tmp_path / "evaluation.csv"))
    assert counts == counts_of(found)
    assert [one.floor for one in counts if one.column == FIRST] == [False, True] * 8 + [None] * 4
