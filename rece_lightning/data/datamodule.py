"""ConceptData: what to erase and to keep, as a LightningDataModule."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from rece_lightning.core.errors import ConfigurationError, check_count
from rece_lightning.core.robust import WITHIN
from rece_lightning.data.batches import PromptBatch, PromptBatches
from rece_lightning.data.concept_table import LISTED, ConceptTable, PromptPairs, check_kept, described
from rece_lightning.data.concepts import Concept, ConceptMapping, PromptPair, digest_of, preserved_places, prompt_pairs
from rece_lightning.data.prompt_data import PromptData
from rece_lightning.data.prompts import PromptMapping
from rece_lightning.data.synonyms import COUNT, Synonym, Words, check_not_kept, joined, read_synonyms, words_of

ANY_WORDS = ("thing", "object")
"""What a sample chooses synonyms from in place of all the words of a tokenizer, which take minutes to encode."""


class ConceptData(PromptData):
    """What is erased, what it becomes, and what is preserved.

    Args:
        concepts: prompts, mappings ``{prompt, target, weight, templates}``, or the path of a prompt file: a
            CSV with those columns, or a ``.txt`` with one prompt a line.
        target: what every concept becomes unless it says otherwise; ``" "`` is the empty prompt.
        preserve: prompts whose keys and values are held, each counted once, or the path of a prompt file. Unless given,
            the empty prompt and everyday words of the model's own tokenizer that do not mean what is erased; with
            ``model.tune: off`` the empty prompt alone. ``auto``
            preserves the empty prompt and those of ``preserve_vocabulary`` that UCE's edit of these concepts would harm
            most (largest drift of their keys and values), found without a picture.
        preserve_vocabulary: of ``auto``: prompts that should stay, or the path of a prompt file; what holds the
            words of an erased prompt is left out. Synonyms of what is erased do not belong in it: they would be
            preserved.
        preserve_count: of ``auto``: how many.
        templates: filled with concept and target alike, such as ``"painting by {}"``.
        validation: prompts that ``fit`` and ``validate`` generate pictures for: a list, or the path of a
            ``.txt`` or of a CSV with ``prompt``, ``seed``, ``guidance_scale``, ``concept``, ``kind`` (``erased`` or
            ``preserved``), or with the columns of I2P's or RECE's files.
        test: the same for ``test``; the validation prompts unless given.
        predict: the same for ``predict``.
        batch_size: prompts that are encoded together.
        synonyms: other words for what is erased, which are erased with it, to its target and with its weight: a list
            where there is one concept, or a mapping from concepts to lists. ``auto`` finds them without a picture: the
            words that mean the concept to the text encoder and still reach it once UCE's edit took the concept itself
            (``gun``, where ``pistol`` was erased). Words of preserved prompts, of targets and of
            ``preserve_vocabulary`` are never taken. See :func:`rece_lightning.vocabulary.synonyms.choose_synonyms`.
        synonyms_vocabulary: of ``auto``: words to choose from, or the path of a prompt file; all words of the
            tokenizer unless given.
        synonyms_count: of ``auto``: how many a concept gets at most.
        synonyms_reach: of ``auto``: how near a word must be, before that edit and after it, as a share of the
            concept's own way to its target.

    Raises:
        ConfigurationError: for every mistake that can be seen without a model.

    Warns:
        UserWarning: of prompts that look like a list or like a file; they are taken as they are written.
    """

    def __init__(
        self,
        concepts: str | list[str | ConceptMapping],
        target: str = " ",
        preserve: str | list[str] | None = None,
        templates: list[str] = ["{}"],  # noqa: B006
        validation: str | list[str | PromptMapping] | None = None,
        test: str | list[str | PromptMapping] | None = None,
        predict: str | list[str | PromptMapping] | None = None,
        batch_size: int = 64,
        preserve_vocabulary: str | list[str] | None = None,
        preserve_count: int = 40,
        synonyms: str | list[str] | dict[str, list[str]] | None = None,
        synonyms_vocabulary: str | list[str] | None = None,
        synonyms_count: int = COUNT,
        synonyms_reach: float = WITHIN,
    ) -> None:
        super().__init__(validation, test, predict, batch_size)
        table = ConceptTable(concepts, target, templates)
        short = table.pairs <= LISTED
        self.concepts: list[Concept] | ConceptTable = list(table) if short else table
        self.pairs: list[PromptPair] | PromptPairs = prompt_pairs(self.concepts) if short else PromptPairs(table)
        """What is erased, template filled in. Of a long table nothing is kept: iterating reads it again."""
        self.vocabulary = read_vocabulary(preserve, preserve_vocabulary, preserve_count)
        """To choose from where ``preserve`` is ``auto``; otherwise ``None``."""
        self.preserve_count = preserve_count
        self.chosen: list[str] | None = None
        """Of the vocabulary, once it was looked through."""
        self.draws = preserve is None
        """Whether everyday words are preserved, once they were drawn."""
        self.everyday: tuple[list[str], list[str]] | None = None
        """Words that were drawn: what is preserved beside ``preserve``, and what drift is measured on."""
        places = preserved_places([" "] if preserve is None or preserve == "auto" else preserve)
        self.preserved = list(places)
        check_kept(table, self.preserved, preserve, list(places.values()))
        self.asked = list(self.concepts) if short else None
        """The concepts without synonyms; ``None`` where they are too many to be held."""
        self.added: list[Synonym] = []
        """Synonyms that are erased with them."""
        settings = synonyms, synonyms_vocabulary, synonyms_count, synonyms_reach
        self.synonyms, words = read_synonyms(*settings, self.asked)
        """What ``synonyms: auto`` asks for; otherwise ``None``."""
        self.add_synonyms(words)

    @property
    def held_out(self) -> list[str]:
        """Validation prompts that should stay and are in nobody's list, and drawn words: the measure of drift."""
        listed = {prompt.strip().lower() for prompt in self.preserved}
        stay = [row.prompt for row in self.validation if row.kind == "preserved"]
        stay += [] if self.everyday is None else self.everyday[1]
        return [prompt for prompt in dict.fromkeys(stay) if prompt.strip().lower() not in listed]

    def summary(self) -> dict[str, Any]:
        """Plain description of what is asked, kept with checkpoints and in ``edited.safetensors``."""
        summary = described(self.pairs, self.preserved)
        if self.added or self.synonyms is not None:
            summary["synonyms"] = [synonym.plain() for synonym in self.added]
        if self.synonyms is not None:
            summary["synonyms_auto"] = self.synonyms.asked()
        if self.everyday is not None:
            summary["held_out_words"] = list(self.everyday[1])
        return summary if self.vocabulary is None else {**summary, "preserve_auto": self._asked()}

    def sample(self, count: int) -> Self:
        """A copy with so many concepts and preserved prompts; ``auto`` chooses from as many words."""
        small = super().sample(count)
        small.asked = None if self.asked is None else self.asked[:count]
        names = [one.prompt for one in small.asked or ()]
        small.added = [word for word in self.added if word.of in names][:count] if self.synonyms is None else []
        small.concepts = [*itertools.islice(self.concepts, count), *(word.concept for word in small.added)]
        small.pairs = list(itertools.islice(self.pairs, count)) if self.asked is None else prompt_pairs(small.concepts)
        small.preserved, small.preserve_count = self.preserved[:count], min(self.preserve_count, count)
        small.vocabulary = None if self.vocabulary is None else self.vocabulary_left()[:count]
        if self.synonyms is not None:
            small.synonyms = replace(self.synonyms, vocabulary=(self.synonyms.vocabulary or ANY_WORDS)[:count])
        return small

    # What ``synonyms`` adds

    def add_synonyms(self, words: Words) -> None:
        """Erase these words too, each as the concept that it means; what was added before is taken back.

        Raises:
            ConfigurationError: for a word that is preserved.
        """
        if self.asked is None:
            return
        self.added = joined(words, self.asked, automatic=self.synonyms is not None)
        check_not_kept(self.added, self.preserved)
        self.concepts = [*self.asked, *(synonym.concept for synonym in self.added)]
        self.pairs = prompt_pairs(self.concepts)

    def not_synonyms(self) -> set[str]:
        """Words that ``synonyms: auto`` must not take, in lower case: what is preserved, targets, what is erased."""
        asked = self.asked or []
        texts = [*self.preserved, *(self.vocabulary or ()), *(concept.target for concept in asked)]
        return {word for text in texts for word in text.lower().split()} | {one.prompt.lower() for one in asked}

    # What ``preserve: auto`` preserves

    def _asked(self) -> dict[str, Any]:
        return {"count": self.preserve_count, "vocabulary": digest_of(self.vocabulary or ())}

    def vocabulary_left(self) -> list[str]:
        """The vocabulary without what holds all words of an erased prompt in a row."""
        erased = {f" {pair.prompt.strip().lower()} " for pair in self.pairs}
        erased |= {f" {concept.prompt.lower()} " for concept in self.concepts}
        longest = max(len(prompt.split()) for prompt in erased)

        def runs(words: list[str]) -> Iterator[str]:
            for length in range(1, longest + 1):
                for first in range(len(words) - length + 1):
                    yield f" {' '.join(words[first : first + length])} "

        return [word for word in self.vocabulary or () if erased.isdisjoint(runs(word.lower().split()))]

    def choose(self, words: Sequence[str]) -> None:
        """Keep these words of the vocabulary."""
        self.chosen = list(words)
        self.preserved = [" ", *self.chosen]

    def draw(self, preserved: Sequence[str], held_out: Sequence[str]) -> None:
        """Keep everyday words where nobody said what to preserve, and measure drift on others."""
        self.everyday = list(preserved) if self.draws else [], list(held_out)
        if self.draws:
            self.preserved = [" ", *preserved]

    def take_chosen(self, concepts: Mapping[str, Any]) -> None:
        """Keep, and erase, what a checkpoint of the same concepts and vocabularies says was chosen."""
        if "held_out_words" in concepts:
            self.draw([prompt for prompt in concepts["preserved"] if prompt.strip()], concepts["held_out_words"])
        if self.synonyms is not None and concepts.get("synonyms_auto") == self.synonyms.asked():
            self.add_synonyms(words_of(concepts))
        if self.vocabulary is not None and concepts.get("preserve_auto") == self._asked():
            self.choose([prompt for prompt in concepts["preserved"] if prompt.strip()])

    def batches(self) -> Iterator[PromptBatch]:
        """Everything to encode, in the order in which it is counted."""
        pairs, number = iter(self.pairs), itertools.count()
        while batch := list(itertools.islice(pairs, self.batch_size)):
            prompts, targets = tuple(pair.prompt for pair in batch), tuple(pair.target for pair in batch)
            yield PromptBatch(prompts, targets, tuple(pair.weight for pair in batch), "erased", next(number))
        for kind, others in (("preserved", self.preserved), ("held_out", self.held_out)):
            for first in range(0, len(others), self.batch_size):
                names = tuple(others[first : first + self.batch_size])
                yield PromptBatch(names, ("",) * len(names), (1.0,) * len(names), kind, next(number))

    def train_dataloader(self) -> PromptBatches:
        """Batches of prompts; epoch 0 encodes each once, later epochs take nothing from them."""
        return PromptBatches(self.batches, self._count, self._was_read, self)

    def _count(self) -> int:
        return sum(-(-len(part) // self.batch_size) for part in (self.pairs, self.preserved, self.held_out))

    def _was_read(self) -> bool:
        return self.trainer is not None and self.trainer.current_epoch > 0


def read_vocabulary(preserve: Any, vocabulary: str | Sequence[str] | None, count: Any) -> list[str] | None:
    """Words to choose from where ``data.preserve`` is ``auto``; ``None`` otherwise.

    Raises:
        ConfigurationError: for ``auto`` without a vocabulary, a vocabulary without ``auto``, and too few words.
    """
    field = "data.preserve_vocabulary"
    if preserve != "auto":
        if vocabulary is not None:
            raise ConfigurationError(f"{field}: {vocabulary!r}: it is for data.preserve: auto; leave it out.")
        return None
    if vocabulary is None:
        raise ConfigurationError(f"{field}: data.preserve: auto chooses from it; give a list of prompts or a CSV.")
    check_count("data.preserve_count", count)
    words = [word for word in preserved_places(vocabulary, field) if word.strip()]
    if not words:
        raise ConfigurationError(f"{field}: {vocabulary!r} names nothing to keep; give prompts that should stay.")
    return words


def asked_of(data: Any, concepts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a datamodule asks for, where it goes on with what a checkpoint of the same chose; ``None`` without one.

    Args:
        data: a ConceptData, or another.
        concepts: of the checkpoint.
    """
    data = getattr(data, "whole", None) or data
    if hasattr(data, "take_chosen"):
        data.take_chosen(concepts)
    asked: dict[str, Any] | None = data.summary() if hasattr(data, "summary") else None
    # What joined was chosen, not asked for.
    return asked if asked is None or "robust" not in concepts else {**asked, "robust": concepts["robust"]}
