"""The concepts of a setting, a list or a CSV of any length: looked through once, then read when they are needed."""

from __future__ import annotations

import hashlib
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.concepts import (
    Concept,
    ConceptsSetting,
    PromptPair,
    also_preserved,
    concepts_in,
    pairs_of,
    place_named,
    warn_of_concepts,
)
from rece_lightning.data.tables import names_file

LISTED = 1000
"""So many are held in memory and named in checkpoints and reports; of more there are a number and a hash."""


class ConceptTable:
    """Concepts by iteration: of a file nothing stays in memory but where its rows repeat each other (32 bytes a row).

    Args:
        setting: ``data.concepts``: prompts, mappings, or the path of a prompt file.
        target: of concepts that name none.
        templates: of concepts that name none.

    Raises:
        ConfigurationError: for whatever is wrong with a row, and for a prompt with two targets; both rows are named.

    Warns:
        UserWarning: if rows say again what an earlier one says (they count again), and of prompts that look like
            several, or like a file.
    """

    def __init__(self, setting: ConceptsSetting, target: str, templates: Sequence[str]) -> None:
        self._setting, self._target, self._templates = setting, target, tuple(templates)
        if not isinstance(templates, (list, tuple)):
            self._templates = templates  # type: ignore[assignment]  # refused below, as it was given
        self._stamp = self._stamp_now()
        repeats, self._rows, self.pairs = Repeats(), 0, 0
        for place, concept in concepts_in(setting, target, self._templates):
            repeats.add(place, concept)
            self._rows += 1
            self.pairs += len(concept.templates)
        self._report(repeats.conflicts(), repeats.again())
        warn_of_concepts(setting, target)

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
        if not names_file(self._setting):
            return None
        try:
            file = Path(str(self._setting)).expanduser().stat()
        except OSError:
            return None  # said when it is read
        return file.st_size, file.st_mtime_ns

    def _report(self, conflicts: list[tuple[int, int]], again: list[tuple[int, int]]) -> None:
        wanted = {place for pair in (*conflicts, *again[:1]) for place in pair}
        named = {place: concept for place, concept in self.places() if place in wanted} if wanted else {}
        for former, later in conflicts:
            one, other = named[former], named[later]
            # Hashes of other texts can be alike, once in the age of the universe.
            if one.prompt.lower() == other.prompt.lower():
                raise ConfigurationError(
                    f"data.concepts: {other.prompt!r} has two targets, {one.target!r} and {other.target!r} "
                    f"({self.place(former)} and {self.place(later)}); keep one."
                )
        for former, later in again[:1]:
            warnings.warn(
                f"data.concepts: {len(again)} of {self._rows} rows repeat an earlier one, such as "
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
    """Refuse a prompt that is erased and preserved at once, naming both rows.

    Args:
        table: what is erased.
        preserved: prompts.
        setting: ``data.preserve``.
        places: of the preserved prompts in it.
    """
    for place, index in also_preserved(table.places(), preserved):
        both = f"data.concepts; {place_named('data.preserve', setting, places[index])} and {table.place(place)}"
        raise ConfigurationError(
            f"data.preserve: {preserved[index]!r} is also erased ({both}); take it out of one of the two."
        )


def described(pairs: Iterable[PromptPair], preserved: Sequence[str]) -> dict[str, Any]:
    """What is erased and preserved in plain types; of more than :data:`LISTED` the first ones, a number and a hash."""
    listed: list[dict[str, Any]] = []
    number, digest = 0, hashlib.sha256()
    for number, pair in enumerate(pairs, start=1):
        if number <= LISTED:
            listed.append(asdict(pair))
        digest.update(repr((pair.prompt, pair.target, pair.weight)).encode("utf-8", "surrogatepass"))
    summary: dict[str, Any] = {"erased": listed, "preserved": list(preserved[:LISTED])}
    if number > LISTED:
        summary |= {"erased_prompts": number, "erased_digest": digest.hexdigest()}
    if len(preserved) > LISTED:
        whole = repr(list(preserved)).encode("utf-8", "surrogatepass")
        summary |= {"preserved_prompts": len(preserved), "preserved_digest": hashlib.sha256(whole).hexdigest()}
    return summary


class Repeats:
    """Remembers 32 bytes a concept: place, and hashes of its prompt, of its target and of both with their templates."""

    def __init__(self) -> None:
        self._rows = array("Q")

    def add(self, place: int, concept: Concept) -> None:
        """Take a concept; text encoders read lower case, so case tells nothing apart."""
        prompt, target = concept.prompt.lower(), concept.target.lower().strip()
        self._rows.extend((place, _hash(prompt), _hash(target), _hash("\0".join((prompt, target, *concept.templates)))))

    def conflicts(self) -> list[tuple[int, int]]:
        """Places with one prompt and two targets."""
        table = self._sorted_by(1)
        at = np.flatnonzero((table[1:, 1] == table[:-1, 1]) & (table[1:, 2] != table[:-1, 2]))
        return [(int(table[index, 0]), int(table[index + 1, 0])) for index in at]

    def again(self) -> list[tuple[int, int]]:
        """Earlier places, and later ones that say the same."""
        table = self._sorted_by(3)
        at = np.flatnonzero(table[1:, 3] == table[:-1, 3])
        return [(int(table[index, 0]), int(table[index + 1, 0])) for index in at]

    def _sorted_by(self, column: int) -> np.ndarray:
        table = np.asarray(self._rows).reshape(-1, 4)
        return table[np.argsort(table[:, column], kind="stable")]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def read_concepts(setting: ConceptsSetting, target: str, templates: Sequence[str]) -> list[Concept]:
    """All concepts of the setting ``data.concepts``; see :class:`rece_lightning.data.concept_table.ConceptTable`."""
    return list(ConceptTable(setting, target, templates))
