"""A finished erasure read from a checkpoint, for what only looks at it: exports, certificates, the scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rece_lightning.core.editors import Editor
from rece_lightning.core.editors.base import editor_of, not_imported
from rece_lightning.core.embedding_map import shape_in
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.core.method import Method
from rece_lightning.erasure.loaded import LoadedModel, Naming
from rece_lightning.erasure.same import check_same_base
from rece_lightning.erasure.session import ErasureSession


def finished_session(content: Mapping[str, Any], naming: Naming, where: str, *, moved: bool = False) -> ErasureSession:
    """The session of a checkpoint on its own base model.

    Its maps are those that were stored: no epoch is run, and so no editor of the user's own is imported.

    Args:
        content: of a checkpoint that RECE wrote.
        naming: of the base model.
        where: the checkpoint is, for messages.
        moved: the user named the base model, because it is somewhere else now.

    Raises:
        BaseModelError: if the base model is gone, or is another one.
    """
    state, loaded = content["rece"], LoadedModel(naming)
    try:
        base = loaded.base
    except BaseModelError as error:
        if moved:
            raise
        raise BaseModelError(
            f"{error} That is the base model of {where}; say where it is now with --pretrained PATH."
        ) from error
    check_same_base(state, loaded.fingerprint, base.name)
    session = ErasureSession(loaded, stored_method(state), content["hyper_parameters"].get("attacker_scale"))
    session.load_state_dict(state)
    return session


def stored_method(state: Mapping[str, Any]) -> Method:
    """The method of a checkpoint, its editors as far as they are imported.

    Args:
        state: ``rece`` of the checkpoint.
    """
    plain = dict(state["method"])
    per_layer = len(shape_in(next(iter(state["erasers"].values())))) == 3
    editors = {key: _editor(plain.pop(key, None), per_layer) for key in ("editor", "first_editor")}
    method = Method.from_plain(plain, "ckpt_path: method")
    return replace(method, editor=editors["editor"] or method.editor, first_editor=editors["first_editor"])


def _editor(plain: Mapping[str, Any] | None, per_layer: bool) -> Editor | None:
    if plain is None:
        return None
    try:
        return editor_of(plain, "ckpt_path: editor")
    except ConfigurationError:
        return not_imported(plain, per_layer=per_layer)
