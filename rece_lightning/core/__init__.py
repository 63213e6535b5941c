"""The mathematics of RECE in the space of text embeddings. Imports torch alone."""

from rece_lightning.core.derive import Derivation, derive
from rece_lightning.core.edit import EditScales, edit, edit_tensor
from rece_lightning.core.embedding_map import EmbeddingMap, LayerMaps, apply_to_weight
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments

__all__ = [
    "Derivation",
    "EditScales",
    "EmbeddingMap",
    "Gram",
    "LayerMaps",
    "Moments",
    "apply_to_weight",
    "derive",
    "edit",
    "edit_tensor",
]
