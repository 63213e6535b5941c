"""What the page says of the attacks: sentences, plots, table and the pictures that got through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rece_lightning.evaluation.results.sheets import read_tiles
from rece_lightning.reporting.ladder import Ladder, LadderRow, ladder_concepts, ladder_findings, tiles_to_show
from rece_lightning.reporting.ladder_plot import curve_findings, curves_of, curves_svg, ladder_svg

PICTURES = 8
"""Of an attack that are shown."""


def ladder_section(ladder: Ladder, sheet: Path) -> dict[str, Any]:
    """The values of ``ladder.j2``, of a ladder and the sheet with the pictures that got through, in the ladder's order.

    Raises:
        ConfigurationError: if the sheet is no picture.
    """
    curves = curves_of(ladder)
    return {
        "findings": ladder_findings(ladder),
        "rows": ladder.whole,
        "concepts": ladder.concepts if len(ladder_concepts(ladder)) > 1 else (),
        "bars": ladder_svg(ladder),
        "curves": curves_svg(curves),
        "curve_findings": curve_findings(curves),
        "gallery": _gallery(ladder, sheet),
        "detector": ladder.detector,
        "sampling": ladder.sampling,
    }


def _gallery(ladder: Ladder, sheet: Path) -> list[dict[str, Any]]:
    """Some of the pictures that got through, attack by attack, and of how many."""
    shown = tiles_to_show(ladder.concepts, PICTURES)
    tiles = read_tiles(sheet, [tile for rows in shown.values() for tile, _ in rows])
    gallery = []
    for title, rows in shown.items():
        there = [(tiles[tile], row) for tile, row in rows if tile in tiles]
        pictures = [{"tile": tile, "concept": row.concept, "alt": _alt(row)} for tile, row in there]
        hits = sum(row.edited.hits for row in ladder.concepts if row.title == title)
        if pictures:
            gallery.append({"title": title, "pictures": pictures, "note": f"{len(pictures)} of {hits}"})
    return gallery


def _alt(row: LadderRow) -> str:
    by = f"{row.attack} {row.variant}".strip()
    if row.control:
        return f"{row.concept}, which the model never knew, taught to the edited model by {by}."
    return f"{row.concept} is drawn by the edited model under the attack {by}."
