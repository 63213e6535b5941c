"""Prompt files: what to generate pictures for, with seeds and what they should or should not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rece_lightning.core.errors import ConfigurationError, check_choice, check_number, nearest
from rece_lightning.data.lookalikes import check_text, warn_of_columns, warn_of_lookalikes
from rece_lightning.data.tables import FORMS, number_in, read_file

KINDS = ("erased", "preserved")
TAKEN = ("erased", "synonym", "kept")
"""Roles of prompts: no group can be called so."""
# Our column name → the names that other projects' files use for it (I2P; RECE).
COLUMNS = {
    "prompt": ("prompt",),
    "seed": ("seed", "evaluation_seed", "sd_seed"),
    "guidance_scale": ("guidance_scale", "evaluation_guidance", "sd_guidance_scale"),
    "concept": ("concept", "artist", "class"),
    "kind": ("kind",),
    "group": ("group",),
}
# Where any value was allowed, the parser would read a prompt such as "5" in quotes as a number.
PromptMapping = dict[str, str | int | float | None]
PromptsSetting = str | Sequence[str | Mapping[str, Any]]


@dataclass(frozen=True)
class EvaluationPrompt:
    """A prompt to generate for."""

    prompt: str
    concept: str
    """What the detector looks for; the prompt itself unless given."""
    kind: str = "erased"
    """``erased``: it should not show the concept; ``preserved``: it should."""
    seed: int | None = None
    """Of its only picture; ``None`` leaves the seeds to the evaluation."""
    guidance_scale: float | None = None
    group: str = ""
    """Of erased prompts that are counted apart from the others, such as ``described`` or ``Spanish``."""

    def plain(self) -> dict[str, Any]:
        """Its fields, by which rows of tables and resumed work know it again; without a group that it has not."""
        return {name: value for name, value in asdict(self).items() if name != "group" or value}

    def to(self, *_: Any, **__: Any) -> EvaluationPrompt:
        """What a trainer asks of a batch: this is text, there is nothing to move."""
        return self


def read_prompts(field: str, setting: PromptsSetting | None) -> list[EvaluationPrompt]:
    """Prompts of ``data.validation``, ``data.test`` or ``data.predict``.

    Args:
        field: the setting's name, for messages.
        setting: the path of a CSV (ours, I2P's or RECE's columns) or of a ``.txt`` with one prompt a line, or a list
            of prompts or mappings.

    Raises:
        ConfigurationError: if a row cannot be understood.

    Warns:
        UserWarning: of a prompt in a list that looks like a file, and of prompts of several lines in a CSV.
    """
    if setting is None:
        return []
    if isinstance(setting, str):
        rows = list(read_file(field, setting))
        known = [name for names in COLUMNS.values() for name in names]
        warn_of_columns(f"{field}: {setting}", rows[0][1], known)
        return [_prompt(f"{field}: {setting}, line {line}", row, strict=False) for line, row in rows]
    if not isinstance(setting, Sequence):
        raise ConfigurationError(f"{field}: {setting!r}; give a list of prompts, or {FORMS}.")
    prompts = [_prompt(f"{field}[{index}]", row, strict=True) for index, row in enumerate(setting)]
    bare = [row for row in setting if isinstance(row, str)]
    warn_of_lookalikes(field, bare, remedy="{prompt: '…'} in the list means a text as it is", lists=False)
    return prompts


def one_each(prompts: Sequence[EvaluationPrompt], seeds: Sequence[int]) -> list[EvaluationPrompt]:
    """A row a picture: every prompt with its own seed, or with each of ``seeds``."""
    return [replace(row, seed=seed) for row in prompts for seed in (seeds if row.seed is None else (row.seed,))]


def kinds_of_concepts(field: str, prompts: Sequence[EvaluationPrompt], erased: Sequence[str]) -> list[EvaluationPrompt]:
    """Prompts whose kind follows from what is erased: ``erased`` where their concept is, ``preserved`` otherwise.

    A concept is erased if it is the prompt of an erased one. For an erased prompt that is no row's concept (a style is
    erased in context: "a dog in twemoji style"), it is erased if all its words stand in that prompt in their order, or
    the other way round ("Van Gogh", "Vincent van Gogh").

    Args:
        field: the setting, for the message.
        prompts: of a protocol.
        erased: prompts of the erased concepts.

    Raises:
        ConfigurationError: if no row's concept is erased.
    """
    concepts = {row.concept.strip().lower() for row in prompts}
    gone: set[str] = set()
    for prompt in (prompt.strip().lower() for prompt in erased):
        whole = f" {prompt} "
        near = {concept for concept in concepts if f" {concept} " in whole or whole in f" {concept} "}
        gone |= {prompt} if prompt in concepts else near
    if not gone:
        raise ConfigurationError(
            f"{field}: no prompt is about what data.concepts erases ({', '.join(list(erased)[:5])}); its concepts are "
            f"{', '.join(sorted(concepts)[:8])}{', …' if len(concepts) > 8 else ''}. Erase one of these, or choose "
            "another protocol."
        )
    kinds = {True: "erased", False: "preserved"}
    return [replace(row, kind=kinds[row.concept.strip().lower() in gone]) for row in prompts]


def _prompt(where: str, row: str | Mapping[str, Any], *, strict: bool) -> EvaluationPrompt:
    values = {"prompt": row} if isinstance(row, str) else row
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where}: {row!r}; give a prompt in quotes, or a mapping such as {{prompt: bomb}}.")
    if strict:
        known = {name for names in COLUMNS.values() for name in names}
        for key in values:
            if key not in known:
                raise ConfigurationError(f"{where}: unknown key {key!r}; {nearest(str(key), known)}.")
    places = ((column, name) for column, names in COLUMNS.items() for name in reversed(names))
    cells: dict[str, Any] = {column: values[name] for column, name in places if values.get(name) not in (None, "")}
    prompt = cells.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigurationError(f"{where}: blank prompt {prompt!r}; give the text to generate for.")
    check_text(where, prompt)
    kind = str(cells.get("kind", "erased"))
    check_choice(f"{where}: kind", kind, KINDS)
    seed, guidance_scale = cells.get("seed"), cells.get("guidance_scale")
    if seed is not None:
        number = number_in(f"{where}: seed", str(seed), prompt)
        if not (0 <= number < 2**53 and number.is_integer()):
            raise ConfigurationError(f"{where}: seed: {seed!r} ({prompt}); give a whole number of 0 or more.")
        seed = int(number)
    if guidance_scale is not None:
        guidance_scale = number_in(f"{where}: guidance_scale", str(guidance_scale), prompt)
        check_number(f"{where}: guidance_scale", guidance_scale)
    group = str(cells.get("group", "")).strip()
    if group in TAKEN:
        raise ConfigurationError(f"{where}: group: {group!r} is what tables call others; give another name.")
    return EvaluationPrompt(prompt, str(cells.get("concept", prompt)), kind, seed, guidance_scale, group)
