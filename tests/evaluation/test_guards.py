"""What is measured under a guard, and what is not: columns, verbs, attacks, settings in YAML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from rece_lightning import RECE, ConceptData
from rece_lightning.attacks import Paraphrase, Victim, make_goal
from rece_lightning.attacks.outcome import measure_all
from rece_lightning.baselines import SLD, Guard, OutputFilter
from rece_lightning.callbacks import Evaluation
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics import ConceptDetector, PerceptualDistance
from rece_lightning.metrics.perceptual import FeatureDistance
from rece_lightning.models.sampling import Sampling
from tests.helpers.command import run_command, write_config
from tests.helpers.tiny.pipelines import build

PROMPTS = ["bomb", {"prompt": "rocket", "kind": "preserved"}]


class Always(ConceptDetector):
    """Sees whatever it looks for."""

    protocol = "always"

    def check(self, concept: str) -> None: ...

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        return torch.ones(len(pictures), dtype=torch.bool)


def trained(folder: Path, verb: str, model: Path | str, evaluation: Evaluation) -> Evaluation:
    trainer = Trainer(
        default_root_dir=folder, max_epochs=1, callbacks=[evaluation], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    getattr(trainer, verb)(RECE(str(model)), ConceptData(["bomb"], validation=PROMPTS))
    return evaluation


def rates(evaluation: Evaluation) -> dict[str, tuple[int, int]]:
    """Column → hits among erased and among preserved pictures."""
    comparison = evaluation.comparison
    assert comparison is not None
    return {
        key: (comparison.share(key, ("erased",)).hits, comparison.share(key, ("kept",)).hits)
        for key in comparison.columns
    }


def test_a_filtered_picture_counts_as_erased_and_as_lost(tiny_model: Path, tmp_path: Path) -> None:
    """In ``validate``, and in ``fit`` for every column but the original's, which is drawn without the filter."""

    def evaluation(guard: Guard | None) -> Evaluation:
        return Evaluation(Always(), pictures_per_prompt=2, steps=1, attack=False, guard=guard)

    under = OutputFilter("bomb", Always())

    assert rates(trained(tmp_path, "validate", tiny_model, evaluation(None))) == {"rece": (2, 2)}
    assert rates(trained(tmp_path, "validate", tiny_model, evaluation(under))) == {"rece": (0, 0)}
    assert rates(trained(tmp_path, "fit", tiny_model, evaluation(under))) == {"original": (2, 2), "uce": (0, 0)}


def test_the_original_is_drawn_as_it_is_and_others_under_the_guard(tiny_model: Path, tmp_path: Path) -> None:
    found = {}
    for name, guard in (("plain", None), ("guarded", SLD("max", "a dog"))):
        evaluation = Evaluation(pictures_per_prompt=2, steps=2, attack=True, guard=guard)
        comparison = trained(tmp_path, "fit", tiny_model, evaluation).comparison
        assert comparison is not None
        found[name] = {key: column.pictures for key, column in comparison.columns.items()}

    assert found["plain"].keys() == found["guarded"].keys() == {"original", "uce", "uce_derived"}
    assert torch.equal(found["plain"]["original"], found["guarded"]["original"])
    for key in ("uce", "uce_derived"):
        assert not torch.equal(found["plain"][key], found["guarded"][key])


def test_the_model_measured_is_compared_with_itself_without_the_guard(tiny_model: Path, tmp_path: Path) -> None:
    """Nothing was edited: what a metric compares with is still there to be drawn."""
    metric = PerceptualDistance(FeatureDistance())
    evaluation = Evaluation(pictures_per_prompt=1, steps=2, metrics=[metric], guard=SLD("max", "a dog"))

    comparison = trained(tmp_path, "validate", tiny_model, evaluation).comparison

    assert comparison is not None
    assert set(comparison.columns) == {"original", "rece"}
    assert comparison.titles["rece"] == "the model measured, under SLD max (a dog)"
    assert "under SLD max (a dog)" in comparison.sampling
    distances = [float(line.figure.value) for line in comparison.quality if line.column == "rece"]
    assert distances
    assert min(distances) > 0


