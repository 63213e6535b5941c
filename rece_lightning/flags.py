"""The words of a command line: flags with their values, and the configurations that it names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from rece_lightning.core.errors import ConfigurationError


def take_flags(argv: Sequence[str], flags: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Values of some flags, the last one each, and the arguments without them.

    Raises:
        ConfigurationError: for a flag without a value.
    """
    found: dict[str, str] = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in flags:
            rest.append(word)
            continue
        if not equals:
            value = next(words, "")
        if not value or (not equals and value.startswith("--")):
            raise ConfigurationError(f"{flag}: no value given; write {flag} VALUE.")
        found[flag] = value
    return found, rest


def is_value_of_config(argv: Sequence[str], place: int) -> bool:
    """Whether the word at a place names a configuration."""
    word = argv[place]
    return word.startswith(("--config=", "-c=")) or (place > 0 and argv[place - 1] in ("--config", "-c"))


def with_settings(argv: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Settings after the configurations, whose place they take, and before what else the command line says."""
    after = max((place + 1 for place, _ in enumerate(argv) if is_value_of_config(argv, place)), default=1)
    return [*argv[:after], *settings, *argv[after:]]


def configurations(argv: Sequence[str]) -> list[dict[str, Any]]:
    """What the configurations of a command line say, the last one the last."""
    paths = [word.split("=", 1)[-1] for place, word in enumerate(argv) if is_value_of_config(argv, place)]
    return [yaml.safe_load(Path(path).read_text(encoding="utf-8-sig")) for path in paths]


def last_said(configs: Sequence[dict[str, Any]], section: str, key: str) -> Any:
    """What the last configuration that says it says."""
    says: Callable[[dict[str, Any]], bool] = lambda config: key in (config.get(section) or {})  # noqa: E731
    return next((config[section][key] for config in reversed(configs) if says(config)), None)


def parse_value(field: str, value: str) -> Any:
    """A value that is YAML.

    Raises:
        ConfigurationError: if it is none.
    """
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{field}: {value!r} is no YAML ({' '.join(str(error).split())}).") from error
