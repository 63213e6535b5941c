"""What Lightning's users do beside a fit: their callbacks, trainers that go on, verbs in one process."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    ModelSummary,
    OnExceptionCheckpoint,
    RichModelSummary,
    RichProgressBar,
    StochasticWeightAveraging,
    ThroughputMonitor,
    Timer,
)
from lightning.pytorch.callbacks.spike import SpikeDetection
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner

from rece_lightning import RECE, ConceptData
from rece_lightning.callbacks import ErasureCheckpoint, Evaluation, Export, Report
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics import EmojiDetector
from rece_lightning.trainer.callbacks import FIGURES
from tests.helpers.command import run_command, write_config
from tests.helpers.fits import fit_quietly

CONCEPTS = ["bomb", "axe"]


def data(**settings: Any) -> ConceptData:
    return ConceptData(concepts=list(CONCEPTS), batch_size=1, **settings)  # type: ignore[arg-type]


def trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    given = {"max_epochs": 2, "accelerator": "cpu", "logger": False, **quiet, **settings}
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **given)


def matrix(module: RECE) -> torch.Tensor:
    (space,) = module.maps
    return module.maps[space].matrix


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> torch.Tensor:
    module = RECE(str(tiny_model), tune="off")
    fit_quietly(module, data(), epochs=2)
    return matrix(module)


# Callbacks of Lightning's


def test_those_that_have_something_to_do_work_together(tiny_model: Path, tmp_path: Path, plain: torch.Tensor) -> None:
    rates = LearningRateMonitor(log_momentum=True, log_weight_decay=True)
    module = RECE(str(tiny_model), tune="off")
    one = trainer(
        tmp_path, rates, DeviceStatsMonitor(cpu_stats=True), ThroughputMonitor(batch_size_fn=lambda _: 1),
        OnExceptionCheckpoint(tmp_path), Timer("00:01:00:00"), EarlyStopping("preservation_drift", patience=5),
        ModelCheckpoint(monitor="map_change", save_top_k=2), RichProgressBar(), RichModelSummary(),
        logger=CSVLogger(tmp_path), enable_checkpointing=True, log_every_n_steps=1, enable_progress_bar=True,
        enable_model_summary=True,
    )  # fmt: skip
    one.fit(module, data())
    assert torch.equal(matrix(module), plain)
    assert set(rates.lrs["lr-ClosedFormOptimizer"]) == {1.0}


def test_a_checkpoint_from_before_there_was_a_rate_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    first = trainer(tmp_path, ErasureCheckpoint(), max_epochs=1, enable_checkpointing=True)
    first.fit(RECE(str(tiny_model), tune="off"), data())
    file = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    for group in content["optimizer_states"][0]["param_groups"]:
        for name in ("lr", "momentum", "weight_decay"):
            del group[name]
    torch.save(content, file)
    rates, module = LearningRateMonitor(), RECE(str(tiny_model), tune="off")
    trainer(tmp_path, rates, logger=CSVLogger(tmp_path / "second")).fit(module, data(), ckpt_path=file)
    assert len(module.history) == 2
    assert set(rates.lrs["lr-ClosedFormOptimizer"]) == {1.0}


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (StochasticWeightAveraging(swa_lrs=0.1), "StochasticWeightAveraging averages parameters"),
        (EMAWeightAveraging(), "EMAWeightAveraging averages parameters"),
        (GradientAccumulationScheduler({0: 2}), "neither gradients"),
        (BatchSizeFinder(), "BatchSizeFinder tries how many prompts"),
        (LearningRateFinder(), "tries learning rates"),
        (BackboneFinetuning(), "freezes"),
        (ModelPruning("l1_unstructured", amount=0.5), "removes parameters"),
        (SpikeDetection(), "loss"),
        (LearningRateMonitor(), "no logger"),
        (EarlyStopping("val_loss"), "EarlyStopping.monitor: no figure 'val_loss'.*preservation_drift"),
        (ModelCheckpoint(monitor="map_chance"), "ModelCheckpoint.monitor.*did you mean 'map_change'"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Callback) else "",
)
def test_one_that_has_nothing_to_work_on_is_refused_before_the_model_is_looked_for(
    tmp_path: Path, callback: Callback, words: str
) -> None:
    module = RECE(str(tmp_path / "nowhere"), tune="off")
    with pytest.raises(ConfigurationError, match=words):
        trainer(tmp_path, callback, enable_checkpointing=True).fit(module, data())


def test_the_tuner_tries_no_batch_sizes(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="BatchSizeFinder tries how many prompts"):
        Tuner(trainer(tmp_path)).scale_batch_size(RECE(str(tiny_model), tune="off"), data())


class Logs(Callback):
    """Logs a figure of its own."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.log("mine", float(trainer.current_epoch))


def test_a_figure_of_the_users_own_can_be_monitored(tiny_model: Path, tmp_path: Path) -> None:
    module = RECE(str(tiny_model), tune="off")
    trainer(tmp_path, Logs(), EarlyStopping("mine", patience=1)).fit(module, data())
    assert len(module.history) == 2


def test_every_figure_that_is_logged_can_be_monitored(tiny_model: Path) -> None:
    module = RECE(str(tiny_model), certificate=1.0, tune="off")
    fit_quietly(module, data(), epochs=2)
    assert {name for figures in module.history for name in figures} == set(FIGURES)


def test_what_is_put_aside_comes_back(tiny_model: Path, tmp_path: Path) -> None:
    summary = ModelSummary()
    one = trainer(tmp_path, summary, logger=CSVLogger(tmp_path), log_every_n_steps=50, enable_model_summary=True)
    one.fit(RECE(str(tiny_model), tune="off"), data())
    assert summary in one.callbacks  # type: ignore[attr-defined]
    assert one.log_every_n_steps == 50  # type: ignore[attr-defined]


