"""How near the edited keys and values of every word come to an erased concept's original ones: algebra alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.reaching import Reaching
from rece_lightning.core.robust import WITHIN
from rece_lightning.data.synonyms import TEMPLATE
from rece_lightning.data.texts import filled
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.models.text_space import TEXT
from rece_lightning.models.vocabulary import vocabulary_words
from rece_lightning.vocabulary.rows import cached_rows, subject_rows

ALL_SECOND_WORDS = 4000
"""Vocabularies up to this size are searched whole for the second word of a pair."""
SECOND_WORDS = 500
"""Of larger ones that many words, the nearest first."""


@dataclass(frozen=True)
class Scan:
    """What the words of a vocabulary reach. Every distance is relative: 0 is the concept's original, 1 its target."""

    concepts: tuple[str, ...]
    words: tuple[str, ...]
    before: Tensor
    """From the concept's original keys and values, on the original model, ``[n, concepts]``."""
    after: Tensor
    """The same on the edited model."""
    change: Tensor
    """How far the edit moved a word, ``[n]``: 1 is as far as a concept is from its target (the median concept)."""
    pairs: tuple[tuple[str, str, float], ...] = ()
    """Concept, two words, and their distance on the edited model: the nearest that the beam found."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of encoding (0 where the file was there) and of the algebra."""

    def nearest(self, concept: int, count: int) -> list[tuple[str, float, float]]:
        """The words that come nearest to a concept on the edited model: (word, before, after)."""
        order = self.after[:, concept].argsort(stable=True)[:count].tolist()
        return [(self.words[i], float(self.before[i, concept]), float(self.after[i, concept])) for i in order]

    def reaching(self, concept: int, within: float = WITHIN) -> list[tuple[str, float, float]]:
        """The words that meant a concept and still reach it, the nearest first: (word, before, after).

        Words that came near through the edit alone mean something else; :meth:`nearest` has them too.
        """
        rows = self.nearest(concept, len(self.words))
        return [row for row in rows if max(row[1:]) < within and row[0] not in self.concepts]

    def meant(self, within: float = WITHIN) -> list[str]:
        """The words, other than the concepts' own, that were so near to one of them on the original model."""
        near = (self.before < within).any(dim=1).tolist()
        return [word for word, is_near in zip(self.words, near, strict=True) if is_near and word not in self.concepts]

    def hurt(self, count: int) -> list[tuple[str, float, str, float]]:
        """The words that the edit moved furthest and nobody named: (word, change, nearest concept, distance before)."""
        named = {word for concept in self.concepts for word in concept.lower().split()}
        order = [i for i in self.change.argsort(descending=True, stable=True).tolist() if self.words[i] not in named]
        found = []
        for i in order[:count]:
            near = int(self.before[i].argmin())
            found.append((self.words[i], float(self.change[i]), self.concepts[near], float(self.before[i, near])))
        return found


def scan(
    session: ErasureSession,
    *,
    template: str = TEMPLATE,
    beam: int = 0,
    cache: Path | None = None,
    words: Sequence[str] | None = None,
) -> Scan:
    """Scan the vocabulary of an edited model, in its first text space.

    Args:
        session: with an erasure.
        template: filled with every word, concept and target.
        beam: width of the search for pairs of words; 0 for none.
        cache: folder of the encoded vocabulary; see :func:`rece_lightning.vocabulary.rows.default_cache`.
        words: in place of the tokenizer's.

    Raises:
        ConfigurationError: if nothing was edited, or the template has no place for a word.
    """
    if template.count("{}") != 1 or template.replace("{}", "").strip("{}") != template.replace("{}", ""):
        raise ConfigurationError(f"--template: {template!r}; give a text with one '{{}}' in it, such as {TEMPLATE!r}.")
    text, encoder = session.erasure().text, session.encoder
    space = text.space.name
    summary = session.concepts
    added = {prompt for row in summary.get("synonyms", []) for prompt in row["prompts"]}
    named = tuple(dict.fromkeys((r["prompt"], r["target"]) for r in summary["erased"] if r["prompt"] not in added))
    listed = tuple(words) if words is not None else tuple(vocabulary_words(encoder.tokenizer))
    started = time.perf_counter()
    prompts = [filled(template, word) for word in listed]
    rows, found = cached_rows(encoder, session.loaded.fingerprint["text_encoder"], prompts, cache, space=space)
    seconds = {"encoding": 0.0 if found else time.perf_counter() - started}
    own = subject_rows(encoder, [filled(template, text) for pair in named for text in pair], space=space)
    concept, target = own[0::2], own[1::2]
    started = time.perf_counter()
    reaching = Reaching.of(text.gram, text.maps, concept, target)
    before, after, change = reaching.measure(rows)
    seconds["algebra"] = time.perf_counter() - started
    result = Scan(tuple(prompt for prompt, _ in named), listed, before, after, change, (), seconds)
    if not beam:
        return result
    started = time.perf_counter()
    pairs = tuple(
        pair
        for place in range(len(named))
        for pair in search_pairs(encoder, reaching, result, place, template, beam, space=space)
    )
    return replace(result, pairs=pairs, seconds={**seconds, "pairs": time.perf_counter() - started})


def search_pairs(
    encoder: EncodesPrompts,
    reaching: Reaching,
    found: Scan,
    concept: int,
    template: str,
    beam: int,
    *,
    space: str = TEXT,
) -> list[tuple[str, str, float]]:
    """The nearest pairs of words that a beam finds: the ``beam`` nearest words, each beside every second word.

    Second words are all of a small vocabulary, the nearest ones of a large one. What neither word is near to alone is
    not found.
    """
    order = [found.words[i] for i in found.after[:, concept].argsort(stable=True).tolist()]
    seconds = order if len(order) <= ALL_SECOND_WORDS else order[:SECOND_WORDS]
    pairs = list(dict.fromkeys(f"{one} {two}" for a in order[:beam] for b in seconds for one, two in ((a, b), (b, a))))
    _, after, _ = reaching.measure(subject_rows(encoder, [filled(template, pair) for pair in pairs], space=space))
    best = after[:, concept].argsort(stable=True)[:beam].tolist()
    return [(found.concepts[concept], pairs[i], float(after[i, concept])) for i in best]
