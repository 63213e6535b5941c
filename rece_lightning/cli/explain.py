"""What the parser of the command line says, in the user's terms: field, value, remedy."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence

from rece_lightning.core.errors import ReceError, nearest

TYPES = {
    "float": "a number",
    "int": "a whole number",
    "str": "text (in quotes)",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "collections.abc.Iterable": "a list",
}
LONGEST_VALUE = 80


def own_error(error: BaseException) -> ReceError | None:
    """The error of ours that a chain of others was raised from."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ReceError):
        cause = cause.__cause__ or cause.__context__
    return cause


def explain(error: Exception, keys: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str:
    """One message for what the parser refused.

    Args:
        error: of jsonargparse.
        keys: every setting, such as ``model.lamb``.
        classes: field → names of the classes that are known for it, such as ``trainer.callbacks``.
    """
    ours = own_error(error)
    if ours is not None:
        return str(ours)
    text = str(error)
    for case in (_unknown_key, _unknown_class, _unknown_argument, _missing, _wrong_type):
        message = case(text, keys, classes)
        if message:
            return message
    return " ".join(text.split()) + " See `rece fit --help`."


def _field(text: str) -> str:
    """The innermost setting that the message is about: ``model.lamb``, or ``Evaluation.steps`` for a class's own."""
    names = re.findall(r'Parser key "([\w.]+)"', text)
    owner = re.search(r"Problem with given class_path '(?:\w+\.)*(\w+)'", text)
    if owner and len(names) > 1:
        return f"{owner.group(1)}.{names[1]}"
    return names[0] if names else "command line"


def _unknown_key(text: str, keys: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str | None:
    found = re.search(r"^Subcommand '\w+' does not accept option '([\w.-]+)'|[Uu]nrecognized arguments: (\S+)", text)
    if not found:
        return None
    given = found.group(1) or found.group(2)
    if found.group(2) and not given.startswith("-"):
        return f"{given!r}: no such argument; settings are given as --model.lamb 0.1."
    key = given.lstrip("-").split("=")[0]
    section = key.split(".")[0]
    sections = sorted({name.split(".")[0] for name in keys})
    if section not in sections:
        return f"{key}: no such setting; {nearest(section, sections)}."
    return f"{key}: no such setting; {nearest(key, [name for name in keys if name.startswith(f'{section}.')])}."


def _unknown_class(text: str, keys: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str | None:
    found = re.search(r"Expected a dot import path string: (\S+)", text)
    found = found or re.search(
        r"Problem with given class_path '([\w.]+)':\s+(?:module .* has no attribute|No module named)", text
    )
    if not found:
        return None
    field, name = _field(text), found.group(1)
    if field in classes:
        return f"{field}: unknown class {name!r}; {nearest(name.rsplit('.', 1)[-1], classes[field])}, or a class path."
    return f"{field}: there is no class {name!r}; give a class path such as package.module.Class."


def _unknown_argument(text: str, keys: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str | None:
    found = re.search(r"Problem with given class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted", text)
    if not found:
        return None
    home, name = found.group(1).rsplit(".", 1)
    known = inspect.signature(getattr(importlib.import_module(home), name)).parameters
    return f"{name}.{found.group(2)}: no such argument; {nearest(found.group(2), known)}."


def _missing(text: str, keys: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str | None:
    found = re.search(r"the following arguments are required: (?:(?:fit|validate|test|predict)\.)?([\w.]+)", text)
    if found:
        owner = re.search(r"Problem with given class_path '(?:\w+\.)*(\w+)'", text)
        name = f"{owner.group(1)}.{found.group(1)}" if owner else found.group(1)
        return f"{name}: not given or null, and required; set it in the YAML or with --{found.group(1)}."
    found = re.search(r"argument (?:-\w/)?--([\w.]+): expected one argument", text)
    return f"{found.group(1)}: no value given; write --{found.group(1)} VALUE." if found else None


def _wrong_type(text: str, keys: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str | None:
    kinds = re.findall(r"Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[([^\]]*)\])", text)
    value = re.search(r"Got value: (.*)", text) or re.search(r"Given value: (.*)", text)
    if not kinds or not value:
        return None
    wanted = [f"one of {literal}" if literal else TYPES.get(kind, "") for kind, literal in kinds]
    # A class is wanted where a mapping or a name of it would do.
    wanted = list(dict.fromkeys(kind for kind in wanted if kind))
    given = value.group(1).strip()
    given = given if len(given) <= LONGEST_VALUE else f"{given[:LONGEST_VALUE]} …"
    shown = given if given.startswith(("[", "{")) else repr(given)
    return f"{_field(text)}: {shown} cannot be used; give {' or '.join(wanted) or 'what --help says'}."
