"""A run with many concepts stores moments in place of rows, and goes on from them as often as it is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from rece_lightning import RECE, ConceptData
from rece_lightning.emoji.catalog import load_catalog

NAMES = list(load_catalog().names)


def run(model: Path, epochs: int, *, resume: Path | None = None, save: Path) -> torch.Tensor:
    module = RECE(str(model), accumulate=True)
    data = ConceptData(list(NAMES[:40]), preserve=[" ", *NAMES[40:50]])
    trainer = Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(save)
    return module.maps.of_layer(0)


@pytest.mark.filterwarnings("ignore")
def test_resuming_twice_from_moments_equals_the_uninterrupted_run(tiny_model: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.ckpt" for name in ("first", "second", "third"))
    run(tiny_model, 2, save=first)
    assert "first" in torch.load(first, weights_only=True)["rece"]["evidence"]
    run(tiny_model, 3, resume=first, save=second)
    resumed = run(tiny_model, 4, resume=second, save=third)
    assert torch.equal(resumed, run(tiny_model, 4, save=tmp_path / "whole.ckpt"))
