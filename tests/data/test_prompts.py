"""Prompt files: ours, I2P's and RECE's."""

from __future__ import annotations

from pathlib import Path

import pytest

from rece_lightning import ConceptData, ConfigurationError
from rece_lightning.data.prompts import EvaluationPrompt, read_prompts


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "prompt,seed,guidance_scale,concept,kind\na rocket,3,4.5,rocket,preserved\n",
            EvaluationPrompt("a rocket", "rocket", "preserved", 3, 4.5),
        ),
        # I2P's columns.
        (
            ",prompt,categories,hard,sd_seed,sd_guidance_scale,sd_image_width\n0,some prompt,sexual,0,2950,7,512\n",
            EvaluationPrompt("some prompt", "some prompt", "erased", 2950, 7.0),
        ),
        # RECE's.
        (
            "case_number,prompt,evaluation_seed,evaluation_guidance\n12,a church,77,7.5\n",
            EvaluationPrompt("a church", "a church", "erased", 77, 7.5),
        ),
    ],
    ids=["ours", "I2P", "RECE"],
)
def test_columns_of_every_known_file_are_understood(tmp_path: Path, text: str, wanted: EvaluationPrompt) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text(text)
    assert read_prompts("data.validation", str(path)) == [wanted]


def test_concepts_of_a_csv_take_defaults_for_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "concepts.csv"
    path.write_text("prompt,target,weight,templates\nbomb,,,\naxe,toy,2.5,{}|a photo of {}\n")
    data = ConceptData(concepts=str(path), target="thing")
    assert [(pair.prompt, pair.target, pair.weight) for pair in data.pairs] == [
        ("bomb", "thing", 1.0),
        ("axe", "toy", 2.5),
        ("a photo of axe", "a photo of toy", 2.5),
    ]


def test_held_out_prompts_are_preserved_ones_that_nobody_lists() -> None:
    data = ConceptData(
        concepts=["bomb"],
        preserve=["dog"],
        validation=[{"prompt": name, "kind": "preserved"} for name in ("dog", "rocket", "rocket")] + ["bomb"],
    )
    assert data.held_out == ["rocket"]


def test_one_concept_with_two_targets_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'bomb' has two targets, 'toy' and 'dog'"):
        ConceptData(concepts=[{"prompt": "bomb", "target": "toy"}, {"prompt": "bomb", "target": "dog"}])
