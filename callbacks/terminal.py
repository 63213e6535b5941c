"""How an evaluation shows what it does and what it found: progress, tables, loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rece_lightning.attacks.outcome import Rung, together
from rece_lightning.core.extras import extra
from rece_lightning.evaluation.results.comparison import Comparison, comparison_table
from rece_lightning.evaluation.results.figures import quality_table
from rece_lightning.evaluation.results.outcome import grid_path
from rece_lightning.reporting.terminal import PlainConsole, progress
from rece_lightning.runs.folder import run_folder


def progress_bar(trainer: Trainer) -> Progress:
    """Pictures made, with an estimate of the time that is left."""
    return progress(PlainConsole(stderr=True), "pictures", disable=not trainer.is_global_zero)


def print_tables(comparison: Comparison, console: Console) -> None:
    """Detections and quality, and what could not be measured."""
    console.print(comparison_table(comparison))
    if comparison.quality:
        console.print(quality_table(comparison.quality, comparison.titles))
    for note in comparison.notes:
        console.print(note, soft_wrap=True)


def print_outcome(comparison: Comparison, folder: Path) -> None:
    """The tables, and where the grid is."""
    console = PlainConsole()
    print_tables(comparison, console)
    console.print(f"grid: {grid_path(folder)}", soft_wrap=True)


def log_figures(trainer: Trainer, figures: Mapping[str, float], step: int | None) -> None:
    """Figures to every logger, the grid to TensorBoard where there is a step."""
    for logger in trainer.loggers:
        if figures:
            logger.log_metrics(dict(figures), step=step)
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero and step is not None:
            grid = grid_path(run_folder(trainer))
            if not grid.exists():
                continue
            with extra("the grid in TensorBoard"):
                with Image.open(grid) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                logger.experiment.add_image("grid", pixels, step, dataformats="HWC")


class EpochBar(TQDMProgressBar):
    """Epochs done, and what the module logs for the bar."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        # On a narrow terminal it is cut off and reads like a figure.
        shown.pop("v_num", None)
        return shown


def ladder_table(rungs: Sequence[Rung], caption: str) -> Table:
    """The ladder: a row an attack, over all concepts; ``prompts`` are those with at least one success."""
    table = Table(title="Attacks: share of pictures that show the concept (95 % interval)", caption=caption)
    for column in ("attack", "original model", "edited model", "prompts", "queries", "seconds"):
        table.add_column(column, no_wrap=column == "attack")
    for rung in together(rungs):
        costs = (f"{rung.queries:,}", f"{rung.seconds:.1f}")
        table.add_row(rung.title, str(rung.original), str(rung.edited), str(rung.edited_prompts), *costs)
    return table
