"""The before/after grid: one column a model state, rows of erased, synonymous and kept prompts."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from rece_lightning.evaluation.results.comparison import Column, Comparison
from rece_lightning.evaluation.results.sheets import TILE, enlarged
from rece_lightning.files import write_atomically

matplotlib.use("Agg")
from matplotlib.figure import Figure

CELL = TILE
PICTURES_A_CELL = 2
ROLE_COLORS = {"erased": "#b3261e", "synonym": "#b26a00", "kept": "#1b6e3c"}


def cell(column: Column, row: int) -> Tensor | None:
    """The first pictures of a prompt in a column, side by side, ``[3, 96, 192]``."""
    pictures = column.pictures_of(row, PICTURES_A_CELL)
    if not len(pictures):
        return None
    resized = enlarged(pictures)
    missing = PICTURES_A_CELL - len(pictures)
    if missing:
        resized = torch.cat([resized, torch.ones(missing, 3, CELL, CELL)])
    return torch.cat(list(resized), dim=2)


def rows_to_show(comparison: Comparison, limit: int = 12) -> list[int]:
    """Erased prompts, a synonym for each concept, kept prompts: as many of each as fit."""
    roles: dict[str, list[int]] = {"erased": [], "synonym": [], "kept": []}
    seen: set[str] = set()
    for index, prompt in enumerate(comparison.prompts):
        role = comparison.role(index)
        if role == "synonym":
            if prompt.concept in seen:
                continue
            seen.add(prompt.concept)
        roles[role].append(index)
    share = max(2, limit // 3)
    return [index for role in ("erased", "synonym", "kept") for index in roles[role][:share]]


def draw_grid(comparison: Comparison) -> Figure:
    """Draw the grid as a figure."""
    rows, columns = rows_to_show(comparison), list(comparison.columns.values())
    width = CELL * PICTURES_A_CELL
    gap = 8
    canvas = torch.ones(3, len(rows) * (CELL + gap), len(columns) * (width + gap))
    empty = []
    for line, row in enumerate(rows):
        for place, column in enumerate(columns):
            picture = cell(column, row)
            top, left = line * (CELL + gap), place * (width + gap)
            if picture is None:
                empty.append((left + width / 2, top + CELL / 2))
            else:
                canvas[:, top : top + CELL, left : left + width] = picture
    height, breadth = canvas.shape[1:]
    figure = Figure(figsize=(breadth / 100 + 1.9, height / 100 + 1.9), dpi=100)
    total_width, total_height = breadth / 100 + 1.9, height / 100 + 1.9
    axes = figure.add_axes(
        (1.8 / total_width, 1.2 / total_height, breadth / 100 / total_width, height / 100 / total_height)
    )
    axes.imshow(np.asarray(canvas.permute(1, 2, 0).clamp(0, 1)), interpolation="nearest")
    axes.set_axis_off()
    for x, y in empty:
        axes.text(x, y, "not attacked", ha="center", va="center", fontsize=9, color="#888888")
    for line, row in enumerate(rows):
        role = comparison.role(row)
        text = f"{textwrap.shorten(comparison.prompts[row].prompt, 22)}\n({role})"
        y = line * (CELL + gap) + CELL / 2
        axes.text(-10, y, text, ha="right", va="center", fontsize=10, color=ROLE_COLORS[role], clip_on=False)
    counts = [
        f"{sum(comparison.role(row) == role for row in rows)} of "
        f"{sum(comparison.role(row) == role for row in range(len(comparison.prompts)))} {role}"
        for role in ROLE_COLORS
        if any(comparison.role(row) == role for row in range(len(comparison.prompts)))
    ]
    shown = "prompts shown:\n" + "\n".join(counts)
    axes.text(-10, height + 2, shown, ha="right", va="top", fontsize=8.5, color="#555555", clip_on=False)
    for place, column in enumerate(columns):
        x = place * (width + gap) + width / 2
        title = "\n".join(textwrap.wrap(column.title, 24))
        axes.text(x, -8, title, ha="center", va="bottom", fontsize=9, weight="bold", clip_on=False)
        axes.text(x, height + 2, caption(comparison, column), ha="center", va="top", fontsize=8.5, clip_on=False)
    return figure


def caption(comparison: Comparison, column: Column) -> str:
    """Detection rates with intervals, and the norm of the embedding that was given."""
    lines = []
    for label, roles in (("erased", ("erased",)), ("synonyms", ("synonym",)), ("kept", ("kept",))):
        share = comparison.share(column.key, roles)
        if share.total:
            lines.append(f"{label} {share}")
    lines.append("‖c'‖/‖c‖ 1 (own)" if column.norm_ratio is None else f"‖c'‖/‖c‖ {column.norm_ratio:.2f}")
    return "\n".join(lines)


def save_grid(comparison: Comparison, path: Path) -> Path:
    """Draw the grid and write it as a PNG, atomically."""
    figure = draw_grid(comparison)
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
