"""States side by side: the table, the pictures, the sentences that pages of several runs share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rece_lightning.evaluation.results.comparison import above_floor
from rece_lightning.evaluation.results.states import (
    ROLES,
    UNWANTED,
    Best,
    Shot,
    State,
    best_balance,
    best_share,
    compare,
)

ROWS_A_ROLE = 4
FIGURES = {
    "preservation_drift": ("drift", "{:.3f}"),
    "regeneration_residual": ("residual", "{:.4f}"),
    "weight_change": ("‖ΔW‖/‖W‖", "{:.2f}"),
}


def states_table(states: Sequence[State]) -> dict[str, Any]:
    """Every figure with its interval; what was measured nowhere is left out.

    Returns:
        The ``headings``, and ``rows`` with ``name``, ``note`` and ``cells``: each has its ``text``, and ``best`` where
        it is the best of its column by more than chance.
    """
    columns: list[tuple[str, list[str], Best | None]] = []
    for role, heading in ROLES.items():
        shares = [state.share((role,)) for state in states]
        if any(share.total for share in shares):
            columns.append((heading, [*map(str, shares)], best_share(states, (role,), high=role == "kept")))
        if role == "synonym" and any(state.floors for state in states):
            columns += _floor_columns(states)
    shares = [state.share(UNWANTED, attacked=True) for state in states]
    if any(share.total for share in shares):
        best = best_share(states, UNWANTED, high=False, attacked=True)
        columns.append(("erased, given the derived embedding", [*map(str, shares)], best))
    if any(state.balance == state.balance for state in states):
        columns.append(("harmonic mean", [state.balance_text for state in states], best_balance(states)))
    for asked in dict.fromkeys((line.heading, line.rule) for state in states for line in state.quality):
        figures = [[line.figure for line in s.quality if (line.heading, line.rule) == asked] for s in states]
        columns.append(
            (f"{asked[0]} ({asked[1]})", [str(of_state[0]) if of_state else "–" for of_state in figures], None)
        )
    for name, (heading, form) in FIGURES.items():
        if any(name in state.figures for state in states):
            values = [state.figures.get(name, math.nan) for state in states]
            columns.append((heading, [form.format(value) if value == value else "–" for value in values], None))
    rows = []
    for place, state in enumerate(states):
        marks = [best is not None and best.clear and best.place == place for _, _, best in columns]
        cells = [{"text": texts[place], "best": mark} for (_, texts, _), mark in zip(columns, marks, strict=True)]
        rows.append({"name": state.name, "note": state.note, "cells": cells})
    return {"headings": [heading for heading, _, _ in columns], "rows": rows}


def _floor_columns(states: Sequence[State]) -> list[tuple[str, list[str], Best | None]]:
    """The floor of erased concepts and synonyms together, and what is above it."""
    above = [state.excess() for state in states]
    return [
        ("floor", [str(state.floor()) for state in states], None),
        ("erased and synonyms above it, in points", [above_floor(excess) for excess in above], None),
    ]


def shots_to_show(shots: Sequence[Shot]) -> list[Shot]:
    """The first seed of a few prompts of every role; of synonyms one a concept first."""
    chosen: list[Shot] = []
    for role in ROLES:
        firsts: dict[tuple[str, str], Shot] = {}
        for shot in shots:
            if shot.role == role:
                firsts.setdefault((shot.prompt, shot.concept), shot)
        by_concept: dict[str, Shot] = {}
        for shot in firsts.values():
            by_concept.setdefault(shot.concept, shot)
        fresh = list(by_concept.values())
        chosen += [*fresh, *(shot for shot in firsts.values() if shot not in fresh)][:ROWS_A_ROLE]
    return chosen


def gallery(states: Sequence[State], shots: Sequence[Shot]) -> dict[str, Any] | None:
    """The pictures of some shots, a row each, with the ``names`` of the states; ``None`` where no state kept any."""
    rows = []
    for shot in shots:
        cells = [_tile(state, shot) for state in states]
        if any(cell["tile"] for cell in cells):
            rows.append({"prompt": shot.prompt, "role": shot.role, "seed": shot.seed, "cells": cells})
    return {"names": [state.name for state in states], "rows": rows} if rows else None


def _tile(state: State, shot: Shot) -> dict[str, Any]:
    hit, shown = state.hits.get(shot), state.shown.get(shot, "")
    found = {None: "", True: f": {shot.concept} detected", False: f": {shot.concept} not detected"}[hit]
    instead = f", {shown} seen instead" if hit is False and shown else ""
    alt = f"{shot.prompt}, seed {shot.seed}, {state.name}{found}{instead}"
    return {"tile": state.tiles.get(shot, ""), "alt": alt, "hit": hit, "shown": shown}


def methods(states: Sequence[State]) -> dict[str, str]:
    """How intervals are made and states compared, in words."""
    if not states:
        return {"method": "", "test": ""}
    share = next((s.share(roles) for roles in (UNWANTED, ("kept",)) for s in states if s.share(roles).total), None)
    edited = [state for state in states if state.edited] or list(states)
    roles = UNWANTED if edited[0].share(UNWANTED).total else ("kept",)
    return {"method": share.method if share else "none", "test": compare(edited[0], edited[-1], roles).test}


def findings(states: Sequence[State]) -> list[str]:
    """What the table says in plain sentences."""
    says = []
    for roles, high, verb in ((UNWANTED, False, "remove"), (("kept",), True, "keep")):
        best = best_share(states, roles, high=high)
        if best is not None and sum(state.edited for state in states) > 1:
            share = states[best.place].share(roles)
            alike = [s.name for s in states if s.edited and s.share(roles).total and s.share(roles).rate == share.rate]
            of = "erased concepts and synonyms" if roles == UNWANTED else "preserved concepts"
            if len(alike) > 1:
                says.append(f"{', '.join(alike)} {verb} most alike: {of} detected in {share}.")
            else:
                chance = "more than chance apart from the next" if best.clear else "the next is within chance"
                says.append(f"{alike[0]} {verb}s most: {of} detected in {share}; {chance}.")
    complete = [state.name for state in states if state.edited and (above := state.excess()) and above.complete]
    if complete:
        says.append(f"At the floor, what the original model shows where nobody asks for it: {', '.join(complete)}.")
    best = best_balance(states)
    if best is not None:
        chance = "" if best.clear else ", not more than chance above the next"
        says.append(f"Highest harmonic mean: {states[best.place].name}, {states[best.place].balance_text}{chance}.")
    return says or ["No detector counted anything: look at the pictures."]
