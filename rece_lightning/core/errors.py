"""The errors that users see: what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from typing import Any


class ReceError(Exception):
    """Base class of every error that this project raises on purpose."""


class ConfigurationError(ReceError, ValueError):
    """A setting that cannot be used: the message names the field, the value and the remedy."""


class BaseModelError(ReceError, ValueError):
    """A base model that cannot be found, read or trusted."""


def nearest(value: str, valid: Iterable[str], *, suffix: str = "", heading: str = "Valid") -> str:
    """``did you mean 'norm'? Valid: both, norm`` for an error message about an unknown name.

    Args:
        value: that is none of them.
        valid: names.
        suffix: that all of them share, and which therefore says nothing about likeness.
        heading: of the names.
    """
    names = sorted(valid)
    close = difflib.get_close_matches(
        str(value).removesuffix(suffix), [name.removesuffix(suffix) for name in names], n=1, cutoff=0.5
    )
    hint = f"did you mean {close[0] + suffix!r}? " if close else ""
    return f"{hint}{heading}: {', '.join(names)}"


def class_at(path: str, where: str) -> Any:
    """What a class path names; its module is imported.

    Args:
        path: ``package.module.Class``.
        where: it was said, for messages.

    Raises:
        ConfigurationError: saying whether the module cannot be imported, or has no such class.
    """
    home, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(home)
    except ImportError as error:
        raise ConfigurationError(
            f"{where}: there is no class {path!r} ({error}); its module must be installed, or lie in the folder that "
            "the command is called from or on PYTHONPATH."
        ) from error
    if not hasattr(module, name):
        known = [one for one, kind in vars(module).items() if isinstance(kind, type) and kind.__module__ == home]
        raise ConfigurationError(
            f"{where}: there is no class {path!r}: the module {home} has no class {name!r}; {nearest(name, known)}."
        )
    return getattr(module, name)


def check_choice(field: str, value: str, valid: Iterable[str]) -> None:
    """Raise a ConfigurationError with the nearest valid name unless ``value`` is one of ``valid``."""
    names = sorted(valid)
    if value not in names:
        raise ConfigurationError(f"{field}: unknown value {value!r}; {nearest(value, names)}.")


def check_count(field: str, value: object, least: str = "a whole number of 1") -> None:
    """Raise a ConfigurationError unless ``value`` is a whole number of 1 or more, which ``least`` says in words."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{field}: {value!r}; give {least} or more.")


def check_number(field: str, value: float, *, positive: bool = False) -> None:
    """Raise a ConfigurationError unless ``value`` is finite and ≥ 0 (> 0 where ``positive``)."""
    valid = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    # No tensor can be multiplied by a larger whole number.
    valid = valid and abs(value) < (1 << 63 if isinstance(value, int) else float("inf"))
    valid = valid and (value > 0 if positive else value >= 0)
    if not valid:
        bound = "greater than 0" if positive else "0 or greater"
        raise ConfigurationError(f"{field}: {value!r} makes no sense here; give a finite number {bound}.")


def check_templates(field: str, templates: Sequence[str]) -> None:
    """Every template must hold ``{}`` exactly once."""
    if isinstance(templates, str) or not isinstance(templates, Sequence):
        raise ConfigurationError(f"{field}: {templates!r} is no list; give one such as ['{{}}', 'painting by {{}}'].")
    if not templates:
        raise ConfigurationError(f"{field}: empty list; '{{}}' stands for the prompt itself.")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ConfigurationError(f"{field}: {template!r} must hold '{{}}' once, as in 'painting by {{}}'.")
