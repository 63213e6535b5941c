"""The report as one self-contained HTML page."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rece_lightning.core.extras import extra
from rece_lightning.evaluation.results.comparison import (
    FIRST,
    ORIGINAL,
    Comparison,
    above_floor,
    comparison_headings,
    comparison_rows,
)
from rece_lightning.evaluation.results.figures import quality_rows
from rece_lightning.evaluation.results.states import UNWANTED
from rece_lightning.exports.cost import Cost
from rece_lightning.metrics import Share
from rece_lightning.reporting.devices import Devices
from rece_lightning.reporting.headline import headline
from rece_lightning.reporting.nearest import nearest_findings, nearest_svg
from rece_lightning.reporting.plots import budget_svg, epochs_svg
from rece_lightning.reporting.templates import render
from rece_lightning.reporting.words import WordsSection

FIGURES = {
    "objective_before": "objective before the edit",
    "objective_after": "objective after the edit",
    "regeneration_residual": "regeneration residual",
    "regeneration_residual_unedited": "… of the unedited model",
    "mapped_residual": "… of a concept mapped onto its target",
    "regeneration_residual_at_0.5": "… within half the concepts' own norm",
    "regeneration_residual_at_1": "… within the concepts' own norm",
    "regeneration_residual_at_inf": "… for an embedding of any norm",
    "preservation_drift": "preservation drift (held-out prompts)",
    "norm_ratio": "‖c'‖/‖c‖ of the derived embeddings",
    "map_change": "‖M − I‖",
    "map_rank": "rank of M − I",
    "map_condition": "condition number of M",
    "gram_scale": "tr(G)/d: read λ against it",
    "erased_scale": "tr(S)/d: read λ₂ against it",
    "preserved_scale": "tr(P)/d: read λ₁ against it",
    "edit_seconds": "seconds of the epoch",
    "erase_seconds": "seconds of the erasure up to its end",
}
ROLES = {"erased": UNWANTED, "kept": ("kept",)}
MOST_DRAWN = 4
"""Names of what is drawn in a concept's place."""


@dataclass(frozen=True)
class ConceptRow:
    """One concept before and after; what was drawn in its place is ``None`` where the detector cannot say."""

    concept: str
    role: str
    """``erased`` (synonyms included) or ``kept``."""
    before: Share
    after: Share
    drawn_before: str | None
    drawn_after: str | None
    floor: Share = Share(0, 0)  # noqa: RUF009  frozen
    """Of an erased concept."""
    complete: bool = False


def concept_rows(comparison: Comparison) -> list[ConceptRow]:
    """Every concept with its detections, and what was drawn where it was asked for."""
    rows = []
    keys = (ORIGINAL, comparison.last)
    for kind, (role, roles) in zip(("erased", "preserved"), ROLES.items(), strict=True):
        for concept in dict.fromkeys(prompt.concept for prompt in comparison.prompts if prompt.kind == kind):
            before, after = (comparison.share(key, roles, concept) for key in keys)
            drawn, drawn_after = (_drawn(comparison, key, roles, concept) for key in keys)
            excess = comparison.excess(comparison.last, roles, concept)
            floor, complete = comparison.floor(roles, concept), excess is not None and excess.complete
            rows.append(ConceptRow(concept, role, before, after, drawn, drawn_after, floor, complete))
    return [row for row in rows if row.before.total or row.after.total]


def _drawn(comparison: Comparison, key: str, roles: Sequence[str], concept: str) -> str | None:
    """What a column's pictures of a concept show, the most frequent first."""
    column = comparison.columns.get(key)
    if column is None or column.shown is None:
        return None
    asked = zip(column.rows, column.shown, strict=True)
    names = [n for row, n in asked if comparison.role(row) in roles and comparison.prompts[row].concept == concept]
    first = Counter(names).most_common(MOST_DRAWN)
    others = len(names) - sum(count for _, count in first)
    return ", ".join([*(f"{name} {count}" for name, count in first), *([f"others {others}"] if others else [])])


def column_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """(state, erased, synonyms, kept, what is above the floor where one was measured, norm ratio) of every column."""
    rows = []
    for key, column in comparison.columns.items():
        erased, synonyms, kept = (str(comparison.share(key, (role,))) for role in ("erased", "synonym", "kept"))
        norm = "1 (own)" if column.norm_ratio is None else f"{column.norm_ratio:.2f}"
        above = [above_floor(comparison.excess(key))] if comparison.floors else []
        rows.append((column.title, erased, synonyms, kept, *above, norm))
    return rows


def reproducing_commands(run: Path | None, verb: str = "fit") -> list[str]:
    """What makes a run again from its own ``config.yaml``, and what measures it again; none where it has no such file.

    Other verbs than ``fit`` measure, and their configuration names the checkpoint. Paths start where the command runs
    now, or else in the folder that holds the run's: whoever reads the page need not know where on a disk that is.
    """
    if run is None or not (run / "config.yaml").is_file():
        return []
    config, folder = _quoted(run)
    if verb != "fit":
        return [f"rece {verb} --config {config}"]
    return [f"rece fit --config {config}", f"rece validate --config {config} --ckpt_path {folder}"]


def next_steps(run: Path) -> list[str]:
    """What a reader of the terminal may do next with a run of ``fit``; nothing where it has no ``config.yaml``."""
    if not (run / "config.yaml").is_file():
        return []
    config, folder = _quoted(run)
    return [
        f"attack it: rece test --config {config} --ckpt_path {folder} --attacks paraphrase,derived",
        f"take it elsewhere: rece export --ckpt_path {folder} --format lora --output FOLDER",
        f"compare runs: rece compare {folder} OTHER --output compare.html",
    ]


