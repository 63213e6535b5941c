"""What is left of a concept under its own words: how far the edited model's answer still goes towards it."""

from __future__ import annotations

from rece_lightning.core.diagnostics import trace_product
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments


def remaining_answer(gram: Gram, maps: AnyMap, moments: Moments) -> float:
    """Share of the way from the target back to the concept that the edited model answers with.

    ``Σ⟨W M c − W c*, W c − W c*⟩ / Σ‖W c − W c*‖²`` over concept rows ``c`` with target rows ``c*`` and layers: the
    component of the answer along the difference that was to be erased. The regeneration residual asks for the best
    embedding; this asks for the concept's own.

    Args:
        gram: ``G``.
        maps: ``M``.
        moments: of the concepts and their targets.

    Returns:
        1 for the unedited model, 0 for a concept mapped wholly onto its target, negative beyond it. 0 where concept and
        target are answered alike: there is nothing to erase.
    """
    cross = maps.cross_gram(gram)
    difference = moments.erased - moments.cross - moments.cross.mT + moments.target
    size = trace_product(gram.total, difference)
    kept = trace_product(cross, moments.erased - moments.cross)
    return (kept - trace_product(gram.total, moments.cross - moments.target)) / size if size > 0 else 0.0
