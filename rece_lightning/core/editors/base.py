"""What an editor is: what is erased and preserved, and the model as it is, in; a map out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError, class_at, nearest
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments, RowPairs

OURS = "rece_lightning.core.editors"


@dataclass(frozen=True)
class EditProblem:
    """One edit to make: what is erased, what is preserved, and the model as earlier edits left it."""

    erased: Moments | RowPairs
    """Concept rows with the target rows that they are mapped to: their moments, or the rows where there are few."""
    preserved: Tensor
    """``P = Σ c cᵀ`` of what is preserved, ``[d, d]``, float64."""
    gram: Gram
    """``G`` of the original projections; with its layers for an editor that is ``per_layer``."""
    before: AnyMap
    """``M`` so far. The edit ``E`` is of the model as it is now, which becomes ``W_0 M E``."""
    concepts: int = 1
    """How many prompts are erased."""
    invariants: Tensor | None = None
    """Rows ``[m, d]`` that every picture reads whatever its prompt; only for an editor that asks for them."""
    prompts: tuple[Moments, ...] = ()
    """Moments a prompt; only for an editor that is ``per_layer``."""

    @cached_property
    def moments(self) -> Moments:
        """All four moments: of what is erased, its targets, and what is preserved, which counts once."""
        if isinstance(self.erased, RowPairs):
            return self.erased.moments(self.preserved)
        return replace(self.erased, preserved=self.preserved)


class Editor(ABC):
    """A closed-form edit: a frozen dataclass whose fields are its settings and whose call is its formula.

    An editor is a pure function of the :class:`EditProblem`: it keeps nothing between calls. What stays the same in
    every epoch and takes long to find can be found once, in :meth:`fitted`.

    Example:
        >>> import torch
        >>> from dataclasses import dataclass
        >>> from rece_lightning.core import EmbeddingMap
        >>> @dataclass(frozen=True)
        ... class Forget(Editor):
        ...     strength: float = 1.0
        ...     def __call__(self, problem):
        ...         moments, eye = problem.moments, torch.eye(problem.gram.width, dtype=torch.float64)
        ...         share = moments.erased @ torch.linalg.inv(moments.erased + moments.preserved + eye)
        ...         return EmbeddingMap(eye - self.strength * share)
        >>> Forget(0.5).plain()["init_args"]
        {'strength': 0.5}
    """

    singular: ClassVar[bool] = False
    """Whether its maps take something out of every embedding's reach, so that a certificate needs no budget."""
    per_layer: ClassVar[bool] = False
    """Whether it gives one map a layer, :class:`LayerMaps`; it is then handed every prompt's own moments."""
    needs_invariants: ClassVar[bool] = False
    """Whether it holds the rows of the empty prompt exactly."""

    in_factors: ClassVar[bool] = False
    """Whether it takes moments and gives maps that are never formed (:class:`Factored`), where embeddings are wide. A
    subclass says so anew: its formula is another."""

    @property
    def keeps_factors(self) -> bool:
        """Whether this very class says that it is ``in_factors``."""
        return bool(vars(type(self)).get("in_factors", False))

    @abstractmethod
    def __call__(self, problem: EditProblem) -> AnyMap:
        """The edit ``E`` of the model as it is now.

        Raises:
            ConfigurationError: if a system is singular under these settings.
        """

    def fitted(self, problem: EditProblem) -> Callable[[EditProblem], AnyMap]:
        """The same edit with what no epoch changes found once: ``G``, what is preserved, the invariants.

        Args:
            problem: of the first epoch.
        """
        return self

    def plain(self) -> dict[str, Any]:
        """Class path and arguments in plain types: what a configuration, a checkpoint and a file's metadata say.

        Raises:
            ConfigurationError: if the class is no dataclass: nobody could say what it was set to.
        """
        kind = type(self)
        if not is_dataclass(kind):
            raise ConfigurationError(f"{kind.__name__}: an editor must be a dataclass; write @dataclass(frozen=True).")
        home = kind.__module__
        path = kind.__qualname__ if home.startswith(f"{OURS}.") else f"{home}.{kind.__qualname__}"
        return {
            "class_path": path,
            "init_args": {one.name: _plain(one.type, getattr(self, one.name)) for one in fields(self)},
        }


