"""A run with many concepts stores moments in place of rows, and goes on from them as often as it is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.emoji.catalog import load_catalog
from tests.helpers.models import make_checkpoint

NAMES = list(load_catalog().names)


FEW, MANY = 0, 40


def run(model: Path, epochs: int, concepts: int, *, resume: Path | None = None, save: Path) -> torch.Tensor:
    module = RECE(str(model), method=Method(accumulate=True, tokens="last"))
    # One concept at ``last`` has fewer rows than the width; a hundred preserved prompts make moments the smaller store.
    data = ConceptData(list(NAMES[: max(1, concepts)]), preserve=[" ", *NAMES[40:140]])
    trainer = Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(save)
    return module.maps["text"].of_layer(0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("concepts", [FEW, MANY])
def test_resuming_twice_from_moments_equals_the_uninterrupted_run(tmp_path: Path, concepts: int) -> None:
    # Wide enough for the rows of one prompt.
    tiny_model = make_checkpoint(tmp_path / "wide", width=64)
    first, second, third = (tmp_path / f"{name}.ckpt" for name in ("first", "second", "third"))
    run(tiny_model, 2, concepts, save=first)
    stored = torch.load(first, weights_only=True)["rece"]["statistics"]["spaces"]["text"]
    assert "erased.first.erased" in stored
    assert ("erased.concept" in stored) == (concepts == FEW)
    run(tiny_model, 3, concepts, resume=first, save=second)
    resumed = run(tiny_model, 4, concepts, resume=second, save=third)
    assert torch.equal(resumed, run(tiny_model, 4, concepts, save=tmp_path / "whole.ckpt"))
