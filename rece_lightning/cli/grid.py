"""``--grid model.method.editor.lamb=0.01,0.1,1`` → settings, each checked as the configuration checks it."""

from __future__ import annotations

import itertools
import typing
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from rece_lightning.cli.explain import explain, former, method_keys, nearest_key, owners_of
from rece_lightning.core.derivation import Derivation
from rece_lightning.core.editors import Editor
from rece_lightning.core.editors.base import editor_of
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.method import FIELD, Method
from rece_lightning.sweep.grid import EPOCHS, TARGET, Setting

EXAMPLE = "write --grid model.method.editor.lamb=0.01,0.1,1"
EDITORS = ("editor", "first_editor")
MOST = 100_000
Grid = Mapping[str, Sequence[Any]]
"""Key → the values to try."""


def keys() -> list[str]:
    """What a sweep can vary: all that decides the result on one model, but for the robust loop."""
    return [*(key for key in method_keys() if not key.startswith(f"{FIELD}.robust")), EPOCHS, TARGET]


# Text → values


def parse_grid(arguments: Sequence[str]) -> dict[str, list[Any]]:
    """Key → values to try, in the order in which they were given.

    Args:
        arguments: ``KEY=VALUE,VALUE,…``; a value with a comma of its own stands in quotes or brackets.

    Raises:
        ConfigurationError: for a setting that cannot be varied, a value of another type, or a grid too large.
    """
    grid: dict[str, list[Any]] = {}
    size = 1
    for argument in arguments:
        key, sign, text = argument.partition("=")
        key = key.strip()
        if not sign or not text.strip():
            raise ConfigurationError(f"--grid {argument!r}: no values; {EXAMPLE}.")
        check_key(key)
        if key in grid:
            raise ConfigurationError(f"--grid {key}: given twice; write all its values in one --grid.")
        grid[key] = []
        for item in _items(argument, text):
            value = _of_type(key, item, _wanted(key))
            if value not in grid[key]:
                grid[key].append(value)
        size *= len(grid[key])
    if size > MOST:
        raise ConfigurationError(f"--grid: {size:,} settings; give at most {MOST:,}.")
    return grid


def check_key(key: str) -> None:
    """Refuse what a sweep cannot vary; arguments of an editor are looked at once the editors are known.

    Raises:
        ConfigurationError: with the new key of a former one, or the nearest.
    """
    known, argument = keys(), _argument(key)
    if key in known or (argument is not None and "." not in argument[1]):
        return
    moved = former(key)
    if moved:
        raise ConfigurationError(f"--grid {moved}")
    raise ConfigurationError(f"--grid {key}: no setting that a sweep can vary; {nearest_key(key, known)}.")


def _argument(key: str) -> tuple[str, str] | None:
    """``editor`` and ``lamb`` of ``model.method.editor.lamb``; ``None`` for what is no argument of an editor."""
    for name in EDITORS:
        if key.startswith(f"{FIELD}.{name}."):
            return name, key.removeprefix(f"{FIELD}.{name}.")
    return None


def _items(argument: str, text: str) -> list[Any]:
    try:
        # YAML's own list knows quotes and brackets.
        items = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--grid {argument!r}: cannot be read; {EXAMPLE}.") from error
    if len(items) == 1 and isinstance(items[0], list):
        items = items[0]
    if not items:
        raise ConfigurationError(f"--grid {argument!r}: no values; {EXAMPLE}.")
    return items


def _wanted(key: str) -> Any:
    """The type of a setting; ``Any`` for an editor and its arguments, which are looked at later."""
    if key in (EPOCHS, TARGET):
        return int if key == EPOCHS else str
    name, _, inner = key.removeprefix(f"{FIELD}.").partition(".")
    if name in EDITORS or (name == "derivation" and not inner):
        return Any
    return _types(Derivation if inner else Method).get(inner or name, Any)


def _types(kind: type) -> dict[str, Any]:
    """Name → type of a dataclass's settings; nothing where its annotations cannot be read."""
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError, AttributeError):
        return {}


def _of_type(key: str, value: Any, wanted: Any) -> Any:
    """The value in the setting's type: ``1e-1``, text to YAML, is a number where one is wanted.

    Raises:
        ConfigurationError: if it is none of the setting's.
    """
    if wanted is not Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and wanted in (str, str | None):
            value = str(value)
        if isinstance(value, str) and wanted == tuple[str, ...] | None:
            value = [value]
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument(f"--{key}", type=wanted)
        nested: Any = value
        for name in reversed(key.split(".")):
            nested = {name: nested}
        try:
            value = parser.parse_object(nested, defaults=False)[key]
        except ArgumentError as error:
            raise ConfigurationError(f"--grid {explain(error, (), {})}") from error
    if key == EPOCHS and (value is None or value < 1):
        raise ConfigurationError(f"--grid {key}: {value!r}; give a whole number of 1 or more.")
    return value


