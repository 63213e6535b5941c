"""Texts in Markdown as a renderer shows them: the words that were given, and no more."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from markdown_it import MarkdownIt
from markdown_it.token import Token

from rece_lightning.data.texts import fenced
from rece_lightning.exports.markdown import code, plain
from tests.helpers.hostile import HOSTILE, lines

RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def inline(text: str) -> list[Token]:
    """The pieces of every line and cell, without the empty ones."""
    pieces = [piece for token in RENDERER.parse(text) for piece in token.children or []]
    return [piece for piece in pieces if piece.content or piece.type != "text"]


def words(text: str) -> str:
    return " ".join(text.split()).replace("\x00", "\ufffd")


@given(lines())
def test_words_are_shown_as_they_are(text: str) -> None:
    for document in (f"# Erased: {plain(text)}\n", f"| a | b |\n|---|---|\n| x{plain(text)}x | y |\n"):
        pieces = inline(document)
        assert {piece.type for piece in pieces} == {"text"}
        assert words(text).strip() in "".join(piece.content for piece in pieces)


@given(lines())
def test_code_is_shown_as_it_is(text: str) -> None:
    for document in (
        f"Made from {code(text)} it is.\n",
        f"| a |\n|---|\n| {code(text, in_table=True)} |\n",
    ):
        [shown] = [piece for piece in inline(document) if piece.type == "code_inline"]
        assert shown.content == words(text)


@pytest.mark.parametrize("text", ["$x$", ":bomb:", "http://a.b", "www.c.de", "@somebody", "#12", "a_b_c"])
def test_what_the_hub_reads_beside_the_standard_is_escaped(text: str) -> None:
    """Formulas, emoji, addresses, people, issues: extensions that no parser here has."""
    assert re.search(r"\\[$:.@#_]", plain(text))


def test_usual_texts_are_left_alone() -> None:
    for text in ("Ajin: Demi Human", "a bomb, lit (2.5) - 100 %", 'it\'s "quoted" + 1/2 = 0.5; {x}!'):
        assert plain(text) == text


@pytest.mark.parametrize("text", [*HOSTILE, "a\n```\nb\n`````\nc"])
def test_a_block_of_code_ends_where_it_ends(text: str) -> None:
    [block] = [token for token in RENDERER.parse(fenced(text, "yaml") + "\nafter") if token.type == "fence"]
    assert block.content == f"{text}\n".replace("\x00", "\ufffd")
    assert block.info == "yaml"
