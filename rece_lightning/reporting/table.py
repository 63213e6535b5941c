"""The table that a run ends with."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from rece_lightning.evaluation.results.comparison import ORIGINAL, Comparison
from rece_lightning.evaluation.results.states import UNWANTED


def comparison_rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(concept, erased before → after, kept before → after), one row a concept, then all together."""
    kept, concepts = _arrow(comparison, ("kept",)), comparison.erased_concepts()
    rows = [(one, _arrow(comparison, UNWANTED, one), kept if len(concepts) == 1 else "") for one in concepts]
    if len(rows) != 1:
        rows.append(("all", _arrow(comparison, UNWANTED), kept))
    if any(comparison.role(index) == "synonym" for index in range(len(comparison.prompts))):
        rows.append(("  of these: own names", _arrow(comparison, ("erased",)), ""))
        rows.append(("  of these: synonyms", _arrow(comparison, ("synonym",)), ""))
    return rows


def _arrow(comparison: Comparison, roles: Sequence[str], concept: str | None = None) -> str:
    before = comparison.share(ORIGINAL, roles, concept)
    after = comparison.share(comparison.last, roles, concept)
    return f"{before} → {after}" if before.total else str(after)


def comparison_table(comparison: Comparison) -> Table:
    """The rows as a table for the terminal."""
    heading = ": before → after" if ORIGINAL in comparison.columns else ""
    title = f"Detected{heading}, share of pictures (95 % interval)"
    caption = f"{comparison.protocol or 'no detector'}; {comparison.sampling}"
    table = Table("concept", f"erased{heading}", f"kept{heading}", title=title, caption=caption)
    for row in comparison_rows(comparison):
        table.add_row(*row)
    return table
