"""The mathematics of RECE in the space of text embeddings. Imports torch alone."""

from rece_lightning.core.derivation import Derivation, DerivationMap
from rece_lightning.core.editors import (
    CURE,
    DP,
    OCE,
    UCE,
    Editor,
    EditProblem,
    NullSpace,
    ProjectedUCE,
    Projection,
    TensorUCE,
)
from rece_lightning.core.embedding_map import EmbeddingMap, LayerMaps
from rece_lightning.core.eraser import Eraser, Evidence
from rece_lightning.core.gram import Gram
from rece_lightning.core.method import Method
from rece_lightning.core.moments import Moments, RowPairs
from rece_lightning.core.robust import Robust

__all__ = [
    "CURE",
    "DP",
    "OCE",
    "UCE",
    "Derivation",
    "DerivationMap",
    "EditProblem",
    "Editor",
    "EmbeddingMap",
    "Eraser",
    "Evidence",
    "Gram",
    "LayerMaps",
    "Method",
    "Moments",
    "NullSpace",
    "ProjectedUCE",
    "Projection",
    "Robust",
    "RowPairs",
    "TensorUCE",
]
