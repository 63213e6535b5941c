"""What data leaves to be chosen: ``data.synonyms: auto``, then ``data.preserve: auto`` or everyday words."""

from __future__ import annotations

from typing import Any

from rece_lightning.data.datamodule import ConceptData
from rece_lightning.distributed import gathered
from rece_lightning.erasure.everyday import everyday
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.text_space import TEXT
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
    draw(session, data)


def draw(session: ErasureSession, data: Any) -> None:
    """Draw everyday words where settings are chosen and nobody said what to preserve, or what to measure drift on.

    Args:
        session: of the base model.
        data: a ConceptData, another, or none.
    """
    if session.tuned.tuning is not None and isinstance(data, ConceptData) and (data.draws or not data.held_out):
        data.draw(*gathered(drawn_words(session, data))[0])


def drawn_words(session: ErasureSession, data: ConceptData) -> tuple[list[str], list[str]]:
    """Everyday words to preserve, where nobody said what, and others to measure drift on.

    Args:
        session: of the base model.
        data: with concepts; what its prompts show is in neither.
    """
    space = next((one for one in session.spaces if one.name == TEXT), session.spaces[0])
    listed = [row.prompt for row in (*data.validation, *data.test)] + ([] if data.draws else data.preserved)
    kept, held_out = list[str](), list[str]()
    gram = session.grams[space.name]
    for part in everyday(session.encoder, [space.name], gram, data.pairs, listed=listed, preserve=data.draws):
        kept += part.preserved
        held_out += part.held_out
    return kept, held_out
