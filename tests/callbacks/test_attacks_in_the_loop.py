"""``RedTeam.between_epochs``: what it finds between epochs joins as if it had been there from the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.attacks import Cce, Mma, read_embeddings
from rece_lightning.attacks.store import EMBEDDINGS
from rece_lightning.callbacks import ErasureCheckpoint, RedTeam
from rece_lightning.core import UCE, Derivation, Robust, TensorUCE
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics import EmojiDetector

ATTACKS: list[Any] = [Cce(steps=2, pictures=2), Mma(steps=1, candidates=4, restarts=1)]


def fit(
    folder: Path,
    names: list[str] | None = None,
    *,
    epochs: int = 2,
    resume: Path | None = None,
    robust: Robust | None = None,
) -> RECE:
    """Erase a weapon; with names, attacked between epochs."""
    callbacks: list[Callback] = [ErasureCheckpoint()]
    if names:
        callbacks.append(RedTeam(ATTACKS, detector=EmojiDetector(), fit=False, steps=2, between_epochs=names))
    module = RECE("emoji", method=Method(editor=UCE(lamb=1.0), derivation=Derivation(1e-3), robust=robust))
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=callbacks, logger=CSVLogger(folder, name="", version="run"),
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = ConceptData(["bomb"], preserve=[" ", "dog", "rose"])
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[RECE, Path]:
    folder = tmp_path_factory.mktemp("attacked")
    return fit(folder, ["cce"], epochs=3), folder / "run"


def joined(module: RECE) -> dict[str, Any]:
    """What the checkpoint says of what joined."""
    found: dict[str, Any] = module.session.description()["concepts"]["robust"]
    return found


@pytest.mark.parametrize("weight", [None, 2.0])
def test_two_epochs_are_those_that_knew_the_attack_from_the_first(tmp_path: Path, weight: float | None) -> None:
    """With the weight of what joins, where the loop has one."""
    widened = None if weight is None else Robust(norms=(1.0,), weight=weight)
    module = fit(tmp_path / "one", ["cce", "mma"], robust=widened)
    found = Robust(found=str(tmp_path / "one" / "run"), norms=() if weight is None else (1.0,), weight=weight or 1.0)
    knew = fit(tmp_path / "two", robust=found)
    assert joined(module) == joined(knew) == {"found": 2}
    torch.testing.assert_close(module.maps["text"].of_layer(0), knew.maps["text"].of_layer(0), rtol=1e-10, atol=1e-10)
    plain = fit(tmp_path / "three", robust=widened)
    assert not torch.allclose(module.maps["text"].of_layer(0), plain.maps["text"].of_layer(0), rtol=1e-3, atol=1e-3)


def test_every_later_epoch_is_attacked_as_it_is(attacked: tuple[RECE, Path]) -> None:
    module, folder = attacked
    first, second = read_embeddings(folder / EMBEDDINGS)
    assert first.embedding is not None
    assert second.embedding is not None
    assert not torch.equal(first.embedding, second.embedding)
    assert joined(module) == {"found": 2}
    # What was logged stays, though the epochs run anew with what joined.
    assert [set(module.history[0]) <= set(figures) for figures in module.history] == [True] * 3
    assert "edit_seconds" in module.history[0]


def test_an_attack_that_looks_at_no_weights_runs_once(tmp_path: Path) -> None:
    assert joined(fit(tmp_path, ["mma"], epochs=3)) == {"found": 1}


def test_a_resumed_run_leaves_the_map_of_a_whole_one(attacked: tuple[RECE, Path], tmp_path: Path) -> None:
    straight, _ = attacked
    fit(tmp_path, ["cce"])
    resumed = fit(tmp_path, ["cce"], epochs=3, resume=tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert torch.equal(resumed.maps["text"].of_layer(0), straight.maps["text"].of_layer(0))
    assert resumed.session.description() == straight.session.description()


def test_a_run_goes_on_under_its_own_searches_alone(attacked: tuple[RECE, Path], tmp_path: Path) -> None:
    last = attacked[1] / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigurationError, match=r"RedTeam\.between_epochs: \['mma'\], and the run .* has \['cce'\]"):
        fit(tmp_path, ["mma"], epochs=4, resume=last)


@pytest.mark.parametrize("wrong", ["cce", [1], ["cc"], ["cce", "cce"]])
def test_names_that_are_no_attacks(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"RedTeam\.between_epochs"):
        RedTeam(between_epochs=wrong)


def test_searches_that_cannot_join_are_refused_before_any_work(tmp_path: Path) -> None:
    red_team = RedTeam(ATTACKS, detector=EmojiDetector(), between_epochs=["cce"])
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    with pytest.raises(ConfigurationError, match=r"RedTeam\.between_epochs: no concepts to attack"):
        red_team.setup(trainer, RECE("emoji", tune="off"), "fit")
    trainer.datamodule = ConceptData(["bomb"])
    with pytest.raises(ConfigurationError, match=r"RedTeam\.between_epochs: TensorUCE takes every prompt apart"):
        red_team.setup(trainer, RECE("emoji", method=Method(editor=TensorUCE())), "fit")


def test_fit_goes_on_with_what_validate_loaded(tmp_path: Path) -> None:
    """Lightning validates in inference mode, whose tensors no later edit could change."""
    red_team = RedTeam(["derived"], detector=EmojiDetector(), pictures_per_prompt=1, steps=2)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[red_team], logger=CSVLogger(tmp_path),
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    module, data = (
        RECE("emoji", tune="off"),
        ConceptData(["bomb"], preserve=[" ", "dog"], validation=[{"prompt": "bomb"}]),
    )
    trainer.validate(module, data, verbose=False)
    trainer.fit(module, data)
    assert {rung.attack for rung in red_team.rungs} == {"no attack", "derived"}
