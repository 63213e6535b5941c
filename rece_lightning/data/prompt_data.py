"""Prompts to generate for, as a LightningDataModule: what every verb but ``fit`` goes through."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, Self

from lightning.pytorch import LightningDataModule

from rece_lightning.core.errors import ConfigurationError, check_count
from rece_lightning.data.batches import AskedBatches, EvaluationBatches, NoBatches
from rece_lightning.data.concepts import PromptPair
from rece_lightning.data.prompts import KINDS, EvaluationPrompt, PromptsSetting, read_prompts

# That a fit validates with nothing is how it is meant, and the pictures' places are known without a sampler. The names
# in these messages are ours alone.
for _said in (f"Total length of `{NoBatches.__name__}`", f"Couldn't infer .* `{AskedBatches.__name__}`"):
    warnings.filterwarnings("ignore", message=_said)


def _in_turn(rows: Sequence[EvaluationPrompt], count: int) -> list[EvaluationPrompt]:
    """The first rows of each kind, in turn, with a seed each."""
    kinds = [[row for row in rows if row.kind == kind] for kind in KINDS]
    chosen = [row for turn in itertools.zip_longest(*kinds) for row in turn if row is not None]
    return [replace(row, seed=row.seed or 0) for row in chosen[:count]]


class PromptData(LightningDataModule):
    """Prompts of ``validate``, ``test`` and ``predict``; see :class:`ConceptData`, which says what is erased too.

    Args:
        validation: prompts, or the path of a CSV.
        test: the same for ``test``; the validation prompts unless given.
        predict: the same for ``predict``.
        batch_size: prompts that go together.
        field: names the settings in messages.

    Raises:
        ConfigurationError: if a row cannot be understood.
    """

    pairs: Iterable[PromptPair] = ()
    """What is erased, as far as it is known here."""
    whole: Any = None
    """What this is a sample of; see :meth:`sample`."""

    def __init__(
        self,
        validation: PromptsSetting | None = None,
        test: PromptsSetting | None = None,
        predict: PromptsSetting | None = None,
        batch_size: int = 64,
        field: str = "data",
    ) -> None:
        super().__init__()
        check_count(f"{field}.batch_size", batch_size)
        self.batch_size = batch_size
        self.validation = read_prompts(f"{field}.validation", validation)
        self.test = read_prompts(f"{field}.test", test) or self.validation
        self.predict = read_prompts(f"{field}.predict", predict)
        self.left: Callable[[], EvaluationBatches] | None = None
        """Says what ``predict`` still has to make, where somebody knows what is there; all of it otherwise."""

    def sample(self, count: int) -> Self:
        """A copy with so many prompts of each verb, erased ones and preserved ones in turn, each with one seed: what
        ``fast_dev_run`` tries.

        Args:
            count: of prompts.
        """
        small = copy(self)
        small.whole, small.left = self, None
        small.validation, small.test, small.predict = (
            _in_turn(rows, count) for rows in (self.validation, self.test, self.predict)
        )
        return small

    def val_dataloader(self) -> AskedBatches | NoBatches:
        """Prompts to generate for. In ``fit`` the Evaluation callback asks for them when it is time."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            return NoBatches()
        return AskedBatches(partial(self._asked_of, "validation"), self)

    def test_dataloader(self) -> AskedBatches:
        """Prompts of ``data.test``."""
        return AskedBatches(partial(self._asked_of, "test"), self)

    def predict_dataloader(self) -> AskedBatches:
        """Prompts of ``data.predict``."""
        if not self.predict:
            raise ConfigurationError("data.predict: no prompts; give a CSV with a column 'prompt'.")
        return AskedBatches(self._left_of_predict, self)

    def _asked_of(self, name: str) -> EvaluationBatches:
        return EvaluationBatches(getattr(self, name), self.batch_size)

    def _left_of_predict(self) -> EvaluationBatches:
        return self.left() if self.left else self._asked_of("predict")
