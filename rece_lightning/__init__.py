"""Concept erasure from text-to-image models in closed form (RECE, arXiv 2407.12383), as Lightning parts.

The names below load at first use, so that ``import rece_lightning`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rece_lightning.version import __version__

if TYPE_CHECKING:
    from rece_lightning.baselines.guard import guard
    from rece_lightning.core.errors import BaseModelError, ConfigurationError, ReceError
    from rece_lightning.core.method import Method
    from rece_lightning.data.datamodule import ConceptData
    from rece_lightning.erasure.live import erase
    from rece_lightning.exports.map import EmbeddingMap
    from rece_lightning.models.pipelines import load_pipeline
    from rece_lightning.module import RECE

_HOMES = {
    "RECE": "rece_lightning.module",
    "ConceptData": "rece_lightning.data.datamodule",
    "EmbeddingMap": "rece_lightning.exports.map",
    "Method": "rece_lightning.core.method",
    "erase": "rece_lightning.erasure.live",
    "guard": "rece_lightning.baselines.guard",
    "load_pipeline": "rece_lightning.models.pipelines",
    "ReceError": "rece_lightning.core.errors",
    "ConfigurationError": "rece_lightning.core.errors",
    "BaseModelError": "rece_lightning.core.errors",
}

__all__ = [
    "RECE",
    "BaseModelError",
    "ConceptData",
    "ConfigurationError",
    "EmbeddingMap",
    "Method",
    "ReceError",
    "__version__",
    "erase",
    "guard",
    "load_pipeline",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rece_lightning' has no attribute {name!r}")
