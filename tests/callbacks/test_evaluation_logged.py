"""What the loggers, the monitors and the caller are told of an evaluation."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.callbacks import ErasureCheckpoint, Evaluation, RedTeam
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.sampling import Sampling

EPOCHS = 3
PROMPTS = [{"prompt": "a photo of a bomb", "concept": "bomb"}, {"prompt": "rocket", "kind": "preserved"}]


class Remembering(Logger):
    """A logger of somebody else's that takes pictures as W&B's does."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}
        self.metrics: list[tuple[int | None, Mapping[str, float]]] = []
        self.pictures: list[tuple[str, int | None, tuple[int, int]]] = []

    @property
    def name(self) -> str:
        return "remembering"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.settings.update(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_image(self, key: str, images: list[Image.Image], step: int | None = None) -> None:
        self.pictures += [(key, step, image.size) for image in images]


def data() -> ConceptData:
    return ConceptData(["bomb", "axe"], preserve=[" ", "dog", "rose"], validation=PROMPTS, test=PROMPTS)


def evaluation(**more: Any) -> Evaluation:
    return Evaluation(EmojiDetector(), pictures_per_prompt=2, steps=1, batch_size=8, **more)


def trainer_of(folder: Path, loggers: Any, *callbacks: Any) -> Trainer:
    return Trainer(
        max_epochs=EPOCHS, accelerator="cpu", default_root_dir=folder, logger=loggers, callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks), enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Remembering, Trainer, RECE]:
    """Three epochs, each measured, with a monitor on what is counted in pictures."""
    folder = tmp_path_factory.mktemp("logged")
    own = Remembering()
    loggers = [CSVLogger(folder, "csv", version=0), TensorBoardLogger(folder, "board", version=0), own]
    stop = EarlyStopping("detected_erased", patience=100, check_on_train_epoch_end=True)
    trainer = trainer_of(folder, loggers, evaluation(every_n_epochs=1), stop)
    module = RECE(method=Method(accumulate=True))
    trainer.fit(module, data())
    return folder, own, trainer, module


def rows_of(folder: Path, name: str) -> list[tuple[int, float]]:
    with (folder / "csv/version_0/metrics.csv").open(newline="") as stream:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(stream) if row.get(name)]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("regeneration_residual", [0, 1, 2]),
        ("detected_erased", [0, 1, 2]),
        ("detected_preserved", [0, 1, 2]),
        ("excess_erased", [0, 1, 2]),
        ("detected_erased/original", [0]),
        ("detected_erased/uce", [0]),
        ("detected_erased/uce_derived", [0]),
        ("detected_erased/rece", [2]),
        ("detected_erased/rece_derived", [2]),
        ("weight_change", [2]),
    ],
)
def test_every_figure_stands_at_its_epoch(fitted: tuple[Path, Any, Any, Any], name: str, steps: list[int]) -> None:
    folder, own, _, _ = fitted
    assert [step for step, _ in rows_of(folder, name)] == steps
    assert [step for step, metrics in own.metrics if name in metrics] == steps
    events = EventAccumulator(str(folder / "board/version_0")).Reload()
    assert [event.step for event in events.Scalars(name)] == steps


def test_a_column_of_the_last_epoch_is_drawn_once(fitted: tuple[Path, Any, Any, Any]) -> None:
    """What was measured as the epochs ended is the columns of the end, in their order."""
    folder, _, trainer, _ = fitted
    with (folder / "csv/version_0/evaluation.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(dict.fromkeys(row["column"] for row in rows)) == [
        "original", "uce", "uce_derived", "epoch_1", "rece", "rece_derived",
    ]  # fmt: skip
    assert rows_of(folder, "detected_erased")[-1][1] == rows_of(folder, "detected_erased/rece")[0][1]
    assert {row["floor"] for row in rows if row["role"] == "erased"} <= {"0", "1"}
    assert {row["floor"] for row in rows if row["role"] == "kept"} == {""}
    assert {"detected_erased", "floor_erased", "harmonic_mean"} <= trainer.callback_metrics.keys()


def test_concepts_are_among_every_loggers_hyper_parameters(fitted: tuple[Path, Any, Any, Any]) -> None:
    folder, own, _, _ = fitted
    assert own.settings["concepts"] == "bomb, axe"
    assert yaml.safe_load((folder / "csv/version_0/hparams.yaml").read_text())["concepts"] == "bomb, axe"
    events = EventAccumulator(str(folder / "board/version_0")).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    shown = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert shown["concepts"].string_value == "bomb, axe"


def test_pictures_reach_every_logger_that_takes_them(fitted: tuple[Path, Any, Any, Any]) -> None:
    folder, own, _, _ = fitted
    with Image.open(folder / "csv/version_0/images/grid.png") as grid:
        assert own.pictures == [("grid", EPOCHS - 1, grid.size)]
    events = EventAccumulator(str(folder / "board/version_0")).Reload()
    assert [event.step for event in events.Images("grid")] == [EPOCHS - 1]


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_validate_and_test_return_what_was_measured(
    fitted: tuple[Path, Any, Any, RECE], tmp_path: Path, verb: str
) -> None:
    folder, _, _, module = fitted
    own = Remembering()
    callbacks = [evaluation()]
    if verb == "test":
        callbacks.append(RedTeam(attacks=["paraphrase"], concepts=["bomb"], pictures_per_prompt=1, steps=1))
    trainer = trainer_of(tmp_path, [own], *callbacks)
    [found] = getattr(trainer, verb)(module, data())
    for name in ("detected_erased", "detected_preserved", "floor_erased", "excess_erased"):
        assert found[name] == pytest.approx(rows_of(folder, name)[-1][1]), name
    assert ("attack_success/paraphrase" in found) == (verb == "test")
    assert any("detected_erased" in metrics for _, metrics in own.metrics)
    assert [name for name, _, _ in own.pictures][:1] == ["grid"]


@pytest.mark.parametrize("callback", [EarlyStopping, ModelCheckpoint, ErasureCheckpoint])
def test_a_monitor_on_pictures_wants_them_every_epoch(tmp_path: Path, callback: Any) -> None:
    trainer = trainer_of(tmp_path, False, evaluation(), callback(monitor="detected_erased"))
    with pytest.raises(ConfigurationError, match=r"detected_erased.*every_n_epochs: 1"):
        trainer.fit(RECE(), data())


def test_red_team_alone_samples_as_the_model_wants(tmp_path: Path) -> None:
    red = RedTeam(attacks=["derived"], detector=EmojiDetector(), concepts=["bomb"], batch_size=5)
    trainer = Trainer(
        fast_dev_run=True, accelerator="cpu", default_root_dir=tmp_path, callbacks=[red], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    module = RECE()
    trainer.fit(module, ConceptData(["bomb"], preserve=["dog"]))
    assert red.sampling == Sampling(steps=12, guidance_scale=4.0, batch_size=5)
    assert module.sampling == Sampling(steps=12, guidance_scale=4.0)
