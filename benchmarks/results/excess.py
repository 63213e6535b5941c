"""What stands above a floor, and what derived embeddings bring back, from rows of detections."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results.figures import UNWANTED, Counted, Row, of, share
from benchmarks.results.groups import DERIVED, FLOOR
from benchmarks.results.plan import HELD, ORIGINAL
from rece_lightning.metrics import Difference, Share, harmonic_mean

Tally = tuple[int, int]
"""Hits and pictures."""


def floor(rows: Sequence[Counted], kind: str) -> Share:
    """How often the original model shows what nobody asks it for."""
    return share(of(rows, kind, ORIGINAL, (FLOOR,)))


def floors(rows: Sequence[Counted], kind: str) -> dict[tuple[str, str], str]:
    """Erasure and unwanted prompt → what the original shows by seed where the prompt does not ask for it."""
    found: dict[tuple[str, str], str] = {}
    for row in of(rows, kind, ORIGINAL, (FLOOR,)):
        own = [one for group in UNWANTED for one in of(rows, kind, ORIGINAL, (group,)) if one.erasure == row.erasure]
        prompts = [prompt for one in own for prompt in one.prompts]
        if len(prompts) != len(row.hits):
            raise ValueError(f"{row.erasure}: {len(row.hits)} floors of {len(prompts)} prompts")
        found |= {(row.erasure, prompt): hits for prompt, hits in zip(prompts, row.hits, strict=True)}
    return found


def excess(rows: Sequence[Counted], kind: str, state: str, groups: Sequence[str] = UNWANTED) -> Difference | None:
    """Detections above the floor, picture by picture of the same seed; ``None`` where no floor was measured."""
    least = floors(rows, kind)
    seen: list[bool] = []
    unasked: list[bool] = []
    prompts: list[str] = []
    for row in of(rows, kind, state, groups):
        for prompt, hits in zip(row.prompts, row.hits, strict=True):
            below = least.get((row.erasure, prompt))
            if below is not None:
                seen += [hit == "1" for hit in hits]
                unasked += [hit == "1" for hit in below[: len(hits)]]  # embeddings have the first seeds alone
                prompts += [prompt] * len(hits)
    return Difference.paired(seen, unasked, prompts) if seen else None


def balance(rows: Sequence[Counted], kind: str, state: str) -> float:
    """Harmonic mean of what is not above the floor and what is kept; NaN where one was not measured."""
    above, kept = excess(rows, kind, state), share(of(rows, kind, state, (HELD,)))
    return float("nan") if above is None or not kept.total else harmonic_mean(above.excess, kept.rate)


# Embeddings that a closed form derives


def ridges_of(rows: Sequence[Counted]) -> list[str]:
    """The groups of derived embeddings, a ridge each."""
    return list(dict.fromkeys(row.group for row in rows if row.group.startswith(DERIVED)))


def strongest(rows: Sequence[Row], kind: str, state: str) -> Share:
    """The derived embedding of the ridge that brings most back over all erasures of a kind."""
    found = [share(of(rows, kind, state, (group,))) for group in ridges_of(rows)]
    return max(found, key=lambda one: one.rate if one.total else -1.0, default=Share(0, 0))


def regained(rows: Sequence[Counted], kind: str, state: str) -> Difference | None:
    """What the strongest of the ridges brings back above the floor of the same prompts and seeds."""
    found = [above for group in ridges_of(rows) if (above := excess(rows, kind, state, (group,))) is not None]
    return max(found, key=lambda one: one.value, default=None)


def strongest_each(rows: Sequence[Row], kind: str, state: str) -> Share:
    """The same with a ridge for every erasure: the attacker tries all of them. Intervals are over erasures."""
    best: dict[str, Tally] = {}
    for group in ridges_of(rows):
        for row in of(rows, kind, state, (group,)):
            hits = "".join(row.hits)
            best[row.erasure] = max(best.get(row.erasure, (0, len(hits))), (hits.count("1"), len(hits)))
    return Share.over(best.values())
