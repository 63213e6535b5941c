"""A fit on two processes, one of which does not live to see its end.

python -m tests.helpers.dying_rank MODEL FOLDER RANK raise|kill|hang
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from rece_lightning import RECE, ConceptData
from rece_lightning.callbacks import ErasureCheckpoint


class Dies(Callback):
    """After the second epoch."""

    def __init__(self, rank: int, how: str) -> None:
        self.rank, self.how = rank, how

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch != 2:
            return
        if trainer.global_rank != self.rank:
            if self.how == "hang":
                time.sleep(600)  # busy with pictures, so it will not notice by itself
            return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("out of paper")


def main(model: str, folder: Path, rank: int, how: str) -> None:
    torch.set_num_threads(1)
    trainer = Trainer(
        max_epochs=4,
        accelerator="cpu",
        devices=2,
        strategy="closed_form",
        callbacks=[ErasureCheckpoint(dirpath=str(folder)), Dies(rank, how)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(RECE(model, tune="off"), ConceptData(["bomb", "axe"], preserve=["dog"], batch_size=1))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
