"""A scan → the report's section, where a scan costs little or was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.reporting.words import HurtWord, ReachingWord, WordsSection
from rece_lightning.vocabulary.rows import SMALL
from rece_lightning.vocabulary.scan import TEMPLATE, WITHIN, Scan, scan_module

if TYPE_CHECKING:
    from rece_lightning.module import RECE

LISTED = 40
"""Words that a page names as reaching a concept, of all concepts together."""
HURT = 15


def words_section(module: RECE, asked: bool | None) -> WordsSection | None:
    """The section of an edited model.

    Args:
        module: that was fitted, or loaded from a checkpoint.
        asked: whether a scan is wanted; ``None``: where the vocabulary is small.
    """
    tokens = _tokens(module)
    if asked is False:
        return None
    if asked is None and tokens > SMALL:
        return WordsSection(
            left_out=f"Left out: the tokenizer has {tokens:,} tokens, and encoding them takes minutes without an "
            "accelerator. “rece test --ckpt_path RUN --scan” prints the words; with “scan: true” of the callback "
            "Report they stand here."
        )
    try:
        return section_of(scan_module(module))
    except ConfigurationError as error:  # a run that is done must not fail for a section of its page
        return WordsSection(left_out=f"Left out: {error}")


def section_of(scan: Scan) -> WordsSection:
    """What a page shows of a scan in its usual template."""
    reaching = [
        ReachingWord(concept, *row) for place, concept in enumerate(scan.concepts) for row in scan.reaching(place)
    ]
    return WordsSection(
        len(scan.words),
        TEMPLATE.format("…"),
        WITHIN,
        tuple(reaching[:LISTED]),
        len(reaching[LISTED:]),
        tuple(HurtWord(*row) for row in scan.hurt(HURT)),
    )


def _tokens(module: RECE) -> int:
    """Of the text encoder, from the shapes of its stored weights: nothing is loaded."""
    return max(
        (shape[0] for weights in module.base.text for name, shape in weights.shapes().items() if _is_vocabulary(name)),
        default=0,
    )


def _is_vocabulary(name: str) -> bool:
    return name.endswith("token_embedding.weight")
