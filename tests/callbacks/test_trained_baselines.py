"""A baseline that is trained beside this project's callbacks: measured, exported, stopped and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rece_lightning import RECE, load_pipeline
from rece_lightning.baselines import ConceptAblation, NegativePrompt
from rece_lightning.callbacks import ErasureCheckpoint, Evaluation, Export
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.evaluation.results.costs import read_costs
from rece_lightning.evaluation.results.counts import read_counts
from rece_lightning.metrics import EmojiDetector
from tests.helpers.baselines import SMALL, data_of, fit

PROMPTS = [{"prompt": "bomb", "concept": "bomb"}, {"prompt": "rocket", "concept": "rocket", "kind": "preserved"}]


def ca(model: Path, **settings: Any) -> ConceptAblation:
    return ConceptAblation(str(model), **{**SMALL, "pictures": 4, "steps": 2, "draw_together": 4, **settings})


def evaluation(**settings: Any) -> Evaluation:
    return Evaluation(**{"detector": EmojiDetector(), "pictures_per_prompt": 2, "steps": 2, **settings})


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Stopped(Callback):
    """Ends a run at a batch, as a signal would."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.at = epoch, batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [(1, 1), (2, 0)])
def test_a_run_that_goes_on_ends_with_the_bits_of_one_that_was_never_stopped(
    tiny_model: Path, tmp_path: Path, at: tuple[int, int]
) -> None:
    whole = ca(tiny_model)
    fit(whole, data_of(), max_epochs=3)
    with pytest.raises(SystemExit):
        fit(
            ca(tiny_model), data_of(), ModelCheckpoint(tmp_path, save_last=True), Stopped(*at), max_epochs=3,
            default_root_dir=tmp_path,
        )  # fmt: skip
    resumed = ca(tiny_model)
    fit(resumed, data_of(), resume=tmp_path / "last.ckpt", max_epochs=3)
    assert same(resumed.weights(), whole.weights())
    assert resumed.epochs == 3


def test_a_run_that_was_stopped_within_an_epoch_goes_on_within_it(tiny_model: Path, tmp_path: Path) -> None:
    whole = ca(tiny_model, batches=4)
    fit(whole, data_of())
    keeps = ModelCheckpoint(tmp_path, every_n_train_steps=2, filename="{step}", save_top_k=-1)
    with pytest.raises(SystemExit):
        fit(ca(tiny_model, batches=4), data_of(), keeps, Stopped(0, 3), default_root_dir=tmp_path)
    resumed = ca(tiny_model, batches=4)
    fit(resumed, data_of(), resume=tmp_path / "step=2.ckpt")
    assert same(resumed.weights(), whole.weights())


def test_a_checkpoint_holds_what_was_trained_and_nothing_that_executes(tiny_model: Path, tmp_path: Path) -> None:
    module = ca(tiny_model)
    fit(module, data_of(), ErasureCheckpoint(dirpath=str(tmp_path)), default_root_dir=tmp_path)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(content["state_dict"]) == {f"denoiser.{name}" for name in module.original}
    assert content["trained"]["method"]["baseline"] == "CA"
    again = ConceptAblation.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert same(again.weights(), module.weights())


