"""Prompts that an evaluation makes from what is erased, and what it says of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from rece_lightning import RECE, ConceptData, ConfigurationError
from rece_lightning.callbacks import Evaluation
from rece_lightning.data.prompts import EvaluationPrompt, read_prompts
from rece_lightning.evaluation.results.apart import apart_lines
from rece_lightning.evaluation.results.comparison import Column, Comparison
from rece_lightning.metrics import EmojiDetector, NudeNetRece


def comparison(hits: list[bool]) -> Comparison:
    prompts = (
        EvaluationPrompt("bomb", "bomb"),
        EvaluationPrompt("explosion", "bomb"),
        EvaluationPrompt("a round thing", "bomb", group="described"),
        EvaluationPrompt("una bomba", "bomb", group="Spanish"),
        EvaluationPrompt("comb", "comb", "preserved"),
        EvaluationPrompt("a comb", "comb", "preserved"),
        EvaluationPrompt("dog", "dog", "preserved"),
        EvaluationPrompt("rose", "rose", "preserved"),
    )
    column = Column("rece", "", tuple(range(8)), (0,) * 8, torch.zeros(8, 3, 1, 1), torch.tensor(hits))
    near = {"text": ("dog", "comb"), "name": ("comb", "dog")}
    return Comparison(prompts, frozenset({"bomb"}), "test", columns={"rece": column}, nearest=near)


def test_groups_and_nearness_have_rates_of_their_own() -> None:
    found = comparison([True, False, True, False, True, True, False, True])
    lines = {line.name: (line.figure.value, line.figure.total) for line in apart_lines(found, "rece")}
    assert lines == {
        "group_described": (1.0, 1),
        "group_Spanish": (0.0, 1),
        "pinpoint_by_text_nearest_1": (0.0, 1),
        "pinpoint_by_text_nearest_2": (2 / 3, 3),
        "pinpoint_by_name_nearest_1": (1.0, 2),
        "pinpoint_by_name_nearest_2": (2 / 3, 3),
    }
    # Nothing else counts them: neither the concept's own prompts, nor its synonyms, nor all that is preserved.
    assert (found.share("rece", ("erased",)).total, found.share("rece", ("synonym",)).total) == (1, 1)
    assert found.share("rece", ("kept",)).total == 4
    headings = [line.heading for line in apart_lines(found, "rece")]
    assert headings[:3] == ["group, described", "group, Spanish", "pinpoint by text, nearest 1"]


def test_a_prompt_without_a_group_is_known_again_as_before_there_were_groups() -> None:
    plain = EvaluationPrompt("bomb", "bomb").plain()
    assert list(plain) == ["prompt", "concept", "kind", "seed", "guidance_scale"]
    assert EvaluationPrompt("bomb", "bomb", group="Spanish").plain() == {**plain, "group": "Spanish"}


def set_up(evaluation: Evaluation, data: ConceptData, stage: str = "fit", times: int = 1) -> list[Any]:
    module, trainer = RECE("emoji"), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer.datamodule = data  # type: ignore[attr-defined]
    for turn in range(times):
        if turn:
            evaluation.teardown(trainer, module, stage)
        evaluation.setup(trainer, module, stage)
    assert evaluation.comparison is not None
    return list(evaluation.comparison.prompts)


def test_rows_are_added_once_and_those_of_the_user_stay() -> None:
    given = [{"prompt": "a bomb", "concept": "bomb"}, {"prompt": "dog", "concept": "dog", "kind": "preserved"}]
    for times, stage in ((3, "fit"), (2, "validate")):
        evaluation = Evaluation(EmojiDetector(), pinpoint=4, indirect=True)
        data = ConceptData(["bomb"], preserve=[" "], validation=given)
        rows = set_up(evaluation, data, stage, times)
        if stage == "fit":  # what drift is measured on stays the user's
            assert data.validation == read_prompts("", given)
        assert rows[:2] == read_prompts("", given)
        assert len(rows) == len(set(rows))
        kept = [row.concept for row in rows if row.kind == "preserved"]
        assert evaluation.comparison is not None
        assert set(kept) == {"dog", *evaluation.comparison.nearest["text"], *evaluation.comparison.nearest["name"]}
        assert "bomb" not in kept
        groups = [row.group for row in rows if row.kind == "erased"]
        assert (groups.count(""), groups.count("described"), groups.count("German")) == (2, 2, 2)


def test_what_cannot_be_asked_is_said() -> None:
    data = {"concepts": ["bomb"], "preserve": [" "]}
    with pytest.raises(ConfigurationError, match=r"Evaluation\.pinpoint: .*give a detector"):
        set_up(Evaluation(pinpoint=2), ConceptData(**data))
    with pytest.raises(ConfigurationError, match=r"Evaluation\.pinpoint: the detector knows nothing near"):
        set_up(Evaluation(NudeNetRece(), pinpoint=2), ConceptData(**data))
    with pytest.raises(ConfigurationError, match=r"Evaluation\.pinpoint: "):
        Evaluation(EmojiDetector(), pinpoint=0)
    evaluation = Evaluation(EmojiDetector(), indirect=True)
    set_up(evaluation, ConceptData(["lemon"], preserve=[" "]))
    assert evaluation.comparison is not None
    assert evaluation.comparison.notes == ["No indirect prompts ship for 'lemon': give your own, with a column group."]
    with pytest.raises(ConfigurationError, match="group: 'kept' is what tables call others"):
        read_prompts("data.validation", [{"prompt": "bomb", "group": "kept"}])
