"""The table that a run ends with."""

from __future__ import annotations

from rich.table import Table

from rece_lightning.evaluation.results.comparison import ORIGINAL, Comparison


def comparison_rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(concept, erased before → after, kept before → after), one row a concept, then all together."""
    kept = _arrow(comparison, ("kept",), None)
    rows = [
        (
            concept,
            _arrow(comparison, ("erased", "synonym"), concept),
            kept if len(comparison.erased_concepts()) == 1 else "",
        )
        for concept in comparison.erased_concepts()
    ]
    if len(rows) != 1:
        rows.append(("all", _arrow(comparison, ("erased", "synonym"), None), kept))
    if any(comparison.role(index) == "synonym" for index in range(len(comparison.prompts))):
        rows.append(("  of these: own names", _arrow(comparison, ("erased",), None), ""))
        rows.append(("  of these: synonyms", _arrow(comparison, ("synonym",), None), ""))
    return rows


def _arrow(comparison: Comparison, roles: tuple[str, ...], concept: str | None) -> str:
    before = comparison.share(ORIGINAL, roles, concept)
    after = comparison.share(comparison.last, roles, concept)
    return f"{before} → {after}" if before.total else str(after)


def comparison_table(comparison: Comparison) -> Table:
    """The rows as a table for the terminal."""
    heading = ": before → after" if ORIGINAL in comparison.columns else ""
    title = f"Detected{heading}, share of pictures (95 % interval)"
    table = Table(title=title, caption=f"{comparison.protocol or 'no detector'}; {comparison.sampling}")
    table.add_column("concept")
    table.add_column(f"erased{heading}")
    table.add_column(f"kept{heading}")
    for row in comparison_rows(comparison):
        table.add_row(*row)
    return table
