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
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.text_space import TEXT
from rece_lightning.models.token_inputs import (
    TokenInputs,
    embedding_given,
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
        of_denoiser: give what the denoiser is given; otherwise the rows of the space that was edited first.

    Raises:
        ConfigurationError: if these are more tokens than the encoder takes.
        BaseModelError: if its tokens cannot be searched.
    """
    if isinstance(victim.encoder, PipelineEncoder):
        return PipelineTokens(victim.encoder, vocabulary, free, suffix, None if of_denoiser else victim.source)
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
        source: whose rows are given, by its name among the family's sources; ``None``: what the denoiser is given, and
            the encoder of the rows that it reads one by one is searched.

    Raises:
        ConfigurationError: if these are more tokens than the encoder takes.
        BaseModelError: if it has no table of input embeddings, or the words are not one token each where a prompt
            stands.
    """

    def __init__(
        self, encoder: PipelineEncoder, vocabulary: Vocabulary, free: int, suffix: str, source: str | None
    ) -> None:
        self.encoder, self.vocabulary, self.free, self.suffix = encoder, vocabulary, free, suffix
        self.source = source
        searched = source or TEXT
        # Plain words: a pipeline may clean up anything else.
        words = vocabulary.words
        plain = [n for n, text in words.items() if text.isalpha() and text.islower()] or list(words)
        plain.sort(key=lambda n: n == vocabulary.behind[n])  # one that tells with a space before it first
        probes = [[number] * free for number in (plain[0], plain[-1])]
        texts = [vocabulary.text(probe, suffix) for probe in probes]
        part, tokenizer = searched_encoder(encoder, searched), searched_tokenizer(encoder, searched)
        self._check_room(texts[0], part, tokenizer)
        self._inputs = TokenInputs(encoder, searched, (texts[0], texts[1]), free)
        self.forms = self._forms(probes[0])

    def encode(self, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings of the text of chosen tokens ``[n, k]``, those behind shorter ones zero."""
        texts = [self.text(row) for row in chosen.tolist()]
        if self.source is not None:
            return read_rows(self.encoder, texts, self.source), None
        encoded = self.encoder.encode(texts)
        return encoded.embeddings, encoded.pooled

    def encode_soft(self, weights: Sequence[Tensor], chosen: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The same, differentiable; the words around which input embeddings are exchanged are the chosen ones."""
        given = []
        for row in range(len(weights[0])):
            assert chosen is not None
            answer = self._inputs.answer(self.text(chosen[row].tolist()), [table[row] for table in weights])
            if self.source is None:
                given.append(embedding_given(self.encoder, answer))
            else:
                given.append((rows_read(self.encoder, answer, self.source), None))
        pooled = [one for _, one in given if one is not None]
        return pad_sequence([rows for rows, _ in given], batch_first=True), torch.stack(pooled) if pooled else None

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
