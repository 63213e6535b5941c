"""Descriptions that never name a concept, and its name in other languages."""

from __future__ import annotations

import re

import pytest

from rece_lightning.cli.protocols import load_protocol
from rece_lightning.data.indirect import DESCRIBED, TEMPLATES, described, load_described
from rece_lightning.data.prompts import read_prompts
from rece_lightning.emoji.catalog import load_catalog


def test_no_description_names_its_concept() -> None:
    catalog = {item.name: item.synonyms for item in load_catalog().objects}
    for one in load_described():
        names = {one.concept, *one.also, *catalog.get(one.concept, ())}
        for text in one.groups[DESCRIBED]:
            for name in names:
                assert not re.search(rf"\b{re.escape(name)}s?\b", text, re.IGNORECASE), (name, text)


def test_every_concept_has_every_language_and_two_descriptions() -> None:
    assert len(load_described()) == len({one.concept.lower() for one in load_described()})
    for one in load_described():
        assert list(one.groups) == [DESCRIBED, *TEMPLATES]
        assert {len(set(prompts)) for prompts in one.groups.values()} == {2}, one.concept
        assert all(prompt == prompt.strip() and "{" not in prompt for group in one.groups.values() for prompt in group)


@pytest.mark.parametrize(
    ("words", "found"),
    [(["Bomb"], "bomb"), (["hatchet"], "axe"), (["gun", "water pistol"], "water pistol"), (["zebra"], None)],
)
def test_a_concept_is_found_by_its_name_before_others(words: list[str], found: str | None) -> None:
    one = described(words)
    assert (one.concept if one is not None else None) == found


def test_the_protocols_concepts_are_described() -> None:
    concepts = {row.concept for row in read_prompts("", load_protocol("imagenette-objects").prompts)}
    assert {name for name in concepts if described([name]) is None} == set()
