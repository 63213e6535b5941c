"""``fast_dev_run``: a whole run on a few prompts, of which nothing stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from rece_lightning import RECE, ConceptData
from rece_lightning.callbacks import DevicePlacement, ErasureCheckpoint, Evaluation, Export, PictureWriter, Report
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.runs.checkpoints import read_checkpoint
from tests.helpers.command import run_command, write_config

VALIDATION = ["bomb", "axe", "dagger", {"prompt": "dog", "kind": "preserved", "seed": 7}, "cat"]


def data() -> ConceptData:
    return ConceptData(
        concepts=["bomb", "axe", "dagger"], preserve=[" ", "dog", "rose"], validation=VALIDATION, batch_size=1,
        predict=["bomb", "axe", "dagger"], synonyms={"bomb": ["grenade", "mine", "shell"]},
    )  # fmt: skip


def trainer(folder: Path, *callbacks: Any, **settings: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": CSVLogger(folder)}
    given: dict[str, Any] = {"max_epochs": 4, "accelerator": "cpu", "fast_dev_run": True, **quiet, **settings}
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **given)


def test_a_fit_is_tried_on_a_prompt_or_two_of_each_kind(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation, asked, module = Evaluation(steps=1, pictures_per_prompt=3), data(), RECE(str(tiny_model), tune="off")
    callbacks = (evaluation, ErasureCheckpoint(), DevicePlacement(), Export(), Report())
    trainer(tmp_path, *callbacks).fit(module, asked)
    assert len(module.history) == 1
    assert module.session.erased_prompts == ["bomb", "axe", "grenade", "mine"]
    assert module.session.concepts["preserved"] == [" ", "dog"]
    assert evaluation.comparison is not None
    assert [(row.prompt, row.seed) for row in evaluation.comparison.prompts] == [("bomb", 0), ("dog", 7)]
    assert {len(column.rows) for column in evaluation.comparison.columns.values() if "derived" not in column.key} == {2}
    assert list(tmp_path.iterdir()) == []
    assert "nothing of it is kept" in capsys.readouterr().err
    # The data is what it was.
    assert [pair.prompt for pair in asked.pairs] == ["bomb", "axe", "dagger", "grenade", "mine", "shell"]
    assert len(asked.validation) == 5


def test_results_that_are_there_stay(tiny_model: Path, tmp_path: Path) -> None:
    callbacks = lambda: (ErasureCheckpoint(dirpath=str(tmp_path / "kept")), Export(overwrite=True))  # noqa: E731
    module = RECE(str(tiny_model), tune="off")
    trainer(tmp_path, *callbacks(), fast_dev_run=False, logger=False, max_epochs=2).fit(module, data())
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    trainer(tmp_path, *callbacks(), logger=False).fit(RECE(str(tiny_model), tune="off"), data())
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert read_checkpoint(tmp_path / "kept" / "last.ckpt")["rece"]["epochs"] == 2
    # A finished run is measured, and drawn with, on a sample too.
    evaluation = Evaluation(steps=1)
    one = trainer(tmp_path / "second", evaluation, PictureWriter(folder=str(tmp_path / "mine"), steps=1))
    one.validate(
        RECE(str(tiny_model), tune="off"),
        data(),
        ckpt_path=tmp_path / "kept" / "last.ckpt",
        verbose=False,
        weights_only=True,
    )
    one.predict(RECE(str(tiny_model), tune="off"), data(), ckpt_path=tmp_path / "kept" / "last.ckpt", weights_only=True)
    assert evaluation.comparison is not None
    assert len(evaluation.comparison.prompts) == 2
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    "settings",
    [
        {"preserve": "auto", "preserve_vocabulary": ["dog", "rose", "cat", "tree"]},
        {"synonyms": "auto"},
        {"synonyms": "auto", "synonyms_vocabulary": ["grenade", "mine", "dog"]},
    ],
)
def test_what_is_chosen_is_chosen_from_a_few_words(tiny_model: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    module = RECE(str(tiny_model), tune="off")
    trainer(tmp_path).fit(module, ConceptData(concepts=["bomb", "axe", "dagger"], **settings))
    assert len(module.history) == 1
    assert len(module.session.concepts["preserved"]) <= 3


def test_a_loader_that_was_handed_over_is_tried_too(tiny_model: Path, tmp_path: Path) -> None:
    module = RECE(str(tiny_model), tune="off")
    one = trainer(tmp_path, fast_dev_run=3)
    one.fit(module, DataLoader(["bomb", "axe", "dagger", "gun"], batch_size=4))  # type: ignore[arg-type]
    assert module.session.erased_prompts == ["bomb", "axe", "dagger"]


def test_the_command_tries_a_run_and_leaves_no_trace(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = {"concepts": ["bomb", "axe", "dagger"], "validation": ["bomb", "axe", "dagger"]}
    evaluation = {"class_path": "Evaluation", "init_args": {"steps": 1}}
    config = write_config(tmp_path, tiny_model, data=asked, trainer={"max_epochs": 4, "callbacks": [evaluation]})
    before = sorted(tmp_path.rglob("*"))
    done = run_command(capsys, "fit", "--config", config, "--trainer.fast_dev_run", "true")
    assert done.code == 0, done.err
    assert "fit ran through on a few prompts" in done.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"overfit_batches": 1}, r"trainer\.overfit_batches: 1; prompts"),
        ({"overfit_batches": 0.5}, r"trainer\.overfit_batches: 0\.5; prompts"),
        ({"limit_train_batches": 0.5}, r"trainer\.limit_train_batches: 0\.5; prompts"),
        ({"limit_train_batches": 1}, r"trainer\.limit_train_batches: 1; prompts"),
        ({"max_steps": 0}, r"trainer\.max_steps: 0; prompts"),
        ({"fast_dev_run": True, "overfit_batches": 1}, r"trainer\.overfit_batches: 1; prompts"),
    ],
)
def test_a_limit_is_named_as_it_was_given(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        trainer(tmp_path, **{"fast_dev_run": False, **settings}).fit(
            RECE(str(tmp_path / "nowhere"), tune="off"), data()
        )
