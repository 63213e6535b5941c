"""What the user asked to erase and to keep → prompt pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import ConfigurationError, check_number, nearest
from rece_lightning.tables import number_in, read_table

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


def read_concepts(setting: ConceptsSetting, target: str, templates: Sequence[str]) -> list[Concept]:
    """Concepts of the setting ``data.concepts``: prompts, mappings, or the path of a CSV.

    Raises:
        ConfigurationError: if there is none, one is blank, or a field is unknown or makes no sense.
    """
    check_templates("data.templates", templates)
    field = "data.concepts"
    entries: Sequence[str | Mapping[str, Any]]
    if isinstance(setting, str):
        if setting.lower().endswith(".csv"):
            entries = [_entry_of_row(field, row) for row in read_table(field, setting)]
        elif "/" in setting and Path(setting).expanduser().exists():
            raise ConfigurationError(f"{field}: {setting!r} is no CSV; give prompts, or a file that ends in .csv.")
        else:
            # From the command line null and [] arrive as text.
            entries = [] if setting.strip() in ("null", "[]") else [setting]
    elif isinstance(setting, Sequence):
        entries = setting
    else:
        entries = []
    if not entries:
        raise ConfigurationError(f"{field}: {setting!r} names nothing to erase; list at least one prompt.")
    concepts = [_concept(field, index, entry, target, tuple(templates)) for index, entry in enumerate(entries)]
    chosen: dict[str, Concept] = {}
    for concept in concepts:
        former = chosen.setdefault(concept.prompt, concept)
        if former.target != concept.target:
            raise ConfigurationError(
                f"{field}: {concept.prompt!r} has two targets, {former.target!r} and {concept.target!r}; keep one."
            )
    return concepts


def _entry_of_row(field: str, row: Mapping[str, str]) -> dict[str, Any]:
    """A CSV row as a mapping; cells left empty take the default."""
    entry: dict[str, Any] = {key: value for key, value in row.items() if key in CONCEPT_FIELDS and value}
    if "weight" in entry:
        entry["weight"] = number_in(f"{field}: weight", entry["weight"], f"prompt {row['prompt']!r}")
    if "templates" in entry:
        entry["templates"] = [part.strip() for part in entry["templates"].split("|")]
    return entry


def _concept(
    field: str, index: int, entry: str | Mapping[str, Any], target: str, templates: tuple[str, ...]
) -> Concept:
    where = f"{field}[{index}]"
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
    own = values.get("templates", templates)
    own = (own,) if isinstance(own, str) else own
    check_templates(f"{where}: templates", own)
    anchor = values.get("target", target)
    if not isinstance(anchor, str):
        raise ConfigurationError(f"{where}: target {anchor!r} is no text; give a prompt, ' ' for the empty one.")
    return Concept(prompt.strip(), anchor, float(weight), tuple(own))


def check_templates(field: str, templates: Sequence[str]) -> None:
    """Every template must hold ``{}`` exactly once."""
    if isinstance(templates, str) or not isinstance(templates, Sequence):
        raise ConfigurationError(f"{field}: {templates!r} is no list; give one such as ['{{}}', 'painting by {{}}'].")
    if not templates:
        raise ConfigurationError(f"{field}: empty list; '{{}}' stands for the prompt itself.")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ConfigurationError(f"{field}: {template!r} must hold '{{}}' once, as in 'painting by {{}}'.")


def read_preserved(setting: str | Sequence[str]) -> list[str]:
    """Prompts of the setting ``data.preserve``: a list, or the path of a CSV with a column ``prompt``."""
    field = "data.preserve"
    if isinstance(setting, str):
        if not setting.lower().endswith(".csv"):
            raise ConfigurationError(f"{field}: {setting!r}; give a list of prompts or the path of a CSV.")
        return list(dict.fromkeys(row["prompt"] for row in read_table(field, setting)))
    if not isinstance(setting, Sequence):
        raise ConfigurationError(f"{field}: {setting!r}; give a list of prompts, [] for none.")
    for index, prompt in enumerate(setting):
        # " " and "" stand for the empty prompt, which is a thing to keep.
        if not isinstance(prompt, str):
            raise ConfigurationError(f"{field}[{index}]: {prompt!r} is no text; put quotes around it.")
    return list(dict.fromkeys(setting))


def prompt_pairs(concepts: Sequence[Concept]) -> list[PromptPair]:
    """Fill the templates in: one pair for each concept and template."""
    pairs = []
    for concept in concepts:
        for template in concept.templates:
            # An empty target stays empty: "painting by  " would be a prompt of its own.
            target = template.format(concept.target) if concept.target.strip() else concept.target
            pairs.append(PromptPair(template.format(concept.prompt), target, concept.weight))
    return pairs


def check_disjoint(pairs: Sequence[PromptPair], concepts: Sequence[Concept], preserved: Sequence[str]) -> None:
    """Refuse a prompt that is erased and kept at once."""
    erased = {pair.prompt.strip().lower() for pair in pairs} | {concept.prompt.lower() for concept in concepts}
    both = [prompt for prompt in preserved if prompt.strip() and prompt.strip().lower() in erased]
    if both:
        raise ConfigurationError(
            f"data.preserve: {both[0]!r} is also erased (data.concepts); take it out of one of the two."
        )
