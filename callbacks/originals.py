"""Pictures of the model as it was before its erasure, and the floors that are measured in them."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Trainer
from torch import Tensor

from rece_lightning.callbacks.subject import Subject, epochs_of, pictures_of
from rece_lightning.callbacks.terminal import progress_bar
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.evaluation.drawing import Shot
from rece_lightning.evaluation.floors import Draw, Floors, without_floor
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.metrics import ConceptDetector
from rece_lightning.module import RECE


def original_of(module: Subject) -> Draw | None:
    """What draws with the model as it was before its erasure or its adapter, and without a guard; ``None`` for a model
    without any of them.

    With an adapter, which changes the text encoder too, a second pipeline is loaded.
    """
    changed = epochs_of(module) or _has_adapter(module) or module.sampling.guard is not None
    return draws_original(module) if changed else None


def draws_original(module: Subject) -> Draw:
    """The same, of a model that nobody edited the model itself; what it draws with is loaded at the first picture."""
    plain: list[PictureMaker] = []

    def make(prompts: Sequence[EvaluationPrompt], seeds: Sequence[int]) -> Tensor:
        if not plain and isinstance(module, RECE) and _has_adapter(module):
            plain.append(PictureMaker.of(module.session.loaded, None, module.device))
        elif not plain:
            plain.append(pictures_of(module))
        plain[0].use(None)
        return plain[0].make(prompts, seeds, module.sampling.unguarded)

    return make


def _has_adapter(module: Subject) -> bool:
    return isinstance(module, RECE) and module.hparams["adapter"] is not None


def measure_floors(
    trainer: Trainer,
    module: Subject,
    floors: Floors,
    comparison: Comparison,
    detector: ConceptDetector,
    shots: Sequence[Shot] | None,
) -> None:
    """Measure what is not known yet of the floors of some shots; ``None``: pictures exist already, no model is opened.

    What cannot be measured is said in the comparison's notes.
    """
    lacking = without_floor(comparison)
    comparison.notes += [] if lacking is None else [lacking]
    if shots is None:
        return
    name, draw, sampling = (
        (str(module.base.path), module.base.variant),
        draws_original(module),
        module.sampling.unguarded,
    )
    left = floors.left(comparison, shots, sampling, name)
    with progress_bar(trainer) as progress:
        task = progress.add_task("floors", total=len(left), visible=bool(left))
        floors.measure(comparison, detector, shots, draw, sampling, name, lambda made: progress.advance(task, made))
