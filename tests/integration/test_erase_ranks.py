"""A training with ``Erase`` in two processes: what one of them saves alone is erased, and waits for nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

from rece_lightning import Method, erase
from rece_lightning.callbacks import Erase
from rece_lightning.core import UCE
from tests.helpers.forked import run_ranks
from tests.helpers.models import make_checkpoint
from tests.helpers.trainings import SomebodysModule, projections, same, train, way_left


class FirstRankSaves(Callback):
    """As most people write it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: object) -> None:
        if trainer.is_global_zero:
            module.unet.save_pretrained(self.folder / "unet")


@pytest.mark.timeout(300)
def test_what_one_rank_saves_is_erased_and_all_ranks_end_with_the_same_weights(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", width=48, seed=8)
    how = {"preserve": [" ", "dog"], "method": Method(UCE(preserve_scale=1.0)), "epochs": 1}

    def work() -> None:
        torch.set_num_threads(1)
        module = SomebodysModule(base, 0.02)
        callbacks = [Erase(["bomb"], tune="off", **how), FirstRankSaves(tmp_path), EMAWeightAveraging(decay=0.5)]  # type: ignore[arg-type]
        trainer = train(module, tmp_path, *callbacks, steps=4, strategy="ddp", devices=2)
        torch.save(projections(module.unet), tmp_path / f"live-{trainer.global_rank}.pt")
        if trainer.is_global_zero:  # a pipeline of one rank's own is its own matter
            erase(StableDiffusionPipeline.from_pretrained(base, safety_checker=None), "axe")

    codes = run_ranks(tmp_path, 2, work)
    assert codes == [0, 0], (tmp_path / "printed.txt").read_text()[-3000:]
    original = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    first, second = (torch.load(tmp_path / f"live-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert same(first, second)
    checkpoint = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    saved = [
        {name.removeprefix("unet."): weight for name, weight in checkpoint[key].items()}
        for key in ("state_dict", "current_model_state")
    ]
    for weights in (first, *saved, projections(UNet2DConditionModel.from_pretrained(tmp_path / "unet"))):
        assert way_left(original, weights, "bomb") < 0.3