def _quoted(run: Path) -> tuple[str, str]:
    """Configuration and folder of a run for a shell."""
    whole, here = run.absolute(), Path.cwd()
    place = whole.relative_to(here) if whole.is_relative_to(here) else Path(whole.name)
    return shlex.quote(str(place / "config.yaml")), shlex.quote(str(place))


def _title(names: Sequence[str], verb: str) -> str:
    if not names:
        return "The model measured" if verb != "fit" else "Nothing was erased"
    return f"Erased: {', '.join(names[:6])}{' …' if len(names) > 6 else ''}"


def _grid_says(comparison: Comparison | None, verdict: Sequence[str], *, before: bool) -> str:
    """The finding of the grid, for those who do not see it."""
    if comparison is None or verdict:
        return " ".join(["The same prompts and seeds before and after.", *verdict])
    counts = [f"{role}: {comparison.share(comparison.last, roles)}" for role, roles in ROLES.items()]
    start = "The same prompts and seeds of the original and the measured model." if before else "The measured model."
    return f"{start} Concepts detected in its pictures: {'; '.join(counts)}."


def _plotted(what: str, plot: Callable[[Any], Any], found: Any) -> Any:
    """A plot; ``None`` where it cannot be drawn."""
    with extra(f"{what} in the report"):
        return plot(found)
    return None


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
    run: Path | None = None,
    ladder: Mapping[str, Any] | None = None,
    verb: str = "fit",
    devices: Devices | None = None,
    words: WordsSection | None = None,
    tuning: Mapping[str, Any] | None = None,
) -> str:
    """Render the page.

    Args:
        title: of the page; the erased prompts without it.
        description: of base, concepts, settings and version.
        settings: of the module, name by name.
        change: share of parameters edited and relative change; empty where nothing was edited.
        history: figures of every epoch.
        placement: device of every part.
        comparison: of the pictures, if there are any; ``grid`` is its base64 PNG.
        exports: what each format costs.
        run: the run's folder, for the command that makes it again.
        ladder: what :func:`ladder_section` says of the attacks, if there were any.
        verb: that wrote the run; ``validate`` and ``test`` have no states to compare.
        devices: the plan of the parts, and how full each device was.
        words: of the vocabulary: which still reach a concept, which were hurt.
        tuning: what was chosen, or would have been, and why; see :class:`rece_lightning.core.tuning.Choice`.
    """
    before = comparison is not None and ORIGINAL in comparison.columns
    verdict = comparison.verdict() if comparison and FIRST in comparison.columns else []
    concepts = concept_rows(comparison) if comparison else []
    figures = {key: name for key, name in FIGURES.items() if any(key in row for row in history)}
    # A figure that could not be had is NaN in the log and missing here.
    history = [{key: value for key, value in row.items() if value == value} for row in history]
    erased = description["concepts"].get("erased", [])
    names = [row["prompt"] for row in erased]
    drawn = [row for row in concepts if row.drawn_after is not None]
    budget_curve = _plotted("the curve over the attacker's budget", budget_svg, history)
    quality = quality_rows(comparison.quality, list(comparison.columns)) if comparison else []
    nearest = _plotted("the curve over what is nearest", nearest_svg, comparison) if comparison else None
    commands = reproducing_commands(run, verb)
    columns = column_rows(comparison) if comparison else []
    sections = {
        "concepts": ("Concept by concept", columns and concepts and comparison and comparison.protocol),
        "pictures": ("Before and after" if before else "Pictures", grid),
        "says": ("What the pictures say", verdict),
        "detections": ("Detections", columns),
        "nearest": ("What is nearest to what was erased", nearest),
        "quality": ("Quality", quality),
        "instead": ("What is drawn instead", drawn),
        "attacks": ("What attacks bring back", ladder),
        "epochs": ("The epochs", history),
        "regained": ("What an attacker can regain", budget_curve and history),
        "words": ("Words that still reach, and words that were hurt", words),
        "exports": ("To take it elsewhere", exports),
        "asked": ("What was asked", erased),
        "devices": ("Devices", devices),
        "again": ("To run it again", commands),
        "settings": ("Settings", True),
    }
    return render(
        "report.html.j2",
        title=title or _title(names, verb),
        headline=headline(comparison, ladder["ladder"] if ladder else None),
        sections=[(name, heading) for name, (heading, there) in sections.items() if there],
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
        figures=figures,
        placement=placement,
        devices=devices,
        comparison=comparison,
        table=comparison_rows(comparison) if comparison else [],
        table_headings=comparison_headings(comparison) if comparison else (),
        columns=columns,
        verdict=verdict,
        concepts=concepts,
        method=comparison.share(comparison.last, ("erased", "synonym", "kept")).method if comparison else "",
        quality=quality,
        nearest=nearest,
        nearest_says=nearest_findings(comparison) if comparison and nearest else [],
        drawn=drawn,
        curves=_plotted("the curves of the epochs", epochs_svg, history),
        budget_curve=budget_curve,
        grid=grid,
        before=before,
        grid_says=_grid_says(comparison, verdict, before=before),
        exports=exports,
        commands=commands,
        ladder=ladder,
        verb=verb,
        words=words,
        tuning=tuning,
    )
