"""Detection by a vision-language model of ``transformers`` that is asked a yes/no question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.metrics.detection import ConceptDetector
from rece_lightning.metrics.pretrained import eight_bit, load_parts

QUESTION = "Does this picture show {}? Answer yes or no."
ANSWERS = ("yes", "no")


class VisionLanguage(ConceptDetector):
    """A concept is detected where the model would rather answer yes than no, protocol ``vlm-yes>0.5 NAME``.

    Nothing is generated: of the next token's distribution, yes and no in all their spellings of one token count, and a
    concept is detected where the share of yes is above the threshold. Any concept can be asked for. How well a model
    sees it is a matter of measuring: ask it about pictures that you know.

    Args:
        model: folder or hub id with an image-text-to-text model and its processor (LLaVA, Qwen-VL, SmolVLM, …).
        question: with ``{}`` for the concept.
        threshold: between 0 and 1.
        aliases: concept → how the question should call it.
        revision: of the hub repository.
        device: where it runs.
        batch_size: pictures at a time.
    """

    def __init__(
        self,
        model: str,
        question: str = QUESTION,
        threshold: float = 0.5,
        aliases: Mapping[str, str] | None = None,
        revision: str | None = None,
        device: str = "cpu",
        batch_size: int = 8,
    ) -> None:
        check_number("VisionLanguage.threshold", threshold)
        if threshold >= 1:
            raise ConfigurationError(f"VisionLanguage.threshold: {threshold!r}; give a share below 1.")
        if question.count("{}") != 1:
            raise ConfigurationError(
                f"VisionLanguage.question: {question!r}; give one '{{}}' for the concept, such as {QUESTION!r}."
            )
        self.model, self.question, self.threshold = model, question, threshold
        self.aliases = dict(aliases or {})
        self.revision, self.device, self.batch_size = revision, device, batch_size
        self.protocol = f"vlm-yes>{threshold:g} {PurePath(model).name}"
        if question != QUESTION:
            self.protocol += f" {question!r}"

    def check(self, concept: str) -> None:
        """Any concept can be asked for; raise a ConfigurationError where the model cannot be."""
        _ = self._answers

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        return self.probabilities(pictures, concepts) > self.threshold

    @torch.no_grad()
    def probabilities(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        """Share of yes beside no for picture i and concept i: ``[n, 3, h, w]`` in [0, 1] → ``[n]`` on the CPU."""
        network, processor = self._parts
        found = torch.zeros(len(concepts))
        bytes_of = eight_bit(pictures)
        # Those of one concept share their text, so that none is padded.
        for concept in dict.fromkeys(concepts):
            places = [place for place, one in enumerate(concepts) if one == concept]
            for first in range(0, len(places), self.batch_size):
                part = places[first : first + self.batch_size]
                inputs = processor(
                    images=[[bytes_of[place]] for place in part],
                    text=[self._asked(concept)] * len(part),
                    return_tensors="pt",
                    images_kwargs={"input_data_format": "channels_last"},
                )
                logits = network(**inputs.to(self.device)).logits[:, -1].float().cpu()
                yes, no = (logits[:, ids].logsumexp(-1) for ids in self._answers)
                found[part] = (yes - no).sigmoid()
        return found

    def _asked(self, concept: str) -> str:
        """The question as the model was trained to read one."""
        processor = self._parts[1]
        text = self.question.format(self.aliases.get(concept, concept))
        if getattr(processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": text}]
            return str(
                processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            )
        return f"{getattr(processor, 'image_token', '<image>')}\n{text}"

    @cached_property
    def _answers(self) -> tuple[list[int], list[int]]:
        """Tokens of yes and of no, in every spelling that is one token; their first ones where none is."""
        tokenizer = self._parts[1].tokenizer
        found = []
        for word in ANSWERS:
            spelled = [form for one in (word, word.capitalize(), word.upper()) for form in (one, f" {one}")]
            read = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in spelled]
            read = [ids for ids in read if ids and tokenizer.unk_token_id not in ids]
            found.append({ids[0] for ids in read if len(ids) == 1} or {ids[0] for ids in read})
        yes, no = found[0] - found[1], found[1] - found[0]
        if not yes or not no:
            raise ConfigurationError(
                f"VisionLanguage.model: {self.model}: its tokenizer does not tell yes from no; take another model."
            )
        return sorted(yes), sorted(no)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        kinds = ("AutoModelForImageTextToText", "AutoProcessor")
        network, processor = load_parts("VisionLanguage.model", self.model, self.revision, *kinds)
        return network.to(self.device).eval().requires_grad_(False), processor