# Values → settings


def settings_of(grid: Grid, base: Setting) -> list[Setting]:
    """Every combination once; the configuration as it is comes first.

    An argument of an editor counts in the combinations whose editor has it, as long as one of the grid's editors does.

    Args:
        grid: see :func:`parse_grid`.
        base: the configuration as it is.

    Raises:
        ConfigurationError: if one makes no sense, as :class:`Method` says it.
    """
    grid = {key: _of_editors(key, values, grid, base.method) for key, values in grid.items()}
    settings = {base.identity: base}
    for chosen in itertools.product(*grid.values()):
        values = dict(zip(grid, chosen, strict=True))
        setting = replace(
            base,
            method=_method(values, base.method),
            epochs=values.get(EPOCHS, base.epochs),
            target=values.get(TARGET, base.target),
        )
        settings.setdefault(setting.identity, setting)
    return list(settings.values())


def _of_editors(key: str, values: Sequence[Any], grid: Grid, base: Method) -> list[Any]:
    """The values of an editor's argument in its type, where one of the grid's editors has it; others as they are."""
    argument = _argument(key)
    if argument is None:
        return list(values)
    part, name = argument
    editors = list(_editors(part, grid, base))
    kinds = [type(editor) for editor in editors if name in [one.name for one in fields(editor)]]
    if not kinds:
        names = ", ".join(dict.fromkeys(type(editor).__name__ for editor in editors)) or f"{FIELD}.{part} is null: it"
        owners = owners_of(name)
        hint = f"{owners}; add --grid {FIELD}.{part}={owners.split()[0]}" if owners else ""
        known = [f"{FIELD}.{part}.{one.name}" for editor in editors for one in fields(editor)]
        raise ConfigurationError(f"--grid {key}: {names} has no such setting; {hint or nearest_key(key, known)}.")
    for kind in kinds:
        values = [_of_type(key, value, _types(kind).get(name, Any)) for value in values]
    return list(values)


def _editors(part: str, grid: Grid, base: Method) -> Iterator[Any]:
    """The editors that a grid tries; the configuration's own where it tries none."""
    key = f"{FIELD}.{part}"
    for value in grid.get(key, [getattr(base, part)]):
        if value is not None:
            yield value if isinstance(value, Editor) else _new_editor(value, key)


def _new_editor(value: Any, key: str) -> Editor:
    """The editor that a grid names: the user typed its class path.

    Raises:
        ConfigurationError: if there is none.
    """
    plain = {"class_path": value} if isinstance(value, str) else value
    if not isinstance(plain, Mapping):
        raise ConfigurationError(f"--grid {key}: {value!r} is no editor; give names such as UCE,Projection.")
    try:
        editor = editor_of(plain, key, trusted=True)
        editor.plain()
    except ConfigurationError as error:
        raise ConfigurationError(f"--grid {error}") from error
    return editor


def _method(values: Mapping[str, Any], base: Method) -> Method:
    """The configuration's method with some settings of its own.

    Raises:
        ConfigurationError: naming key, value and remedy.
    """
    plain = base.plain()
    try:
        # A whole editor or derivation comes before what is said of its parts.
        for key in sorted((key for key in values if key.startswith(f"{FIELD}.")), key=lambda key: key.count(".")):
            name, _, inner = key.removeprefix(f"{FIELD}.").partition(".")
            if name in EDITORS:
                plain[name] = _edited(plain[name], inner, values[key], key)
            elif inner:
                plain[name] = {**plain[name], inner: values[key]}
            else:
                plain[name] = values[key]
        return Method.from_plain(plain, trusted=True)
    except ConfigurationError as error:
        raise _refusal(error, values) from error


def _edited(present: dict[str, Any] | None, argument: str, value: Any, key: str) -> dict[str, Any] | None:
    """An editor in plain types with another value of an argument, or another editor.

    By its name alone an editor takes over the arguments that it shares with the one it replaces, as on the command line
    of ``fit``; a mapping says all.
    """
    if not argument:
        if value is None:
            return None
        plain = _new_editor(value, key).plain()
        shared = present["init_args"] if present is not None and isinstance(value, str) else {}
        plain["init_args"] |= {name: one for name, one in shared.items() if name in plain["init_args"]}
        return plain
    if present is None or argument not in present["init_args"]:
        return present
    return {**present, "init_args": {**present["init_args"], argument: value}}


def _refusal(error: ConfigurationError, values: Mapping[str, Any]) -> ConfigurationError:
    """The same under the key that was typed: ``UCE.lamb`` is ``model.method.editor.lamb`` here."""
    text = str(error).removeprefix("--grid ")
    field, colon, rest = text.partition(": ")
    last = field.rpartition(".")[2]
    typed = next((key for key in values if key.rpartition(".")[2] == last), field)
    return ConfigurationError(f"--grid {typed}{colon}{rest}")
