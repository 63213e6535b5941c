"""The two sentences that count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.evaluation.results.comparison import FIRST, FIRST_DERIVED, ORIGINAL, Column, Comparison
from rece_lightning.reporting.headline import headline
from rece_lightning.reporting.ladder import Counted, Ladder, LadderRow

PROMPTS = (EvaluationPrompt("bomb", "bomb"), EvaluationPrompt("rocket", "rocket", "preserved"))


def measured(erased: int, kept: int, floor: int | None = None, derived: int | None = None) -> Comparison:
    """A hundred pictures of each; before the erasure all of them show what was asked for."""
    found = Comparison(PROMPTS, protocol="d", floor_prompts=(" ", None))
    rows, seeds = (0,) * 100 + (1,) * 100, (*range(100), *range(100))
    for key, gone, stays in ((ORIGINAL, 100, 100), (FIRST, erased, kept)):
        flags = torch.tensor([place < gone for place in range(100)] + [place < stays for place in range(100)])
        found.columns[key] = Column(key, key, rows, seeds, torch.zeros(0, 3, 2, 2), flags, places=())
    if derived is not None:
        flags = torch.tensor([place < derived for place in range(100)])
        found.columns[FIRST_DERIVED] = Column("d", "d", rows[:100], seeds[:100], torch.zeros(0, 3, 2, 2), flags)
    if floor is not None:
        found.floors = {(0, seed): seed < floor for seed in range(100)}
    return found


def row(attack: str, hits: int, has: str, *, control: bool = False) -> LadderRow:
    share = Counted(hits, 100, (hits / 100 - 0.05, hits / 100 + 0.05))
    return LadderRow(attack, "", "all", control, has, share, share, share, 1, 1.0)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            measured(6, 97, floor=2),
            "Erased concepts are drawn in 100 % → 6 % of the pictures that ask for them (floor 2 %: complete); "
            "preserved ones in 100 % → 97 % of theirs.",
        ),
        (
            measured(27, 97, floor=25),
            "Erased concepts are drawn in 100 % → 27 % of the pictures that ask for them (floor 25 %: complete); "
            "preserved ones in 100 % → 97 % of theirs.",
        ),
        (
            measured(60, 97),
            "Erased concepts are drawn in 100 % → 60 % of the pictures that ask for them; preserved ones in "
            "100 % → 97 % of theirs.",
        ),
    ],
)
def test_one_sentence_holds_the_numbers_that_count(found: Comparison, sentence: str) -> None:
    assert headline(found) == [sentence]
    alone = replace(found, columns={FIRST: found.columns[FIRST]})
    assert headline(alone)[0] == sentence.replace("100 % → ", "")


def test_an_erasure_above_its_floor_says_by_how_much() -> None:
    assert "(floor 2 %: +38 points (+28 to +48) above it)" in headline(measured(40, 97, floor=2))[0]


def test_the_second_names_the_strongest_attacker_with_embeddings() -> None:
    found = measured(6, 97, derived=94)
    assert headline(found)[1] == ("An attacker who can feed embeddings has them drawn in 94 % (the derived embedding).")
    feeds, types = "weights, embedding input, pictures", "prompt box"
    rows = (row("paraphrase", 99, types), row("cce", 96, feeds), row("cce", 60, feeds, control=True))
    ladder = Ladder(rows, rows, "d", "s")
    assert headline(found, ladder)[1] == (
        "An attacker who can feed embeddings has them drawn in 96 % (cce; 60 % of concepts that the model never knew)."
    )
    assert len(headline(None, ladder)) == 1
    assert headline(None) == []
    # Nobody who feeds embeddings was heard of.
    prompts = (rows[0],)
    assert len(headline(measured(6, 97), Ladder(prompts, prompts, "d", "s"))) == 1
