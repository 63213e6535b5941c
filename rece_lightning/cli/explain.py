"""What the parser of the command line says, in the user's terms: field, value, remedy."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from rece_lightning.core.derivation import Derivation
from rece_lightning.core.editors.base import imported_editors
from rece_lightning.core.errors import ConfigurationError, ReceError, class_at, nearest
from rece_lightning.core.method import FIELD, Method
from rece_lightning.core.robust import Robust

TYPES = {
    "float": "a number",
    "int": "a whole number",
    "str": "text (in quotes)",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "collections.abc.Iterable": "a list",
}
LONGEST_VALUE = 80
OWNERS = ("model", "Erase")
"""What had the settings of a method as arguments of its own."""
OF_ROBUST = {
    "certificate": (
        "{}.certificate",
        " (any, or a norm), and a callback EarlyStopping with monitor: certificate, mode: max and stopping_threshold "
        "ends the run",
    ),
    "budget": ("{}.certificate", ", whose value is the norm"),
    "attacks": ("between_epochs of the callback RedTeam", ""),
}
FORMER: Mapping[str, tuple[str, str]] = {
    **{name: (f"{{}}.method.editor.{name}", "") for name in ("erase_scale", "preserve_scale", "lamb")},
    **{name: (f"{{}}.method.derivation.{name}", "") for name in ("regularizer", "surrogate_items")},
    **{name: (f"{{}}.method.{name}", "") for name in ("accumulate", "tokens", "projections", "layers", "robust")},
    "regular_scale": ("{}.method.derivation.scale", ""),
    "technique": ("{}.method.editor", ": TensorUCE for tensor, UCE for replace"),
    "editor": ("{}.method.editor", ": UCE for uce, Projection for projection, NullSpace for null_space"),
    "erased_rank": ("{}.method.editor.rank", ", of the editor Projection"),
    "shrinkage": ("{}.method.editor.shrinkage", ", of the editor Projection"),
    "null_space_threshold": ("{}.method.editor.threshold", ", of the editor NullSpace"),
    "augmented_rank": ("{}.method.editor.augmented_rank", ", of the editor NullSpace"),
    "first_edit": ("{}.method.first_editor", ", such as {{class_path: UCE, init_args: {{lamb: 0.5}}}}"),
    **{f"{room}.{name}": now for room in ("robust", "method.robust") for name, now in OF_ROBUST.items()},
}
"""Key of the layout before :class:`Method`, below its owner → its new key, and what else to say; ``{}``: the owner."""


def former(key: str) -> str | None:
    """What to say of a key of the layout before :class:`Method`; ``None`` for any other.

    Args:
        key: whole, such as ``model.lamb`` or ``model.robust.norms``.
    """
    owner, *words = key.split(".")
    for count in range(len(words), 0, -1):
        name, inner = ".".join(words[:count]), words[count:]
        if owner in OWNERS and name in FORMER:
            now, note = (text.format(owner) for text in FORMER[name])
            return f"{key}: it is {'.'.join([now, *inner])} now{note}."
    return None


def known_editors() -> list[type[Any]]:
    """Every editor that is imported and states its settings as the fields of a dataclass."""
    return [kind for kind in imported_editors() if is_dataclass(kind)]


def method_keys() -> list[str]:
    """Every setting below ``model.method``: ``model.method.editor.lamb``."""
    editors = known_editors()
    holders: dict[str, list[type[Any]]] = {
        "editor": editors,
        "first_editor": editors,
        "derivation": [Derivation],
        "robust": [Robust],
    }
    keys: list[str] = []
    for one in fields(Method):
        keys.append(f"{FIELD}.{one.name}")
        keys += [f"{FIELD}.{one.name}.{inner.name}" for kind in holders.get(one.name, []) for inner in fields(kind)]
    return list(dict.fromkeys(keys))


def nearest_key(key: str, keys: Sequence[str]) -> str:
    """As :func:`nearest` for keys with dots: the last word says most, and a key of the same place is the likeliest."""
    home, _, last = key.rpartition(".")
    for group in ([one for one in keys if one.rpartition(".")[0] == home], keys):
        ends = {one.rpartition(".")[2]: one for one in reversed(group)}
        close = difflib.get_close_matches(last, ends, n=1, cutoff=0.6)
        if close:
            return f"did you mean {ends[close[0]]!r}? Valid: {', '.join(sorted(keys))}"
    return nearest(key, keys)


def owners_of(argument: str) -> str:
    """Which editors have an argument, for a message: ``A and B have``; the empty string for none."""
    names = [kind.__name__ for kind in known_editors() if argument in [one.name for one in fields(kind)]]
    return f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'}" if names else ""


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
        keys: every setting, such as ``model.method.editor.lamb``.
        classes: field → names of the classes that are known for it, such as ``trainer.callbacks``.
    """
    ours = own_error(error)
    if ours is not None:
        return str(ours)
    text = str(error)
    for case in (_unknown_key, _unknown_class, _unknown_argument, _no_class, _missing, _wrong_type):
        message = case(text, keys, classes)
        if message:
            return message
    return " ".join(text.split()) + " See `rece fit --help`."


