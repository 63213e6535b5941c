"""The two sentences that count, the same on the page and in the terminal."""

from __future__ import annotations

from rece_lightning.evaluation.results.comparison import (
    FIRST_DERIVED,
    LAST_DERIVED,
    ORIGINAL,
    Comparison,
    beside_key,
)
from rece_lightning.evaluation.results.states import UNWANTED
from rece_lightning.metrics import Difference, Share
from rece_lightning.reporting.ladder import Ladder, LadderRow


def headline(comparison: Comparison | None, ladder: Ladder | None = None) -> list[str]:
    """What became of the erased and of the preserved concepts; and what an attacker with embeddings regains.

    Args:
        comparison: of the pictures.
        ladder: of the attacks, where there were any.

    Returns:
        No sentence where nothing was counted, one where nothing is known of attackers.
    """
    says = []
    if comparison is not None and comparison.columns:
        erased, kept = (_change(comparison, roles) for roles in (UNWANTED, ("kept",)))
        if erased:
            floor = _floor(comparison.floor(), comparison.excess(comparison.last))
            also = f"; preserved ones in {kept} of theirs" if kept else ""
            says.append(f"Erased concepts are drawn in {erased} of the pictures that ask for them{floor}{also}.")
        elif kept:
            says.append(f"Preserved concepts are drawn in {kept} of the pictures that ask for them.")
    regained = _regained(comparison, ladder)
    return [*says, regained] if regained else says


def _change(comparison: Comparison, roles: tuple[str, ...]) -> str:
    """``98 % → 6 %``; the second alone where the original was not drawn."""
    before, after = (comparison.share(key, roles) for key in (ORIGINAL, comparison.last))
    return " → ".join(percent(share.rate) for share in (before, after) if share.total) if after.total else ""


def _floor(floor: Share, excess: Difference | None) -> str:
    if excess is None:
        return ""
    if excess.complete:
        return f" (floor {percent(floor.rate)}: complete)"
    beside = "above it" if excess.value > 0 else "beside it"
    return f" (floor {percent(floor.rate)}: {excess} {beside})"


def _regained(comparison: Comparison | None, ladder: Ladder | None) -> str:
    """The strongest attack of those who can feed embeddings, and its control where it has one."""
    found: list[tuple[float, str]] = []
    if comparison is not None:
        key = LAST_DERIVED if LAST_DERIVED in comparison.columns else FIRST_DERIVED
        share = comparison.share(key, UNWANTED)
        if share.total:
            found.append((share.rate, "the derived embedding"))
    rows = [row for row in (ladder.attacks if ladder else ()) if row.needs_embeddings and row.edited.total]
    found += [(row.edited.rate, _named(ladder, row)) for row in rows]
    if not found:
        return ""
    rate, name = max(found, key=lambda one: one[0])
    return f"An attacker who can feed embeddings has them drawn in {percent(rate)} ({name}){_beside(comparison)}."


def _beside(comparison: Comparison | None) -> str:
    """What the derived embedding regains from the other methods, and what those preserve."""
    says = []
    for method in comparison.beside if comparison is not None else ():
        assert comparison is not None
        given = comparison.share(beside_key(method, derived=True), UNWANTED)
        kept = comparison.share(beside_key(method), ("kept",))
        if given.total:
            also = f" (preserved {percent(kept.rate)})" if kept.total else ""
            says.append(f", in {percent(given.rate)} of those of `{method}`{also}")
    return "".join(says)


def _named(ladder: Ladder | None, row: LadderRow) -> str:
    control = ladder.control_of(row) if ladder is not None else None
    if control is None or not control.edited.total:
        return row.title
    return f"{row.title}; {percent(control.edited.rate)} of concepts that the model never knew"


def percent(rate: float) -> str:
    """A share in whole percent."""
    return f"{100 * rate:.0f} %"
