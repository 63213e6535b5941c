"""The editors, behind one interface: what is erased and kept, and the model as it is, in; a map out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from rece_lightning.core.edit import EditScales, edit
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments
from rece_lightning.core.null_space import NullSpace, edit_in_null_space, null_space
from rece_lightning.core.projection import Projection, project
from rece_lightning.core.row_pairs import RowPairs

if TYPE_CHECKING:
    from rece_lightning.core.loop import Evidence, LoopSettings

Erased = Moments | RowPairs
"""What an epoch erases: its moments, or its rows where there are few."""

Editor = Callable[[Erased, Tensor, EditScales, Gram, EmbeddingMap], tuple[Moments, EmbeddingMap]]
"""``editor(erased, preserved, scales, gram, before)``: from what is erased, ``P`` ``[d, d]`` of what is kept, the
epoch's scales, ``G`` of the original projections and ``M`` so far, to the moments that the edit was made from and
``E``, the edit of the model as it is now: the model becomes ``W_0 M E``."""


def uce(
    erased: Erased, preserved: Tensor, scales: EditScales, gram: Gram, before: EmbeddingMap
) -> tuple[Moments, EmbeddingMap]:
    """UCE's least squares (arXiv 2308.14761), the edit inside RECE's loop. Looks neither at ``G`` nor at ``M``."""
    if isinstance(erased, RowPairs):
        return erased.moments(preserved), erased.edit(preserved, scales)
    moments = with_preserved(erased, preserved)
    return moments, edit(moments, scales)


def projection(settings: Projection) -> Editor:
    """The singular map of :func:`rece_lightning.core.projection.project`. Scales do not enter: nothing is traded."""

    def editor(
        erased: Erased, preserved: Tensor, scales: EditScales, gram: Gram, before: EmbeddingMap
    ) -> tuple[Moments, EmbeddingMap]:
        moments = with_preserved(erased, preserved)
        return moments, project(moments, gram, before, settings)

    return editor


def confined(settings: NullSpace, invariants: Tensor | None) -> Editor:
    """UCE's edit of :func:`rece_lightning.core.null_space.edit_in_null_space`, which kept prompts do not see.

    What is kept stays, and so do the free directions: they are found in the first epoch.
    """
    free: Tensor | None = None

    def editor(
        erased: Erased, preserved: Tensor, scales: EditScales, gram: Gram, before: EmbeddingMap
    ) -> tuple[Moments, EmbeddingMap]:
        nonlocal free
        if free is None:
            free = null_space(preserved, gram, settings, invariants)
        moments = with_preserved(erased, preserved)
        return moments, edit_in_null_space(moments, free, scales)

    return editor


def with_preserved(erased: Erased, preserved: Tensor) -> Moments:
    """The moments of what is erased beside those of what is kept, which counts once."""
    return erased.moments(preserved) if isinstance(erased, RowPairs) else replace(erased, preserved=preserved)


EDITORS: dict[str, Callable[[LoopSettings, Evidence], Editor]] = {
    "uce": lambda settings, evidence: uce,
    "projection": lambda settings, evidence: projection(settings.projection.for_prompts(evidence.prompts)),
    "null_space": lambda settings, evidence: confined(settings.null_space, evidence.invariants),
}
"""Name in ``model.editor`` → the editor under the loop's settings, for what the prompts say."""


SCALED = ("uce", "null_space")
"""Editors that minimise UCE's objective, whose weights the three scales are."""


def check_editor(where: str, editor: str, *, technique: str, first_edit: Mapping[str, float] | None) -> None:
    """Refuse settings that an editor would pass over in silence.

    Args:
        where: begins the settings' names in messages, such as ``model.``.
        editor: a name in ``EDITORS``.
        technique: of the edit.
        first_edit: scales of epoch 0.

    Raises:
        ConfigurationError: naming both.
    """
    if editor == "uce":
        return
    if technique != "replace":
        raise ConfigurationError(
            f"{where}technique: {technique!r} is a way of UCE's edit, and {where}editor is {editor!r}; leave one out."
        )
    if first_edit and editor not in SCALED:
        raise ConfigurationError(
            f"{where}first_edit: the editor {editor!r} has no scales that epoch 0 could have of its own; leave it out, "
            f"or take {where}editor uce."
        )
