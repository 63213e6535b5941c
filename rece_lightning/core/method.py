"""How to erase: the one description that RECE, ``erase``, ``Erase``, a sweep, a checkpoint and a file share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from rece_lightning.core.derivation import Derivation
from rece_lightning.core.editors import UCE, Editor
from rece_lightning.core.editors.base import editor_of
from rece_lightning.core.errors import ConfigurationError, check_choice, nearest
from rece_lightning.core.robust import Robust

TOKENS = ("aligned", "last", "end", "all")
PROJECTIONS = ("kv", "k", "v")
FIELD = "model.method"


@dataclass(frozen=True)
class Method:
    """How to erase.

    Epoch 0 edits with the concepts' own embeddings (this alone is UCE); later epochs derive, then edit.

    Args:
        editor: the closed-form edit: :class:`UCE`, :class:`TensorUCE`, :class:`NullSpace`, :class:`Projection`,
            :class:`ProjectedUCE`, :class:`DP`, :class:`CURE`, :class:`OCE`, or a subclass of :class:`Editor` of your
            own.
        first_editor: of epoch 0, where it differs: ``UCE(preserve_scale=1.0, lamb=0.5)`` is what the released scripts
            start from.
        derivation: of the embedding that would bring a concept back.
        accumulate: every epoch's edit also holds what earlier epochs erased; false is the published loop.
        robust: what joins the one derived embedding; ``None`` is the published loop.
        tokens: positions that epoch 0 edits: ``aligned`` (from the last subject token on; published), ``last`` (that
            token alone), ``end`` (what follows it: the end of the text, TRCE, arXiv 2503.07389), ``all``. Where a
            model has one row a prompt, it is taken.
        projections: ``kv``, ``k`` or ``v``: which of keys and values are edited. Other readers of the text always are.
        layers: a regular expression over parameter names that narrows what is edited.
        spaces: text spaces to edit; all that the model has unless given.

    Raises:
        ConfigurationError: for every setting that makes no sense, before any model is touched.
    """

    editor: Editor = UCE()  # noqa: RUF009  frozen
    first_editor: Editor | None = None
    derivation: Derivation = Derivation()  # noqa: RUF009
    accumulate: bool = False
    robust: Robust | None = None
    tokens: str = "aligned"
    projections: str = "kv"
    layers: str | None = None
    spaces: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, kind in (("editor", Editor), ("derivation", Derivation)):
            if not isinstance(getattr(self, name), kind):
                raise ConfigurationError(
                    f"{FIELD}.{name}: {getattr(self, name)!r} is no {kind.__name__}; give one such as "
                    f"{'UCE(lamb=0.5)' if name == 'editor' else 'Derivation(scale=0.1)'}."
                )
        if not isinstance(self.accumulate, bool):
            raise ConfigurationError(f"{FIELD}.accumulate: {self.accumulate!r}; give true or false.")
        check_choice(f"{FIELD}.tokens", self.tokens, TOKENS)
        check_choice(f"{FIELD}.projections", self.projections, PROJECTIONS)
        check_layers(self.layers)
        first = self.first_editor
        if first is not None and (not isinstance(first, Editor) or first.per_layer != self.editor.per_layer):
            raise ConfigurationError(
                f"{FIELD}.first_editor: {first!r} does not go with {type(self.editor).__name__}: both have one map for "
                "all layers, or both one a layer."
            )
        if self.robust is not None and not isinstance(self.robust, Robust):
            raise ConfigurationError(
                f"{FIELD}.robust: {self.robust!r} is no Robust; give one such as Robust(norms=(1.0,)), or leave it out."
            )
        if self.robust is not None and self.editor.per_layer:
            raise ConfigurationError(
                f"{FIELD}.robust: {type(self.editor).__name__} takes every prompt apart, and the robust loop works on "
                "sums; take another editor."
            )
        if self.spaces is not None:
            given = (self.spaces,) if isinstance(self.spaces, str) else self.spaces
            if not isinstance(given, (list, tuple)) or not given or not all(isinstance(name, str) for name in given):
                raise ConfigurationError(
                    f"{FIELD}.spaces: {self.spaces!r}; give names such as [text], or leave it out."
                )
            object.__setattr__(self, "spaces", tuple(dict.fromkeys(given)))

    @property
    def needs_invariants(self) -> bool:
        """Whether an editor holds the rows of the empty prompt."""
        return any(one.needs_invariants for one in (self.editor, self.first_editor) if one is not None)

    @property
    def singular(self) -> bool:
        """Whether something is out of every embedding's reach: what one epoch takes out no later one brings back."""
        return any(one.singular for one in (self.editor, self.first_editor) if one is not None)

    @property
    def keeps_factors(self) -> bool:
        """Whether its formulas take moments and maps in factors, where embeddings are wide."""
        editors = [one for one in (self.editor, self.first_editor) if one is not None]
        return self.robust is None and all(one.keeps_factors for one in editors)

    def first_edit(self) -> Method:
        """UCE's edit with the weights of this method: what choices before the run are made with."""
        scales = self.editor if isinstance(self.editor, UCE) else UCE()
        return replace(
            self,
            editor=UCE(scales.erase_scale, scales.preserve_scale, scales.lamb),
            first_editor=None,
            robust=None,
        )

    def plain(self, epochs: int | None = None) -> dict[str, Any]:
        """The method in plain types: one form for configurations, checkpoints, metadata and a sweep's identity.

        Args:
            epochs: leave out what so many epochs do not look at, so that two names of one setting are one.
        """
        derivation = {one.name: getattr(self.derivation, one.name) for one in fields(self.derivation)}
        derivation["scale"] = float(self.derivation.scale)
        plain: dict[str, Any] = {
            "editor": self.editor.plain(),
            "first_editor": None if self.first_editor is None else self.first_editor.plain(),
            "derivation": derivation,
            "accumulate": self.accumulate,
            "robust": None if self.robust is None else self.robust.plain(),
            "tokens": self.tokens,
            "projections": self.projections,
            "layers": self.layers,
            "spaces": None if self.spaces is None else list(self.spaces),
        }
        if epochs is not None and self.derivation.regularizer != "surrogate":
            del derivation["surrogate_items"]
        if epochs == 1:
            plain |= {"editor": plain["first_editor"] or plain["editor"], "first_editor": None}
            del plain["derivation"], plain["accumulate"]
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], where: str = FIELD, *, trusted: bool = False) -> Method:
        """The method that :meth:`plain` described; what is left out is as by default.

        Args:
            plain: with keys of this class.
            where: it was said, for messages.
            trusted: import an editor's class path; see :func:`editor_of`.

        Raises:
            ConfigurationError: for a key or a value that makes no sense.
        """
        if not isinstance(plain, Mapping):
            raise ConfigurationError(f"{where}: {plain!r} is no method; give Method(...) or a mapping.")
        known = [one.name for one in fields(cls)]
        for key in plain:
            if key not in known:
                raise ConfigurationError(f"{where}.{key}: no such setting; {nearest(str(key), known)}.")
        values: dict[str, Any] = dict(plain)
        for key in ("editor", "first_editor"):
            value = values.get(key)
            if isinstance(value, str):
                value = {"class_path": value}
            if isinstance(value, Mapping):
                values[key] = editor_of(value, f"{where}.{key}", trusted=trusted)
        for key, kind in (("derivation", Derivation), ("robust", Robust)):
            if isinstance(values.get(key), Mapping):
                values[key] = _built(kind, values[key], f"{where}.{key}")
        if isinstance(values.get("spaces"), list):
            values["spaces"] = tuple(values["spaces"])
        return cls(**values)

    @classmethod
    def of(cls, value: Method | Mapping[str, Any]) -> Method:
        """A method, or the plain form of one."""
        return value if isinstance(value, cls) else cls.from_plain(value)  # type: ignore[arg-type]

    @classmethod
    def published(cls, name: str) -> Method:
        """RECE's published settings (ECCV 2024, section 4).

        For ``nudity``, ``unsafe``, ``style``, ``object`` (hard for UCE) and ``easy-object``.
        λ₁ = λ₂ = 0.1 everywhere; the derivation's λ differs. Epochs: 4 for nudity, 3 for other unsafe concepts, 2 for
        styles and objects.

        Raises:
            ConfigurationError: for another name.
        """
        check_choice("published", name, PUBLISHED)
        return cls(editor=UCE(1.0, 0.1, 0.1), derivation=Derivation(PUBLISHED[name]))


PUBLISHED = {"nudity": 0.1, "unsafe": 0.1, "style": 1e-3, "object": 1e-3, "easy-object": 0.1}
"""λ of the derivation: objects that UCE finds hard take the smaller one."""


def _built(kind: type, values: Mapping[str, Any], where: str) -> Any:
    known = [one.name for one in fields(kind)]
    for key in values:
        if key not in known:
            raise ConfigurationError(f"{where}.{key}: no such setting; {nearest(str(key), known)}.")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def check_layers(layers: str | None) -> re.Pattern[str]:
    """The compiled expression of ``layers``; ``None`` matches every layer.

    Raises:
        ConfigurationError: if it is no regular expression.
    """
    try:
        return re.compile(layers or "")
    except (re.error, TypeError) as error:
        raise ConfigurationError(
            f"{FIELD}.layers: {layers!r} is no regular expression ({error}); to choose the up blocks write "
            "'^up_blocks'."
        ) from error
