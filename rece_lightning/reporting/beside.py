"""What runs of different kinds cost and what attacks bring back from them, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rece_lightning.evaluation.results.states import State
from rece_lightning.reporting.ladder import NO_ATTACK, Ladder

COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "parameters_edited_share": ("parameters changed", lambda value: f"{100 * value:.2f} %"),
    "weight_change": ("‖ΔW‖/‖W‖", lambda value: f"{value:.3f}"),
    "erase_seconds": ("seconds to erase", lambda value: f"{value:.3g}"),
    "picture_seconds": ("seconds a picture", lambda value: f"{value:.3g}"),
}
"""Figure of a state → heading and form."""
TOLD = ("parameters_edited_share", "erase_seconds", "picture_seconds")
"""Of these one at least, or there is no table."""


@dataclass(frozen=True)
class Attacked:
    """A model that was attacked, and its ladder."""

    name: str
    ladder: Ladder
    note: str = ""


def cost_table(states: Sequence[State]) -> dict[str, Any] | None:
    """What every state cost; ``None`` where no run has told it.

    Args:
        states: that stand side by side.

    Returns:
        ``headings``, and ``rows`` with ``name`` and ``cells``; what is not known is a dash.
    """
    if not any(name in state.figures for state in states for name in TOLD):
        return None
    known = {name: form for name, form in COSTS.items() if any(name in state.figures for state in states)}
    rows = [
        {
            "name": state.name,
            "cells": [form(state.figures[name]) if name in state.figures else "–" for name, (_, form) in known.items()],
        }
        for state in states
    ]
    return {"headings": [heading for heading, _ in known.values()], "rows": rows}


def attack_table(attacked: Sequence[Attacked]) -> dict[str, Any] | None:
    """Every attack on every model; ``None`` where there was none.

    Args:
        attacked: models with their ladders, of one protocol.

    Returns:
        The ``models``, ``findings``, and ``rows`` with ``title``, ``has`` and ``shares``: of a model that was not
        attacked in this way ``None``.
    """
    if not attacked:
        return None
    rows: dict[str, str] = {}
    for one in attacked:
        for row in one.ladder.whole:
            rows.setdefault(row.title, row.has)
    of = [{row.title: row for row in one.ladder.whole} for one in attacked]
    return {
        "models": attacked,
        "findings": [_strongest(one) for one in attacked],
        "rows": [
            {"title": title, "has": has, "shares": [own[title].edited if title in own else None for own in of]}
            for title, has in rows.items()
        ],
        "detector": attacked[0].ladder.detector,
    }


def _strongest(one: Attacked) -> str:
    plain = next((row for row in one.ladder.whole if row.attack == NO_ATTACK), None)
    own = f"{plain.edited} of the pictures under its own prompts" if plain is not None else "not asked plainly"
    tried = [row for row in one.ladder.attacks if row.edited.total]
    if not tried:
        return f"{one.name}: {own}."
    best = max(tried, key=lambda row: row.edited.rate)
    control = one.ladder.control_of(best)
    beside = "" if control is None else f" (its control {control.edited})"
    return f"{one.name}: {own}; most under {best.title}, {best.edited}{beside}."
