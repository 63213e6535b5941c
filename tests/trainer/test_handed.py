"""Loaders that a trainer is handed directly give the run that the same prompts in a ConceptData give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from rece_lightning import RECE, ConceptData
from rece_lightning.callbacks import DevicePlacement, ErasureCheckpoint, Evaluation, Export, PictureWriter, Report
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.runs.checkpoints import read_checkpoint

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
ROWS = [
    {"prompt": "bomb", "target": "rose", "weight": 2.0, "kind": "erased"},
    {"prompt": "axe", "target": " ", "weight": 1.0, "kind": "erased"},
    {"prompt": "dog", "target": " ", "weight": 1.0, "kind": "preserved"},
]


def trainer(**settings: Any) -> Trainer:
    return Trainer(**{**QUIET, "max_epochs": 2, **settings})


def same_data() -> ConceptData:
    return ConceptData(
        concepts=[{"prompt": "bomb", "target": "rose", "weight": 2.0}, "axe"], preserve=["dog"], batch_size=3
    )


def fitted(model: Path, *data: Any, **settings: Any) -> RECE:
    module = RECE(str(model), tune="off")
    trainer(**settings).fit(module, *data)
    return module


def matrix(module: RECE) -> torch.Tensor:
    (space,) = module.maps
    return module.maps[space].matrix


@pytest.fixture(scope="module")
def asked(tiny_model: Path) -> RECE:
    return fitted(tiny_model, same_data())


class OwnData(LightningDataModule):
    """A datamodule of somebody else's, with rows that are made in ``setup``."""

    def setup(self, stage: str) -> None:
        self.rows = list(ROWS)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=3)  # type: ignore[arg-type]


