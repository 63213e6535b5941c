"""Figures, intervals and paired tests from the rows of ``results.csv``.

Pictures of the same prompt are one cluster, whatever was erased: intervals and tests are over prompts, and speak of
these erasures. FID and KID are one number an erasure, all from the same number of pictures: theirs are over erasures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Protocol, TypeVar

from benchmarks.results.plan import ERASED, SYNONYMS
from rece_lightning.metrics import Mean, PairedTest, Share, cluster_bootstrap, paired_test, paired_test_of_values
from rece_lightning.metrics.intervals import FEWEST_PROMPTS, t_quantile

UNWANTED = (ERASED, SYNONYMS)
NAN = float("nan")


class Counted(Protocol):
    """A row of detections, of whichever table."""

    @property
    def kind(self) -> str: ...
    @property
    def erasure(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def prompts(self) -> tuple[str, ...]: ...
    @property
    def hits(self) -> tuple[str, ...]: ...


Row = TypeVar("Row", bound=Counted)


def of(rows: Iterable[Row], kind: str, state: str, groups: Sequence[str]) -> list[Row]:
    """The rows of a state that belong to groups of prompts."""
    return [row for row in rows if row.kind == kind and row.state == state and row.group in groups]


def incomplete(rows: Sequence[Row], kind: str, states: Sequence[str], count: int) -> str:
    """States that a run which was stopped has not measured on every erasure."""
    found = {state: len({row.erasure for row in of(rows, kind, state, (ERASED,))}) for state in states}
    return ", ".join(f"{state} on {number} of {count}" for state, number in found.items() if number < count)


def share(rows: Iterable[Counted]) -> Share:
    """Detections, with an interval over prompts."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for prompt, hits in zip(row.prompts, row.hits, strict=True):
            found.setdefault(prompt, []).append(hits)
    joined = ["".join(hits) for hits in found.values()]
    return Share.over((hits.count("1"), len(hits)) for hits in joined)


def mean(rows: Iterable[Counted], field: str) -> Mean:
    """Of ``clip`` or ``distance`` over pictures, with an interval over prompts."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for row in rows:
        for prompt, value, hits in zip(row.prompts, getattr(row, field), row.hits, strict=True):
            sums[prompt] = sums.get(prompt, 0.0) + value * len(hits)
            counts[prompt] = counts.get(prompt, 0) + len(hits)
    return interval_of(list(sums.values()), list(counts.values()), "prompts")


def over_erasures(rows: Iterable[Counted], field: str) -> Mean:
    """Mean of ``fid`` or ``kid`` over erasures."""
    values = [getattr(row, field) for row in rows if getattr(row, field) is not None]
    return interval_of(values, [1] * len(values), "erasures")


def interval_of(sums: Sequence[float], counts: Sequence[int], clusters: str) -> Mean:
    """``Σ sums / Σ counts`` with a bootstrap over clusters; with fewer than six Student's t over their means."""
    total = sum(counts)
    if not total:
        return Mean(NAN, (NAN, NAN), 0, "nothing measured")
    value = sum(sums) / total
    if len(sums) >= FEWEST_PROMPTS:
        return Mean(value, cluster_bootstrap(sums, counts), total, f"95 % bootstrap over {clusters}")
    if len(sums) < 2:
        return Mean(value, (NAN, NAN), total, f"one of the {clusters}")
    means = [part / count for part, count in zip(sums, counts, strict=True)]
    half = t_quantile(len(means) - 1) * stdev(means) / sqrt(len(means))
    return Mean(value, (fmean(means) - half, fmean(means) + half), total, f"95 % t over {clusters}")


def pairs(rows: Sequence[Row], kind: str, before: str, after: str, groups: Sequence[str]) -> list[tuple[Row, Row]]:
    """Rows of two states with the same erasure, prompts and seeds."""
    first = {(row.erasure, row.group): row for row in of(rows, kind, before, groups)}
    found = []
    for row in of(rows, kind, after, groups):
        other = first.get((row.erasure, row.group))
        if other is not None and other.prompts == row.prompts and _lengths(other) == _lengths(row):
            found.append((other, row))
    return found


def detection_test(found: Sequence[tuple[Counted, Counted]]) -> PairedTest:
    """Whether detections differ by more than chance, over prompts."""
    before, after, prompts = _pictures(found)
    return paired_test(before, after, prompts)


def detection_change(found: Sequence[tuple[Counted, Counted]]) -> Mean:
    """Detections of the second rows less those of the first, with an interval over prompts."""
    sums: dict[str, int] = {}
    counts: dict[str, int] = {}
    for first, second, prompt in zip(*_pictures(found), strict=True):
        sums[prompt] = sums.get(prompt, 0) + int(second) - int(first)
        counts[prompt] = counts.get(prompt, 0) + 1
    return interval_of(list(sums.values()), list(counts.values()), "prompts")


def _pictures(found: Sequence[tuple[Counted, Counted]]) -> tuple[list[bool], list[bool], list[str]]:
    before: list[bool] = []
    after: list[bool] = []
    prompts: list[str] = []
    for first, second in found:
        for prompt, hits, others in zip(first.prompts, first.hits, second.hits, strict=True):
            before += [hit == "1" for hit in hits]
            after += [hit == "1" for hit in others]
            prompts += [prompt] * len(hits)
    return before, after, prompts


def mean_test(found: Sequence[tuple[Counted, Counted]], field: str) -> PairedTest:
    """Whether ``clip`` or ``distance`` differs by more than chance, over prompts."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for first, second in found:
        values = zip(first.prompts, getattr(first, field), getattr(second, field), first.hits, strict=True)
        for prompt, before, after, hits in values:
            sums[prompt] = sums.get(prompt, 0.0) + (after - before) * len(hits)
            counts[prompt] = counts.get(prompt, 0) + len(hits)
    return paired_test_of_values(list(sums.values()), list(counts.values()))


def erasure_test(found: Sequence[tuple[Counted, Counted]], field: str) -> PairedTest:
    """Whether ``fid`` or ``kid`` differs by more than chance, over erasures."""
    both = [(getattr(first, field), getattr(second, field)) for first, second in found]
    changes = [after - before for before, after in both if before is not None and after is not None]
    return paired_test_of_values(changes, [1] * len(changes))


def _lengths(row: Counted) -> list[int]:
    return [len(hits) for hits in row.hits]
