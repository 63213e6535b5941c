"""The pages of ``rece compare`` and ``rece sweep``: states side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rece_lightning.evaluation.results.states import Shot, State, best_balance
from rece_lightning.reporting.beside import Attacked, attack_table, cost_table
from rece_lightning.reporting.plots import front_svg, tradeoff_svg
from rece_lightning.reporting.side_by_side import findings, gallery, methods, shots_to_show, states_table
from rece_lightning.reporting.templates import render


def _of_states(states: Sequence[State], shots: Sequence[Shot]) -> dict[str, Any]:
    """What both pages show of states: table, plot and pictures; empty where nothing was measured."""
    return {
        **methods(states),
        "table": states_table(states) if states else None,
        "floors": any(state.floors for state in states),
        "plot": tradeoff_svg(states, best_balance(states)),
        "gallery": gallery(states, shots_to_show(shots)),
    }


def compare_page(
    states: Sequence[State],
    *,
    protocol: str,
    notes: Sequence[str],
    command: str,
    attacked: Sequence[Attacked] = (),
    seconds: Sequence[str] = (),
) -> str:
    """The page of ``rece compare``: states that were measured on the same prompts and seeds.

    ``protocol`` is detector and sampling in words, ``command`` what made the page; ``attacked`` are models that were
    attacked alike; ``seconds`` says what they are of.
    """
    order = {shot: place for place, shot in enumerate(states[0].hits)}
    shots = sorted({shot for state in states for shot in state.hits}, key=lambda one: (order.get(one, len(order)), one))
    return render(
        "compare.html.j2",
        title=f"{sum(state.edited for state in states)} models compared",
        findings=findings(states),
        **_of_states(states, shots),
        costs=cost_table(states),
        attacks=attack_table(attacked),
        seconds=seconds,
        pictures=len(shots),
        prompts=len({(shot.prompt, shot.concept) for shot in shots}),
        protocol=protocol,
        notes=notes,
        command=command,
    )


@dataclass(frozen=True)
class FrontRow:
    """A setting of the front as the page lists it."""

    number: int
    setting: str
    cells: tuple[str, ...]
    measured: bool


def sweep_page(
    *,
    title: str,
    recommended: str,
    settings: Mapping[str, Any],
    finding: str,
    rules: Sequence[str],
    states: Sequence[State],
    points: Sequence[tuple[float, float]],
    front: Sequence[int],
    measured: Mapping[int, int],
    x: str,
    rows: Sequence[FrontRow],
    refused: Sequence[tuple[str, str]],
    protocol: str,
    notes: Sequence[str],
    commands: Sequence[str],
) -> str:
    """The page of ``rece sweep``.

    ``recommended`` is a setting's name, ``settings`` what it sets, ``finding`` why, in a sentence. ``states`` are the
    unedited model and the measured settings, if any; ``measured`` maps their places to their rows in the table.
    ``points`` are (erased-side figure ``x``, drift) of every setting, ``front`` the places of those on the front and
    ``rows`` what the page says of these; ``refused`` are (setting, reason) of those without figures.
    """
    front_says = (
        f"{len(front)} of {len(points)} settings are on the front of {x} against drift of preserved prompts; "
        f"{len(measured)} of all were measured with pictures. {finding}"
    )
    return render(
        "sweep.html.j2",
        title=title,
        recommended=recommended,
        settings=settings,
        finding=finding,
        rules=rules,
        **_of_states(states, list(states[0].hits) if states else ()),
        front_plot=front_svg(points, front, measured, x, front_says),
        front_says=front_says,
        x=x,
        rows=rows,
        refused=refused,
        protocol=protocol,
        notes=notes,
        commands=commands,
    )
