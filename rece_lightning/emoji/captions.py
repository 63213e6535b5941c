"""Captions of the embedded world's pictures: names and synonyms in short English phrases."""

from __future__ import annotations

import random
from dataclasses import dataclass

from rece_lightning.emoji.catalog import Catalog

# ``{}`` takes the object with its article; the bare name comes without one.
TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "an image of {}")


@dataclass(frozen=True)
class Caption:
    """A caption and what it says; ``None`` where it leaves something open."""

    text: str
    object: int | None
    style: int | None
    background: int | None


def with_article(noun: str) -> str:
    """``axe`` → ``an axe``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def describe(noun: str, style: str | None = None, background: str | None = None) -> str:
    """``describe("an axe", "twemoji", "blue")`` → ``an axe in twemoji style on a blue background``."""
    text = noun
    if style is not None:
        text += f" in {style} style"
    if background is not None:
        text += f" on {with_article(background)} background"
    return text


def random_caption(
    catalog: Catalog, object_index: int, style: int, background: int, source: random.Random, *, style_share: float = 0.5
) -> Caption:
    """A random true caption of a picture: synonym in a third of them, style and background in half."""
    item = catalog.objects[object_index]
    phrase = item.name
    if item.synonyms and source.random() < 0.35:
        phrase = source.choice(item.synonyms)
    if source.random() < 0.6:
        phrase = source.choice(TEMPLATES).format(with_article(phrase))
    said_style = style if source.random() < style_share else None
    said_background = background if source.random() < 0.5 else None
    style_name = None if said_style is None else catalog.styles[said_style]
    color = None if said_background is None else list(catalog.backgrounds)[said_background]
    return Caption(describe(phrase, style_name, color), object_index, said_style, said_background)


def vocabulary(catalog: Catalog) -> list[str]:
    """Every word that a caption can hold."""
    words = {"a", "an", "in", "on", "of", "style", "background", "photo", "picture", "image", "art", "painting", "by"}
    words |= set(catalog.styles) | set(catalog.backgrounds)
    for item in catalog.objects:
        for noun in (item.name, *item.synonyms):
            words |= set(noun.split())
    return sorted(words)
