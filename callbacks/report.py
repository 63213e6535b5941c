"""Report: one page that tells what was done, what it did, and what it did not."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from rece_lightning.callbacks.evaluation import Evaluation
from rece_lightning.callbacks.showing import print_tables
from rece_lightning.exports.cost import export_costs
from rece_lightning.files import discard, write_atomically
from rece_lightning.module import RECE
from rece_lightning.reporting.comparison import Comparison
from rece_lightning.reporting.outcome import final_figures, grid_path
from rece_lightning.reporting.page import render_page
from rece_lightning.runs.folder import run_folder

PAGE = "report.html"


class Report(Callback):
    """Write ``report.html`` at the end of ``fit`` and print the table and the paths.

    The page is one file without network access: settings, curves, tables, the before/after grid. Figures
    that do not flatter the method stand in it like all others.

    Args:
        title: of the page; the erased concepts unless given.
    """

    def __init__(self, title: str | None = None) -> None:
        self.title = title

    def missing(self, folder: Path, state: Mapping[str, Any]) -> Path | None:
        """The page, where a run with all its epochs has not written it: it is the last of its files."""
        page = folder / PAGE
        return None if page.exists() else page

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on makes its former page untrue; without one a stopped run knows that its end is missing."""
        if isinstance(pl_module, RECE) and trainer.is_global_zero:
            discard(run_folder(trainer) / PAGE)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page; every other callback has done its work by now."""
        if not isinstance(pl_module, RECE) or not trainer.is_global_zero or not pl_module.history:
            return
        folder = run_folder(trainer)
        comparison = _comparison(trainer)
        grid = grid_path(folder)
        html = render_page(
            title=self.title,
            description=pl_module.description(),
            settings=dict(pl_module.hparams),
            change=pl_module.change(),
            history=pl_module.history,
            placement=_placement(pl_module),
            comparison=comparison,
            exports=export_costs(pl_module.erasure()),
            grid=base64.b64encode(grid.read_bytes()).decode() if comparison and grid.exists() else None,
            run=folder,
        )
        self._log(trainer, pl_module)
        # The page is the very last file: where it is, nothing is missing.
        page = write_atomically(folder / PAGE, lambda path: path.write_text(html, encoding="utf-8"))
        self._print(comparison, page, grid, folder)

    def _log(self, trainer: Trainer, module: RECE) -> None:
        """Configuration as text, and what TensorBoard's HParams tab compares runs by: settings and final figures."""
        comparison = _comparison(trainer)
        final = {**module.history[-1], **module.change(), **(final_figures(comparison) if comparison else {})}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                text = yaml.safe_dump({"model": dict(module.hparams), "concepts": module.description()["concepts"]})
                logger.experiment.add_text("configuration", f"```yaml\n{text}\n```", trainer.global_step)
                logger.log_hyperparams(_settings(module, trainer), {f"final/{k}": v for k, v in final.items()})
            logger.save()

    def _print(self, comparison: Comparison | None, page: Path, grid: Path, folder: Path) -> None:
        console = Console()
        counted = comparison is not None and any(column.hits is not None for column in comparison.columns.values())
        if comparison is not None and (counted or comparison.quality):
            print_tables(comparison, console)
            for sentence in comparison.verdict():
                console.print(f"• {sentence}")
        for name, path in (("report", page), ("grid", grid), ("weights", folder / "edited.safetensors")):
            if path.exists():
                console.print(f"{name}: {path}", soft_wrap=True)


def _settings(module: RECE, trainer: Trainer) -> dict[str, float | str | bool]:
    """What runs differ in. TensorBoard has no column for a list or a mapping: these are JSON."""
    erased = [row["prompt"] for row in module.description()["concepts"].get("erased", [])]
    known = {**module.hparams, "max_epochs": trainer.max_epochs, "concepts": erased}
    return {key: v if isinstance(v, (int, float, str, bool)) else json.dumps(v) for key, v in known.items()}


def _comparison(trainer: Trainer) -> Comparison | None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Evaluation) and callback.comparison is not None and callback.comparison.columns:
            return callback.comparison
    return None


def _placement(module: RECE) -> dict[str, Any]:
    plan = module.placement
    parts = ("text_encoder", "unet", "autoencoder", "algebra")
    return {part: str(plan.device_of(part, module.device)) for part in parts}
