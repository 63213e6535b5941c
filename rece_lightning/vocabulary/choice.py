"""What data leaves to be chosen: ``data.synonyms: auto``, then ``data.preserve: auto``."""

from __future__ import annotations

from typing import Any

from rece_lightning.distributed import gathered
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.vocabulary.preserve import choose_preserved
from rece_lightning.vocabulary.synonyms import erase_survivors


def choose(session: ErasureSession, data: Any) -> None:
    """Choose on this model, the same on every rank; data that asks for nothing stays as it is.

    Args:
        session: of the base model.
        data: a ConceptData, another, or none.
    """
    if getattr(data, "synonyms", None) is not None:
        erase_survivors(session, data)
    if getattr(data, "vocabulary", None) is not None:
        data.choose(gathered(choose_preserved(session, data))[0])
