"""What a rule that looks at no picture costs: the best setting in hindsight less the one that it chose."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarks.results.excess import balance
from benchmarks.results.figures import Counted
from benchmarks.results.plan import KINDS, NEAREST, ORIGINAL, RECE_TUNED, ROBUST, ROBUST_SHIPPED, SHARED
from benchmarks.tuning.plan import CHOSEN_ON, JUDGED_ON

SINGULAR = (ROBUST, ROBUST_SHIPPED, NEAREST, *SHARED)
"""Chosen for what an attacker regains too: they are no candidates where that is not asked for."""
Best = tuple[str, float]


def best_of(rows: Sequence[Counted], kind: str) -> Best:
    """The state of the highest harmonic mean, singular ones and the original aside, and that mean."""
    states = dict.fromkeys(row.state for row in rows if row.kind == kind and row.state not in (ORIGINAL, *SINGULAR))
    means = {state: balance(rows, kind, state) for state in states}
    known = {state: value for state, value in means.items() if value == value}
    return max(known.items(), key=lambda one: one[1]) if known else ("", float("nan"))


def regrets(rows: Sequence[Counted]) -> list[str]:
    """Erasure by erasure, and their means over the halves and kinds."""
    found: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    lines = []
    for kind in KINDS:
        for name in dict.fromkeys(row.erasure for row in rows if row.kind == kind):
            own = [row for row in rows if row.erasure == name]
            (state, top), chosen = best_of(own, kind), balance(own, kind, RECE_TUNED)
            if chosen == chosen:
                found[kind][name] = 100 * (top - chosen)
                shown = state if top > chosen else RECE_TUNED
                lines.append(
                    f"| {name} | {shown} | {100 * top:.0f} | {100 * chosen:.0f} | {100 * (top - chosen):.0f} |"
                )
    if not lines:
        return []
    groups = {
        "objects, chosen on": [value for name, value in found["objects"].items() if name in CHOSEN_ON],
        "objects, judged on": [value for name, value in found["objects"].items() if name in JUDGED_ON],
        **{kind: list(own.values()) for kind, own in found.items() if kind != "objects"},
    }
    means = [f"| mean, {name} | | | | **{fmean(values):.1f}** |" for name, values in groups.items() if values]
    return [
        "## What the rule costs",
        "",
        f"The harmonic mean of *{RECE_TUNED}* beside the best of all states above in hindsight, those that are chosen "
        "for an attacker (singular editors of `robust`) aside; in points. The best of several by these very pictures "
        "looks better than it is: the regret is an upper bound.",
        "",
        "| | best in hindsight | its mean | tuned | regret |",
        "|---|---|---|---|---|",
        *lines,
        *means,
    ]
