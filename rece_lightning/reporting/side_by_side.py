"""States side by side: the table, the pictures, the sentences that pages of several runs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
SHORT = {"erased": "erased", "synonym": "synonym", "kept": "kept"}
FIGURES = {
    "preservation_drift": ("drift", "{:.3f}"),
    "regeneration_residual": ("residual", "{:.4f}"),
    "weight_change": ("‖ΔW‖/‖W‖", "{:.2f}"),
}


@dataclass(frozen=True)
class Cell:
    """Of the table."""

    text: str
    best: bool = False
    """The best of its column, by more than chance."""


@dataclass(frozen=True)
class Row:
    """One state."""

    name: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """All states."""

    headings: tuple[str, ...]
    rows: tuple[Row, ...]


def states_table(states: Sequence[State]) -> Table:
    """Every figure with its interval; what was measured nowhere is left out."""
    columns: list[tuple[str, Callable[[State], str], Best | None]] = []
    for role, heading in ROLES.items():
        if any(state.share((role,)).total for state in states):
            best = best_share(states, (role,), high=role == "kept")
            columns.append((heading, _share_of((role,)), best))
    if any(state.share(UNWANTED, attacked=True).total for state in states):
        best = best_share(states, UNWANTED, high=False, attacked=True)
        columns.append(("erased, given the derived embedding", _share_of(UNWANTED, attacked=True), best))
    if any(state.balance == state.balance for state in states):
        columns.append(("harmonic mean", lambda state: state.balance_text, best_balance(states)))
    for heading, rule in dict.fromkeys((line.heading, line.rule) for state in states for line in state.quality):
        columns.append((f"{heading} ({rule})", _quality_of(heading, rule), None))
    for name, (heading, form) in FIGURES.items():
        if any(name in state.figures for state in states):
            columns.append((heading, _figure_of(name, form), None))
    rows = tuple(
        Row(
            state.name,
            state.note,
            tuple(
                Cell(text(state), best is not None and best.clear and best.place == place)
                for _, text, best in columns
            ),
        )
        for place, state in enumerate(states)
    )  # fmt: skip
    return Table(tuple(heading for heading, _, _ in columns), rows)


def _share_of(roles: Sequence[str], *, attacked: bool = False) -> Callable[[State], str]:
    return lambda state: str(state.share(roles, attacked=attacked))


def _quality_of(heading: str, rule: str) -> Callable[[State], str]:
    def text(state: State) -> str:
        own = (line for line in state.quality if (line.heading, line.rule) == (heading, rule))
        return next((str(line.figure) for line in own), "–")

    return text


def _figure_of(name: str, form: str) -> Callable[[State], str]:
    def text(state: State) -> str:
        value = state.figures.get(name, math.nan)
        return form.format(value) if value == value else "–"

    return text


@dataclass(frozen=True)
class Tile:
    """One small picture."""

    tile: str
    alt: str
    hit: bool | None
    shown: str


@dataclass(frozen=True)
class PictureRow:
    """One prompt and seed in every state."""

    prompt: str
    role: str
    label: str
    seed: int
    cells: tuple[Tile, ...]


@dataclass(frozen=True)
class Gallery:
    """Rows of the same prompts and seeds."""

    names: tuple[str, ...]
    rows: tuple[PictureRow, ...]


def shots_to_show(shots: Sequence[Shot], rows_a_role: int = ROWS_A_ROLE) -> list[Shot]:
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
        chosen += [*fresh, *(shot for shot in firsts.values() if shot not in fresh)][:rows_a_role]
    return chosen


def gallery(states: Sequence[State], shots: Sequence[Shot]) -> Gallery | None:
    """The pictures of some shots; ``None`` where no state kept any."""
    rows = []
    for shot in shots:
        cells = tuple(_tile(state, shot) for state in states)
        if any(cell.tile for cell in cells):
            rows.append(PictureRow(shot.prompt, shot.role, SHORT[shot.role], shot.seed, cells))
    return Gallery(tuple(state.name for state in states), tuple(rows)) if rows else None


def _tile(state: State, shot: Shot) -> Tile:
    hit, shown = state.hits.get(shot), state.shown.get(shot, "")
    found = {None: "", True: f": {shot.concept} detected", False: f": {shot.concept} not detected"}[hit]
    instead = f", {shown} seen instead" if hit is False and shown else ""
    return Tile(state.tiles.get(shot, ""), f"{shot.prompt}, seed {shot.seed}, {state.name}{found}{instead}", hit, shown)


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
            of = "erased concepts and synonyms" if roles == UNWANTED else "kept concepts"
            if len(alike) > 1:
                says.append(f"{', '.join(alike)} {verb} most alike: {of} detected in {share}.")
            else:
                chance = "more than chance apart from the next" if best.clear else "the next is within chance"
                says.append(f"{alike[0]} {verb}s most: {of} detected in {share}; {chance}.")
    best = best_balance(states)
    if best is not None:
        chance = "" if best.clear else ", not more than chance above the next"
        says.append(f"Highest harmonic mean: {states[best.place].name}, {states[best.place].balance_text}{chance}.")
    return says or ["No detector counted anything: look at the pictures."]
