"""The curve over the attacker's budget says what the epochs' figures say."""

from __future__ import annotations

import math

from rece_lightning.reporting.plots import budget_finding, budget_points, budget_svg, budget_top


def figures(scale: float) -> dict[str, float]:
    """Of an epoch, as the module logs them."""
    at = {f"regeneration_residual_at_{budget:g}": scale / (1 + budget) for budget in (0.25, 1.0, math.inf)}
    return {"mapped_residual": 2.0, "regeneration_residual": 0.3, **at}


def test_points_are_relative_to_the_target_and_in_the_order_of_the_budget() -> None:
    assert budget_points(figures(1.0)) == [(0.25, 0.4), (1.0, 0.25), (math.inf, 0.0)]
    assert budget_points({"regeneration_residual_at_1": 0.5}) == []


def test_the_axis_goes_from_nothing_to_the_target() -> None:
    """A small residual looks small: the axis ends at the target, and further out where an edit overshoots."""
    assert budget_top([figures(0.01), figures(2.0)]) == 1
    assert budget_top([figures(0.01), figures(4.0)]) > 1.6


def test_page_shows_a_line_an_epoch_and_says_the_last_in_words() -> None:
    history = [figures(1.0), figures(0.5)]
    page = budget_svg(history)
    assert page.startswith("<svg ")
    assert "0.125" in budget_finding(history)
    assert budget_finding(history).replace("'", "&#x27;") in page
    assert budget_svg([{"edit_seconds": 1.0}]) == ""
    assert "No epoch" in budget_finding([])
