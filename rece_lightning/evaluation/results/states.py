"""States of models as they were measured: what stands side by side in a comparison."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rece_lightning.evaluation.results.figures import QualityLine
from rece_lightning.metrics import Difference, PairedTest, Share, harmonic_mean, paired_test

UNWANTED = ("erased", "synonym")
ROLES = {"erased": "erased, own words", "synonym": "their synonyms", "kept": "kept"}
LEVEL = 0.05
DRAWS = 2000

Counts = npt.NDArray[np.float64]
"""Hits and pictures a prompt, ``[prompts, 2]``."""


class Shot(NamedTuple):
    """What was drawn: the same in every state that is compared."""

    prompt: str
    concept: str
    role: str
    seed: int


def balance_draws(erased: Counts, kept: Counts) -> Counts:
    """Harmonic means of ``1 − erased`` and ``kept`` over resampled prompts; empty where a role has no prompt.

    ``erased`` may hold what is above the floor; below it an erasure is no better than at it. A prompt's pictures stay
    together. The same seed for every state: draw ``k`` of two states resamples the same prompts, in their order, so
    that their difference is paired.
    """
    if not len(erased) or not len(kept):
        return np.zeros(0)
    generator = np.random.default_rng(0)
    rates = []
    for counts in (erased, kept):
        drawn = counts[generator.integers(len(counts), size=(DRAWS, len(counts)))].sum(axis=1)
        rates.append(drawn[:, 0] / drawn[:, 1])
    gone, stays = 1.0 - rates[0].clip(0.0, 1.0), rates[1]
    total = gone + stays
    return np.divide(2 * gone * stays, total, out=np.zeros(DRAWS), where=total > 0)


def central_interval(draws: Counts) -> tuple[float, float]:
    """The middle 95 %; NaN without draws."""
    if not len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class State:
    """A method with its settings, or the unedited model."""

    name: str
    hits: Mapping[Shot, bool | None]
    """Whether the shot's concept was detected; ``None`` without a detector."""
    note: str = ""
    """What sets it apart from the others."""
    edited: bool = True
    attacked: Mapping[Shot, bool | None] = field(default_factory=dict)
    """The same, given the derived embedding."""
    shown: Mapping[Shot, str] = field(default_factory=dict)
    """What the detector saw instead."""
    tiles: Mapping[Shot, str] = field(default_factory=dict)
    """Small pictures as ``data:`` addresses."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured without pictures."""
    quality: Sequence[QualityLine] = ()
    """What metrics measured beside the detections."""
    floors: Mapping[Shot, bool] = field(default_factory=dict)
    """Whether the original model shows an erased shot's concept where the target is asked for, with the same seed."""

    def flags(self, roles: Collection[str], *, attacked: bool = False) -> dict[Shot, bool]:
        """Detections of shots in some roles."""
        source = self.attacked if attacked else self.hits
        return {shot: hit for shot, hit in source.items() if shot.role in roles and hit is not None}

    def share(self, roles: Collection[str], *, attacked: bool = False) -> Share:
        """The same counted."""
        flags = self.flags(roles, attacked=attacked)
        return Share.of(flags.values(), [(shot.prompt, shot.concept) for shot in flags])

    def floor(self, roles: Collection[str] = UNWANTED) -> Share:
        """The floor of the shots that have one."""
        shots = [shot for shot in self.flags(roles) if shot in self.floors]
        return Share.of([self.floors[shot] for shot in shots], [(shot.prompt, shot.concept) for shot in shots])

    def excess(self, roles: Collection[str] = UNWANTED, *, attacked: bool = False) -> Difference | None:
        """Detections above the floor; ``None`` where none was measured."""
        flags = self.flags(roles, attacked=attacked)
        shots = [shot for shot in flags if shot in self.floors]
        if not shots:
            return None
        prompts = [(shot.prompt, shot.concept) for shot in shots]
        return Difference.paired([flags[shot] for shot in shots], [self.floors[shot] for shot in shots], prompts)

    def by_prompt(self, roles: Collection[str]) -> Counts:
        """Hits above the floor, where one was measured, and pictures of every prompt, ``[prompts, 2]``."""
        counts: dict[tuple[str, str], list[int]] = {}
        for shot, hit in sorted(self.flags(roles).items()):
            count = counts.setdefault((shot.prompt, shot.concept), [0, 0])
            count[0] += hit - self.floors.get(shot, False)
            count[1] += 1
        return np.array(list(counts.values()), dtype=float).reshape(-1, 2)

    @property
    def balance(self) -> float:
        """Harmonic mean of (1 − erased and synonyms detected above their floor) and preserved detected."""
        gone = self.by_prompt(UNWANTED).sum(axis=0)
        above = max(0.0, float(gone[0] / gone[1])) if gone[1] else float("nan")
        return harmonic_mean(above, self.share(("kept",)).rate)

    @cached_property
    def draws(self) -> Counts:
        """Of the harmonic mean, over resampled prompts."""
        return balance_draws(self.by_prompt(UNWANTED), self.by_prompt(("kept",)))

    @property
    def balance_text(self) -> str:
        """With its interval."""
        if self.balance != self.balance:
            return "–"
        low, high = central_interval(self.draws)
        return f"{self.balance:.2f} ({low:.2f}–{high:.2f})"


@dataclass(frozen=True)
class Best:
    """The best edited state by one figure, and whether that is more than chance."""

    place: int
    clear: bool


def best_share(states: Sequence[State], roles: Collection[str], *, high: bool, attacked: bool = False) -> Best | None:
    """The state with the lowest or highest share; clear where it differs from the next by more than chance."""
    rates = {
        place: share.rate
        for place, state in enumerate(states)
        if state.edited and (share := state.share(roles, attacked=attacked)).total
    }
    if not rates:
        return None
    order = sorted(rates, key=lambda place: (-rates[place] if high else rates[place], place))
    if len(order) == 1:
        return Best(order[0], clear=False)
    test = compare(states[order[0]], states[order[1]], roles, attacked=attacked)
    return Best(order[0], test.clear)


def compare(first: State, second: State, roles: Collection[str], *, attacked: bool = False) -> PairedTest:
    """The paired test of two states on the shots that both have."""
    flags = [state.flags(roles, attacked=attacked) for state in (first, second)]
    shots = sorted(flags[0].keys() & flags[1].keys())
    prompts = [(shot.prompt, shot.concept) for shot in shots]
    return paired_test([flags[0][shot] for shot in shots], [flags[1][shot] for shot in shots], prompts)


def best_balance(states: Sequence[State]) -> Best | None:
    """The state with the highest harmonic mean; equal ones by the smaller change of the weights."""
    usable = [place for place, state in enumerate(states) if state.edited and state.balance == state.balance]
    if not usable:
        return None

    def key(place: int) -> tuple[float, float, int]:
        return -states[place].balance, states[place].figures.get("weight_change", 0.0), place

    order = sorted(usable, key=key)
    if len(order) == 1:
        return Best(order[0], clear=False)
    # The interval of the paired difference leaves out 0.
    low, high = central_interval(states[order[0]].draws - states[order[1]].draws)
    return Best(order[0], low > 0 or high < 0)
