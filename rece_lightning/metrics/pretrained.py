"""Other people's networks that judge pictures: loaded from a folder or the hub, and what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.hub import hub_reachable

WANTED = ["*.json", "*.txt", "*.jinja", "*.model", "*.safetensors"]
"""Files of a hub repository that are fetched: no pickled weights, no code."""
FAULTS = (OSError, ValueError, KeyError)
"""What ``transformers`` raises for a folder that is not whole, or none."""


def load_parts(field: str, name: str, revision: str | None, *classes: str | type) -> list[Any]:
    """Load parts of a model with ``transformers``, such as ``AutoModel`` and ``AutoTokenizer``.

    Args:
        field: the setting's name, for messages.
        name: a folder, or a hub id (``owner/name``).
        revision: of the hub repository.
        classes: with ``from_pretrained``: names of ``transformers``' own, or classes.

    Raises:
        ConfigurationError: if a part cannot be found or read. Code in the repository is never run.
    """
    folder, cached = _folder(field, name, revision), None
    if folder is None:
        cached = _cached(name, revision)
    try:
        if cached is not None:
            try:
                return _loaded(cached, classes)
            except FAULTS:  # the cache may hold what another program wanted of it, and no more
                pass
        return _loaded(folder or _fetched(field, name, revision), classes)
    except FAULTS as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(
            f"{field}: {name!r} could not be loaded ({reason}); give a folder that holds a model and its "
            "preprocessor, as save_pretrained writes them."
        ) from error


def _loaded(folder: Path, classes: Sequence[str | type]) -> list[Any]:
    import transformers

    kinds: list[Any] = [getattr(transformers, kind) if isinstance(kind, str) else kind for kind in classes]
    return [kind.from_pretrained(folder, local_files_only=True) for kind in kinds]


def _folder(field: str, name: str, revision: str | None) -> Path | None:
    """The folder that is named; ``None`` for the name of a hub repository."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ConfigurationError(f"{field}: {name!r} is no folder on this machine and no hub id (owner/name).")
    return None


def _cached(name: str, revision: str | None) -> Path | None:
    """What the cache has of the files that are fetched; it lists others, which need not be there."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=WANTED, local_files_only=True))
    except Exception:  # not in the cache, or not whole: the hub may have it
        return None


def _fetched(field: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        if not hub_reachable():
            raise ConnectionError("the hub cannot be reached from this machine")
        return Path(snapshot_download(name, revision=revision, allow_patterns=WANTED, etag_timeout=5))
    except Exception as error:  # the hub's client raises a dozen kinds; each ends in the same remedy
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(
            f"{field}: {name!r} is not on this machine and could not be fetched ({reason}); give a local folder."
        ) from error


def eight_bit(pictures: Tensor) -> list[np.ndarray]:
    """Pictures ``[n, 3, h, w]`` in [0, 1] → n arrays ``[h, w, 3]`` of bytes, red first, as a stored PNG has them.

    A picture gives the same figures from memory and from its PNG.

    Raises:
        ConfigurationError: if these are no such pictures.
    """
    check_pictures(pictures)
    bytes_of = (pictures.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [np.ascontiguousarray(picture) for picture in bytes_of]


def check_pictures(pictures: Tensor) -> None:
    """Refuse what are no pictures ``[n, 3, h, w]`` of floats."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
        raise ConfigurationError(
            f"pictures: {list(pictures.shape)} of {pictures.dtype}; give floats [n, 3, height, width] in [0, 1]."
        )