# One trainer, one process, several calls


def test_a_fit_goes_on_where_the_trainer_stopped(tiny_model: Path, tmp_path: Path, plain: torch.Tensor) -> None:
    module, one = RECE(str(tiny_model), tune="off"), trainer(tmp_path, max_epochs=1)
    one.fit(module, data())
    one.fit(module, data())  # all its epochs are there: nothing is done, and nothing is lost
    assert len(module.history) == 1
    one.fit_loop.max_epochs = 2
    one.fit(module, data())
    assert torch.equal(matrix(module), plain)
    with pytest.raises(ConfigurationError, match="with another module"):
        one.fit(RECE(str(tiny_model), tune="off"), data())
    with pytest.raises(ConfigurationError, match=r"data\.concepts"):
        one.fit(module, ConceptData(concepts=["dagger"]))


def test_verbs_may_follow_each_other_in_any_order(tmp_path: Path) -> None:
    evaluation = Evaluation(EmojiDetector(), pictures_per_prompt=1, steps=1)
    asked = data(validation=["bomb", {"prompt": "dog", "kind": "preserved"}])
    one, module = (
        trainer(tmp_path, evaluation, ErasureCheckpoint(), enable_checkpointing=True),
        RECE("emoji", tune="off"),
    )
    one.validate(module, asked, verbose=False)
    one.fit(module, asked)
    one.test(module, asked, verbose=False)
    expected = matrix(module)
    loaded = RECE.load_from_checkpoint(tmp_path / "checkpoints" / "epoch=0.ckpt")
    trainer(tmp_path, evaluation).validate(loaded, asked, verbose=False)
    trainer(tmp_path, evaluation, max_epochs=1).fit(loaded, asked)
    assert torch.equal(matrix(loaded), expected)


# Time that runs out


class Elapses(Callback):
    """Lets a timer's time run out when so many batches are done."""

    def __init__(self, timer: Timer, batches: int) -> None:
        self.timer, self.left = timer, batches

    def on_train_batch_end(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.timer._offset = 10**9


def timed(batches: int) -> tuple[Callback, Callback]:
    timer = Timer(timedelta(hours=1))
    return Elapses(timer, batches), timer


def test_time_that_runs_out_in_epoch_0_leaves_what_was_counted(
    tiny_model: Path, tmp_path: Path, plain: torch.Tensor
) -> None:
    callbacks = [*timed(1), ErasureCheckpoint(), Evaluation(steps=1), Export(), Report()]
    asked = data(validation=["a bomb"])
    with pytest.raises(ConfigurationError) as raised:
        trainer(tmp_path, *callbacks, enable_checkpointing=True).fit(RECE(str(tiny_model), tune="off"), asked)
    said = str(raised.value)
    assert "a Timer of 1:00:00" in said
    assert "after 1 of 3 batches" in said
    assert "nothing was edited" in said
    assert str(tmp_path / "checkpoints") in said
    assert not (tmp_path / "edited.safetensors").exists()
    module = RECE(str(tiny_model), tune="off")
    trainer(tmp_path, ErasureCheckpoint(), enable_checkpointing=True).fit(module, asked)
    assert torch.equal(matrix(module), plain)


def test_time_that_is_over_before_epoch_0_is_said(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"max_time.* in epoch 0: nothing was edited; give it more time\.$"):
        trainer(tmp_path, max_time=timedelta(0)).fit(RECE(str(tiny_model), tune="off"), data())


def test_time_that_runs_out_between_epochs_is_said_and_the_run_goes_on(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], plain: torch.Tensor
) -> None:
    checkpoint, module = ErasureCheckpoint(), RECE(str(tiny_model), tune="off")
    trainer(tmp_path, *timed(3), checkpoint, Export(), enable_checkpointing=True).fit(module, data())
    last, said = tmp_path / "checkpoints" / "last.ckpt", capsys.readouterr().err
    assert "ended the run after 1 of 2 epochs" in said
    assert str(last) in said
    assert (tmp_path / "edited.safetensors").is_file()
    # The time of the earlier part counts.
    again = trainer(
        tmp_path, ErasureCheckpoint(), Export(overwrite=True), Timer("00:02:00:00"), enable_checkpointing=True
    )
    with pytest.raises(ConfigurationError, match=r"after 1 of 2 epochs .*earlier parts counts"):
        again.fit(RECE(str(tiny_model), tune="off"), data(), ckpt_path=last)
    module = RECE(str(tiny_model), tune="off")
    callbacks = (ErasureCheckpoint(), Export(overwrite=True), Timer(None))
    trainer(tmp_path, *callbacks, enable_checkpointing=True).fit(module, data(), ckpt_path=last)
    assert torch.equal(matrix(module), plain)
    assert "ended the run" not in capsys.readouterr().err


def test_a_number_of_steps_is_no_surprise(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = RECE(str(tiny_model), tune="off")
    trainer(tmp_path, max_steps=1).fit(module, data())
    assert len(module.history) == 1
    assert "ended the run" not in capsys.readouterr().err


def test_the_command_says_that_its_time_ran_out(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, tiny_model, trainer={"max_time": "00:00:00:00"})
    done = run_command(capsys, "fit", "--config", config)
    assert done.code == 2
    assert done.out + done.err == done.err
    assert "trainer.max_time (a Timer of 0:00:00) ended the run in epoch 0: nothing was edited" in done.err
    assert list(tmp_path.iterdir()) == [config]
