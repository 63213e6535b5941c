"""Which words of the vocabulary still reach a concept, and which were hurt unasked: the section of the report."""

from __future__ import annotations

from dataclasses import dataclass

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.extras import extra
from rece_lightning.core.robust import WITHIN
from rece_lightning.data.synonyms import TEMPLATE
from rece_lightning.data.texts import filled
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.vocabulary.rows import SMALL
from rece_lightning.vocabulary.scan import Scan, scan

LISTED = 40
"""Words that a page names as reaching a concept, of all concepts together."""
HURT = 15


@dataclass(frozen=True)
class WordsSection:
    """What the scan found; where there was none, ``left_out`` says why."""

    words: int = 0
    """How many were looked at."""
    template: str = ""
    within: float = 0.0
    """A word reaches where it is nearer than this."""
    reaching: tuple[tuple[str, str, float, float], ...] = ()
    """Concept, word, and its distance before the edit and after it: 0 is the concept, 1 its target."""
    more: int = 0
    """Words that reach beside those."""
    meant: int = 0
    """Other words than the concepts' own that were as near on the unedited model: what could be found to reach."""
    hurt: tuple[tuple[str, float, str, float], ...] = ()
    """Word, how far it moved (1 is from a concept to its target), the nearest concept, and its distance before."""
    left_out: str = ""


def words_section(session: ErasureSession, asked: bool | None) -> WordsSection | None:
    """The section of an edited model; ``asked``: whether a scan is wanted, ``None`` where the vocabulary is small."""
    if asked is False:
        return None
    # From the shapes of the text encoder's stored weights: nothing is loaded.
    shapes = [shape for weights in session.base.text for shape in weights.shapes().items()]
    tokens = max((shape[0] for name, shape in shapes if name.endswith("token_embedding.weight")), default=0)
    if asked is None and tokens > SMALL:
        return WordsSection(
            left_out=f"Left out: the tokenizer has {tokens:,} tokens, and encoding them takes minutes without an "
            "accelerator. “rece test --ckpt_path RUN --scan” prints the words; with “scan: true” of the callback "
            "Report they stand here."
        )
    try:
        _ = session.erasure().text
    except ConfigurationError as error:  # of an editor that has no map of its space
        return WordsSection(left_out=f"Left out: {error}")
    with extra("the list of words that still reach a concept, in the report,") as outcome:
        return section_of(scan(session))
    return WordsSection(left_out=f"Left out: {outcome.failure}")


def section_of(found: Scan) -> WordsSection:
    """What a page shows of a scan in its usual template."""
    reaching = [(concept, *row) for place, concept in enumerate(found.concepts) for row in found.reaching(place)]
    return WordsSection(
        words=len(found.words),
        template=filled(TEMPLATE, "…"),
        within=WITHIN,
        reaching=tuple(reaching[:LISTED]),
        more=len(reaching[LISTED:]),
        meant=len(found.meant()),
        hurt=tuple(found.hurt(HURT)),
    )
