"""The before/after grid: one column a model state, rows of erased, synonymous and preserved prompts."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

from rece_lightning.data.texts import shortened
from rece_lightning.evaluation.results.comparison import Column, Comparison
from rece_lightning.evaluation.results.sheets import TILE, enlarged
from rece_lightning.evaluation.results.states import ROLES

matplotlib.use("Agg")
from matplotlib.figure import Figure

PICTURES_A_CELL = 2
ROWS_A_ROLE = 4
PLAIN: Any = {"clip_on": False, "parse_math": False}
"""Of labels: a dollar sign in a prompt begins no formula."""
ROLE_COLORS = {"erased": "#b3261e", "synonym": "#b26a00", "kept": "#1b6e3c"}


def cell(column: Column, row: int) -> Tensor | None:
    """The first pictures of a prompt in a column, side by side, ``[3, 96, 192]``."""
    pictures = column.pictures_of(row, PICTURES_A_CELL)
    if not len(pictures):
        return None
    resized = enlarged(pictures)
    missing = PICTURES_A_CELL - len(pictures)
    if missing:
        resized = torch.cat([resized, torch.ones(missing, 3, TILE, TILE)])
    return torch.cat(list(resized), dim=2)


def rows_to_show(comparison: Comparison) -> list[int]:
    """The first erased prompts, a synonym for each of some concepts, the first preserved prompts."""
    roles: dict[str, list[int]] = {role: [] for role in ROLES}
    seen: set[str] = set()
    for index, prompt in enumerate(comparison.prompts):
        role = comparison.role(index)
        if role not in roles:  # counted apart
            continue
        if role == "synonym":
            if prompt.concept in seen:
                continue
            seen.add(prompt.concept)
        roles[role].append(index)
    return [row for rows in roles.values() for row in rows[:ROWS_A_ROLE]]


def draw_grid(comparison: Comparison) -> Figure:
    """The grid as a figure."""
    rows, columns = rows_to_show(comparison), list(comparison.columns.values())
    roles = [comparison.role(row) for row in range(len(comparison.prompts))]
    width, gap = TILE * PICTURES_A_CELL, 8
    canvas = torch.ones(3, len(rows) * (TILE + gap), len(columns) * (width + gap))
    empty = []
    for line, row in enumerate(rows):
        for place, column in enumerate(columns):
            picture = cell(column, row)
            top, left = line * (TILE + gap), place * (width + gap)
            if picture is None:
                empty.append((left + width / 2, top + TILE / 2))
            else:
                canvas[:, top : top + TILE, left : left + width] = picture
    height, breadth = canvas.shape[1:]
    wide, high = breadth / 100 + 1.9, height / 100 + 1.9
    figure = Figure(figsize=(wide, high), dpi=100)
    axes = figure.add_axes((1.8 / wide, 1.2 / high, breadth / 100 / wide, height / 100 / high))
    axes.imshow(np.asarray(canvas.permute(1, 2, 0).clamp(0, 1)), interpolation="nearest")
    axes.set_axis_off()
    for x, y in empty:
        axes.text(x, y, "not attacked", ha="center", va="center", fontsize=9, color="#888888")
    for line, row in enumerate(rows):
        role = roles[row]
        text = f"{shortened(comparison.prompts[row].prompt, 22)}\n({role})"
        y = line * (TILE + gap) + TILE / 2
        axes.text(-10, y, text, ha="right", va="center", fontsize=10, color=ROLE_COLORS[role], **PLAIN)
    shown_roles = [roles[row] for row in rows]
    counts = [f"{shown_roles.count(role)} of {roles.count(role)} {role}" for role in ROLE_COLORS if role in roles]
    shown = "prompts shown:\n" + "\n".join(counts)
    axes.text(-10, height + 2, shown, ha="right", va="top", fontsize=8.5, color="#555555", **PLAIN)
    for place, column in enumerate(columns):
        x = place * (width + gap) + width / 2
        title = "\n".join(textwrap.wrap(column.title, 24))
        axes.text(x, -8, title, ha="center", va="bottom", fontsize=9, weight="bold", **PLAIN)
        axes.text(x, height + 2, caption(comparison, column), ha="center", va="top", fontsize=8.5, **PLAIN)
    return figure


def caption(comparison: Comparison, column: Column) -> str:
    """Detection rates with intervals, and the norm of the embedding that was given."""
    lines = []
    for label, role in (("erased", "erased"), ("synonyms", "synonym"), ("kept", "kept")):
        share = comparison.share(column.key, (role,))
        if share.total:
            lines.append(f"{label} {share}")
    lines.append("‖c'‖/‖c‖ 1 (own)" if column.norm_ratio is None else f"‖c'‖/‖c‖ {column.norm_ratio:.2f}")
    return "\n".join(lines)
