"""What the page says of the rows of ``families.csv``: derived embeddings of any norm, worlds beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from benchmarks.families.table import Row
from benchmarks.results.excess import Tally, floor
from benchmarks.results.figures import UNWANTED, Counted, of, share
from benchmarks.results.plan import ERASED, ORIGINAL
from rece_lightning.metrics import Mean
from rece_lightning.metrics.intervals import RESAMPLES, SEED


def certificates(rows: Sequence[Row], kind: str, state: str) -> list[tuple[float, float]]:
    """Text space by text space the least and the median over erasures, over embeddings of any norm."""
    found = [row.certificate for row in of(rows, kind, state, (ERASED,)) if row.certificate]
    return [(min(values), median(values)) for values in zip(*found, strict=True) if all(map(math.isfinite, values))]


def per_prompt(rows: Sequence[Counted]) -> dict[str, Tally]:
    """Prompt → its hits and pictures, whatever was erased."""
    found: dict[str, Tally] = {}
    for row in rows:
        for prompt, hits in zip(row.prompts, row.hits, strict=True):
            before = found.get(prompt, (0, 0))
            found[prompt] = before[0] + hits.count("1"), before[1] + len(hits)
    return found


def left_between(
    first: Sequence[Counted], second: Sequence[Counted], kind: str, states: tuple[str, str], groups: Sequence[str]
) -> Mean:
    """How much more of what its original shows a state of one world leaves than a state of another.

    What is left is detections after, as a share of those before: originals that draw unlike well can be compared. Over
    prompts that both worlds were asked; the interval is a bootstrap over these.

    Args:
        first: rows of one world.
        second: rows of the other.
        kind: of erasures.
        states: of the first and of the second.
        groups: of prompts.
    """
    worlds = []
    for rows, state in ((first, states[0]), (second, states[1])):
        tallies = [per_prompt(of(rows, kind, one, groups)) for one in (ORIGINAL, state)]
        worlds.append([{prompt: hits / total for prompt, (hits, total) in one.items()} for one in tallies])
    prompts = [one for one in worlds[0][1] if all(one in rates for world in worlds for rates in world)]
    rates = np.array([[world[side][one] for world in worlds for side in (0, 1)] for one in prompts])
    if not len(rates):
        return Mean(math.nan, (math.nan, math.nan), 0, "nothing measured")
    drawn = np.random.default_rng(SEED).integers(len(rates), size=(RESAMPLES, len(rates)))
    low, high = np.nanquantile(_difference(rates[drawn].sum(1)), [0.025, 0.975])
    value = float(_difference(rates.sum(0)[None])[0])
    return Mean(value, (float(low), float(high)), len(prompts), "95 % bootstrap over prompts")


def _difference(sums: Any) -> Any:
    """Of shares left, from sums of rates ``[n, 4]``: before and after in the first world, then in the second."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[:, 3] / sums[:, 2] - sums[:, 1] / sums[:, 0]


def harmonic(rows: Sequence[Row], kind: str, state: str, kept: str) -> float:
    """Of what is removed of what the original shows above its floor, and what is kept of what it keeps."""
    least, own = floor(rows, kind).rate, share(of(rows, kind, ORIGINAL, UNWANTED)).rate
    stays = share(of(rows, kind, ORIGINAL, (kept,))).rate
    if own <= least or not stays:
        return math.nan
    removed = 1 - max(0.0, share(of(rows, kind, state, UNWANTED)).rate - least) / (own - least)
    preserved = min(1.0, share(of(rows, kind, state, (kept,))).rate / stays)
    return 2 * removed * preserved / (removed + preserved) if removed + preserved else 0.0
