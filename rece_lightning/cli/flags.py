"""The words of a command line: flags with their values, and the configurations that it names."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from rece_lightning.core.errors import ConfigurationError, nearest


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


ATTACK_FLAGS = ("--attacks",)
RED_TEAM = "RedTeam"


def expand_attack_flags(argv: Sequence[str]) -> list[str]:
    """Replace ``--attacks`` by a callback ``RedTeam`` with these attacks.

    What a configuration says of ``RedTeam`` otherwise stays, the arguments of an attack that it lists among them. Runs
    after :func:`rece_lightning.cli.protocols.expand_flags`, whose callbacks it goes on with.

    Args:
        argv: the verb and its arguments, configurations as paths.

    Raises:
        ConfigurationError: for an unknown attack, and for another verb than ``test``.
    """
    given, rest = take_flags(argv, ATTACK_FLAGS)
    if not given:
        return list(argv)
    verb = rest[0] if rest else ""
    if verb != "test":
        raise ConfigurationError(f"--attacks: it is understood by test, not by {verb or 'nothing'}.")
    names = _names(given["--attacks"])
    explicit, others = take_flags(rest, ("--trainer.callbacks",))
    if not explicit:
        return with_settings(rest, [_setting(last_said(configurations(rest), "trainer", "callbacks"), names)])
    place = next(at for at, word in enumerate(rest) if word.partition("=")[0] == "--trainer.callbacks")
    written = parse_value("--trainer.callbacks", explicit["--trainer.callbacks"])
    return [*others[:place], _setting(written, names), *others[place:]]


def _setting(callbacks: Any, names: Sequence[str]) -> str:
    return "--trainer.callbacks=" + json.dumps(_merged(callbacks, names))


def _names(value: str) -> list[str]:
    # Only where the flag is given: the classes load the frameworks.
    from rece_lightning.attacks import LADDER

    names = [name.strip() for name in value.split(",") if name.strip()]
    for name in names:
        if name not in LADDER:
            raise ConfigurationError(f"--attacks: unknown attack {name!r}; {nearest(name, LADDER)}.")
    if not names:
        raise ConfigurationError(f"--attacks: {value!r} names none; give some of {', '.join(LADDER)}.")
    return list(dict.fromkeys(names))


def _merged(callbacks: Any, names: Sequence[str]) -> list[Any]:
    """The callbacks with RedTeam before the last one, which ``--trainer.callbacks.steps 4`` and its like speak of."""
    listed = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    red_teams = [one for one in listed if _is_red_team(one)]
    found: dict[str, Any] = {"class_path": RED_TEAM}
    if red_teams and isinstance(red_teams[0], dict):
        found = red_teams[0]
    said = dict(found.get("init_args") or {})
    known = {_name_of(one): one for one in said.get("attacks") or []}
    arguments = {**said, "attacks": [known.get(name, name) for name in names]}
    red_team = {"class_path": found["class_path"], "init_args": arguments}
    others = [one for one in listed if not _is_red_team(one)]
    return [*others[:-1], red_team, *others[-1:]]


def _name_of(attack: Any) -> str:
    """``ring-a-bell`` of a name, or of a class path with arguments."""
    from rece_lightning.attacks import LADDER

    if not isinstance(attack, dict):
        return str(attack)
    path = str(attack.get("class_path", "")).rsplit(".", 1)[-1]
    return next((name for name, kind in LADDER.items() if kind.__name__ == path), path)


def _is_red_team(callback: Any) -> bool:
    path = callback.get("class_path") if isinstance(callback, dict) else callback
    return isinstance(path, str) and path.rsplit(".", 1)[-1] == RED_TEAM
