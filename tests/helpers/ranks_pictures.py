"""Pictures on one process or on two, as a program: ``fit`` with an evaluation, ``validate``, ``predict``.

python -m tests.helpers.ranks_pictures FOLDER DEVICES
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.callbacks import ErasureCheckpoint, Evaluation, PictureWriter
from rece_lightning.core import UCE
from rece_lightning.data.prompts import PromptMapping
from rece_lightning.metrics import ClipScore, EmojiDetector

PROMPTS: list[str | PromptMapping] = [
    {"prompt": "bomb", "concept": "bomb", "kind": "erased"},
    {"prompt": "axe", "concept": "axe", "kind": "erased"},
    {"prompt": "rocket", "concept": "rocket", "kind": "preserved"},
    {"prompt": "dog", "concept": "dog", "kind": "preserved"},
    {"prompt": "cactus", "concept": "cactus", "kind": "preserved"},
]


def trainer(folder: Path, devices: int, name: str, batch: int) -> Trainer:
    evaluation = Evaluation(EmojiDetector(), pictures_per_prompt=2, steps=2, batch_size=batch, metrics=[ClipScore()])
    return Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=devices,
        strategy="closed_form" if devices > 1 else "auto",
        callbacks=[evaluation, ErasureCheckpoint(), PictureWriter(str(folder / "pictures"))],
        logger=CSVLogger(folder, name="", version=name),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def main(folder: Path, devices: int) -> None:
    torch.set_num_threads(1)
    module = RECE("emoji", method=Method(editor=UCE(lamb=1.0)))
    data = ConceptData(["bomb", "axe"], preserve=[" ", "dog", "cactus"], validation=PROMPTS, predict=PROMPTS)
    # Ten pictures: batches of four leave two ranks with unequal parts, one of sixteen leaves the second none.
    trainer(folder, devices, "fit", 4).fit(module, data)
    trainer(folder, devices, "validate", 16).validate(module, data, verbose=False)
    trainer(folder, devices, "predict", 4).predict(module, data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
