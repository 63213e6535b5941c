"""The tokens of a tokenizer that are words of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from rece_lightning.core.errors import ConfigurationError

READ_AT_ONCE = 2048
"""Tokens that are looked at together."""


def whole_words(tokenizer: Any) -> dict[int, str]:
    """Tokens whose text alone is read back as that one token, in the order of their ids.

    So special tokens, and pieces that begin or continue a word without being one, are left out: no prompt holds them on
    their own. Of any tokenizer whose tokens decode to text.
    """
    return dict(_whole_words(tokenizer))


def _whole_words(tokenizer: Any) -> Iterator[tuple[int, str]]:
    """The same as they are asked for: who takes the common ones alone does not pay for the others."""
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    for first in range(0, len(ids), READ_AT_ONCE):
        part = ids[first : first + READ_AT_ONCE]
        texts = [str(tokenizer.decode([number])).strip() for number in part]
        read = tokenizer(texts, add_special_tokens=False)["input_ids"]
        yield from (
            (number, text) for number, text, back in zip(part, texts, read, strict=True) if list(back) == [number]
        )


BEFORE = "a"
"""Any word of one token."""


def suffix_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text that stands behind another word and a space."""
    before = len(tokenizer(BEFORE, add_special_tokens=False)["input_ids"])
    return list(tokenizer(f"{BEFORE} {text}", add_special_tokens=False)["input_ids"])[before:]


def behind_a_word(tokenizer: Any, words: Mapping[int, str]) -> dict[int, int]:
    """Token of a whole word → the token that it is behind another word; one that is several tokens there is left out.

    Byte pairs of language models number a word with the space before it apart; CLIP's and T5's tokenizers do not.

    Args:
        tokenizer: of any kind.
        words: as :func:`whole_words` gives them.
    """
    if not words:
        return {}
    before = list(tokenizer(BEFORE, add_special_tokens=False)["input_ids"])
    read = tokenizer([f"{BEFORE} {text}" for text in words.values()], add_special_tokens=False)["input_ids"]
    return {
        number: ids[-1]
        for number, ids in zip(words, read, strict=True)
        if len(ids) == len(before) + 1 and list(ids[:-1]) == before
    }


def vocabulary_words(tokenizer: Any) -> list[str]:
    """Every word that the tokenizer takes as one token, in order; numbers, signs, and single letters are left out.

    Raises:
        ConfigurationError: if there is none.
    """
    return _named(_words(tokenizer))


def _words(tokenizer: Any) -> Iterator[str]:
    return (word for _, word in _whole_words(tokenizer) if len(word) > 1 and word.isalpha())


def _named(words: Iterator[str]) -> list[str]:
    found = list(words)
    if not found:
        raise ConfigurationError(
            "model.pretrained: its tokenizer takes no whole word as one token, so that there is no vocabulary to look "
            "through; give words of your own where a setting takes a list."
        )
    return found


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
    words = _named(islice((word for word in _words(tokenizer) if len(word) >= LETTERS), COMMON))
    step = max(1.0, len(words) / count)
    return [words[int(place * step)] for place in range(min(count, len(words)))]
