"""How an evaluation shows what it does and what it found: progress, tables, loggers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rece_lightning.attacks.outcome import Rung, over_control, together
from rece_lightning.evaluation.results.comparison import Comparison, comparison_table
from rece_lightning.evaluation.results.figures import quality_table
from rece_lightning.evaluation.results.outcome import grid_path
from rece_lightning.reporting.headline import headline
from rece_lightning.reporting.ladder import Ladder
from rece_lightning.reporting.terminal import PlainConsole, progress


def progress_bar(trainer: Trainer) -> Progress:
    """Pictures made, with an estimate of the time that is left."""
    return progress(PlainConsole(stderr=True), "pictures", disable=not trainer.is_global_zero)


def print_tables(comparison: Comparison, console: Console, ladder: Ladder | None = None) -> None:
    """What counts in a sentence or two, detections and quality, and what could not be measured."""
    for sentence in headline(comparison, ladder):
        console.print(sentence, style="bold")
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


class EpochBar(TQDMProgressBar):
    """Epochs done, and what the module logs for the bar."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        # On a narrow terminal it is cut off and reads like a figure.
        shown.pop("v_num", None)
        return shown


def ladder_table(rungs: Sequence[Rung], caption: str) -> Table:
    """The ladder: a row an attack, over all concepts; ``prompts`` are those with at least one success.

    Where attacks have controls, what is above them stands beside. Queries and seconds are in the CSV and the report:
    eighty columns have no room for them.
    """
    whole = together(rungs)
    above = [over_control(whole, rung) for rung in whole]
    more = ("points above its control",) if any(above) else ()
    table = Table(
        title="Attacks: share of pictures that show the concept (95 % interval)", caption=caption, pad_edge=False
    )
    for column in ("attack", "original model", "edited model", *more, "prompts"):
        table.add_column(column, no_wrap=column.endswith("model"), overflow="fold")
    for rung, difference in zip(whole, above, strict=True):
        beside = ["" if difference is None else difference.short] if more else []
        table.add_row(rung.title, str(rung.original), str(rung.edited), *beside, str(rung.edited_prompts))
    return table
