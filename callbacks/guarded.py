"""What stands around the model that is measured: checked before it is loaded, named in the tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rece_lightning.baselines import Guard
from rece_lightning.callbacks.subject import Subject
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.models.sampling import Sampling


def check_guard(module: Subject, prompts: Iterable[EvaluationPrompt]) -> None:
    """Refuse a guard that cannot stand around the module's model, or a prompt whose own guidance switches it off.

    Raises:
        ConfigurationError: with the remedy, before a model is loaded.
    """
    guard = module.sampling.guard
    if isinstance(guard, Guard):
        rows = [*prompts, *getattr(module.data, "predict", [])]
        guard.check_asked("Evaluation.guard", module.base.family, [row.guidance_scale for row in rows])


def measured_title(sampling: Sampling, images: str | None) -> str:
    """What the column of a model that is measured is called, or that of pictures which exist already."""
    if images is not None:
        return f"the pictures in {Path(images).name}"
    return "the model measured" + (f", under {sampling.guard.title}" if sampling.guard is not None else "")
