"""What the page says of the attacks: sentences, plots, table and the pictures that got through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rece_lightning.evaluation.results.sheets import read_tiles
from rece_lightning.reporting.ladder import Ladder, LadderRow, ladder_concepts, ladder_findings, tiles_to_show
from rece_lightning.reporting.ladder_plot import curve_findings, curves_of, curves_svg, ladder_svg

PICTURES = 8
"""Of an attack that are shown."""


@dataclass(frozen=True)
class Through:
    """A picture that got through the edit."""

    tile: str
    """A ``data:`` address."""
    concept: str
    alt: str


@dataclass(frozen=True)
class GotThrough:
    """Some of an attack's pictures, and how many there are."""

    title: str
    pictures: tuple[Through, ...]
    note: str
    """Of how many, in words."""


@dataclass(frozen=True)
class LadderSection:
    """The values of ``ladder.j2``."""

    findings: Sequence[str]
    rows: Sequence[LadderRow]
    concepts: Sequence[LadderRow]
    """Row by row, where there are several concepts."""
    bars: str
    curves: str
    curve_findings: Sequence[str]
    gallery: Sequence[GotThrough]
    detector: str
    sampling: str


def ladder_section(ladder: Ladder, sheet: Path) -> LadderSection:
    """What the page shows of a ladder and the sheet with the pictures that got through, in the ladder's order.

    Raises:
        ConfigurationError: if the sheet is no picture.
    """
    curves = curves_of(ladder)
    return LadderSection(
        findings=ladder_findings(ladder),
        rows=ladder.whole,
        concepts=ladder.concepts if len(ladder_concepts(ladder)) > 1 else (),
        bars=ladder_svg(ladder),
        curves=curves_svg(curves),
        curve_findings=curve_findings(curves),
        gallery=_gallery(ladder, sheet),
        detector=ladder.detector,
        sampling=ladder.sampling,
    )


def _gallery(ladder: Ladder, sheet: Path) -> list[GotThrough]:
    shown = tiles_to_show(ladder.concepts, PICTURES)
    tiles = read_tiles(sheet, [tile for rows in shown.values() for tile, _ in rows])
    gallery = []
    for title, rows in shown.items():
        pictures = tuple(Through(tiles[tile], row.concept, _alt(row)) for tile, row in rows if tile in tiles)
        hits = sum(row.edited.hits for row in ladder.concepts if row.title == title)
        if pictures:
            gallery.append(GotThrough(title, pictures, f"{len(pictures)} of {hits}"))
    return gallery


def _alt(row: LadderRow) -> str:
    by = f"{row.attack} {row.variant}".strip()
    if row.control:
        return f"{row.concept}, which the model never knew, taught to the edited model by {by}."
    return f"{row.concept} is drawn by the edited model under the attack {by}."
