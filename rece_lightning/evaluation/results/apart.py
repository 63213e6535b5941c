"""Detections that stand apart: of groups of prompts, and of what is preserved by its nearness to what was erased."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.evaluation.results.figures import QualityLine
from rece_lightning.metrics import Figure, Share

GROUP, PINPOINT = "group", "pinpoint_by"
PLACES = (1, 2, 3, 5, 10, 20, 50, 100)
"""Numbers of nearest concepts that the curve is read at."""


def apart_lines(comparison: Comparison, key: str) -> list[QualityLine]:
    """The figures of one column: groups, then the curves of nearness."""
    return [*_groups(comparison, key), *_pinpoint(comparison, key)]


def _groups(comparison: Comparison, key: str) -> list[QualityLine]:
    """Of every group of erased prompts the share of its pictures that show their concept."""
    groups = dict.fromkeys(row.group for row in comparison.prompts if row.group and row.kind == "erased")
    return [_line(comparison, key, GROUP, group, comparison.share(key, (group,))) for group in groups]


def kept_by_rank(comparison: Comparison, key: str, order: str) -> list[Share]:
    """Of every preserved concept that was asked for by its nearness the share of a column's pictures that show it.

    Args:
        comparison: with columns and what is nearest.
        key: of the column.
        order: of nearness, ``text`` or ``name``.

    Returns:
        From the nearest concept on.
    """
    return [comparison.share(key, ("kept",), concept) for concept in comparison.nearest[order]]


def of_the_nearest(ranks: Sequence[Share]) -> list[Share]:
    """Of the nearest 1, 2, 3, … concepts together; at its end is the score.

    Args:
        ranks: of each concept, nearest first.
    """
    return list(accumulate(ranks))


def _pinpoint(comparison: Comparison, key: str) -> list[QualityLine]:
    """Of the k preserved concepts that are nearest to what was erased the share of pictures that still show them.

    A curve over k; at its end, over all that were asked for, it is the score.
    """
    lines = []
    for order, concepts in comparison.nearest.items():
        if not concepts:
            continue
        whole = of_the_nearest(kept_by_rank(comparison, key, order))
        for count in [place for place in PLACES if place < len(concepts)] + [len(concepts)]:
            lines.append(_line(comparison, key, f"{PINPOINT}_{order}", f"nearest_{count}", whole[count - 1]))
    return [line for line in lines if line.figure.total]


def _line(comparison: Comparison, key: str, metric: str, part: str, share: Share) -> QualityLine:
    figure = Figure(part, share.rate, share.total, share.method, share.interval)
    return QualityLine(key, metric, comparison.protocol, "", figure)
