"""What can be said of an epoch without an image: the figures that a run logs; see ``core/`` for each."""

from __future__ import annotations

from torch import Tensor

from rece_lightning.core import diagnostics
from rece_lightning.core.budget import residual_figures
from rece_lightning.core.editors import SCALED
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.loop import EpochRecord, RECELoop


def epoch_figures(
    loop: RECELoop, record: EpochRecord, *, held_out: Tensor, attacker: float | None, unedited: float
) -> dict[str, float]:
    """Objective, residuals, drift, norms and scales.

    They are about the concepts' own prompts, whatever else the robust loop erased with them.

    Args:
        loop: that has run the epoch.
        record: what the epoch did.
        held_out: ``P_h`` of the prompts that drift is measured on, ``[d, d]``.
        attacker: ridge of the regeneration residual; its default where ``None``.
        unedited: the same residual of the unedited model.
    """
    gram, evidence = loop.gram, loop.evidence
    figures: dict[str, float] = {}
    # The objective is UCE's.
    if isinstance(loop.maps, EmbeddingMap) and loop.settings.editor in SCALED:
        before, after = diagnostics.edit_objectives(gram, record.before, record.step, record.moments, record.scales)
        figures |= {"objective_before": before, "objective_after": after}
    whole = evidence.whole
    size = diagnostics.map_figures(loop.maps)
    if bool(held_out.any()):
        figures["preservation_drift"] = diagnostics.preservation_drift(gram, loop.maps, held_out)
    if record.derivation is not None:
        derived = whole.derived(record.derivation)
        figures["norm_ratio"] = diagnostics.norm_ratio(derived.erased, whole.erased)
    return figures | {
        "regeneration_residual": diagnostics.regeneration_residual(gram, loop.maps, whole.erased, attacker),
        "regeneration_residual_unedited": unedited,
        "mapped_residual": diagnostics.mapped_residual(gram, whole),
        **residual_figures(gram, loop.maps, whole.erased),
        "map_change": size.change_norm,
        "map_rank": float(size.rank),
        "map_condition": size.condition,
        # λ, λ₁ and λ₂ mean something only beside these: they are not scale-free.
        "gram_scale": gram.scale,
        "erased_scale": float(evidence.first.erased.trace()) / gram.width,
        "preserved_scale": float(evidence.first.preserved.trace()) / gram.width,
    }
