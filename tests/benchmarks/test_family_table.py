"""The table of families in the documents is that of the declarations."""

from __future__ import annotations

from pathlib import Path

from benchmarks.family_table import table

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_document_shows_the_declarations() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8"), "run python -m benchmarks.family_table"


def test_names_are_shown_and_no_expressions() -> None:
    assert not [sign for sign in ("(?", "\\", "]?", "}?", "{0}", "[") if sign in table()]
