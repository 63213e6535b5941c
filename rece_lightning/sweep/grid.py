"""A setting of a sweep: a method, how many epochs it runs, and what the concepts become."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any

from rece_lightning.core.editors import Editor
from rece_lightning.core.method import FIELD, Method

EPOCHS, TARGET = "trainer.max_epochs", "data.target"


@dataclass(frozen=True)
class Setting:
    """One way to erase: all that decides the result on one model."""

    method: Method
    epochs: int
    """``trainer.max_epochs``: 1 + the number of RECE epochs."""
    target: str
    """``data.target``: what a concept becomes unless it says otherwise."""

    @cached_property
    def identity(self) -> str:
        """The same text for the same setting, in whatever file it was: what so many epochs do not look at is out."""
        plain = {"method": self.method.plain(self.epochs), "epochs": self.epochs, "target": self.target}
        return json.dumps(plain, sort_keys=True, ensure_ascii=False)

    @cached_property
    def but_epochs(self) -> str:
        """The same text for settings that differ in their epochs alone."""
        plain = {"method": self.method.plain(), "target": self.target}
        return json.dumps(plain, sort_keys=True, ensure_ascii=False)

    @cached_property
    def values(self) -> dict[str, Any]:
        """Everything that so many epochs look at, under its key in a configuration: ``model.method.editor.lamb``."""
        return {**by_key(self.method.plain(self.epochs)), EPOCHS: self.epochs, TARGET: self.target}

    def differs(self, other: Setting) -> dict[str, Any]:
        """What this setting has otherwise; of an editor that the other one does not have, what is not its default."""
        theirs = {
            **dict(_defaults(self.method)),
            **by_key(other.method.plain()),
            **by_key(other.method.plain(self.epochs)),
            EPOCHS: other.epochs,
            TARGET: other.target,
        }
        return {key: value for key, value in self.values.items() if key not in theirs or theirs[key] != value}

    def describe(self, base: Setting) -> str:
        """The same in words."""
        changed = [f"{_short(key)} {in_words(value)}" for key, value in self.differs(base).items()]
        return ", ".join(changed) or "the configuration as it is"


def by_key(plain: Mapping[str, Any], where: str = FIELD) -> dict[str, Any]:
    """The settings of a method in plain types, each under its key; an editor's arguments without ``init_args``."""
    found: dict[str, Any] = {}
    for name, value in plain.items():
        key = f"{where}.{name}"
        if not isinstance(value, Mapping):
            found[key] = value
        elif "class_path" in value:
            found[key] = value["class_path"]
            found |= {f"{key}.{argument}": one for argument, one in value["init_args"].items()}
        else:
            found |= by_key(value, key)
    return found


def _defaults(method: Method) -> Iterator[tuple[str, Any]]:
    """What the editors of a method are set to unless told otherwise."""
    editors: dict[str, Editor | None] = {"editor": method.editor, "first_editor": method.first_editor}
    for name, editor in editors.items():
        for one in [] if editor is None else fields(editor):  # type: ignore[arg-type]  # plain() asks for a dataclass
            if one.default is not MISSING:
                yield f"{FIELD}.{name}.{one.name}", one.default


def _short(key: str) -> str:
    """``editor.lamb`` of ``model.method.editor.lamb``: what is left says it."""
    return key.removeprefix(f"{FIELD}.").removeprefix("trainer.").removeprefix("data.")


def in_words(value: Any) -> str:
    """A value as the command line takes it."""
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
