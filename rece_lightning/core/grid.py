"""The settings that tuning tries, on the model's own scale.

The scales of UCE and RECE mean something only beside the model's: λ beside ``tr(G)/d``, λ₂ beside the size of the
concepts' moments; λ₁ weighs prompts against prompts and has no unit. So the grid is laid out in those, and the same
model in other units (weights or embeddings times a number) is given the same choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from rece_lightning.core.derivation import Derivation
from rece_lightning.core.editors import CURE, DP, OCE, UCE, Editor, NullSpace, ProjectedUCE, Projection
from rece_lightning.core.method import Method

EPOCHS = 4
"""Of a method that is not tuned, unless given: the published setting for nudity; and the most that tuning tries."""
DERIVATIONS = {1e-4: (False, True), 1e-2: (True,)}
"""λ as a share of ``tr(G)/d`` → whether to accumulate: with a large one the published loop undoes its own erasure."""
LAMB = 4e-3
"""λ₂ as a share of ``tr(S)/d`` of one erased prompt."""
PRESERVES = (0.1, 1.0, 10.0)
"""λ₁: what a preserved row weighs beside an erased one."""
SHRINKAGES = (1.0, 3.0, 10.0, 30.0)
"""κ of a singular editor, whose system is scale-free already."""
PRICES = (None, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0)
"""μ of :class:`ProjectedUCE`: what a direction must certify for what it moves, scale-free too. Without one κ decides:
where nothing is preserved there is nothing that a price could be paid in."""
EDITORS: dict[type[Editor], dict[str, tuple[float | None, ...]]] = {
    NullSpace: {"preserve_scale": (0.0, 0.3, 1.0, 3.0), "threshold": (0.01, 0.1, 1.0)},
    ProjectedUCE: {"preserve_scale": PRESERVES, "price": PRICES},
    UCE: {"preserve_scale": PRESERVES},
    Projection: {"shrinkage": SHRINKAGES},
    DP: {"threshold": (0.1, 1.0, 10.0)},
    CURE: {"alpha": (1.0, 2.0, 5.0, 20.0)},
    OCE: {"erase_scale": (1.0, 10.0, 100.0, 1000.0)},
}
"""Editor → its settings that are tried; the first class that an editor is one of counts."""


@dataclass(frozen=True)
class Scales:
    """The model's own, that settings are laid out in."""

    gram: float
    """``tr(G)/d``."""
    moments: float
    """``tr(S)/d`` of one erased prompt."""


def grid(method: Method, epochs: int | None, scales: Scales) -> Iterator[tuple[Method, tuple[int, ...]]]:
    """Settings, each with the numbers of epochs after which it is looked at; one edit of one epoch comes once.

    What differs from its default in the method, its first editor and the number of epochs where it is given stay.

    Args:
        method: to lay the grid around.
        epochs: where they are fixed.
        scales: of the model.
    """
    closed = method.editor.singular  # what is out of reach after its first edit stays so
    counts = (1,) if closed else (1, 2, EPOCHS)
    counts = counts if epochs is None else (epochs,)
    loops = [method] if closed or counts == (1,) else list(_loops(method, scales))
    for editor in _editors(method.editor, scales):
        for place, loop in enumerate(loops):
            # Epoch 0 derives nothing.
            yield replace(loop, editor=editor), tuple(count for count in counts if count > 1 or place == 0)


def _loops(method: Method, scales: Scales) -> Iterator[Method]:
    derivation = method.derivation
    laid = {_short(share * scales.gram): held for share, held in DERIVATIONS.items()}
    for scale, held in ({derivation.scale: (False, True)} if derivation.scale != Derivation().scale else laid).items():
        for accumulate in (True,) if method.accumulate else held:
            yield replace(method, derivation=replace(derivation, scale=scale), accumulate=accumulate)


def _editors(editor: Editor, scales: Scales) -> list[Editor]:
    tried = _tried(editor)
    default = {one.name: one.default for one in fields(editor) if one.default is not MISSING}  # type: ignore[arg-type]
    editors: list[Any] = [editor]
    if isinstance(editor, UCE) and editor.lamb == default["lamb"]:
        editors = [replace(editor, lamb=_short(LAMB * scales.moments))]
    for name, values in tried.items():
        if getattr(editor, name) == default[name]:
            editors = [replace(one, **{name: value}) for one in editors for value in values]
    return editors


def _tried(editor: Editor) -> dict[str, tuple[float | None, ...]]:
    """Of an editor's settings; a ``ProjectedUCE`` with a rank or κ of the user's has these in place of a price."""
    plain = ProjectedUCE()
    if isinstance(editor, ProjectedUCE) and (editor.rank, editor.shrinkage) != (plain.rank, plain.shrinkage):
        return {"preserve_scale": PRESERVES, "shrinkage": SHRINKAGES}
    return next((found for kind, found in EDITORS.items() if isinstance(editor, kind)), {})


def differing(method: Method, epochs: int) -> dict[str, Any]:
    """The settings that a grid sets, by their key below ``model.method``; what so many epochs do not read is out."""
    editor = method.editor
    found: dict[str, Any] = {"editor": type(editor).__name__} if type(editor) is not UCE else {}
    names = ["lamb"] if isinstance(editor, UCE) else []
    names += list(_tried(editor))
    if isinstance(editor, ProjectedUCE) and editor.price is None:
        names = [name for name in names if name not in ("price", "shrinkage")] + ["shrinkage"]
    found |= {f"editor.{name}": getattr(editor, name) for name in names}
    if epochs > 1:
        found |= {"derivation.scale": method.derivation.scale, "accumulate": method.accumulate}
    return found


def _short(value: float) -> float:
    """To four digits, as a user would write it down: the same on every machine."""
    return float(f"{value:.4g}")
