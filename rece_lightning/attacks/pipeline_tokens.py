"""A search of tokens through a pipeline's own ``encode_prompt``: any text encoder that has a tokenizer and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rece_lightning.attacks.tokens import EncodesTokens, TokenEncoder, Vocabulary
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.models.encoded_answer import call_of, embedded
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.text import Embedded
from rece_lightning.models.token_inputs import (
    TokenInputs,
    read_rows,
    rows_read,
    searched_encoder,
    searched_tokenizer,
)


def vocabulary_of(victim: Victim, forbidden: Sequence[str]) -> Vocabulary:
    """Words of the tokenizer that a search goes through."""
    return Vocabulary(searched_tokenizer(victim.encoder, victim.source), forbidden)


def tokens_of(
    victim: Victim, vocabulary: Vocabulary, free: int, suffix: str = "", *, of_denoiser: bool = False
) -> EncodesTokens:
    """The victim's text encoders for a search of tokens.

    Args:
        victim: that is attacked.
        vocabulary: of :func:`vocabulary_of`.
        free: how many tokens may be chosen.
        suffix: text that follows them.
        of_denoiser: give all that the denoiser is given; otherwise the rows of the space that was edited first alone.

    Raises:
        ConfigurationError: if these are more tokens than the encoder takes.
        BaseModelError: if its tokens cannot be searched.
    """
    if isinstance(victim.encoder, PipelineEncoder):
        return PipelineTokens(victim.encoder, vocabulary, free, suffix, victim.source, of_denoiser=of_denoiser)
    own = victim.encoder.token_ids([suffix], special=False)[0] if suffix else []
    return TokenEncoder(victim.encoder, free, own)


class PipelineTokens(EncodesTokens):
    """Free words, then a suffix, as a pipeline encodes their text: template, masks and pooling are its own.

    Chosen tokens are encoded as the text that an attacker would send, by every text encoder. The gradient goes through
    one of them, and through those that read the same tokens: input embeddings take the place of its words' while
    ``encode_prompt`` runs.

    Args:
        encoder: of a pipeline.
        vocabulary: of the encoder that is searched.
        free: how many words may be chosen.
        suffix: text that follows them.
        source: whose encoder is searched, by its name among the family's sources.
        of_denoiser: give all that the pipeline takes in place of the text; otherwise these rows alone, those behind
            shorter ones and those that are not read zero.

    Raises:
        ConfigurationError: if these are more tokens than the encoder takes.
        BaseModelError: if it has no table of input embeddings, or the words are not one token each where a prompt
            stands.
    """

    def __init__(
        self,
        encoder: PipelineEncoder,
        vocabulary: Vocabulary,
        free: int,
        suffix: str,
        source: str,
        *,
        of_denoiser: bool = False,
    ) -> None:
        self.encoder, self.vocabulary, self.free, self.suffix = encoder, vocabulary, free, suffix
        self.source, self.of_denoiser = source, of_denoiser
        # Plain words: a pipeline may clean up anything else.
        words = vocabulary.words
        plain = [n for n, text in words.items() if text.isalpha() and text.islower()] or list(words)
        plain.sort(key=lambda n: n == vocabulary.behind[n])  # one that tells with a space before it first
        probes = [[number] * free for number in (plain[0], plain[-1])]
        texts = [vocabulary.text(probe, suffix) for probe in probes]
        part, tokenizer = searched_encoder(encoder, source), searched_tokenizer(encoder, source)
        self._check_room(texts[0], part, tokenizer)
        self._inputs = TokenInputs(encoder, source, (texts[0], texts[1]), free)
        self.forms = self._forms(probes[0])

    def encode(self, chosen: Tensor) -> Embedded:
        """The text of chosen tokens ``[n, k]``."""
        texts = [self.text(row) for row in chosen.tolist()]
        return self.encoder.encode(texts) if self.of_denoiser else Embedded(read_rows(self.encoder, texts, self.source))

    def encode_soft(self, weights: Sequence[Tensor], chosen: Tensor | None = None) -> Embedded:
        """The same, differentiable; the words around which input embeddings are exchanged are the chosen ones."""
        assert chosen is not None
        answers = [
            self._inputs.answer(self.text(tokens), [table[row] for table in weights])
            for row, tokens in enumerate(chosen.tolist())
        ]
        sources = self.encoder.sources
        if self.of_denoiser:
            return embedded([call_of(answer, sources) for answer in answers], sources)
        rows = [rows_read(self.encoder, answer, self.source) for answer in answers]
        return Embedded(pad_sequence(rows, batch_first=True))

    def tables(self) -> list[Tensor]:
        """Of the encoder that is searched, then of those that read the same tokens."""
        return self._inputs.tables

    def text(self, tokens: Sequence[int]) -> str:
        """The prompt."""
        return self.vocabulary.text(tokens, self.suffix)

    def _check_room(self, text: str, part: str, tokenizer: Any) -> None:
        lost = len(self.encoder.missing(part, text))
        if lost:
            count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
            raise ConfigurationError(
                f"attacks: tokens: the prompt has {count} tokens, {part} takes {count - lost}; take fewer."
            )

    def _forms(self, probe: Sequence[int]) -> Tensor | None:
        """What stands for each token in each place, told by where the pipeline put the probe's."""
        behind, number = self.vocabulary.behind, probe[0]
        if not set(self._inputs.probed) <= {number, behind[number]}:
            raise BaseModelError(
                "attacks: a search of tokens: the pipeline gives its text encoder other tokens than its tokenizer "
                "alone; take paraphrase or derived."
            )
        if behind[number] == number:  # so are all words
            return None
        alone = [placed == number for placed in self._inputs.probed]
        size = len(self.tables()[0])
        spaced = torch.arange(size)
        numbers = self.vocabulary.ids
        spaced[numbers] = torch.tensor([behind[n] for n in numbers.tolist()])
        return torch.stack([torch.arange(size) if one else spaced for one in alone])
