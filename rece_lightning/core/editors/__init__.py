"""The closed-form edits, one a file: a frozen dataclass is the configuration, calling it is the formula.

An editor of your own is a subclass of :class:`Editor` in your own package, given by its class path.
"""

from rece_lightning.core.editors.base import Editor, EditProblem
from rece_lightning.core.editors.cure import CURE
from rece_lightning.core.editors.dp import DP
from rece_lightning.core.editors.null_space import NullSpace
from rece_lightning.core.editors.oce import OCE
from rece_lightning.core.editors.projected_uce import ProjectedUCE
from rece_lightning.core.editors.projection import Projection
from rece_lightning.core.editors.tensor import TensorUCE
from rece_lightning.core.editors.uce import UCE

__all__ = [
    "CURE",
    "DP",
    "OCE",
    "UCE",
    "EditProblem",
    "Editor",
    "NullSpace",
    "ProjectedUCE",
    "Projection",
    "TensorUCE",
]
