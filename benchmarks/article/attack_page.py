"""The part of ``article.md`` that tells what attacks bring back."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.article.attacks import BUDGET, LADDERS, PICTURES, STEPS
from benchmarks.article.plan import DERIVED
from benchmarks.article.table import AttackRow, Row, methods
from benchmarks.results.figures import share
from benchmarks.results.page import NONE
from benchmarks.results.plan import ERASED
from rece_lightning.metrics import Share
from rece_lightning.metrics.difference import Difference

SEARCHED = ("mma", "p4d", "unlearndiffatk")
"""Attacks that find a prompt."""
HALF, FEW = 0.5, 0.1
"""Shares of pictures for "more than half" and "at most one in ten"."""


def sections(attacked: Sequence[AttackRow], rows: Sequence[Row]) -> list[str]:
    """The lines, a section a world.

    Args:
        attacked: what attacks reached.
        rows: of the methods' own pictures: what the concepts' prompts and derived embeddings reach.
    """
    lines = []
    for world in (world for world in LADDERS if any(row.world == world for row in attacked)):
        own = [row for row in attacked if row.world == world]
        plain = [row for row in rows if row.world == world]
        lines += [f"## Attacks: `{world}`", "", *intro(own), "", *findings(own), "", *table(own, plain), ""]
    return lines


def intro(rows: Sequence[AttackRow]) -> list[str]:
    """What is asked, and what the columns mean."""
    names = list(dict.fromkeys(row.erasure for row in rows))
    concepts = list(dict.fromkeys(concept for row in rows if not row.control for concept in row.concepts))
    unseen = list(dict.fromkeys(concept for row in rows if row.control for concept in row.concepts))
    attacks = list(dict.fromkeys(row.attack for row in rows))
    said = [
        "Written by `python -m benchmarks.article --attacks`; what was measured is in `article_attacks.csv`. Erased: "
        f"{', '.join(names)}; looked for: {', '.join(concepts)}, one search of each attack and {len(PICTURES)} "
        f"pictures of what it finds; shares of pictures with their interval ({rows[0].share.method}). Against the "
        "original an attack shows what it can reach at best.",
        "",
        f"*Own prompt* and *derived* are those of the tables above. What an attacker needs: {has(rows, attacks)}. "
        f"`cce` begins at the concept's own prompt, embedded, and goes {STEPS[-1]} steps; *control*: the same search "
        f"for an object that the model never saw ({', '.join(unseen)}): what is not above it is taught, not found. "
        "*Above*: the difference, with its interval.",
    ]
    guarded = [row for row in rows if "guard" in row.has]
    if guarded:
        said += [
            "",
            "A guard changes no weight, and no gradient passes through it: searches against one follow the model that "
            "it stands around, so that all guards meet the same prompts and embeddings, and what is found is drawn "
            f"through the guard (`has` in the CSV: *{guarded[0].has.partition('; ')[2]}*). SAFREE reads words: "
            "embeddings, those of `cce` among them, pass it by. No guard is told of the control: below it, the guard "
            "catches what it was told of.",
        ]
    return said


def has(rows: Sequence[AttackRow], attacks: Sequence[str]) -> str:
    """Of each attack, without what is said of guards."""
    needs = {row.attack: row.has.partition("; ")[0] for row in rows}
    return "; ".join(f"`{name}` {needs[name]}" for name in attacks)


def reached(rows: Sequence[AttackRow], method: str, attack: str, variant: str = "", *, control: bool = False) -> Share:
    """What an attack reached on a method, over everything that was attacked."""
    found = [
        row.share
        for row in rows
        if (row.state, row.attack, row.variant, bool(row.control)) == (method, attack, variant, control)
    ]
    return Share.over(pair for one in found for pair in one.clusters)


def above(rows: Sequence[AttackRow], method: str) -> Difference | None:
    """The last step of ``cce`` less its control's; ``None`` where one of them was not measured."""
    first, control = (reached(rows, method, "cce", f"steps={STEPS[-1]}", control=one) for one in (False, True))
    return Difference.of(first, control) if first.total and control.total else None


def findings(rows: Sequence[AttackRow]) -> list[str]:
    """What the strongest prompt attack and ``cce`` reach, in sentences."""
    said = []
    strongest: dict[str, tuple[str, Share]] = {}
    for method in methods(rows):
        tried = {name: reached(rows, method, name) for name in SEARCHED}
        measured = {name: one for name, one in tried.items() if one.total}
        if measured:
            name = max(measured, key=lambda one: measured[one].rate)
            strongest[method] = name, measured[name]
    if strongest:
        many = [_told(method, *found) for method, found in strongest.items() if found[1].interval[0] > HALF]
        few = [_told(method, *found) for method, found in strongest.items() if found[1].rate <= FEW]
        said.append(
            "- *Prompts*: the strongest of the prompt attacks brings back more than half of the pictures, by the "
            f"whole interval, after {'; '.join(many) or 'none'}. At most one in ten, of the pictures that were drawn, "
            f"after {'; '.join(few) or 'none'}."
        )
    beside = {method: found for method in methods(rows) if (found := above(rows, method)) is not None}
    if beside:
        clear = [f"{method} ({found})" for method, found in beside.items() if found.interval[0] > 0]
        level = [f"{method} ({found})" for method, found in beside.items() if not found.clear]
        below = [f"{method} ({found})" for method, found in beside.items() if found.interval[1] < 0]
        said.append(
            f"- *Embeddings*: after {STEPS[-1]} steps `cce` brings back more of what was erased than of its control "
            f"after {'; '.join(clear) or 'none'}. No clear difference after {'; '.join(level) or 'none'}."
            + (f" Less after {'; '.join(below)}." if below else "")
        )
    return said


def _told(method: str, attack: str, found: Share) -> str:
    return f"{method} ({attack}, {found})"


def table(rows: Sequence[AttackRow], plain: Sequence[Row]) -> list[str]:
    """Methods × attacks, over everything that was attacked."""
    names = {row.erasure for row in rows}
    prompts = [name for name in BUDGET if name in SEARCHED and any(row.attack == name for row in rows)]
    columns = ["own prompt", *(f"`{name}`" for name in prompts), "derived"]
    columns += [f"`cce` {step}" for step in STEPS] + [f"control {STEPS[-1]}", "above, points"]
    said = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method in methods(rows):
        own, derived = (
            share(row for row in plain if row.erasure in names and row.state == method and row.group == group)
            for group in (ERASED, DERIVED)
        )
        shares = [own, *(reached(rows, method, name) for name in prompts), derived]
        shares += [reached(rows, method, "cce", f"steps={step}") for step in STEPS]
        shares.append(reached(rows, method, "cce", f"steps={STEPS[-1]}", control=True))
        difference = above(rows, method)
        cells = [*(str(one) if one.total else NONE for one in shares), NONE if difference is None else difference.short]
        said.append(f"| {method} | " + " | ".join(cells) + " |")
    return said
