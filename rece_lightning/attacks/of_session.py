"""The victim that an erasure makes of its model."""

from __future__ import annotations

from rece_lightning.attacks.victim import Pictures, Victim
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.evaluation.derived import out_of_reach, places_of
from rece_lightning.metrics.detection import ConceptDetector
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.text_space import TEXT


def victim_of(
    session: ErasureSession, pictures: Pictures, detector: ConceptDetector | None, sampling: Sampling
) -> Victim:
    """Original and edited model under attack; the original one alone where nothing was edited.

    Args:
        session: of the model.
        pictures: its pipeline.
        detector: for attacks that choose their pictures.
        sampling: of the pictures that an attacker draws.
    """
    first = session.spaces[0]
    maps = session.maps if session.has_begun else None  # otherwise the original model is under attack
    gram, met = (session.gram, None) if maps is None else session.attacked(maps)[first.name]
    reason = out_of_reach(session)
    if reason is None and (first.source or first.name) != TEXT:
        reason = f"what was edited first is the space {first.name!r}, which holds no rows of the prompt"
    return Victim(
        pictures,
        gram=gram,
        maps=met,
        weights=dict(session.erasure(maps).weights()) if maps is not None else None,
        detector=detector,
        sampling=sampling,
        out_of_reach=reason,
        gain=places_of(session)[first.name].gain,
        source=first.source or first.name,
    )
