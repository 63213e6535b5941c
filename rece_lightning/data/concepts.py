"""What the user asked to erase and to keep → prompt pairs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rece_lightning.core.errors import ConfigurationError, check_number, check_templates, nearest
from rece_lightning.data.lookalikes import check_text, is_there, warn_of_columns, warn_of_lookalikes
from rece_lightning.data.tables import FORMS, names_file, number_in, read_file
from rece_lightning.data.texts import filled

CONCEPT_FIELDS = ("prompt", "target", "weight", "templates")
# Where any value was allowed, the parser would read the template "{}" in quotes as an empty mapping.
ConceptMapping = dict[str, str | int | float | list[str] | None]
ConceptsSetting = str | Sequence[str | Mapping[str, Any]]


@dataclass(frozen=True)
class Concept:
    """A concept to erase, as the user gave it."""

    prompt: str
    target: str
    weight: float = 1.0
    templates: tuple[str, ...] = ("{}",)


@dataclass(frozen=True)
class PromptPair:
    """One prompt to erase with its target, template filled in."""

    prompt: str
    target: str
    weight: float


def concepts_in(setting: ConceptsSetting, target: str, templates: Sequence[str]) -> Iterator[tuple[int, Concept]]:
    """Place and concept of the setting ``data.concepts``: prompts, mappings, or the path of a file, one at a time.

    The place is a line of the file, an index of the list.

    Raises:
        ConfigurationError: if there is none, one is blank, or a field is unknown or makes no sense.
    """
    field = "data.concepts"
    check_templates("data.templates", templates)
    if names_file(setting):
        for line, row in read_file(field, str(setting), one_line=True):
            where = f"{field}: {setting}, line {line}"
            yield line, _concept(where, _entry_of_row(field, row), target, tuple(templates))
        return
    entries: Sequence[str | Mapping[str, Any]] = []
    if isinstance(setting, str):
        if "/" in setting and is_there(setting):
            raise ConfigurationError(f"{field}: {setting!r}: a file ends in .csv or .txt; give {FORMS}, or prompts.")
        # From the command line null and [] arrive as text.
        entries = [] if setting.strip() in ("null", "[]") else [setting]
    elif isinstance(setting, Sequence):
        entries = setting
    if not entries:
        raise ConfigurationError(f"{field}: {setting!r} names nothing to erase; list at least one prompt.")
    for index, entry in enumerate(entries):
        yield index, _concept(f"{field}[{index}]", entry, target, tuple(templates))


def place_named(field: str, setting: object, place: int) -> str:
    """A place in words: ``line 3 of concepts.csv``, or ``data.concepts[2]``."""
    return f"line {place} of {setting}" if names_file(setting) else f"{field}[{place}]"


def warn_of_concepts(setting: ConceptsSetting, target: str) -> None:
    """Warn of prompts and of a target that look like a list or a file."""
    if names_file(setting):
        rows = [row for _, row in itertools.islice(read_file("data.concepts", str(setting)), 2)]
        warn_of_columns(f"data.concepts: {setting}", rows[0], CONCEPT_FIELDS)
        lines = [row["prompt"] for row in rows]
        # A file says where each of its prompts ends, unless it is all on one line.
        entries: list[str] = lines if len(lines) == 1 and str(setting).strip().lower().endswith(".txt") else []
        remedy = "a file .csv with the prompt in double quotes means it as it is"
    else:
        entries = [setting] if isinstance(setting, str) else [entry for entry in setting if isinstance(entry, str)]
        remedy = "{prompt: '…'} in the list means a text as it is"
    warn_of_lookalikes("data.concepts", entries, remedy=remedy)
    if isinstance(target, str):
        own = "a target of its own stands at its concept, {prompt: '…', target: '…'}, and means a text as it is"
        warn_of_lookalikes("data.target", [target], remedy=own)


def _entry_of_row(field: str, row: Mapping[str, str]) -> dict[str, Any]:
    """A CSV row as a mapping; cells left empty take the default."""
    entry: dict[str, Any] = {key: value for key, value in row.items() if key in CONCEPT_FIELDS and value}
    if "weight" in entry:
        entry["weight"] = number_in(f"{field}: weight", entry["weight"], f"prompt {row['prompt']!r}")
    if "templates" in entry:
        entry["templates"] = [part.strip() for part in entry["templates"].split("|")]
    return entry


def _concept(where: str, entry: str | Mapping[str, Any], target: str, templates: tuple[str, ...]) -> Concept:
    if not isinstance(entry, (str, Mapping)):
        raise ConfigurationError(f"{where}: {entry!r}; give a prompt in quotes, or a mapping such as {{prompt: bomb}}.")
    values: dict[str, Any] = {"prompt": entry} if isinstance(entry, str) else dict(entry)
    for key in values:
        if key not in CONCEPT_FIELDS:
            raise ConfigurationError(f"{where}: unknown key {key!r}; {nearest(str(key), CONCEPT_FIELDS)}.")
    prompt = values.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigurationError(f"{where}: blank prompt {prompt!r}; name what is to be erased.")
    weight = values.get("weight", 1.0)
    check_number(f"{where}: weight", weight, positive=True)
    templates = values.get("templates", templates)
    templates = (templates,) if isinstance(templates, str) else templates
    check_templates(f"{where}: templates", templates)
    anchor = values.get("target", target)
    if not isinstance(anchor, str):
        raise ConfigurationError(f"{where}: target {anchor!r} is no text; give a prompt, ' ' for the empty one.")
    for text in (prompt, anchor, *templates):
        check_text(where, text)
    return Concept(prompt.strip(), anchor, float(weight), tuple(templates))


def read_preserved(setting: str | Sequence[str]) -> list[str]:
    """Prompts of the setting ``data.preserve``: a list, or the path of a prompt file."""
    return list(preserved_places(setting))


def preserved_places(setting: str | Sequence[str], field: str = "data.preserve") -> dict[str, int]:
    """The same, each once with its place: a line of the file, or an index of the list.

    Raises:
        ConfigurationError: for what is no list of texts and no such file.

    Warns:
        UserWarning: of prompts that look like several, or like a file.
    """
    places: dict[str, int] = {}
    if isinstance(setting, str):
        if not names_file(setting):
            listed = ", ".join(part.strip() for part in setting.split(","))
            raise ConfigurationError(f"{field}: {setting!r}; give a list of prompts, such as [{listed}], or {FORMS}.")
        for line, row in read_file(field, setting, one_line=True):
            places.setdefault(row["prompt"], line)
        return places
    if not isinstance(setting, Sequence):
        raise ConfigurationError(f"{field}: {setting!r}; give a list of prompts, [] for none.")
    for index, prompt in enumerate(setting):
        # " " and "" stand for the empty prompt, which is a thing to keep.
        if not isinstance(prompt, str):
            raise ConfigurationError(f"{field}[{index}]: {prompt!r} is no text; put quotes around it.")
        check_text(f"{field}[{index}]", prompt)
        places.setdefault(prompt, index)
    warn_of_lookalikes(field, places, remedy="prompts of a file are taken as they are")
    return places


def prompt_pairs(concepts: Iterable[Concept]) -> list[PromptPair]:
    """Fill the templates in: one pair for each concept and template."""
    return [pair for concept in concepts for pair in pairs_of(concept)]


def pairs_of(concept: Concept) -> Iterator[PromptPair]:
    """One pair for each template of a concept."""
    for template in concept.templates:
        # An empty target stays empty: "painting by  " would be a prompt of its own.
        target = filled(template, concept.target) if concept.target.strip() else concept.target
        yield PromptPair(filled(template, concept.prompt), target, concept.weight)


def digest_of(words: Iterable[str]) -> str:
    """SHA-256 of words in their order."""
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()


def also_preserved(places: Iterable[tuple[int, Concept]], preserved: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Places of concepts with a prompt that is preserved too, and the latter's index."""
    texts = {prompt.strip().lower(): index for index, prompt in enumerate(preserved) if prompt.strip()}
    for place, concept in places if texts else ():
        for prompt in (concept.prompt, *(pair.prompt for pair in pairs_of(concept))):
            if prompt.strip().lower() in texts:
                yield place, texts[prompt.strip().lower()]


def check_disjoint(concepts: Iterable[Concept], preserved: Sequence[str]) -> None:
    """Refuse a prompt that is erased and preserved at once."""
    for _, index in also_preserved(enumerate(concepts), preserved):
        raise ConfigurationError(
            f"data.preserve: {preserved[index]!r} is also erased (data.concepts); take it out of one of the two."
        )
