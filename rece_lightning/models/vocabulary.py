"""The tokens of a tokenizer that are words of their own."""

from __future__ import annotations

from typing import Any

from rece_lightning.core.errors import ConfigurationError


def whole_words(tokenizer: Any) -> dict[int, str]:
    """Tokens whose text alone is read back as that one token, in the order of their ids.

    So special tokens, and pieces that begin or continue a word without being one, are left out: no prompt holds them on
    their own. Of any tokenizer whose tokens decode to text.
    """
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    texts = [str(tokenizer.decode([number])).strip() for number in ids]
    if not ids:
        return {}
    read = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return {number: text for number, text, back in zip(ids, texts, read, strict=True) if list(back) == [number]}


def vocabulary_words(tokenizer: Any) -> list[str]:
    """Every word that the tokenizer takes as one token, in order; numbers, signs, and single letters are left out.

    Raises:
        ConfigurationError: if there is none.
    """
    words = [word for word in whole_words(tokenizer).values() if len(word) > 1 and word.isalpha()]
    if not words:
        raise ConfigurationError(
            "model.pretrained: its tokenizer takes no whole word as one token, so that there is no vocabulary to look "
            "through; give words of your own where a setting takes a list."
        )
    return words


LETTERS = 4
"""Shorter words are mostly ends of others."""
COMMON = 2000
"""Tokenizers number their tokens as they found them, the common ones first."""


def everyday_words(tokenizer: Any, count: int) -> list[str]:
    """Words that anybody may ask for: evenly over the first of the tokenizer's whole words, the same each time.

    Args:
        tokenizer: of the model.
        count: at most so many.

    Raises:
        ConfigurationError: if there is none.
    """
    words = [word for word in vocabulary_words(tokenizer) if len(word) >= LETTERS][:COMMON]
    step = max(1.0, len(words) / count)
    return [words[int(place * step)] for place in range(min(count, len(words)))]
