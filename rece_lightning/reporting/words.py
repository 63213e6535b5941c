"""Which words of the vocabulary still reach a concept, and which were hurt unasked: the section of the report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReachingWord:
    """A word that is near a concept before the edit and after it: 0 is the concept, 1 its target."""

    concept: str
    word: str
    before: float
    after: float


@dataclass(frozen=True)
class HurtWord:
    """A word that the edit moved, in units of the way from a concept to its target."""

    word: str
    moved: float
    nearest: str
    """The concept that it was nearest to."""
    before: float
    """Its distance from that one."""


@dataclass(frozen=True)
class WordsSection:
    """What the scan found; where there was none, ``left_out`` says why."""

    words: int = 0
    """How many were looked at."""
    template: str = ""
    within: float = 0.0
    """A word reaches where it is nearer than this."""
    reaching: tuple[ReachingWord, ...] = ()
    more: int = 0
    """Words that reach beside those."""
    hurt: tuple[HurtWord, ...] = ()
    left_out: str = ""
