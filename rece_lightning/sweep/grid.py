"""``--grid model.lamb=0.01,0.1,1`` → settings, each checked as the configuration checks it."""

from __future__ import annotations

import itertools
import json
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from rece_lightning.cli.explain import explain
from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.module import DECISIVE, OF_EDITOR, RECE

EPOCHS, TARGET = "trainer.max_epochs", "data.target"
MODEL = (*DECISIVE, *(name for names in OF_EDITOR.values() for name in names))
"""Arguments of ``RECE`` that a sweep can vary."""
KEYS = (*(f"model.{name}" for name in MODEL), EPOCHS, TARGET)
"""What a sweep can vary: all that decides the result on one model."""
# Without RECE epochs nothing is derived.
OF_LATER_EPOCHS = tuple(f"model.{name}" for name in ("regular_scale", "regularizer", "surrogate_items", "accumulate"))
MOST = 100_000


@dataclass(frozen=True)
class Setting:
    """One way to erase."""

    values: tuple[tuple[str, Any], ...]
    """Every key of :data:`KEYS` with its value."""

    def __getitem__(self, key: str) -> Any:
        return dict(self.values)[key]

    @property
    def identity(self) -> str:
        """The same text for the same setting, in whatever file it was."""
        return json.dumps(dict(self.values), sort_keys=True, ensure_ascii=False)

    @property
    def model(self) -> dict[str, Any]:
        """The arguments of ``RECE``."""
        return {key.removeprefix("model."): value for key, value in self.values if key.startswith("model.")}

    @property
    def epochs(self) -> int:
        """``trainer.max_epochs``: 1 + the number of RECE epochs."""
        return int(self[EPOCHS])

    def differs(self, other: Setting) -> dict[str, Any]:
        """What this setting has otherwise."""
        theirs = dict(other.values)
        return {key: value for key, value in self.values if value != theirs[key]}

    def describe(self, base: Setting) -> str:
        """The same in words."""
        changed = [f"{key.split('.', 1)[1]} {in_words(value)}" for key, value in self.differs(base).items()]
        return ", ".join(changed) or "the configuration as it is"

    @classmethod
    def of(cls, values: Mapping[str, Any], base: Mapping[str, Any]) -> Setting:
        """A setting; what counts in later epochs alone is the base's where there is none, and so is not tried twice."""
        whole = {**base, **values}
        if whole[EPOCHS] == 1:
            whole |= {key: base[key] for key in OF_LATER_EPOCHS}
        if whole["model.regularizer"] != "surrogate":
            whole["model.surrogate_items"] = base["model.surrogate_items"]
        for editor, names in OF_EDITOR.items():
            if whole["model.editor"] != editor:
                whole |= {f"model.{name}": base[f"model.{name}"] for name in names if f"model.{name}" in base}
        return cls(tuple((key, whole[key]) for key in KEYS if key in whole))


def in_words(value: Any) -> str:
    """A value as the command line takes it."""
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


class Values:
    """Turns what a grid or a file gives for a setting into a checked value."""

    def __init__(self) -> None:
        self._parser = ArgumentParser(exit_on_error=False)
        self._parser.add_class_arguments(RECE, "model")
        self._parser.add_argument(f"--{EPOCHS}", type=int)
        self._parser.add_argument(f"--{TARGET}", type=str)

    def check(self, key: str, value: Any) -> Any:
        """The value in the setting's type.

        Raises:
            ConfigurationError: if it is none of the setting's.
        """
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key in (TARGET, "model.layers"):
            value = str(value)
        section, name = key.split(".")
        try:
            checked = self._parser.parse_object({section: {name: value}}, defaults=False)[key]
        except ArgumentError as error:
            raise ConfigurationError(f"--grid {explain(error, KEYS, {})}") from error
        if key == EPOCHS and (checked is None or checked < 1):
            raise ConfigurationError(f"--grid {key}: {value!r}; give a whole number of 1 or more.")
        return checked


def parse_grid(arguments: Sequence[str], values: Values) -> dict[str, list[Any]]:
    """Key → values to try, in the order in which they were given.

    Args:
        arguments: ``KEY=VALUE,VALUE,…``; a value with a comma of its own stands in quotes or brackets.

    Raises:
        ConfigurationError: for a setting that cannot be varied, a value that it cannot have, or a grid too large.
    """
    grid: dict[str, list[Any]] = {}
    for argument in arguments:
        key, sign, text = argument.partition("=")
        key = key.strip()
        if not sign or not text.strip():
            raise ConfigurationError(f"--grid {argument!r}: no values; write --grid model.lamb=0.01,0.1,1.")
        if key not in KEYS:
            raise ConfigurationError(f"--grid {key}: no setting that a sweep can vary; {nearest(key, KEYS)}.")
        if key in grid:
            raise ConfigurationError(f"--grid {key}: given twice; write all its values in one --grid.")
        found = []
        for item in _items(argument, text):
            value = values.check(key, item)
            if value not in found:
                found.append(value)
        grid[key] = found
    size = 1
    for found in grid.values():
        size *= len(found)
    if size > MOST:
        raise ConfigurationError(f"--grid: {size:,} settings; give at most {MOST:,}.")
    return grid


def _items(argument: str, text: str) -> list[Any]:
    try:
        # YAML's own list knows quotes and brackets.
        items = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--grid {argument!r}: cannot be read; write --grid model.lamb=0.01,0.1,1.") from error
    if len(items) == 1 and isinstance(items[0], list):
        items = items[0]
    if not items:
        raise ConfigurationError(f"--grid {argument!r}: no values; write --grid model.lamb=0.01,0.1,1.")
    return items


def settings_of(grid: Mapping[str, Sequence[Any]], base: Mapping[str, Any]) -> list[Setting]:
    """Every combination once; the configuration as it is comes first.

    Raises:
        ConfigurationError: if one makes no sense, as ``RECE`` says it.
    """
    combinations = [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]
    found = [Setting.of(values, base) for values in [{}, *combinations]]
    settings = list({setting.identity: setting for setting in found}.values())
    for key in grid:
        # Each value is refused alike whatever the others are.
        for value in grid[key]:
            if key.startswith("model."):
                check_model(key, value)
    return settings


def check_model(key: str, value: Any) -> None:
    """Raise what ``RECE`` says of one of its arguments.

    Raises:
        ConfigurationError: naming field, value and remedy.
    """
    try:
        RECE(**{key.removeprefix("model."): value})
    except ConfigurationError as error:
        raise ConfigurationError(f"--grid {error}") from error
