"""What a prompt embedding meets where only some projections were edited: those, and the ones that were left alone.

An attacker has one embedding for all of them. With edited values alone, say, the best one for the values may ask the
untouched keys for something else; what it can bring back is decided by both.
"""

from __future__ import annotations

import torch

from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap, LayerMaps, layers_of
from rece_lightning.core.gram import Gram


def beside(gram: Gram, maps: AnyMap, untouched: Gram) -> tuple[Gram, LayerMaps]:
    """The edited projections and the untouched ones as one model.

    Args:
        gram: ``G`` of the edited ones before their edit, with its layers where there is a map a layer.
        maps: ``M``.
        untouched: ``G`` of the others.

    Returns:
        ``G`` of all, with a part for each map and one more, and the maps of these parts; the last is the identity.
    """
    eye = EmbeddingMap.identity(gram.width, gram.total.device).matrix[None]
    if isinstance(maps, LayerMaps):
        parts, matrices = layers_of(gram), maps.matrices
    else:
        parts, matrices = gram.total[None], maps.matrix[None]
    outputs = None if gram.outputs is None or untouched.outputs is None else gram.outputs + untouched.outputs
    whole = Gram(gram.total + untouched.total, torch.cat([parts, untouched.total[None]]), outputs)
    return whole, LayerMaps(torch.cat([matrices, eye]))
