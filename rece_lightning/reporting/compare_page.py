"""The page of ``rece compare``."""

from __future__ import annotations

from collections.abc import Sequence

from rece_lightning.evaluation.results.states import State, best_balance
from rece_lightning.reporting.plots import tradeoff_svg
from rece_lightning.reporting.side_by_side import findings, gallery, methods, shots_to_show, states_table
from rece_lightning.reporting.templates import render


def compare_page(states: Sequence[State], *, protocol: str, notes: Sequence[str], command: str) -> str:
    """Render it.

    Args:
        states: measured on the same prompts and seeds.
        protocol: detector and sampling, in words.
        notes: what a reader must know of the comparison.
        command: that made the page.
    """
    shots = sorted({shot for state in states for shot in state.hits})
    order = {shot: place for place, shot in enumerate(states[0].hits)}
    shots.sort(key=lambda shot: order.get(shot, len(order)))
    best = best_balance(states)
    return render(
        "compare.html.j2",
        title=f"{sum(state.edited for state in states)} edited models compared",
        findings=findings(states),
        **methods(states),
        table=states_table(states),
        plot=tradeoff_svg(states, best),
        gallery=gallery(states, shots_to_show(shots)),
        pictures=len(shots),
        prompts=len({(shot.prompt, shot.concept) for shot in shots}),
        protocol=protocol,
        notes=notes,
        command=command,
    )
