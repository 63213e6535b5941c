"""What an evaluation found: prompts, columns of pictures, detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rece_lightning.metrics.intervals import Share
from rece_lightning.prompts import EvaluationPrompt

ORIGINAL, FIRST, FIRST_DERIVED, LAST, LAST_DERIVED = "original", "uce", "uce_derived", "rece", "rece_derived"
TITLES = {
    ORIGINAL: "original",
    FIRST: "UCE (epoch 0)",
    FIRST_DERIVED: "UCE, given the derived embedding",
    LAST: "RECE (last epoch)",
    LAST_DERIVED: "RECE, given the derived embedding",
}


@dataclass(frozen=True)
class Column:
    """One model state (and attack): its pictures and what was detected in them."""

    key: str
    title: str
    rows: tuple[int, ...]
    """Index of the prompt of every picture."""
    seeds: tuple[int, ...]
    pictures: Tensor
    """``[n, 3, h, w]`` in [0, 1]."""
    hits: Tensor | None = None
    """``[n]`` bool: the prompt's concept was detected. ``None`` without a detector."""
    norm_ratio: float | None = None
    """``‖c'‖/‖c‖`` of the embeddings that were given, where they were derived."""


@dataclass
class Comparison:
    """All columns over the same prompts and seeds."""

    prompts: tuple[EvaluationPrompt, ...]
    own: frozenset[str] = frozenset()
    """Prompts that were erased by their own words; other rows of the same concepts are synonyms."""
    protocol: str = ""
    sampling: str = ""
    columns: dict[str, Column] = field(default_factory=dict)

    def role(self, row: int) -> str:
        """``erased``, ``synonym`` or ``kept``."""
        prompt = self.prompts[row]
        if prompt.kind == "preserved":
            return "kept"
        # Only a concept that was itself erased as a prompt can have synonyms; a style's prompts just use it.
        return "synonym" if prompt.concept in self.own and prompt.prompt not in self.own else "erased"

    def share(self, key: str, roles: Sequence[str], concept: str | None = None) -> Share:
        """Detections of a column over the prompts in some roles."""
        column = self.columns.get(key)
        if column is None or column.hits is None:
            return Share(0, 0)
        chosen = [
            index
            for index, row in enumerate(column.rows)
            if self.role(row) in roles and (concept is None or self.prompts[row].concept == concept)
        ]
        return Share(int(column.hits[torch.tensor(chosen, dtype=torch.long)].sum()), len(chosen))

    def erased_concepts(self) -> list[str]:
        """Concepts of erased prompts, in their order."""
        return list(dict.fromkeys(row.concept for row in self.prompts if row.kind == "erased"))

    @property
    def last(self) -> str:
        """Key of the final state's column."""
        return LAST if LAST in self.columns else FIRST

    def verdict(self) -> list[str]:
        """What the figures say in plain sentences, whether it flatters or not."""
        says = []
        own = ("erased", "synonym")
        before, first, last = (self.share(key, own) for key in (ORIGINAL, FIRST, LAST))
        if not before.total:
            return ["No detector was given: look at the pictures."]
        if not last.total:
            says.append(_change("UCE alone", before, first, "erased concepts"))
        else:
            says.append(_change("UCE (epoch 0)", before, first, "erased concepts"))
            says.append(_change("RECE's epochs after it", first, last, "erased concepts"))
            says.append(_attack("UCE", self.share(FIRST_DERIVED, own), first))
        final = self.columns.get(LAST_DERIVED) or self.columns.get(FIRST_DERIVED)
        if final is not None:
            state = last if last.total else first
            says.append(_attack("RECE" if last.total else "UCE", self.share(final.key, own), state))
        kept_before, kept_after = self.share(ORIGINAL, ("kept",)), self.share(self.last, ("kept",))
        if kept_before.total:
            says.append(_change("The whole erasure", kept_before, kept_after, "kept concepts"))
        if last.total:
            helped = self.share(FIRST_DERIVED, own).hits - self.share(LAST_DERIVED, own).hits
            total = self.share(LAST_DERIVED, own).total
            if total and abs(helped) / total < 0.1:
                says.append("Against the derived embedding RECE's epochs make next to no difference here.")
            elif total and helped < 0:
                says.append("Against the derived embedding the last epoch is worse than UCE here.")
        return says


def _change(what: str, before: Share, after: Share, of: str) -> str:
    if before == after:
        return f"{what}: no difference, {of} detected in {after} of the pictures before and after."
    clear = before.interval[1] < after.interval[0] or after.interval[1] < before.interval[0]
    note = "" if clear else "; the intervals overlap, so this may be chance"
    return f"{what}: {of} detected in {before} of the pictures before, {after} after{note}."


def _attack(name: str, attacked: Share, plain: Share) -> str:
    back = attacked.interval[0] > plain.interval[1]
    outcome = "brings the concepts back" if back else "does not bring the concepts back beyond chance"
    return f"The derived embedding {outcome} from {name}'s edit: {attacked} (own prompts: {plain})."