def _plain(annotation: Any, value: Any) -> Any:
    """A setting as every file has it: a whole number where a number is wanted reads as one."""
    if isinstance(value, int) and not isinstance(value, bool) and annotation in ("float", float):
        return float(value)
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class _NotImported(Editor):
    """An editor that a checkpoint names and nobody imported: it can be named, and not run."""

    class_path: str
    init_args: Mapping[str, Any]
    per_layer: bool = False  # type: ignore[misc]  # as the stored maps tell

    def __call__(self, problem: EditProblem) -> AnyMap:
        """Refuse to run.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            f"ckpt_path: the editor {self.class_path} is not imported, and a file imports nothing; import its package "
            "first, or name it with --editor."
        )

    def plain(self) -> dict[str, Any]:
        """As it was stored."""
        return {"class_path": self.class_path, "init_args": dict(self.init_args)}


def not_imported(plain: Mapping[str, Any], *, per_layer: bool) -> Editor:
    """An editor that can be named, and not run: what a checkpoint names and nobody imported.

    Args:
        plain: its ``class_path`` and ``init_args``, as they were stored.
        per_layer: whether the stored maps are one a layer.
    """
    return _NotImported(str(plain.get("class_path")), dict(plain.get("init_args") or {}), per_layer)


def editor_of(plain: Mapping[str, Any], where: str, *, trusted: bool = False) -> Editor:
    """The editor that :meth:`Editor.plain` described.

    Args:
        plain: ``class_path`` and ``init_args``.
        where: it was said, for messages.
        trusted: import the class path; otherwise it is only looked up among the classes that are imported already, so
            that a file from a stranger imports nothing.

    Raises:
        ConfigurationError: if there is no such editor, or it does not take these arguments.
    """
    path, arguments = plain.get("class_path"), plain.get("init_args") or {}
    if not isinstance(path, str) or not isinstance(arguments, Mapping):
        raise ConfigurationError(f"{where}: {dict(plain)!r} is no editor; give class_path and init_args.")
    for key in plain:
        if key not in ("class_path", "init_args"):
            raise ConfigurationError(f"{where}.{key}: no such key; an editor's settings belong under init_args.")
    kind = editor_class(path, where, trusted=trusted)
    try:
        # What :func:`_plain` made a list of was a tuple: a frozen class has no lists.
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()})
    except TypeError as error:
        known: list[str] = [one.name for one in fields(kind)] if is_dataclass(kind) else []
        unknown = [key for key in arguments if key not in known]
        if unknown:
            raise ConfigurationError(
                f"{where}.{unknown[0]}: no setting of {kind.__name__}; {nearest(unknown[0], known)}."
            ) from error
        raise ConfigurationError(f"{where}: {kind.__name__}: {error}.") from error


def editor_class(path: str, where: str, *, trusted: bool = False) -> type[Editor]:
    """The class of an editor: one of ours by its name, any that is imported, or, where trusted, by its class path.

    Raises:
        ConfigurationError: if there is no such editor.
    """
    known = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in imported_editors()}
    ours = {kind.__qualname__: kind for name, kind in known.items() if name.startswith(f"{OURS}.")}
    home, _, name = path.rpartition(".")
    if name in ours and home in ("", OURS, OURS.rpartition(".")[0]):
        return ours[name]
    if path in known:
        return known[path]
    short = [kind for kind in known.values() if kind.__qualname__ == path]
    if len(short) == 1:
        return short[0]
    if not home:
        raise ConfigurationError(f"{where}: unknown editor {path!r}; {nearest(path, ours)}, or a class path.")
    if not trusted:
        raise ConfigurationError(
            f"{where}: the editor {path} is not imported, and a file imports nothing; import its package first, or "
            "name it with --editor."
        )
    kind = class_at(path, where)
    if not isinstance(kind, type) or not issubclass(kind, Editor):
        raise ConfigurationError(f"{where}: {path} is no subclass of {OURS}.Editor.")
    return kind


def imported_editors() -> list[type[Editor]]:
    """Every editor that can run and is imported: ours, and those of other packages."""
    kinds = _subclasses(Editor)  # type: ignore[type-abstract]
    return [kind for kind in kinds if kind is not _NotImported and not inspect.isabstract(kind)]


def _subclasses(kind: type[Editor]) -> Iterator[type[Editor]]:
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)
