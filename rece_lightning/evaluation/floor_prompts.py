"""Floor prompts: what is asked in the place of an erased prompt, so that nobody asks for the concept any more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rece_lightning.data.concepts import Concept, PromptPair
from rece_lightning.data.prompts import EvaluationPrompt

WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")
DANGLING = frozenset(("a", "an", "the", "of", "in", "by", "on", "with", "and", "as", "from", "like", *",;:.-–—&/"))
"""What hangs in the air in front of words that were taken out."""
VOWELS = "aeiou"
BLANK = " "
Words = tuple[str, ...]


class FloorPrompts:
    """Finds floor prompts from what is erased and its targets.

    Args:
        concepts: that are erased; none where only the filled-in pairs are known.
        pairs: their prompts with their targets, templates filled in.
    """

    def __init__(self, concepts: Iterable[Concept], pairs: Iterable[PromptPair]) -> None:
        self._pairs: dict[str, str] = {}
        self._pieces: dict[Words, str] = {}
        self._whole: dict[str, str] = {}
        """Concepts that are erased as a whole, not in the context of other words, with their targets."""
        for concept in concepts:
            self._take(concept.prompt, concept.target)
        for pair in pairs:
            self._pairs.setdefault(_plain(pair.prompt), pair.target if pair.target.strip() else BLANK)
            self._take(pair.prompt, pair.target)
        self._longest = max(map(len, self._pieces), default=0)

    def _take(self, prompt: str, target: str) -> None:
        piece, put = _difference(_words(prompt), _words(target))
        if piece:
            self._pieces.setdefault(piece, " ".join(put))
        if piece == _words(prompt):
            self._whole.setdefault(_plain(prompt), target if target.strip() else BLANK)

    def of(self, row: EvaluationPrompt) -> str | None:
        """The floor prompt of an erased row, ``" "`` for the empty one; ``None`` where none can be derived.

        The target of a prompt that is erased as it is. In other prompts that name the concept ("a photo of a bomb") the
        target takes the place of its words; a style that is erased in context ("a dog in ink style" → "a dog") is left
        out of other contexts as well ("a fox in ink style" → "a fox"). A prompt that asks for a concept in other words
        alone has that concept's target.
        """
        if _plain(row.prompt) in self._pairs:
            return self._pairs[_plain(row.prompt)]
        put = self._put_in(row.prompt)
        return self._whole.get(_plain(row.concept)) if put is None else put or BLANK

    def _put_in(self, text: str) -> str | None:
        """A text with targets in the place of what is erased, longer pieces first; ``None`` where nothing of it is."""
        tokens = list(WORD.finditer(text))
        words = tuple(token[0].casefold() for token in tokens)
        for length in range(min(len(words), self._longest), 0, -1):
            for first in range(len(words) - length + 1):
                piece = words[first : first + length]
                if piece in self._pieces:
                    before, behind = text[: tokens[first].start()], text[tokens[first + length - 1].end() :]
                    sides = [part if (put := self._put_in(part)) is None else put for part in (before, behind)]
                    return _joined(sides[0].strip(), self._pieces[piece], sides[1].strip())
        return None


def floors_of(prompts: Sequence[EvaluationPrompt], data: Any) -> tuple[str | None, ...]:
    """The floor prompt of every row under the concepts of a datamodule; ``None`` for what is preserved too."""
    if all(row.kind != "erased" for row in prompts):
        return (None,) * len(prompts)
    found = FloorPrompts(getattr(data, "concepts", ()), getattr(data, "pairs", ()))
    return tuple(found.of(row) if row.kind == "erased" else None for row in prompts)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(text: str) -> Words:
    return tuple(token[0].casefold() for token in WORD.finditer(text))


def _difference(prompt: Words, target: Words) -> tuple[Words, Words]:
    """What of a prompt is other words in its target, with these; the whole of both where nothing is left of one."""
    first = 0
    while first < min(len(prompt), len(target)) and prompt[first] == target[first]:
        first += 1
    last = 0
    while last < min(len(prompt), len(target)) - first and prompt[-1 - last] == target[-1 - last]:
        last += 1
    piece = prompt[first : len(prompt) - last]
    return (piece, target[first : len(target) - last]) if piece else (prompt, target)


def _joined(before: str, put: str, behind: str) -> str:
    """A prompt with other words in the middle; without any, what led to them goes too, unless it leads further."""
    leads_on = behind and _words(behind)[0] not in DANGLING
    while not put and not leads_on and before and (last := list(WORD.finditer(before))[-1])[0].casefold() in DANGLING:
        before = before[: last.start()].rstrip()
    if not put and not before:
        behind = re.sub(r"^[^\w]+", "", behind)
    if follows := (put or behind)[:1].casefold():  # "an axe" becomes "a flower"
        article = r"\1n" if follows in VOWELS else r"\1"
        before = re.sub(r"\b([aA])n?$", article, before)
    whole = " ".join(part for part in (before, put, behind) if part)
    return re.sub(r"\s+([,;:.])", r"\1", " ".join(whole.split()))
