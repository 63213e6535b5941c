"""A session's method: as it was asked for, and as it was chosen before the first epoch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rece_lightning.core.eraser import Evidence
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.core.grid import EDITORS
from rece_lightning.core.method import Method
from rece_lightning.core.tuning import Tuning, tune
from rece_lightning.distributed import gathered
from rece_lightning.erasure.same import check_same, differences
from rece_lightning.models.text_space import TextSpace, edited_spaces, edits_values

COMPARED = ("aim", "drift_budget")
"""What a run that goes on must have asked for alike; the number of its epochs may grow."""

WIDEST_SUGGESTED = 1024
"""Up to this width an unasked grid is tried for the report: at 4,096 it takes three minutes of one core."""


class TunedMethod:
    """Which method a session runs.

    Args:
        asked: for.
        tuning: how its settings are chosen; ``None`` where they stand.
    """

    def __init__(self, asked: Method, tuning: Tuning | None = None) -> None:
        self.asked, self.tuning = asked, tuning
        self.method = asked
        """To run: the grid's start before the choice, what was chosen after it."""
        self.choice: Mapping[str, Any] | None = None
        """What was chosen and why, in plain types; see :meth:`rece_lightning.core.tuning.Choice.plain`."""
        self._values = True
        """Whether values are edited; unknown until :meth:`spaces` sees the model."""
        self.begin()

    def begin(self) -> None:
        """Forget the choice."""
        self.method = self.asked if self.tuning is None else self.tuning.start(self.asked, values=self._values)
        self.choice = None

    def spaces(self, spaces: Sequence[TextSpace]) -> tuple[TextSpace, ...]:
        """What is edited of a model's text spaces; ``robust`` takes values alone only where there are some.

        Raises:
            ConfigurationError: for a space that the model has not, and where nothing is left to edit.
        """
        if self.tuning is not None and self._values and not edits_values(spaces, self.asked):
            self._values = False
            if self.choice is None:
                self.method = self.tuning.start(self.asked, values=False)
        return edited_spaces(spaces, self.method)

    def choose(self, evidence: Mapping[str, Evidence], grams: Mapping[str, Gram]) -> None:
        """Choose where it is asked for, as rank 0 does.

        Args:
            evidence: text space → what the prompts say in it.
            grams: text space → ``G`` of what is edited.

        Raises:
            ConfigurationError: if no setting has figures or keeps to the budget.
        """
        if self.tuning is None or self.choice is not None:
            return
        choice = gathered(tune(self.method, self.tuning, evidence, grams))[0]
        if choice.harm:
            warnings.warn(choice.harm, stacklevel=2)
        self.method = choice.chosen.method
        self.choice = {**choice.plain(), "asked": self.asked.plain()}

    def suggested(self, evidence: Mapping[str, Evidence], grams: Mapping[str, Gram]) -> Mapping[str, Any] | None:
        """What was chosen; where settings stand as they were given, what would have been in their place.

        The grid is laid around the same editor with its scales at their defaults, the epochs are open.

        Args:
            evidence: text space → what the prompts say in it.
            grams: text space → ``G`` of what is edited.

        Returns:
            In plain types; ``None`` for an editor that the grid does not know, and for embeddings so wide that trying
            the grid would take longer than the run.
        """
        asked, default = self.asked, Method()
        if self.choice is not None or type(asked.editor) not in EDITORS:
            return self.choice
        if max(gram.width for gram in grams.values()) > WIDEST_SUGGESTED:
            return None
        loose = replace(
            asked, editor=type(asked.editor)(), first_editor=None, accumulate=default.accumulate,
            derivation=replace(asked.derivation, scale=default.derivation.scale),
        )  # fmt: skip
        return tune(loose, Tuning(), evidence, grams).plain()

    # Its state

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; nothing where nothing was chosen."""
        return {} if self.choice is None else {"tuning": dict(self.choice)}

    def take(self, state: Mapping[str, Any]) -> None:
        """Take what a checkpoint was made with: a run that goes on does not choose again.

        Args:
            state: ``rece`` of the checkpoint.
        """
        self.choice = state.get("tuning")
        if state["method"] != self.method.plain():
            self.method = Method.from_plain(state["method"], "ckpt_path: method")

    def check_same(self, state: Mapping[str, Any], asked: Mapping[str, Any] | None, what: str) -> None:
        """Refuse a checkpoint of another method, tuning or list of concepts.

        What was chosen may also be asked for by name, and a method that was asked for may be tuned no further.

        Args:
            state: ``rece`` of the checkpoint.
            asked: what the data asks for, where it is known.
            what: names the checkpoint in messages.

        Raises:
            ConfigurationError: saying what differs.
        """
        chosen = state.get("tuning")
        if chosen is None or self.tuning is None:
            check_same(state, self.asked.plain(), asked, what)
            return
        check_same({**state, "method": chosen["asked"]}, self.asked.plain(), asked, what)
        now = self.tuning.plain()
        found = {key: (chosen.get(key), now[key]) for key in COMPARED}
        changed = [line for key, (before, after) in found.items() for line in differences(f"tune.{key}", before, after)]
        if changed:
            raise ConfigurationError(
                f"{what}: the checkpoint was tuned otherwise ({', '.join(changed)}); take the config.yaml of its run."
            )
