"""Which words still reach a concept once it was erased, found without a picture: ``data.synonyms: auto``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import unedited
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.reaching import Reaching
from rece_lightning.data.concepts import Concept, pairs_of
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.data.synonyms import FIELD, AutoSynonyms, joined, scanned_template
from rece_lightning.data.texts import filled
from rece_lightning.distributed import gathered, rank_and_world
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.models.vocabulary import vocabulary_words
from rece_lightning.vocabulary.preserve import first_edit
from rece_lightning.vocabulary.rows import subject_rows, vocabulary_rows

SAID = 20
"""Concepts whose words are printed; the report has all of them."""
TOGETHER = 64
"""Concepts whose distances from a whole vocabulary are held together."""


@dataclass(frozen=True)
class Survivor:
    """A word that still reached a concept when it was its turn."""

    word: str
    of: str
    """Prompt of the concept."""
    before: float
    """Its distance on the unedited model: 0 is the concept, 1 its target."""
    after: float
    """The same after UCE's edit of the concepts and of the words that were added earlier."""


def erase_survivors(session: ErasureSession, data: ConceptData) -> None:
    """Add the words to what the data erases, the same ones on every rank, and say which.

    Args:
        session: of the model.
        data: with ``synonyms: auto``.
    """
    data.add_synonyms([])  # of an earlier fit
    chosen = choose_synonyms(session, data)
    found = gathered([(one.word, one.of, one.before, one.after) for one in chosen])[0]
    data.add_synonyms([(word, of) for word, of, *_ in found])
    if rank_and_world()[0] == 0:
        print("\n".join(_said(found, len(data.asked or []))))


def _said(found: Sequence[tuple[str, str, float, float]], concepts: int) -> Iterator[str]:
    """What was added, in lines."""
    names = list(dict.fromkeys(of for _, of, *_ in found))
    yield f"{FIELD}: auto: {len(found)} words still reach {len(names)} of {concepts} concepts."
    for of in names[:SAID]:
        own = [f"{word} ({before:.2f}, {after:.2f})" for word, other, before, after in found if other == of]
        yield f"Erased beside {of!r}: {', '.join(own)} (distance before UCE's edit and after it)."


@torch.no_grad()
def choose_synonyms(session: ErasureSession, data: ConceptData) -> list[Survivor]:
    """The words that ``data.synonyms: auto`` adds to what is erased.

    The distance is the scan's: that of keys and values at a word's last token and at the end of the text from the
    concept's original ones, over the concept's own distance from its target. A word reaches where it is nearer than
    ``data.synonyms_reach`` both on the unedited model and after the edit. The first says that the word means the
    concept; without it words would be taken that the edit itself moved there, pieces of words above all. The second
    says that it survives: words that the edit of the concept takes along need no line of their own.

    In rounds: of each concept the nearest word, then the edit that erases these too, until no word reaches, or each
    concept has ``data.synonyms_count`` of them. Prompts of ``data.validation`` are not looked at. A word that means
    several concepts goes to the nearest. Words are compared in the scan's template, ``a photo of {}``; with a concept
    that has templates and not ``{}`` among them, in the first of these.

    Args:
        session: of the model; the scales of its method decide UCE's edit.
        data: with concepts and what is preserved.

    Returns:
        In the order in which they were taken.

    Raises:
        ConfigurationError: if a concept reads as its target does.
    """
    plan, asked = data.synonyms, data.asked
    assert plan is not None
    assert asked is not None
    near = _candidates(session, data, plan)
    found: list[Survivor] = []
    if not near.words:
        return found
    first = first_edit(session, data)
    left = torch.ones(len(near.words), dtype=torch.bool)
    for _ in range(plan.count):
        reaching = Reaching.of(first.gram, first.maps(), near.concept, near.target)
        after = reaching.measure(near.rows)[1].gather(1, near.of[:, None])[:, 0]
        round_ = []
        for concept in near.of.unique().tolist():
            places = ((near.of == concept) & left & (after < plan.reach)).nonzero()[:, 0]
            if len(places):
                place = int(places[after[places].argmin()])
                left[place] = False
                round_.append(
                    Survivor(near.words[place], asked[concept].prompt, near.before[place], float(after[place]))
                )
        if not round_:
            break
        found += round_
        new = joined([(one.word, one.of) for one in round_], asked, automatic=True)
        pairs = [pair for synonym in new for pair in pairs_of(synonym.concept)]
        first.statistics.update(first.encoder.pairs(pairs))
    return found


@dataclass(frozen=True)
class _Candidates:
    """Words that mean a concept on the unedited model."""

    words: list[str]
    rows: Tensor
    """In the template of their concept, ``[n, 2, d]``."""
    of: Tensor
    """Index of that concept, ``[n]``."""
    before: list[float]
    concept: Tensor
    """Rows of all concepts, each in its template, ``[concepts, 2, d]``."""
    target: Tensor


def _candidates(session: ErasureSession, data: ConceptData, plan: AutoSynonyms) -> _Candidates:
    encoder, gram, fingerprint = session.encoder, session.gram, lambda: session.loaded.fingerprint["text_encoder"]
    asked, barred = data.asked or [], data.not_synonyms()
    listed = vocabulary_words(encoder.tokenizer) if plan.vocabulary is None else plan.vocabulary
    words = [word for word in dict.fromkeys(listed) if not barred.intersection((word.lower(), *word.lower().split()))]
    space = session.spaces[0].name
    own = _own_rows(encoder, asked, space)
    found: dict[int, tuple[float, int, Tensor]] = {}
    identity = unedited(gram)
    for template in dict.fromkeys(scanned_template(concept) for concept in asked):
        rows = vocabulary_rows(encoder, fingerprint, [filled(template, word) for word in words], space=space)
        places = [place for place, concept in enumerate(asked) if scanned_template(concept) == template]
        for first in range(0, len(places), TOGETHER):
            part = places[first : first + TOGETHER]
            before = Reaching.of(gram, identity, own[part, 0], own[part, 1]).measure(rows)[0]
            nearest = before.min(dim=1) if len(before) else None
            for word in [] if nearest is None else (nearest.values < plan.reach).nonzero()[:, 0].tolist():
                assert nearest is not None
                distance, concept = float(nearest.values[word]), part[int(nearest.indices[word])]
                if word not in found or distance < found[word][0]:
                    found[word] = distance, concept, rows[word]
    return _Candidates(
        [words[word] for word in found],
        torch.stack([rows for _, _, rows in found.values()]) if found else own[:0, 0],
        torch.tensor([concept for _, concept, _ in found.values()], dtype=torch.long),
        [distance for distance, _, _ in found.values()],
        own[:, 0],
        own[:, 1],
    )


def _own_rows(encoder: EncodesPrompts, concepts: Sequence[Concept], space: str) -> Tensor:
    """Of every concept and its target in the template that it is compared in, ``[concepts, 2, 2, d]``.

    Raises:
        ConfigurationError: where both read alike.
    """
    texts = [filled(scanned_template(one), text) for one in concepts for text in (one.prompt, one.target)]
    rows = subject_rows(encoder, texts, space=space)
    own = rows.view(len(concepts), 2, *rows.shape[1:])
    for concept, (prompt, target) in zip(concepts, own, strict=True):
        if torch.equal(prompt, target):
            raise ConfigurationError(
                f"{FIELD}: auto: {concept.prompt!r} and its target {concept.target!r} read alike, so no word is near "
                "or far; give another target, or the synonyms themselves."
            )
    return own
