"""What the trainer's loggers are told, whichever they are: figures at their epoch, concepts, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from rece_lightning.core.extras import extra

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

MOST_NAMED = 40
"""Concepts that stand among the hyper-parameters by name."""


def log_epoch(trainer: Trainer, figures: Mapping[str, float], epoch: int) -> None:
    """Figures of an epoch to every logger, at it: Lightning's own step counts batches."""
    log_at(trainer, {**figures, "epoch": epoch}, epoch)


def log_at(trainer: Trainer, figures: Mapping[str, float], epoch: int) -> None:
    """Figures to every logger that stand at an epoch and were made at the end of the run.

    They carry no number of an epoch: a run that goes on keeps the rows of its epochs, and makes its end anew.
    """
    for logger in trainer.loggers:
        if figures:
            logger.log_metrics(dict(figures), step=epoch)
            logger.save()


def show(trainer: Trainer, figures: Mapping[str, float]) -> None:
    """Figures for callbacks to stop at and for callers to read."""
    trainer.callback_metrics.update({key: torch.tensor(value) for key, value in figures.items()})


def log_concepts(loggers: Iterable[Any], settings: Mapping[str, Any], concepts: Mapping[str, Any]) -> None:
    """What runs are told apart by, concepts among it, to every logger that keeps hyper-parameters.

    Before Lightning logs the module's own: TensorBoard shows what it was told first.

    Args:
        loggers: of the trainer.
        settings: of the module.
        concepts: what is asked; see :meth:`rece_lightning.data.datamodule.ConceptData.summary`.
    """
    names = [row["prompt"] for row in concepts.get("erased", [])]
    if not names:
        return
    more = f", … ({len(names)} in all)" if len(names) > MOST_NAMED else ""
    for logger in loggers:
        logger.log_hyperparams({**settings, "concepts": ", ".join(names[:MOST_NAMED]) + more})


def log_picture(loggers: Iterable[Any], name: str, file: Path, step: int) -> None:
    """A picture of the run to every logger that takes pictures; one that fails costs its picture alone.

    Args:
        loggers: TensorBoard's, W&B's, MLflow's, Comet's, and others with a method ``log_image(key, images, step)``.
        name: what the picture is called there.
        file: that holds it.
        step: the epoch.
    """
    if not file.is_file():
        return
    for logger in loggers:
        with extra(f"the picture {name!r} in {type(logger).__name__}"):
            send = _sender(logger)
            if send is not None:
                with Image.open(file) as picture:
                    send(name, picture.convert("RGB"), step)


def _sender(logger: Any) -> Callable[[str, Image.Image, int], None] | None:
    """How a logger takes a picture; ``None`` for one that does not."""
    if callable(getattr(logger, "log_image", None)):  # W&B's, and whoever follows it
        return lambda name, picture, step: logger.log_image(name, [picture], step=step)
    experiment: Any = getattr(logger, "experiment", None)
    if callable(getattr(experiment, "add_image", None)):  # TensorBoard's
        return lambda name, picture, step: experiment.add_image(name, np.array(picture), step, dataformats="HWC")
    if not callable(getattr(experiment, "log_image", None)):
        return None
    if hasattr(logger, "run_id"):  # MLflow's client knows no current run
        return lambda name, picture, step: experiment.log_image(logger.run_id, picture, f"{name}-{step}.png")
    return lambda name, picture, step: experiment.log_image(picture, name=name, step=step)  # Comet's
