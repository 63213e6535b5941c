"""PictureWriter: what ``predict`` generates, one file a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from torch import Tensor

from rece_lightning.files import refuse_existing, write_atomically
from rece_lightning.run_folder import run_folder


class PictureWriter(BasePredictionWriter):
    """Write every picture of ``predict`` as ``pictures/NNNNN.png`` with prompt and seed in its metadata.

    ``pictures/index.csv`` lists file, prompt, concept, kind and seed.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._rows: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to replace pictures of another run."""
        if stage == "predict" and trainer.is_global_zero and not self._rows:
            refuse_existing(run_folder(trainer) / "pictures" / "index.csv", overwrite=False)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write a batch's pictures, then the index of all so far."""
        if not isinstance(prediction, dict) or "pictures" not in prediction:
            return
        folder = run_folder(trainer) / "pictures"
        for row, seed, picture in zip(prediction["prompts"], prediction["seeds"], prediction["pictures"], strict=True):
            name = f"{len(self._rows):05d}.png"
            save_picture(picture, folder / name, {"prompt": row["prompt"], "seed": str(seed)})
            self._rows.append({"file": name, **{k: row[k] for k in ("prompt", "concept", "kind")}, "seed": seed})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self._rows[0]))
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(folder / "index.csv", lambda path: path.write_text(text.getvalue(), encoding="utf-8"))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the pictures are."""
        if self._rows and trainer.is_global_zero:
            folder = run_folder(trainer) / "pictures"
            Console().print(f"{len(self._rows)} pictures: {folder}", soft_wrap=True)


def save_picture(picture: Tensor, path: Path, metadata: dict[str, str]) -> Path:
    """Write a picture ``[3, h, w]`` in [0, 1] as a PNG with text metadata, atomically."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    info = PngInfo()
    for key, value in metadata.items():
        info.add_itxt(key, value)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return write_atomically(path, lambda temporary: image.save(temporary, format="PNG", pnginfo=info))
