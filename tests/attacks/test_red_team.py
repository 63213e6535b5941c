"""RedTeam: a ladder from YAML and from --attacks, in fit and in test."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.attacks import LADDER, AdversarialPrompt, Cce, Derived, Mma, make_attacks
from rece_lightning.attacks.outcome import Rung, spent_queries, together
from rece_lightning.attacks.store import EMBEDDINGS, PROMPTS
from rece_lightning.callbacks import Evaluation, RedTeam
from rece_lightning.cli.flags import expand_attack_flags
from rece_lightning.core import Derivation
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics import EmojiDetector, Share
from rece_lightning.models.sampling import Sampling

SAMPLING: dict[str, Any] = {"steps": 2, "guidance_scale": 4.0, "pictures_per_prompt": 1}


def run(folder: Path, red_team: RedTeam, verb: str = "fit") -> RECE:
    module = RECE(pretrained="emoji", method=Method(derivation=Derivation(1e-3)))
    data = ConceptData(concepts=["bomb"], preserve=[" ", "dog", "fish", "rose"], validation=["bomb"])
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[red_team],
        logger=CSVLogger(folder, name="", version=0),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    getattr(trainer, verb)(module, data)
    return module


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RedTeam]:
    folder = tmp_path_factory.mktemp("run")
    attacks = [Derived(ratios=[0.5, 1.0]), Mma(steps=1, candidates=4, restarts=1), Cce(steps=1, pictures=2)]
    red_team = RedTeam(attacks=attacks, detector=EmojiDetector(), **SAMPLING)
    run(folder, red_team)
    return folder / "version_0", red_team


def test_the_end_of_fit_writes_the_ladder(fitted: tuple[Path, RedTeam]) -> None:
    folder, red_team = fitted
    with (folder / "red_team.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    titles = [(row["attack"], row["variant"], row["concept"], row["control"]) for row in rows]
    control = titles[5][2]
    assert titles[:6] == [
        ("no attack", "", "bomb", "0"),
        ("derived", "ratio=0.5", "bomb", "0"),
        ("derived", "ratio=1", "bomb", "0"),
        ("mma", "", "bomb", "0"),
        ("cce", "steps=1", "bomb", "0"),
        ("cce", "steps=1", control, "1"),
    ]
    assert control != "bomb"
    assert [row["concept"] for row in rows[6:]] == ["all"] * 6
    for row, rung in zip(rows, red_team.rungs, strict=False):
        assert (int(row["edited_hits"]), int(row["edited_total"])) == (rung.edited.hits, rung.edited.total)
        assert row["detector"] == "emoji-top1"
        assert float(row["edited_low"]) <= float(row["edited_rate"]) <= float(row["edited_high"])
    assert (folder / PROMPTS).is_file()
    assert (folder / EMBEDDINGS).is_file()
    with (folder / "metrics.csv").open(newline="") as stream:
        logged = set(next(csv.reader(stream)))
    assert {"attack_success/derived_ratio_1", "attack_success/mma", "attack_success/cce_steps_1_control"} <= logged


def test_pictures_that_got_through_are_kept(fitted: tuple[Path, RedTeam]) -> None:
    folder, red_team = fitted
    through = sum(rung.edited.hits for rung in red_team.rungs if rung.attack != "no attack")
    assert (folder / "images" / "sheet-red_team.webp").is_file() == (through > 0)


def test_every_setting_of_its_own_stands_before_those_of_evaluation() -> None:
    evaluation = Evaluation(detector=EmojiDetector(), steps=9, guidance_scale=3.0, batch_size=5)
    red_team = RedTeam(attacks=["derived"], steps=4, guidance_scale=2.0)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[evaluation, red_team])
    trainer.datamodule = ConceptData(concepts=["bomb"])
    red_team.setup(trainer, RECE(pretrained="emoji", tune="off"), "fit")
    assert red_team.sampling == Sampling(steps=4, guidance_scale=2.0, batch_size=5)


def test_test_attacks_the_original_model_where_nothing_was_edited(tmp_path: Path) -> None:
    """A gradient attack works within the test loop too; both columns are the same pictures."""
    red_team = RedTeam(attacks=[Mma(steps=1, candidates=4, restarts=2)], detector=EmojiDetector(), **SAMPLING)
    module = run(tmp_path, red_team, "test")
    assert not module.trainer.test_loop.inference_mode
    assert module.trainer.validate_loop.inference_mode
    assert [rung.attack for rung in red_team.rungs] == ["no attack", "mma"]
    for rung in red_team.rungs:
        assert rung.original == rung.edited
        assert rung.original.total == {"no attack": 1, "mma": 2}[rung.attack]


def test_shares_of_several_concepts_add_up() -> None:
    def rung(concept: str, hits: int) -> Rung:
        share = Share.of([True] * hits + [False] * (4 - hits), [0, 0, 1, 1])
        return Rung("mma", concept, "", False, "text encoder", share, share, Share(1, 2), Share(1, 2), 10, 1.5)

    (whole,) = together([rung("bomb", 1), rung("axe", 3)])
    assert (whole.concept, whole.edited, whole.edited_prompts) == ("all", Share(4, 8), Share(2, 4))
    assert whole.edited.clusters == ((1, 2), (0, 2), (2, 2), (1, 2))
    assert (whole.queries, whole.seconds) == (20, 3.0)


def test_points_of_a_curve_share_their_queries() -> None:
    curve = [AdversarialPrompt("cce", "bomb", row, "bomb", queries=q) for row, q in ((0, 10), (0, 30), (1, 30))]
    assert spent_queries(curve) == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attacks": ["derivd"]}, "did you mean 'derived'"),
        ({"attacks": []}, "empty"),
        ({"attacks": ["mma", Mma()]}, "listed twice"),
        ({"forbid": "all"}, "RedTeam.forbid"),
        ({"pictures_per_prompt": 0}, "pictures_per_prompt"),
        ({"steps": 0}, "RedTeam.steps"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RedTeam(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "RedTeam.detector: none"),
        ({"detector": EmojiDetector(), "concepts": ["bmob"]}, "RedTeam.concepts: 'bmob'"),
        ({"detector": EmojiDetector(), "attacks": ["cce"], "control_concepts": []}, "RedTeam.control_concepts: none"),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_any_work(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path, RedTeam(**arguments))


def test_every_attack_is_made_by_its_name() -> None:
    assert [attack.name for attack in make_attacks(list(LADDER))] == list(LADDER)
    assert set(LADDER) == {
        "paraphrase", "ring-a-bell", "ring-a-bell-embedding", "mma", "p4d", "unlearndiffatk", "derived", "cce",
        "inverted",
    }  # fmt: skip


def test_published_budgets_are_a_setting() -> None:
    ring_a_bell, mma = make_attacks(["ring-a-bell", Mma(steps=2)], published=True)
    described = ring_a_bell.describe()
    assert (described["population"], described["steps"], described["tokens"], described["strength"]) == (
        200,
        3000,
        16,
        3,
    )
    assert mma.budget.steps == 2


def test_settings_tell_one_attack_from_another() -> None:
    """What decides the result is part of the description, plain types alone."""
    for attack in make_attacks(list(LADDER)):
        json.dumps(attack.describe())
    assert Cce(learning_rate=0.1).describe() != Cce().describe()


# The flag


def callbacks_of(argv: list[str]) -> list[Any]:
    (setting,) = [word for word in argv if word.startswith("--trainer.callbacks=")]
    return json.loads(setting.partition("=")[2])


def test_the_flag_becomes_a_callback_before_the_last(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "Evaluation"}]}}))
    argv = ["test", "--attacks", "derived,ring-a-bell", "--config", str(config), "--trainer.callbacks.steps", "4"]
    found = expand_attack_flags(argv)
    red_team = {"class_path": "RedTeam", "init_args": {"attacks": ["derived", "ring-a-bell"]}}
    assert callbacks_of(found) == [red_team, {"class_path": "Evaluation"}]
    assert [word for word in found if not word.startswith("--trainer.callbacks=")] == [
        "test", "--config", str(config), "--trainer.callbacks.steps", "4",
    ]  # fmt: skip
    place = next(at for at, word in enumerate(found) if word.startswith("--trainer.callbacks="))
    assert place == found.index(str(config)) + 1


def test_the_flag_keeps_what_a_configuration_says_of_the_red_team(tmp_path: Path) -> None:
    mma = {"class_path": "rece_lightning.attacks.Mma", "init_args": {"steps": 3}}
    said = {"class_path": "RedTeam", "init_args": {"attacks": ["p4d", mma], "pictures_per_prompt": 7}}
    argv = ["test", "--attacks=mma,derived", "--trainer.callbacks=" + json.dumps([said])]
    (found,) = callbacks_of(expand_attack_flags(argv))
    assert found["init_args"] == {"attacks": [mma, "derived"], "pictures_per_prompt": 7}


def test_without_the_flag_nothing_changes() -> None:
    argv = ["fit", "--config", "nowhere.yaml"]
    assert expand_attack_flags(argv) == argv


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fit", "--attacks", "mma"], "understood by test, not by fit"),
        (["test", "--attacks", "mmma"], "did you mean 'mma'"),
        (["test", "--attacks", ","], "names none"),
        (["test", "--attacks"], "no value"),
    ],
)
def test_a_flag_that_means_nothing_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        expand_attack_flags(argv)
