"""What an evaluation leaves behind: files in the run's folder, figures for loggers."""

from __future__ import annotations

from pathlib import Path

from rece_lightning.core.extras import extra
from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.evaluation.results.counts import counts_of, write_counts
from rece_lightning.evaluation.results.figures import FILE, scalars, write_quality
from rece_lightning.evaluation.results.grid import draw_grid
from rece_lightning.evaluation.results.sheets import save_sheet, sheet_path
from rece_lightning.evaluation.results.states import ROLES, UNWANTED
from rece_lightning.files import discard, write_atomically
from rece_lightning.metrics import harmonic_mean

COUNTS = "evaluation.csv"


def grid_path(folder: Path) -> Path:
    """Of the before/after grid of a run."""
    return folder / "images" / "grid.png"


def write_outcome(comparison: Comparison, folder: Path) -> None:
    """The grid, the sheets, ``quality.csv`` where metrics measured, and last ``evaluation.csv``: all is there then."""
    with extra(str(grid_path(folder))):
        figure = draw_grid(comparison)
        write_atomically(grid_path(folder), lambda temporary: figure.savefig(temporary, format="png"))
    for column in comparison.columns.values():
        sheet = sheet_path(folder / "images", column.key)
        with extra(str(sheet)):
            save_sheet(column.first_pictures, sheet)
    lines = [line for key in comparison.columns for line in comparison.quality if line.column == key]
    if lines:
        write_quality(lines, folder / FILE)
    else:
        discard(folder / FILE)
    write_counts(counts_of(comparison), folder / COUNTS)


def column_figures(comparison: Comparison, key: str) -> dict[str, float]:
    """A column's rates (``detected_erased``, …) and what metrics measured (``perceptual_distance_erased``, …)."""
    shares = {role: comparison.share(key, (role,)) for role in ROLES}
    found = {f"detected_{role}": share.rate for role, share in shares.items() if share.total}
    return found | scalars(comparison.quality, key)


def final_figures(comparison: Comparison) -> dict[str, float]:
    """What runs are told apart by: erased and preserved of the final state, their harmonic mean, what metrics gave."""
    gone, kept = (comparison.share(comparison.last, roles) for roles in (UNWANTED, ("kept",)))
    found = {name: share.rate for name, share in (("erased", gone), ("kept", kept)) if share.total}
    if gone.total and kept.total:
        found["harmonic_mean"] = harmonic_mean(gone.rate, kept.rate)
    return found | scalars(comparison.quality, comparison.last)
