"""Concepts that are listed twice, with one target or with two, found in a list of any length."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Repeated:
    """What :class:`Repeats` found; rows by the number that they were added with."""

    conflicts: list[tuple[int, int]]
    """Rows with one prompt and two targets."""
    rows: int
    """How many rows say again what an earlier one says."""
    example: tuple[int, int] | None
    """An earlier row, and the first that repeats it."""


class Repeats:
    """Remembers 32 bytes a concept: hashes of its prompt, of its target and of both with their templates."""

    def __init__(self) -> None:
        self._places = array("Q")
        self._prompts = array("Q")
        self._targets = array("Q")
        self._wholes = array("Q")

    def add(self, place: int, prompt: str, target: str, templates: Sequence[str]) -> None:
        """Take a concept; text encoders read lower case, so case tells nothing apart.

        Args:
            place: number of its row.
            prompt: that is erased.
            target: that it becomes.
            templates: that both are filled into.
        """
        prompt, target = prompt.lower(), target.lower().strip()
        self._places.append(place)
        self._prompts.append(_hash(prompt))
        self._targets.append(_hash(target))
        self._wholes.append(_hash("\0".join((prompt, target, *templates))))

    def found(self) -> Repeated:
        """Look through everything that was added."""
        prompts, targets, wholes, places = (
            np.frombuffer(column, dtype=np.uint64) if len(column) else np.zeros(0, np.uint64)
            for column in (self._prompts, self._targets, self._wholes, self._places)
        )
        order = np.argsort(prompts, kind="stable")
        same = prompts[order][1:] == prompts[order][:-1]
        other = targets[order][1:] != targets[order][:-1]
        at = np.flatnonzero(same & other)
        conflicts = [(int(places[order[index]]), int(places[order[index + 1]])) for index in at]
        order = np.argsort(wholes, kind="stable")
        again = np.flatnonzero(wholes[order][1:] == wholes[order][:-1])
        example = (int(places[order[again[0]]]), int(places[order[again[0] + 1]])) if len(again) else None
        return Repeated(conflicts, len(again), example)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