@pytest.mark.parametrize(
    ("change", "data", "error", "message"),
    [
        ({"learning_rate": 0.5}, data_of(), ConfigurationError, r"ckpt_path: .*learning_rate.*0\.001.*0\.5"),
        ({}, data_of({"prompt": "church", "target": "dog"}), ConfigurationError, r"ckpt_path: .*church"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    tiny_model: Path, tmp_path: Path, change: dict[str, Any], data: Any, error: type[Exception], message: str
) -> None:
    fit(ca(tiny_model, batches=1), data_of(), ModelCheckpoint(tmp_path, save_last=True), default_root_dir=tmp_path)
    with pytest.raises(error, match=message):
        fit(ca(tiny_model, **{"batches": 1, **change}), data, resume=tmp_path / "last.ckpt", max_epochs=2)


def test_a_checkpoint_of_another_base_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from tests.helpers.models import make_checkpoint

    fit(ca(tiny_model, batches=1), data_of(), ModelCheckpoint(tmp_path, save_last=True), default_root_dir=tmp_path)
    other = ca(make_checkpoint(tmp_path / "other", seed=3), batches=1)
    # Settings are compared as they were given, the base by its content.
    other.hparams["pretrained"] = str(tiny_model)
    with pytest.raises(BaseModelError, match="the checkpoint was made from"):
        fit(other, data_of(), resume=tmp_path / "last.ckpt", max_epochs=2)


def test_measuring_leaves_the_training_alone_and_gives_a_column_a_state(tiny_model: Path, tmp_path: Path) -> None:
    plain, measured = ca(tiny_model), ca(tiny_model)
    fit(plain, data_of(), max_epochs=2)
    callback = evaluation(every_n_epochs=1)
    fit(
        measured, data_of(validation=PROMPTS), callback, Export(), max_epochs=2, default_root_dir=tmp_path
    )  # fmt: skip
    assert same(measured.weights(), plain.weights())
    assert callback.comparison is not None
    assert {key: column.title for key, column in callback.comparison.columns.items()} == {
        "original": "original", "epoch_0": "CA, epoch 0", "rece": "CA",
    }  # fmt: skip
    assert {count.column for count in read_counts(tmp_path / "evaluation.csv")} == {"original", "epoch_0", "rece"}
    assert callback.comparison.verdict()[0].startswith("CA: ")
    # What is drawn as the original is the original, after training too.
    untouched = evaluation()
    fit(ca(tiny_model, learning_rate=1e-12), data_of(validation=PROMPTS), untouched, default_root_dir=tmp_path / "b")
    assert untouched.comparison is not None
    first, again = (one.comparison.columns["original"].pictures for one in (callback, untouched) if one.comparison)
    assert torch.equal(first, again)


def test_the_file_holds_the_trained_weights_and_is_measured_as_an_adapter(tiny_model: Path, tmp_path: Path) -> None:
    module = ca(tiny_model, learning_rate=0.05)
    drawn = evaluation()
    fit(module, data_of(validation=PROMPTS), Export(), drawn, default_root_dir=tmp_path)
    file = tmp_path / "edited.safetensors"
    assert same(load_file(file), {name: weight.detach() for name, weight in module.weights().items()})
    with safe_open(file, framework="pt") as stored:
        said = stored.metadata()
    assert '"baseline": "CA"' in said["rece.method"]
    assert '"bomb"' in said["rece.concepts"]
    pipeline = load_pipeline(str(tiny_model))
    assert not pipeline.unet.load_state_dict(load_file(file), strict=False).unexpected_keys
    callback = evaluation()
    adapted = RECE(str(tiny_model), adapter=str(file))
    Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path / "measured",
        callbacks=[callback],
    ).validate(adapted, data_of(validation=PROMPTS), verbose=False)  # fmt: skip
    assert callback.comparison is not None
    assert drawn.comparison is not None
    both = [one.comparison.columns["rece"].pictures for one in (callback, drawn) if one.comparison]
    assert torch.equal(*both)
    assert not torch.equal(both[0], drawn.comparison.columns["original"].pictures)


def test_validate_measures_the_module_itself(tiny_model: Path, tmp_path: Path) -> None:
    module = ca(tiny_model, learning_rate=0.05)
    data = data_of(validation=PROMPTS)
    within = evaluation()
    fit(module, data, within, default_root_dir=tmp_path / "fit")
    after = evaluation()
    Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[after], default_root_dir=tmp_path
    ).validate(module, data, verbose=False)
    assert after.comparison is not None
    assert within.comparison is not None
    assert torch.equal(after.comparison.columns["rece"].pictures, within.comparison.columns["rece"].pictures)


def test_what_it_cost_is_told_and_grows_with_a_run_that_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    module, data = ca(tiny_model), data_of(validation=PROMPTS)
    fit(
        module, data, evaluation(every_n_epochs=1), ModelCheckpoint(tmp_path, save_last=True), max_epochs=2,
        default_root_dir=tmp_path / "first",
    )  # fmt: skip
    costs = read_costs(tmp_path / "first" / "cost.json")
    assert list(costs) == ["original", "epoch_0", "rece"]
    numbers = [parameter.numel() for parameter in module.denoiser.parameters()]
    share = sum(weight.numel() for weight in module.weights().values()) / sum(numbers)
    moved = sum(float((new - old).square().sum()) for new, old in zip(
        module.weights().values(), module.original.values(), strict=True
    ))  # fmt: skip
    size = sum(float(old.square().sum()) for old in module.original.values())
    assert costs["rece"].parameters_edited_share == pytest.approx(share)
    assert costs["rece"].weight_change == pytest.approx((moved / size) ** 0.5, rel=1e-4)
    assert costs["original"].figures.keys() == costs["rece"].figures.keys()
    assert costs["original"].erase_seconds == 0
    early, late = (costs[key].erase_seconds for key in ("epoch_0", "rece"))
    assert early is not None
    assert late is not None
    assert 0 < early < late

    resumed = ca(tiny_model)
    fit(resumed, data, evaluation(), resume=tmp_path / "last.ckpt", max_epochs=3, default_root_dir=tmp_path / "on")
    on = read_costs(tmp_path / "on" / "cost.json")["rece"].erase_seconds
    assert on is not None
    assert on > late
    assert on == resumed.to_erase.seconds


def test_a_guard_changes_nothing_and_takes_its_time(tiny_model: Path, tmp_path: Path) -> None:
    """Of an adapter nobody knows what it cost to make."""
    module = ca(tiny_model)
    fit(module, data_of(), Export(), default_root_dir=tmp_path)
    for place, model, callback in (
        ("guard", RECE(str(tiny_model)), evaluation(guard=NegativePrompt("bomb"), guidance_scale=4.0)),
        ("adapter", RECE(str(tiny_model), adapter=str(tmp_path / "edited.safetensors")), evaluation()),
    ):
        Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path / place,
            callbacks=[callback],
        ).validate(model, data_of(validation=PROMPTS), verbose=False)  # fmt: skip
        cost = read_costs(tmp_path / place / "cost.json")["rece"]
        assert (cost.picture_seconds or 0) > 0
        known = {name for name, value in cost.figures.items() if value == 0}
        everything = {"parameters_edited_share", "weight_change", "erase_seconds"}
        assert known == (everything if place == "guard" else set())
