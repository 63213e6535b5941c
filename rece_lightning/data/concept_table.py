"""The concepts of a setting, a list or a CSV of any length: looked through once, then read when they are needed."""

from __future__ import annotations

import hashlib
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.concepts import (
    Concept,
    ConceptsSetting,
    PromptPair,
    concepts_in,
    pairs_of,
    place_named,
)

LISTED = 1000
"""So many are held in memory and named in checkpoints and reports; of more there are a number and a hash."""


class ConceptTable:
    """Concepts by iteration: of a CSV nothing stays in memory but where its rows repeat each other (32 bytes a row).

    Args:
        setting: ``data.concepts``: prompts, mappings, or the path of a CSV.
        target: of concepts that name none.
        templates: of concepts that name none.

    Raises:
        ConfigurationError: for whatever is wrong with a row, and for a prompt with two targets; both rows are named.

    Warns:
        UserWarning: if rows say again what an earlier one says; they count again.
    """

    def __init__(self, setting: ConceptsSetting, target: str, templates: Sequence[str]) -> None:
        self._setting, self._target, self._templates = setting, target, tuple(templates)
        if not isinstance(templates, (list, tuple)):
            self._templates = templates  # type: ignore[assignment]  # refused below, as it was given
        self._stamp = self._stamp_now()
        repeats, self._rows, self.pairs = Repeats(), 0, 0
        for place, concept in concepts_in(setting, target, self._templates):
            repeats.add(place, concept.prompt, concept.target, concept.templates)
            self._rows += 1
            self.pairs += len(concept.templates)
        self._report(repeats.found())

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Concept]:
        return (concept for _, concept in self.places())

    def places(self) -> Iterator[tuple[int, Concept]]:
        """Line of the file, or index of the list, and concept."""
        if self._stamp_now() != self._stamp:
            raise ConfigurationError(f"data.concepts: {self._setting} was changed while it was being used; start anew.")
        return concepts_in(self._setting, self._target, self._templates)

    def _stamp_now(self) -> tuple[int, int] | None:
        if not isinstance(self._setting, str) or not self._setting.lower().endswith(".csv"):
            return None
        try:
            found = Path(self._setting).expanduser().stat()
        except OSError:
            return None  # said when it is read
        return found.st_size, found.st_mtime_ns

    def _report(self, found: Repeated) -> None:
        wanted = {place for pair in found.conflicts for place in pair} | set(found.example or ())
        if not wanted:
            return
        named = {place: concept for place, concept in self.places() if place in wanted}
        for former, later in found.conflicts:
            one, other = named[former], named[later]
            # Hashes of other texts can be alike, once in the age of the universe.
            if one.prompt.lower() == other.prompt.lower():
                raise ConfigurationError(
                    f"data.concepts: {other.prompt!r} has two targets, {one.target!r} and {other.target!r} "
                    f"({self.place(former)} and {self.place(later)}); keep one."
                )
        if found.example is not None:
            former, later = found.example
            warnings.warn(
                f"data.concepts: {found.rows} of {self._rows} rows repeat an earlier one, such as "
                f"{named[later].prompt!r} ({self.place(former)} and {self.place(later)}); each counts again.",
                stacklevel=4,
            )

    def place(self, number: int) -> str:
        """A place in words."""
        return place_named("data.concepts", self._setting, number)


class PromptPairs:
    """The pairs of a table by iteration: one for each concept and template."""

    def __init__(self, table: ConceptTable) -> None:
        self.table = table

    def __len__(self) -> int:
        return self.table.pairs

    def __iter__(self) -> Iterator[PromptPair]:
        return (pair for concept in self.table for pair in pairs_of(concept))


def check_kept(table: ConceptTable, preserved: Sequence[str], setting: object, places: Sequence[int]) -> None:
    """Refuse a prompt that is erased and preserved at once.

    Args:
        table: what is erased.
        preserved: what is preserved.
        setting: ``data.preserve``.
        places: of the preserved prompts in it.

    Raises:
        ConfigurationError: naming both rows.
    """
    texts = {prompt.strip().lower(): row for row, prompt in enumerate(preserved) if prompt.strip()}
    if not texts:
        return
    for place, concept in table.places():
        for prompt in (concept.prompt, *(pair.prompt for pair in pairs_of(concept))):
            row = texts.get(prompt.strip().lower())
            if row is not None:
                both = f"{place_named('data.preserve', setting, places[row])} and {table.place(place)}"
                raise ConfigurationError(
                    f"data.preserve: {preserved[row]!r} is also erased (data.concepts; {both}); take it out of one of "
                    "the two."
                )


def described(pairs: Iterable[PromptPair], preserved: Sequence[str]) -> dict[str, Any]:
    """What is erased and preserved in plain types; of more than :data:`LISTED` the first ones, a number and a hash."""
    listed: list[dict[str, Any]] = []
    number, digest = 0, hashlib.sha256()
    for pair in pairs:
        if number < LISTED:
            listed.append({"prompt": pair.prompt, "target": pair.target, "weight": pair.weight})
        digest.update(repr((pair.prompt, pair.target, pair.weight)).encode("utf-8", "surrogatepass"))
        number += 1
    summary: dict[str, Any] = {"erased": listed, "preserved": list(preserved[:LISTED])}
    if number > LISTED:
        summary |= {"erased_prompts": number, "erased_digest": digest.hexdigest()}
    if len(preserved) > LISTED:
        whole = repr(list(preserved)).encode("utf-8", "surrogatepass")
        summary |= {"preserved_prompts": len(preserved), "preserved_digest": hashlib.sha256(whole).hexdigest()}
    return summary


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


def read_concepts(setting: ConceptsSetting, target: str, templates: Sequence[str]) -> list[Concept]:
    """All concepts of the setting ``data.concepts``; see :class:`rece_lightning.data.concept_table.ConceptTable`."""
    return list(ConceptTable(setting, target, templates))
