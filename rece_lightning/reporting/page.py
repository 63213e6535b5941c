"""The report as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from rece_lightning.exports.cost import Cost
from rece_lightning.reporting.comparison import Comparison
from rece_lightning.reporting.plots import epochs_svg
from rece_lightning.reporting.table import comparison_rows

FIGURES = {
    "objective_before": "objective before the edit",
    "objective_after": "objective after the edit",
    "regeneration_residual": "regeneration residual",
    "regeneration_residual_unedited": "… of the unedited model",
    "mapped_residual": "… of a concept mapped onto its target",
    "preservation_drift": "preservation drift (held-out prompts)",
    "norm_ratio": "‖c'‖/‖c‖ of the derived embeddings",
    "map_change": "‖M − I‖",
    "map_rank": "rank of M − I",
    "map_condition": "condition number of M",
    "gram_scale": "tr(G)/d: read λ against it",
    "erased_scale": "tr(S)/d: read λ₂ against it",
    "preserved_scale": "tr(P)/d: read λ₁ against it",
    "edit_seconds": "seconds of the epoch",
}


def column_rows(comparison: Comparison) -> list[tuple[str, str, str, str, str]]:
    """(state, erased, synonyms, kept, norm ratio) of every column."""
    rows = []
    for key, column in comparison.columns.items():
        shares = [str(comparison.share(key, (role,))) for role in ("erased", "synonym", "kept")]
        norm = "1 (own)" if column.norm_ratio is None else f"{column.norm_ratio:.2f}"
        rows.append((column.title, shares[0], shares[1], shares[2], norm))
    return rows


def render_page(
    *,
    title: str | None,
    description: Mapping[str, Any],
    settings: Mapping[str, Any],
    change: Mapping[str, float],
    history: Sequence[dict[str, float]],
    placement: Mapping[str, Any],
    comparison: Comparison | None,
    grid: str | None,
    exports: Sequence[Cost] = (),
) -> str:
    """Render the page.

    Args:
        title: of the page; the erased prompts without it.
        description: of base, concepts, settings and version.
        settings: the module's hyper-parameters.
        change: share of parameters edited and relative change.
        history: figures of every epoch.
        placement: device of every part.
        comparison: of the pictures, if there are any.
        grid: the grid as base64 PNG.
        exports: what each export format costs.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    erased = description["concepts"].get("erased", [])
    names = [row["prompt"] for row in erased]
    return environment.get_template("report.html.j2").render(
        title=title or f"Erased: {', '.join(names[:6])}{' …' if len(names) > 6 else ''}",
        description=description,
        erased=erased,
        preserved=description["concepts"].get("preserved", []),
        settings={
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in settings.items()
            if not key.startswith("_")
        },
        change=change,
        history=history,
        figures={key: name for key, name in FIGURES.items() if any(key in row for row in history)},
        placement=placement,
        comparison=comparison,
        table=comparison_rows(comparison) if comparison else [],
        columns=column_rows(comparison) if comparison else [],
        verdict=comparison.verdict() if comparison else [],
        curves=epochs_svg(history),
        grid=grid,
        exports=exports,
    )