def refused_object(error: Exception) -> str:
    """One message for a class of the configuration that could not be made: an extra package is missing, say.

    jsonargparse lists what it tried; that a value is no list says nothing where an object was meant.
    """
    text = str(error)
    found = re.search(r"Problem with given class_path '(?:\w+\.)*(\w+)':\s+(\S.*)", text)
    if found:
        return f"{found.group(1)}: {found.group(2)}"
    tried = [line for line in re.findall(r"^\s*- (.+)$", text, re.MULTILINE) if not line.startswith("Expected a")]
    return f"configuration: {tried[0] if tried else ' '.join(text.split())}"


def _field(text: str, end: int | None = None) -> str:
    """The innermost setting that the message is about: ``data.target``, or ``Evaluation.steps`` for a class's own.

    Args:
        text: of jsonargparse, which names every setting and class on the way to the mistake.
        end: where in it the mistake is said.
    """
    way = text[:end]
    names = list(re.finditer(r'Parser key "([\w.]+)"', way))
    owners = list(re.finditer(r"Problem with given class_path '(?:\w+\.)*(\w+)'", way))
    if owners and len(names) > 1:
        # The setting below the last class; a class that is itself the mistake is a setting of the one before it.
        owner = next((one for one in reversed(owners) if one.start() < names[-1].start()), None)
        if owner is not None:
            return f"{owner.group(1)}.{names[-1].group(1)}"
    return names[0].group(1) if names else "command line"


def _unknown_key(text: str, keys: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str | None:
    found = re.search(r"^Subcommand '\w+' does not accept option '([\w.-]+)'|[Uu]nrecognized arguments: (\S+)", text)
    if not found:
        return None
    given = found.group(1) or found.group(2)
    if found.group(2) and not given.startswith("-"):
        return f"{given!r}: no such argument; settings are given as --model.method.editor.lamb 0.1."
    key = given.lstrip("-").split("=")[0]
    moved = former(key)
    if moved:
        return moved
    section = key.split(".")[0]
    sections = sorted({name.split(".")[0] for name in keys})
    if section not in sections:
        return f"{key}: no such setting; {nearest(section, sections)}."
    return f"{key}: no such setting; {nearest_key(key, [name for name in keys if name.startswith(f'{section}.')])}."


def _unknown_class(text: str, keys: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str | None:
    found = re.search(r"Expected a dot import path string: (\S+)", text)
    found = found or re.search(
        r"Problem with given class_path '([\w.]+)':\s+(?:module .* has no attribute|No module named)", text
    )
    if not found:
        return None
    field, name = _field(text, found.start()), found.group(1)
    if field in classes and ("." not in name or name.startswith("rece_lightning.")):
        short = name.rsplit(".", 1)[-1]
        # ``null_space`` was a name once.
        alike = [one for one in classes[field] if one.lower() == short.replace("_", "").lower()]
        return f"{field}: unknown class {name!r}; {nearest((alike or [short])[0], classes[field])}, or a class path."
    if "." in name:
        try:
            class_at(name, field)
        except ConfigurationError as error:
            return str(error)
    return f"{field}: there is no class {name!r}; give a class path such as package.module.Class."


def _unknown_argument(text: str, keys: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str | None:
    found = re.search(r"Problem with given class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted", text)
    if not found:
        return None
    (path, argument), field = found.groups(), _field(text)
    name = path.rpartition(".")[2]
    known = inspect.signature(class_at(path, field)).parameters
    if not field.startswith(FIELD):
        return former(f"{name}.{argument}") or f"{name}.{argument}: no such argument; {nearest(argument, known)}."
    key, owners = f"{field}.{argument}", owners_of(argument)
    if "editor" in field and owners:
        first = owners.split()[0]
        return f"{key}: {name} has no such setting, {owners}; give --{field} {first} before it."
    return former(key) or f"{key}: {name} has no such setting; {nearest(argument, known)}."


def _no_class(text: str, keys: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str | None:
    if not re.search(r"Expected an instantiatable class, but \S+ is abstract", text):
        return None
    field = _field(text)
    example = ", such as {class_path: UCE, init_args: {lamb: 0.5}}" if field.startswith(FIELD) else ""
    return f"{field}: its class is not named; give class_path and init_args{example}."


def _missing(text: str, keys: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str | None:
    found = re.search(r"the following arguments are required: (?:(?:fit|validate|test|predict)\.)?([\w.]+)", text)
    if found:
        name = found.group(1)
        owners = re.findall(r"Problem with given class_path '(?:\w+\.)*(\w+)'", text[: found.start()])
        if not owners:
            return f"{name}: not given or null, and required; set it in the YAML or with --{name}."
        key = _field(text, found.start())
        where = f"or with --{key}.{name}" if len(owners) == 1 else f"in the init_args of {owners[-1]}"
        return f"{owners[-1]}.{name}: not given or null, and required; set it in the YAML {where}."
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
    return f"{_field(text, value.start())}: {shown} cannot be used; give {' or '.join(wanted) or 'what --help says'}."
