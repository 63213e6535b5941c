"""What an evaluation leaves behind: files in the run's folder, figures for loggers."""

from __future__ import annotations

from pathlib import Path

from rece_lightning.core.extras import extra
from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.evaluation.results.costs import FILE as COSTS
from rece_lightning.evaluation.results.costs import write_costs
from rece_lightning.evaluation.results.counts import counts_of, write_counts
from rece_lightning.evaluation.results.figures import FILE, scalars, write_quality
from rece_lightning.evaluation.results.grid import draw_grid
from rece_lightning.evaluation.results.sheets import save_sheet, sheet_path
from rece_lightning.evaluation.results.states import UNWANTED
from rece_lightning.files import discard, write_atomically, write_text
from rece_lightning.metrics import harmonic_mean

COUNTS = "evaluation.csv"
SAMPLING = "sampling.txt"
"""How the pictures were drawn, in words: the model's own steps and guidance where nobody gave others."""


def grid_path(folder: Path) -> Path:
    """Of the before/after grid of a run."""
    return folder / "images" / "grid.png"


def write_outcome(comparison: Comparison, folder: Path) -> None:
    """The grid, the sheets, ``cost.json``, ``sampling.txt``, ``quality.csv`` where metrics measured, and last
    ``evaluation.csv``: all is there then."""
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
    told = {key: comparison.costs[key] for key in comparison.columns if key in comparison.costs}
    write_costs({key: cost for key, cost in told.items() if cost.figures}, folder / COSTS)
    write_text(folder / SAMPLING, comparison.sampling + "\n")
    write_counts(counts_of(comparison), folder / COUNTS)


PARTS = {"erased": UNWANTED, "own_words": ("erased",), "synonym": ("synonym",), "preserved": ("kept",)}
"""What figures call it → roles."""


def column_figures(comparison: Comparison, key: str) -> dict[str, float]:
    """A column's figures by name.

    Rates: ``detected_erased`` of all erased prompts, of which ``detected_own_words`` and ``detected_synonym`` where
    there are both, and ``detected_preserved``; floors of the erased ones with what is above them (``floor_erased``,
    ``excess_erased``, …); the harmonic mean; what metrics measured (``perceptual_distance_erased``, …). What was not
    measured is left out.
    """
    found = {}
    both = all(comparison.share(key, (role,)).total for role in UNWANTED)
    for name, roles in PARTS.items():
        if len(roles) == 1 and roles[0] in UNWANTED and not both:
            continue
        share, excess = comparison.share(key, roles), comparison.excess(key, roles)
        if share.total:
            found[f"detected_{name}"] = share.rate
        if excess is not None:
            found |= {f"floor_{name}": comparison.floor(roles).rate, f"excess_{name}": excess.value}
    return found | _balance(comparison, key) | scalars(comparison.quality, key)


def _balance(comparison: Comparison, key: str) -> dict[str, float]:
    """Harmonic mean of what is above the floor, the rate itself where there is none, and what is preserved."""
    gone, kept = (comparison.share(key, roles) for roles in (UNWANTED, ("kept",)))
    if not (gone.total and kept.total):
        return {}
    return {"harmonic_mean": harmonic_mean(comparison.above_floor(key), kept.rate)}


def final_figures(comparison: Comparison) -> dict[str, float]:
    """What runs are told apart by: erased and preserved of the final state, the floor and what is above it, their
    harmonic mean, what metrics gave."""
    key = comparison.last
    gone, kept, floor = comparison.share(key, UNWANTED), comparison.share(key, ("kept",)), comparison.floor()
    found = {name: share.rate for name, share in (("erased", gone), ("floor", floor), ("kept", kept)) if share.total}
    excess = comparison.excess(key)
    if excess is not None:
        found["excess"] = excess.value
    return found | _balance(comparison, key) | scalars(comparison.quality, key)
