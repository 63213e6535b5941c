"""What becomes of an evaluation's columns: drawn beside a bar, told to the loggers, each at its epoch."""

from __future__ import annotations

from dataclasses import replace

from lightning.pytorch import Trainer

from rece_lightning.callbacks.subject import Subject, Weights, cost_of, pictures_of
from rece_lightning.callbacks.terminal import progress_bar
from rece_lightning.evaluation.columns import FitColumns, MeasuredColumns
from rece_lightning.evaluation.derived import Derived
from rece_lightning.evaluation.results.comparison import FIRST, LAST, Comparison, epoch_of
from rece_lightning.evaluation.results.outcome import column_figures, grid_path
from rece_lightning.runs.folder import run_folder
from rece_lightning.trainer.loggers import log_at, log_picture, show


def draw_column(
    trainer: Trainer,
    module: Subject,
    fit: FitColumns,
    key: str,
    weights: Weights | None,
    derived: Derived | None = None,
) -> None:
    """Make and measure one column; without ``weights`` the original's."""
    total, title = len(fit.shots(attacked=derived is not None)), fit.comparison.title_of(key)
    with progress_bar(trainer) as progress:
        task = progress.add_task(title, total=total, visible=bool(total))
        fit.add(pictures_of(module), key, title, weights, lambda made: progress.advance(task, made), derived)
    costs = fit.comparison.costs
    if key in costs and derived is None:
        costs[key] = replace(cost_of(module, key), picture_seconds=costs[key].picture_seconds)


def finish_measured(measured: MeasuredColumns, module: Subject, title: str) -> None:
    """Put what ``validate`` or ``test`` measured into the comparison, with what the model cost.

    Args:
        measured: all batches.
        module: that was measured.
        title: of its column.
    """
    measured.finish(title, cost_of(module, LAST))


def log_columns(trainer: Trainer, comparison: Comparison, epochs: int, *, by_epoch: bool) -> None:
    """Log all columns of a ``fit``, and its grid.

    A column's figures carry its key (``detected_erased/original``). Without a key they are those of the model that is
    trained, epoch by epoch.

    Args:
        trainer: with the loggers.
        comparison: with the columns.
        epochs: that were run.
        by_epoch: whether the latter were logged as the epochs ended.
    """
    last, figures = epochs - 1, column_figures(comparison, comparison.last)
    for key in comparison.columns:
        of_key, epoch = column_figures(comparison, key), epoch_of(key, epochs)
        named = {f"{name}/{key}": value for name, value in of_key.items()}
        show(trainer, named)
        log_at(trainer, named, epoch)
        if key == FIRST and key != comparison.last and not by_epoch:
            log_at(trainer, of_key, epoch)
    show(trainer, figures)
    if not by_epoch:
        log_at(trainer, figures, last)
    if trainer.is_global_zero:
        log_picture(trainer.loggers, "grid", grid_path(run_folder(trainer)), last)
