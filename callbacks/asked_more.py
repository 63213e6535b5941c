"""What an evaluation asks beside its given prompts: what is nearest to the concepts, and indirect prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rece_lightning.callbacks.subject import Subject
from rece_lightning.core.errors import ConfigurationError, check_count
from rece_lightning.data.indirect import described
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.metrics import ConceptDetector, ListingDetector
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.models.text_space import TEXT
from rece_lightning.models.vocabulary import vocabulary_words
from rece_lightning.module import RECE
from rece_lightning.vocabulary.nearness import nearest_first

STAGES = {"fit": "validation", "validate": "validation", "test": "test"}


class AskedMore:
    """Further prompts of an evaluation, made from what is erased.

    Args:
        pinpoint: how many of the concepts nearest to what is erased are asked for, by text and as many by name.
        indirect: also ask for what is erased without its name, and in other languages.

    Raises:
        ConfigurationError: for a number that makes no sense.
    """

    def __init__(self, pinpoint: int | None, indirect: bool) -> None:
        if pinpoint is not None:
            check_count("Evaluation.pinpoint", pinpoint)
        self.pinpoint, self.indirect = pinpoint or 0, indirect
        self.nearest: Mapping[str, tuple[str, ...]] = {}
        """``text`` and ``name`` → the concepts that were asked for, nearest first."""
        self.notes: list[str] = []

    def of(
        self, module: Subject, data: Any, stage: str, detector: ConceptDetector | None, *, drawn: bool
    ) -> list[EvaluationPrompt]:
        """Further rows for the prompts of a stage.

        Args:
            module: whose text encoder says what is near.
            data: with the prompts, and with what is erased.
            stage: of the trainer.
            detector: that decides.
            drawn: whether pictures are drawn; otherwise they exist already.

        Raises:
            ConfigurationError: where nothing is erased, or the detector knows nothing else.
        """
        if stage not in STAGES or not (self.pinpoint or self.indirect):
            return []
        field = "Evaluation.pinpoint" if self.pinpoint else "Evaluation.indirect"
        concepts = [concept.prompt for concept in getattr(data, "concepts", [])]
        if not drawn or not concepts:
            why = "no pictures are drawn" if not drawn else "no concepts are known to be erased"
            raise ConfigurationError(f"{field}: {why}; leave it out, or give data.concepts and a model.")
        rows: list[EvaluationPrompt] = list(getattr(data, STAGES[stage], []))
        encoder = module.session.encoder if isinstance(module, RECE) else module.loaded.encoder
        self.notes, more = [], list[EvaluationPrompt]()
        if self.indirect:
            more += self._indirect(concepts, rows, encoder)
        if self.pinpoint:
            space = module.session.spaces[0].name if isinstance(module, RECE) else TEXT
            more += self._near(concepts, rows, encoder, space, detector)
        return more

    def _near(
        self,
        concepts: Sequence[str],
        rows: Sequence[EvaluationPrompt],
        encoder: EncodesPrompts,
        space: str,
        detector: ConceptDetector | None,
    ) -> list[EvaluationPrompt]:
        if detector is None:
            raise ConfigurationError("Evaluation.pinpoint: nobody decides what is shown; give a detector.")
        gone = {*concepts, *(row.concept for row in rows if row.kind == "erased")}
        listed = detector.concepts() if isinstance(detector, ListingDetector) else vocabulary_words(encoder.tokenizer)
        known = {word.strip().lower() for word in gone}
        words = [word for word in dict.fromkeys(listed) if word.lower() not in known]
        try:
            detector.check(words[0] if words else "")
        except ConfigurationError as error:
            raise ConfigurationError(
                f"Evaluation.pinpoint: the detector knows nothing near what is erased ({error}); take one that knows "
                "other things too, such as ZeroShot or VisionLanguage."
            ) from error
        order = nearest_first(words, sorted(gone), encoder, space)
        self.nearest = {name: found[: self.pinpoint] for name, found in order.items()}
        return [
            EvaluationPrompt(word, word, "preserved")
            for word in dict.fromkeys(word for found in self.nearest.values() for word in found)
        ]

    def _indirect(
        self, concepts: Sequence[str], rows: Sequence[EvaluationPrompt], encoder: EncodesPrompts
    ) -> list[EvaluationPrompt]:
        """Own names, and the groups of what ships; a prompt that the tokenizer cannot read is left out."""
        named = {row.prompt: row.concept for row in rows if row.kind == "erased"}
        made: list[EvaluationPrompt] = []
        unread: dict[str, None] = {}
        for concept in concepts:
            seen = named.get(concept, concept)
            made.append(EvaluationPrompt(concept, seen))
            known = described([concept, seen])
            if known is None:
                self.notes.append(f"No indirect prompts ship for {concept!r}: give your own, with a column group.")
                continue
            for group, prompts in known.groups.items():
                for prompt in prompts:
                    if _is_read(encoder, prompt):
                        made.append(EvaluationPrompt(prompt, seen, group=group))
                    else:
                        unread[group] = None
        if unread:
            self.notes.append(f"The tokenizer cannot read some prompts; they are left out: {', '.join(unread)}.")
        return made


def _is_read(encoder: EncodesPrompts, prompt: str) -> bool:
    """Whether every piece of a prompt is a token."""
    unknown = encoder.tokenizer.unk_token_id
    return unknown is None or unknown not in encoder.token_ids([prompt], special=False)[0]
