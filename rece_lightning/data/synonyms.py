"""``data.synonyms``: other words for what is erased, given by hand or, as ``auto``, found by what they still reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rece_lightning.core.errors import ConfigurationError, check_count, check_number, nearest
from rece_lightning.data.concepts import Concept, digest_of, pairs_of, preserved_places
from rece_lightning.data.lookalikes import check_text, warn_of_lookalikes

FIELD = "data.synonyms"
TEMPLATE = "a photo of {}"
"""In which words are compared."""
COUNT = 10
Words = Sequence[tuple[str, str]]
"""Pairs of a word and the prompt of the concept that it means."""


@dataclass(frozen=True)
class AutoSynonyms:
    """What ``auto`` asks for; see :func:`rece_lightning.vocabulary.synonyms.choose_synonyms`."""

    count: int
    """Words that a concept gets at most."""
    reach: float
    """A word reaches a concept where it is nearer than this share of the concept's own way to its target."""
    vocabulary: tuple[str, ...] | None
    """To choose from; the words of the tokenizer without one."""

    def asked(self) -> dict[str, Any]:
        """Plain description: a run goes on with its choice under the same one alone."""
        digest = None if self.vocabulary is None else digest_of(self.vocabulary)
        return {"count": self.count, "reach": self.reach, "vocabulary": digest}


def read_synonyms(
    setting: Any, vocabulary: Any, count: Any, reach: Any, concepts: Sequence[Concept] | None
) -> tuple[AutoSynonyms | None, Words]:
    """The plan of ``auto``, or the words that were given.

    Args:
        setting: ``auto``, the words of the one concept, or a mapping from concepts to their words.
        vocabulary, count, reach: of ``auto``; the vocabulary as prompts, or the path of a prompt file.
        concepts: that are erased; ``None`` where they are too many to be held.

    Raises:
        ConfigurationError: naming the field.
    """
    automatic = setting == "auto"
    if vocabulary is not None and not automatic:
        raise ConfigurationError(f"{FIELD}_vocabulary: {vocabulary!r}: it is for {FIELD}: auto; leave it out.")
    if setting is None or setting in ("null", "[]", "{}") or (not isinstance(setting, str) and not setting):
        return None, []
    if concepts is None:
        raise ConfigurationError(
            f"{FIELD}: {setting!r}: data.concepts is read as a stream, and every concept is compared with every word; "
            "put the synonyms into the file as rows of their own."
        )
    if not automatic:
        return None, _by_hand(setting, concepts)
    check_count(f"{FIELD}_count", count)
    check_number(f"{FIELD}_reach", reach, positive=True)
    words = None
    if vocabulary is not None:
        words = tuple(word.strip() for word in preserved_places(vocabulary, f"{FIELD}_vocabulary") if word.strip())
        if not words:
            raise ConfigurationError(f"{FIELD}_vocabulary: {vocabulary!r} names no words; leave it out for all.")
    return AutoSynonyms(count, float(reach), words), []


def _by_hand(setting: Any, concepts: Sequence[Concept]) -> Words:
    if isinstance(setting, Sequence) and not isinstance(setting, str):
        if len(concepts) > 1:
            raise ConfigurationError(
                f"{FIELD}: {list(setting)!r}: {len(concepts)} concepts are erased; say whose, such as "
                f"{{{concepts[0].prompt}: {list(setting)!r}}}."
            )
        setting = {concepts[0].prompt: setting}
    if not isinstance(setting, Mapping):
        raise ConfigurationError(
            f"{FIELD}: {setting!r}; give auto, a list of words, or a mapping from concepts to them."
        )
    pairs: list[tuple[str, str]] = []
    taken = {concept.prompt.lower() for concept in concepts}
    prompts = [concept.prompt for concept in concepts]
    for concept, words in setting.items():
        if concept not in prompts:
            raise ConfigurationError(f"{FIELD}: {concept!r} is not erased; {nearest(str(concept), prompts)}.")
        for word in [words] if isinstance(words, str) else words or ():
            if not isinstance(word, str) or not word.strip():
                raise ConfigurationError(f"{FIELD}: {concept}: {word!r} is no word; put quotes around a text.")
            if word.strip().lower() in taken:
                raise ConfigurationError(f"{FIELD}: {concept}: {word!r} is erased already; leave it out.")
            check_text(f"{FIELD}: {concept}", word)
            taken.add(word.strip().lower())
            pairs.append((word.strip(), concept))
    own = "a concept of its own, {prompt: '…'}, means a text as it is"
    warn_of_lookalikes(FIELD, [word for word, _ in pairs], remedy=own)
    return pairs


@dataclass(frozen=True)
class Synonym:
    """A word that is erased beside the concept that it means."""

    word: str
    of: str
    """Prompt of the concept."""
    concept: Concept
    """As it is erased: with that concept's target, weight and templates."""

    def plain(self) -> dict[str, Any]:
        """For the summary."""
        return {"word": self.word, "of": self.of, "prompts": [pair.prompt for pair in pairs_of(self.concept)]}


def joined(words: Words, concepts: Iterable[Concept], *, automatic: bool) -> list[Synonym]:
    """The words as concepts of their own.

    Each takes target, weight and templates of its concept. A word that was found is also erased in the template in
    which it was found to reach: erased by itself alone, it goes on reaching from a sentence.

    Words of other concepts than these are left out.
    """
    known = {concept.prompt: concept for concept in reversed(list(concepts))}
    synonyms = []
    for word, concept in ((word, known[of]) for word, of in words if of in known):
        templates = dict.fromkeys((*concept.templates, *((scanned_template(concept),) if automatic else ())))
        synonyms.append(Synonym(word, concept.prompt, replace(concept, prompt=word, templates=tuple(templates))))
    return synonyms


def scanned_template(concept: Concept) -> str:
    """What words are put into to be compared with a concept: the scan's, or its own where it has none but its own."""
    return TEMPLATE if "{}" in concept.templates else concept.templates[0]


def check_not_kept(synonyms: Sequence[Synonym], preserved: Iterable[str]) -> None:
    """Refuse a prompt that is preserved and erased as a synonym."""
    texts = {prompt.strip().lower() for prompt in preserved if prompt.strip()}
    for synonym in synonyms:
        for prompt in (synonym.word, *synonym.plain()["prompts"]):
            if prompt.strip().lower() in texts:
                raise ConfigurationError(
                    f"{FIELD}: {prompt!r} is also preserved (data.preserve); take it out of one of the two."
                )


def words_of(summary: Mapping[str, Any]) -> Words:
    """The words that a summary says were added; nothing of what is not in the form of one."""
    rows = summary.get("synonyms")
    rows = rows if isinstance(rows, list) else []
    pairs = [(row.get("word"), row.get("of")) for row in rows if isinstance(row, Mapping)]
    return [(word, of) for word, of in pairs if isinstance(word, str) and isinstance(of, str)]
