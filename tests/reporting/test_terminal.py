"""What is printed is what was given: no markup, no emoji codes, no orders to the terminal."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from hypothesis import given
from rich.console import Console
from rich.progress import TextColumn
from rich.table import Table

from rece_lightning.cli.verbs import fail
from rece_lightning.data.texts import shortened, visible
from rece_lightning.reporting.terminal import PlainConsole, progress
from tests.helpers.hostile import HOSTILE, lines

REPOSITORY = Path(__file__).resolve().parents[2]
HOME = "rece_lightning/reporting/terminal.py"


def printed(*things: object) -> str:
    stream = io.StringIO()
    console = PlainConsole(file=stream, width=2000)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str))
    return stream.getvalue()


@given(lines())
def test_a_line_is_printed_as_it_is(text: str) -> None:
    assert printed(f"report: {text}") == f"report: {visible(text)}\n"


@given(lines())
def test_titles_cells_headings_and_captions_are_printed_as_they_are(text: str) -> None:
    table = Table(title=f"<{text}>", caption=f"({text})")
    table.add_column(f"/{text}/", no_wrap=True)
    table.add_row(f"={text}=")
    shown = printed(table)
    for part in (f"<{text}>", f"({text})", f"/{text}/", f"={text}="):
        assert visible(part) in shown


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_orders_a_terminal_about(text: str) -> None:
    assert "\x1b" not in printed(text)
    assert "\u202e" not in printed(text)
    stream = io.StringIO()
    with progress(PlainConsole(file=stream, width=200, force_terminal=True), "pictures") as bar:
        bar.add_task(visible(text), total=1)
    assert visible(text) in stream.getvalue()


def test_an_error_is_no_order_either(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail("'\x1b]0;x\x07[/b]' 爆弾\u3000ﾊﾞｸ\nnext")
    assert capsys.readouterr().err == "error: '\\x1b]0;x\\x07[/b]' 爆弾\u3000ﾊﾞｸ\nnext\n"


def test_nobody_prints_past_it() -> None:
    """A console of Rich's own, or a column of text with its default, would read markup."""
    found = []
    for folder in ("rece_lightning", "callbacks"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                if isinstance(called, ast.Name) and called.id in (Console.__name__, TextColumn.__name__):
                    found.append(file.relative_to(REPOSITORY).as_posix())
    assert set(found) == {HOME}


@given(lines())
def test_a_shortened_text_says_where_it_is_cut(text: str) -> None:
    cut = shortened(text, 12)
    whole = visible(" ".join(text.split()))
    assert len(cut) <= 12
    assert cut == whole or (cut.endswith("…") and whole.startswith(cut[:-1]))
    assert cut
