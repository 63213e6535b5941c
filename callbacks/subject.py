"""What Evaluation and Export work on: RECE, or a baseline that is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from rece_lightning.baselines.trained import TrainedErasure
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.method import Method
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.erasure.beside import check_fits, erased_beside
from rece_lightning.erasure.erasure import Erasure
from rece_lightning.erasure.trained_weights import TrainedWeights
from rece_lightning.evaluation.derived import Derived, derived_of
from rece_lightning.evaluation.exchanged import ExchangedPictures
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.evaluation.results.comparison import (
    BESIDE,
    FIRST,
    FIRST_DERIVED,
    LAST,
    LAST_DERIVED,
    ORIGINAL,
    beside_key,
    epoch_of,
)
from rece_lightning.evaluation.results.costs import UNCHANGED, StateCost, device_in_words
from rece_lightning.module import RECE
from rece_lightning.runs.checkpoints import stored_maps
from rece_lightning.trainer.stopwatch import ERASE_SECONDS

Subject = RECE | TrainedErasure
Weights = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class FinalState:
    """What a column at the end of a ``fit`` is drawn with."""

    key: str
    weights: Callable[[], Weights]
    derived: Callable[[], Derived] | None = None
    """Gives the embeddings that bring the concepts back, for a column of their own."""
    derived_key: str = ""


def subject_of(module: LightningModule, owner: str = "Evaluation") -> Subject:
    """The module as one whose pictures can be measured.

    Raises:
        ConfigurationError: if it is none, naming the callback ``owner``.
    """
    if not isinstance(module, RECE | TrainedErasure):
        raise ConfigurationError(
            f"{owner}: {type(module).__name__} is no RECE module, and no baseline; use it beside one."
        )
    return module


def named_edit(subject: Subject) -> str:
    """What tables call the edit: epoch 0's editor, or the baseline."""
    if isinstance(subject, TrainedErasure):
        return subject.name
    return type(subject.method.first_editor or subject.method.editor).__name__


_PICTURES: WeakKeyDictionary[TrainedErasure, PictureMaker] = WeakKeyDictionary()


def pictures_of(subject: Subject) -> PictureMaker:
    """What makes its pictures, loaded at first use."""
    if isinstance(subject, RECE):
        return subject.pictures
    if subject not in _PICTURES:
        with torch.inference_mode(False):
            _PICTURES[subject] = ExchangedPictures(
                subject.pipeline, subject.loaded.encoder, subject.original, subject.holding
            )
    return _PICTURES[subject]


def draw_with(subject: TrainedErasure, rows: Sequence[EvaluationPrompt]) -> dict[str, Any]:
    """What a baseline's ``validation_step`` answers: pictures of the model as it is trained so far."""
    pictures = pictures_of(subject)
    pictures.use(subject.weights().items())
    return pictures.made_of(rows, subject.seeds, subject.sampling)


def weights_now(subject: Subject, maps: Mapping[str, AnyMap] | None = None) -> Weights:
    """The weights after the epochs so far; of RECE those that other ``maps`` give."""
    if isinstance(subject, TrainedErasure):
        return subject.weights().items()
    return subject.erasure(maps).weights()


def former_weights(
    subject: Subject, checkpoint: str | Path | None, due: Callable[[int], bool]
) -> Iterator[tuple[int, Weights]]:
    """Epochs of RECE before a run went on that are ``due``, with their weights, from the checkpoint's neighbours."""
    if not isinstance(subject, RECE) or checkpoint is None:
        return
    for epoch in filter(due, range(len(subject.history))):
        file = Path(checkpoint).parent / f"epoch={epoch}.ckpt"
        maps = subject.first_maps if epoch == 0 else stored_maps(file) if file.is_file() else None
        if maps is None:
            subject.print(f"{file} is gone: no pictures of epoch {epoch}.")
        else:
            yield epoch, weights_now(subject, maps)


def final_states(subject: Subject) -> list[FinalState]:
    """The states that stand in the columns at the end of a ``fit``: of RECE epoch 0 and the last one, where they
    differ; of a baseline what was trained."""
    if isinstance(subject, TrainedErasure):
        return [FinalState(LAST, lambda: subject.weights().items())] if subject.epochs else []
    if subject.first_maps is None:
        return []
    found = [(FIRST, FIRST_DERIVED, subject.first_maps)]
    if len(subject.history) > 1:
        found.append((LAST, LAST_DERIVED, subject.maps))

    def derived(maps: Mapping[str, AnyMap]) -> Derived:
        return derived_of(subject.session, maps)

    return [
        FinalState(key, partial(weights_now, subject, maps), partial(derived, maps), attacked)
        for key, attacked, maps in found
    ]


def check_beside_of(subject: Subject, methods: Mapping[str, Method | str]) -> None:
    """Refuse methods that cannot stand beside what is measured.

    Raises:
        ConfigurationError: naming the setting.
    """
    if not methods:
        return
    if not isinstance(subject, RECE):
        raise ConfigurationError(f"Evaluation.beside: {subject.name} counts no prompts for edits; leave it out.")
    for name, method in methods.items():
        check_fits(name, method, subject.session.method)


def states_beside(subject: Subject, methods: Mapping[str, Method | str]) -> list[FinalState]:
    """The states of other methods on what was counted, each under its name."""
    if not isinstance(subject, RECE):
        return []
    found = []
    for name, method in methods.items():
        other = erased_beside(subject.session, method)
        found.append(
            FinalState(
                beside_key(name),
                other.erasure().weights,
                partial(derived_of, other, other.maps),
                beside_key(name, derived=True),
            )
        )
    return found


def epochs_of(subject: Subject) -> int:
    """How many epochs there were so far."""
    return subject.epochs if isinstance(subject, TrainedErasure) else len(subject.history)


def cost_of(subject: Subject, key: str) -> StateCost:
    """What the state of a column cost, its pictures apart; what is not known is left out.

    Args:
        subject: that is measured.
        key: of the column.
    """
    if isinstance(subject, RECE) and subject.drawn is not None:
        return StateCost()  # pictures that exist: no model is opened
    device = device_in_words(subject.placement.device_of("unet", subject.device))
    if key == ORIGINAL:
        return replace(UNCHANGED, device=device)
    done = epochs_of(subject)
    if isinstance(subject, TrainedErasure):
        if key == LAST and not done:
            return replace(UNCHANGED, device=device)
        return StateCost(**subject.change(), erase_seconds=subject.to_erase.seconds, device=device)
    if key.startswith(BESIDE) or (not done and subject.hparams["adapter"] is not None):
        return StateCost(device=device)
    if not done:
        return replace(UNCHANGED, device=device)
    epoch = epoch_of(key, done)
    change = subject.session.change() if epoch == done - 1 else {}  # of an earlier one it would be computed anew
    return StateCost(**change, erase_seconds=subject.history[epoch].get(ERASE_SECONDS), device=device)


def described(subject: Subject) -> dict[str, Any]:
    """What a file of its weights should say of itself."""
    return subject.description() if isinstance(subject, TrainedErasure) else subject.session.description()


def result_of(subject: Subject) -> Erasure | TrainedWeights:
    """What exports write."""
    if isinstance(subject, TrainedErasure):
        return TrainedWeights(subject.base, subject.weights(), subject.description())
    return subject.erasure()