def test_prompts_of_an_attack_go_through_the_guard(edited_victim: Victim) -> None:
    """The original is attacked as it is; the table says that the search knew of no guard."""
    goal = make_goal("bomb", synonyms=["explosive"])
    attack = Paraphrase()
    found = attack.run(edited_victim, goal)[:2]

    (measured,) = measure_all(edited_victim, attack, goal, found, [0], original=True)

    assert measured.rung.edited.hits == 0
    assert measured.rung.original.hits == measured.rung.original.total == 2
    assert measured.rung.has == f"{attack.has}; does not see the guard"


@pytest.fixture
def edited_victim(tiny_model: Path) -> Victim:
    module = RECE(str(tiny_model))
    sampling = Sampling(1, 4.0, guard=OutputFilter("bomb", Always()))
    return Victim(module.pictures, detector=Always(), sampling=sampling)


# Settings


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(folder: Path, model: Path, **evaluation: Any) -> Path:
    asked = {"class_path": "Evaluation", "init_args": {"steps": 1, "pictures_per_prompt": 1, **evaluation}}
    data = {"concepts": ["bomb"], "validation": PROMPTS, "predict": ["bomb"]}
    return write_config(folder, model, data=data, trainer={"callbacks": [asked]})


def test_a_guard_is_a_setting_in_yaml(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = {"class_path": "SLD", "init_args": {"strength": "max", "concept": "bomb"}}
    filtering = {
        "class_path": "OutputFilter",
        "init_args": {"concept": "bomb", "detector": {"class_path": "EmojiDetector"}},
    }
    path = config(tmp_path, tiny_model, guard=guard, detector={"class_path": "EmojiDetector"})

    for verb, said in (("validate", "under SLD max (bomb)"), ("predict", "1 pictures")):
        outcome = run_command(capsys, verb, "--config", path)
        assert outcome.code == 0, outcome.out + outcome.err
        assert said in " ".join(outcome.out.split())
    (settings,) = tmp_path.rglob("settings.json")
    assert json.loads(settings.read_text())["settings"]["guard"] == "SLD max (bomb)"
    path = config(tmp_path, tiny_model, guard=filtering, detector={"class_path": "EmojiDetector"})
    outcome = run_command(capsys, "validate", "--config", path)
    assert outcome.code == 0, outcome.out + outcome.err
    assert "under output filter (emoji-top1: bomb)" in " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": 1.0}, "Evaluation.guidance_scale: 1 switches guidance off"),
        ({"guard": {"class_path": "SLD", "init_args": {"strength": "maximal"}}}, "SLD.strength: unknown value"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], message: str
) -> None:
    asked = {"guard": {"class_path": "SLD", "init_args": {"concept": "bomb"}}, **settings}

    outcome = run_command(capsys, "validate", "--config", config(tmp_path, Path("no-such-model"), **asked))

    assert outcome.code == 2
    assert message in outcome.err


def test_a_prompt_with_guidance_off_and_a_model_without_guidance_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    def validate(model: Path, *prompts: dict[str, Any]) -> None:
        evaluation = Evaluation(steps=1, guard=SLD("max", "bomb"))
        trainer = Trainer(callbacks=[evaluation], logger=False, default_root_dir=tmp_path, accelerator="cpu")
        trainer.validate(RECE(str(model)), ConceptData(["bomb"], validation=list(prompts)), verbose=False)

    with pytest.raises(ConfigurationError, match=r"Evaluation.guard: a prompt's guidance_scale: 1 switches guidance"):
        validate(tiny_model, {"prompt": "bomb", "guidance_scale": 1.0})
    build("flux").save_pretrained(tmp_path / "flux")
    with pytest.raises(ConfigurationError, match=r"Evaluation.guard: .*FLUX.1 is drawn without one"):
        validate(tmp_path / "flux", {"prompt": "bomb"})
