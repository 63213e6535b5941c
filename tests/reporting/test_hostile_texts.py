"""Prompts, names and paths are shown as they are on pages, plots and pictures, whatever they would mean there."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.data.texts import shortened
from rece_lightning.evaluation.png import metadata_of, save_pixels, to_pixels
from rece_lightning.evaluation.results.comparison import FIRST, ORIGINAL, Column, Comparison
from rece_lightning.evaluation.results.grid import draw_grid
from rece_lightning.evaluation.results.states import Shot, State
from rece_lightning.reporting.ladder_section import ladder_svg
from rece_lightning.reporting.page import render_page
from rece_lightning.reporting.states_page import compare_page
from tests.helpers.hostile import HOSTILE, lines
from tests.reporting.test_report_ladder import rung, written

TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "ul", "li", "table", "thead",
    "tbody", "tr", "th", "td", "div", "span", "small", "strong", "code", "pre", "footer", "figure", "figcaption", "svg",
    "g", "path", "defs", "use", "clippath", "rect", "metadata", "img", "details", "summary", "rdf:rdf", "cc:work",
    "dc:type", "i", "b", "em", "nav", "a", "u",
}  # fmt: skip


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def description(text: str) -> dict[str, Any]:
    erased = [{"prompt": text, "target": text, "weight": 1.0}]
    return {
        "base": text,
        "version": "0",
        "epochs": 1,
        "concepts": {
            "erased": erased,
            "preserved": [text],
            "synonyms": [{"word": text, "of": text, "prompts": [text]}],
        },
        "fingerprint": {"projections": "0" * 64, "text_encoder": "0" * 64},
    }


def check_page(content: str, text: str, times: int) -> None:
    page = Page(content)
    assert {tag for tag, _ in page.tags} <= TAGS
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all((attributes["href"] or "").startswith("#") for tag, attributes in page.tags if tag == "a")
    # HTML has no NUL and one kind of line end.
    assert page.text.count(text) >= times or "\x00" in text


@settings(max_examples=8)
@given(lines())
def test_a_report_shows_texts_as_they_are(text: str) -> None:
    content = render_page(
        title=None,
        description=description(text),
        settings={"pretrained": text, "layers": [text]},
        change={},
        history=[],
        placement={text: text},
        comparison=None,
        grid=None,
        run=Path("/nowhere"),
    )
    check_page(content, text, times=6)


@settings(max_examples=8)
@given(lines())
def test_a_comparison_shows_texts_as_they_are(text: str) -> None:
    shots = {Shot(text, text, role, 0): role == "kept" for role in ("erased", "kept")}
    shown = {shot: text for shot in shots}
    states = [State(text, shots, note=text, edited=edited, shown=shown) for edited in (False, True, True)]
    check_page(compare_page(states, protocol=text, notes=[text], command=text), text, times=9)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_curve_over_nearness_shows_names_as_they_are(text: str) -> None:
    found = Comparison((EvaluationPrompt(text, text, "preserved"),), frozenset(), "test", nearest={"text": (text,)})
    found.columns[FIRST] = Column(FIRST, text, (0,), (0,), torch.zeros(1, 3, 2, 2), torch.ones(1).bool())
    content = render_page(
        title=None, description=description(text), settings={}, change={}, history=[], placement={},
        comparison=found, grid=None,
    )  # fmt: skip
    check_page(content, text, times=4)
    assert '<h2 id="nearest">' in content
    assert "100 %" in content.split('<h2 id="nearest">')[1]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_grid_shows_prompts_as_they_are(tmp_path: Path, text: str) -> None:
    found = Comparison((EvaluationPrompt(text, text), EvaluationPrompt("a rocket", text, "preserved")), frozenset())
    for key in (ORIGINAL, FIRST):
        found.columns[key] = Column(key, text, (0, 1), (0, 0), torch.zeros(2, 3, 2, 2), torch.ones(2).bool())
    figure = draw_grid(found)
    figure.savefig(tmp_path / "grid.png")
    assert f"{shortened(text, 22)}\n({found.role(0)})" in [one.get_text() for one in figure.axes[0].texts]
    assert not any(one.get_parse_math() for one in figure.axes[0].texts)


@pytest.mark.parametrize("text", ["$x^{$", "$\\frac$", "cost $5 or $6", "<b>", "-->", "_hidden"])
def test_a_plot_shows_names_as_they_are(tmp_path: Path, text: str) -> None:
    content = ladder_svg(written(tmp_path, [rung(text, text, 1, has=text), rung("mma", "axe", 0)]))
    assert {tag for tag, _ in Page(content).tags} <= TAGS


@settings(max_examples=15)
@given(lines())
def test_a_picture_says_what_it_is(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Were it read back otherwise, ``predict`` would make the picture again and again."""
    said = {"prompt": text, "seed": "0", "base": text}
    file = save_pixels(to_pixels(torch.zeros(3, 2, 2)), tmp_path_factory.mktemp("picture") / "0.png", said)
    assert metadata_of(file) == said
