"""CLIP's byte-pair vocabulary, built from its merges: the files that a CLIPTokenizer loads."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path

MERGES = Path(__file__).parent / "data" / "clip_merges.txt.xz"
END_OF_WORD = "</w>"
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
SIZE = 49408
"""Tokens: 256 bytes, the same at the end of a word, 48,894 merges, and the two special ones."""


def byte_characters() -> list[str]:
    """A visible character for each of the 256 bytes, in the vocabulary's order.

    Bytes that Latin-1 prints stand for themselves and come first; the others follow as the characters from 256 on.
    """
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printed] + [chr(256 + i) for i in range(256 - len(printed))]


@cache
def merges() -> tuple[str, ...]:
    """Pairs of tokens in the order in which they are merged, as ``"left right"``."""
    return tuple(lzma.decompress(MERGES.read_bytes()).decode("utf-8").splitlines())


@cache
def vocabulary() -> dict[str, int]:
    """Token → number, :data:`SIZE` of them."""
    letters = byte_characters()
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters)]
    tokens += [pair.replace(" ", "") for pair in merges()]
    return {token: number for number, token in enumerate([*tokens, *SPECIAL])}


def write_vocabulary(folder: Path) -> None:
    """Write ``vocab.json`` and ``merges.txt``."""
    (folder / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False), encoding="utf-8")
    # Readers take the first line for a heading.
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges()) + "\n", encoding="utf-8")