class OwnModule(RECE):
    """A module that has its data itself."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(ROWS, batch_size=3, collate_fn=list)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "loader",
    [
        lambda: same_data().train_dataloader(),
        lambda: DataLoader(ROWS, batch_size=3),  # type: ignore[arg-type]
        lambda: DataLoader(ROWS, batch_size=3, collate_fn=list),  # type: ignore[arg-type]
        lambda: [DataLoader(ROWS[:1], batch_size=3), DataLoader(ROWS[1:], batch_size=3)],  # type: ignore[arg-type]
        OwnData,
    ],
    ids=["own", "collated", "lists", "two loaders", "a datamodule"],
)
def test_a_fit_is_that_of_the_same_prompts(asked: RECE, tiny_model: Path, loader: Callable[[], Any]) -> None:
    module = fitted(tiny_model, loader())
    if isinstance(loader(), list):  # other batches: the text encoder's last digits
        assert torch.allclose(matrix(module), matrix(asked), rtol=1e-6, atol=1e-9)
    else:
        assert torch.equal(matrix(module), matrix(asked))
    assert module.session.description() == asked.session.description()


def test_a_module_may_have_its_data_itself(asked: RECE, tiny_model: Path) -> None:
    module = OwnModule(str(tiny_model), tune="off")
    trainer().fit(module)
    assert torch.equal(matrix(module), matrix(asked))


def test_a_list_of_texts_is_erased_to_the_empty_prompt(tiny_model: Path) -> None:
    module = fitted(tiny_model, DataLoader(["bomb", "axe"], batch_size=2))  # type: ignore[arg-type]
    other = fitted(tiny_model, ConceptData(concepts=["bomb", "axe"], batch_size=2))
    assert torch.equal(matrix(module), matrix(other))
    assert module.session.concepts == other.session.concepts


def test_templates_survive_torch_putting_rows_together(tiny_model: Path) -> None:
    rows = [{"prompt": name, "templates": ["{}", "a {}"]} for name in ("bomb", "axe")]
    module = fitted(tiny_model, DataLoader(rows, batch_size=2), max_epochs=1)  # type: ignore[arg-type]
    assert module.session.erased_prompts == ["bomb", "a bomb", "axe", "a axe"]


def test_every_callback_works_beside_a_loader(tiny_model: Path, tmp_path: Path) -> None:
    data = ConceptData(concepts=["bomb"], validation=["a bomb", {"prompt": "a dog", "kind": "preserved"}])
    evaluation = Evaluation(steps=1, pictures_per_prompt=1, attack=False)
    callbacks = [ErasureCheckpoint(), Export(), evaluation, DevicePlacement(), Report()]
    settings: dict[str, Any] = {"callbacks": callbacks, "default_root_dir": tmp_path, "enable_checkpointing": True}
    module = fitted(tiny_model, data.train_dataloader(), data.val_dataloader(), **settings)
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["rece"]
    assert [row["prompt"] for row in state["concepts"]["erased"]] == ["bomb"]
    assert len(module.history) == 2
    assert evaluation.comparison is not None
    assert list(evaluation.comparison.columns) == ["original", "uce", "rece"]
    for name in ("edited.safetensors", "report.html", "images/grid.png"):
        assert (tmp_path / name).is_file(), name


def test_a_validation_loader_of_its_own_is_what_evaluation_draws(tiny_model: Path, tmp_path: Path) -> None:
    evaluation = Evaluation(steps=1, pictures_per_prompt=1, attack=False)
    for train in (DataLoader(["bomb"]), ConceptData(concepts=["bomb"]).train_dataloader()):  # type: ignore[arg-type]
        fitted(
            tiny_model, train, DataLoader(["an axe", "a dog"], batch_size=2),  # type: ignore[arg-type]
            callbacks=[evaluation], default_root_dir=tmp_path,
        )  # fmt: skip
        assert evaluation.comparison is not None
        assert [row.prompt for row in evaluation.comparison.prompts] == ["an axe", "a dog"]


PROMPTS = [
    {"prompt": "a bomb", "seed": 3, "kind": "erased", "concept": "bomb"},
    {"prompt": "a dog", "seed": 4, "kind": "preserved", "concept": "dog"},
]


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(PROMPTS, batch_size=2),  # type: ignore[arg-type]
        lambda: DataLoader([EvaluationPrompt(**row) for row in PROMPTS], batch_size=2, collate_fn=list),  # type: ignore[arg-type]
        lambda: ConceptData(concepts=["bomb"], predict=PROMPTS, batch_size=2).predict_dataloader(),
        lambda: ConceptData(concepts=["bomb"], validation=PROMPTS, batch_size=2).val_dataloader(),
    ],
    ids=["collated", "objects", "own", "own of another verb"],
)
def test_predict_draws_what_a_loader_gives(asked: RECE, tiny_model: Path, loader: Callable[[], Any]) -> None:
    data = ConceptData(concepts=["bomb"], predict=PROMPTS, batch_size=2)
    (expected,) = trainer().predict(asked, data) or []
    (found,) = trainer().predict(asked, loader()) or []
    assert found["prompts"] == expected["prompts"]  # type: ignore[index, call-overload]
    assert found["seeds"] == [3, 4]  # type: ignore[index, call-overload]
    assert torch.equal(found["pictures"], expected["pictures"])  # type: ignore[index, call-overload]


def test_several_loaders_are_gone_through_one_by_one(asked: RECE) -> None:
    loaders = [DataLoader(["a bomb"]), DataLoader(["a dog", "a cat"], batch_size=2)]  # type: ignore[arg-type]
    found = trainer().predict(asked, loaders) or []
    assert [row["prompt"] for batch in found for row in batch["prompts"]] == ["a bomb", "a dog", "a cat"]  # type: ignore[index, call-overload]


def test_pictures_of_a_loader_are_written(asked: RECE, tmp_path: Path) -> None:
    one = trainer(callbacks=[PictureWriter(steps=1)], default_root_dir=tmp_path)
    one.predict(asked, DataLoader(["a bomb", "a dog"], batch_size=2))  # type: ignore[arg-type]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    assert "a dog" in (tmp_path / "pictures" / "index.csv").read_text()


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_what_is_measured_is_what_the_loader_gives_and_not_an_earlier_datamodule(
    tiny_model: Path, tmp_path: Path, verb: str
) -> None:
    evaluation = Evaluation(steps=1, pictures_per_prompt=1)
    one = trainer(callbacks=[evaluation], default_root_dir=tmp_path)
    module = RECE(str(tiny_model), tune="off")
    one.fit(module, ConceptData(concepts=["bomb"], validation=["a cat"]))
    getattr(one, verb)(module, DataLoader(PROMPTS, batch_size=2), verbose=False)  # type: ignore[arg-type]
    assert evaluation.comparison is not None
    assert [row.prompt for row in evaluation.comparison.prompts] == ["a bomb", "a dog"]
    assert [len(column.rows) for column in evaluation.comparison.columns.values()] == [2]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["bomb", "axe"], "no loader"),
        (DataLoader(torch.zeros(4, 3)), "Tensor"),  # type: ignore[arg-type]
        (DataLoader([("bomb", "rose")], batch_size=1), "as one row"),  # type: ignore[arg-type]
        (DataLoader([{"text": "bomb"}]), "names no prompt"),  # type: ignore[arg-type]
        (DataLoader([{"prompt": "bomb", "kind": "gone"}]), "gone"),  # type: ignore[arg-type]
        (DataLoader([{"prompt": "dog", "kind": "preserved"}]), "nothing to erase"),  # type: ignore[arg-type]
        (DataLoader([{"prompt": "bomb", "wieght": 2.0}]), "wieght"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_prompt_is_refused(tiny_model: Path, given: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        fitted(tiny_model, given)


@pytest.mark.parametrize("order", [1, -1])
def test_rows_with_keys_of_their_own_keep_them(tiny_model: Path, order: int) -> None:
    """torch puts rows together under the first one's keys: a preserved prompt would have been erased."""
    rows = [{"prompt": "bomb"}, {"prompt": "axe", "target": "spoon"}, {"prompt": "dog", "kind": "preserved"}][::order]
    handed = fitted(tiny_model, DataLoader(rows, batch_size=3), max_epochs=1)  # type: ignore[arg-type]

    concepts = ["bomb", {"prompt": "axe", "target": "spoon"}][::order]
    asked = fitted(tiny_model, ConceptData(concepts, preserve=["dog"]), max_epochs=1)
    for (name, weight), (_, wanted) in zip(handed.erasure().weights(), asked.erasure().weights(), strict=True):
        assert torch.equal(weight, wanted), name
