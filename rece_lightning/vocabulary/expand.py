"""What joins a robust loop's concepts: other words for them, other prompts, attacks that were found; and neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rece_lightning.attacks.store import EMBEDDINGS, PROMPTS, read_embeddings
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.robust import Robust
from rece_lightning.data.concept_table import LISTED
from rece_lightning.data.concepts import Concept, PromptPair, pairs_of
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.data.tables import read_table
from rece_lightning.distributed import gathered
from rece_lightning.erasure.encoding import EncodedPair, Pairs, in_parts
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.text_space import TEXT
from rece_lightning.vocabulary.neighbours import Mined, mine

FIELD = "model.method.robust"
FOUND = "found"
"""Of the summary: how many texts and embeddings of attacks joined."""


@torch.no_grad()
def join(session: ErasureSession, data: Any) -> None:
    """Count what joins the concepts of ``data``, and describe it in ``session.concepts["robust"]``.

    Words are mined as rank 0 finds them; every rank encodes all that joins, which is little.

    Args:
        session: whose text encoder and ``G`` say what is near.
        data: a ConceptData.

    Raises:
        ConfigurationError: for data without concepts, a folder where nothing was found, an embedding of another model.
    """
    robust = session.method.robust
    if robust is None or not robust.joins:
        return
    if not isinstance(data, ConceptData):
        raise ConfigurationError(f"{FIELD}: what joins is chosen by the concepts; give them in a ConceptData.")
    found = read_found(robust.found, data) if robust.found else Found()
    mined = gathered(_mined(robust, data, session))[0]
    encoder, statistics = session.concept_encoder, session.statistics
    words = (replace(pair, weight=robust.weight * pair.weight) for pair in _further_pairs(robust, data, mined))
    statistics.join(words=encoder.pairs_in_parts(words))
    add_found(session, found, robust.weight)
    for part in in_parts(mined.neighbours):
        statistics.join(neighbours=encoder.rows(part))
    session.concepts = {**session.concepts, "robust": _summary(robust, data, mined, found)}


def add_found(session: ErasureSession, found: Found, weight: float) -> None:
    """Count what attacks found, as it was sent.

    Args:
        session: that it joins.
        found: by attacks.
        weight: of it, beside the concept's own 1.

    Raises:
        ConfigurationError: for an embedding of another model.
    """
    encoder, statistics = session.concept_encoder, session.statistics
    texts = (replace(pair, weight=weight * pair.weight) for pair in found.prompts)
    statistics.join(found=encoder.pairs_in_parts(texts))
    for part in in_parts(found.embeddings):
        statistics.join(found=_sent(session, part, weight))


def join_found(session: ErasureSession, rows: Iterable[FoundRow], data: ConceptData) -> None:
    """Count what attacks found between epochs, and run the epochs so far anew with it.

    Args:
        session: after one epoch or more.
        rows: what was found, of whatever concepts.
        data: that is erased.
    """
    found = found_on(rows, data)
    if not len(found):
        return
    robust, former = session.method.robust, session.concepts.get("robust", {})
    add_found(session, found, 1.0 if robust is None else robust.weight)
    session.run_again()
    session.concepts = {**session.concepts, "robust": {**former, FOUND: former.get(FOUND, 0) + len(found)}}


def _mined(robust: Robust, data: ConceptData, session: ErasureSession) -> Mined:
    """The words that are to be looked for; those that validation prompts say should stay are never among them."""
    if not (robust.synonyms or robust.neighbours):
        return Mined((), ())
    return mine(
        session.encoder,
        session.gram,
        [(concept.prompt, concept.target) for concept in data.concepts],
        lambda: session.loaded.fingerprint["text_encoder"],
        synonyms=robust.synonyms,
        neighbours=robust.neighbours,
        within=robust.within,
        preserved=[*data.preserved, *data.held_out],
        space=session.spaces[0].name,
    )


def _further_pairs(robust: Robust, data: ConceptData, mined: Mined) -> Iterator[PromptPair]:
    """Other words in the concept's own templates, and the concept in further ones; not what is erased anyway."""
    words = mined.synonyms or [()] * len(data.concepts)
    for concept, own in zip(data.concepts, words, strict=True):
        known = {pair.prompt for pair in pairs_of(concept)}
        others: list[Concept] = [replace(concept, prompt=word) for word in own]
        others += [replace(concept, templates=robust.templates)] if robust.templates else []
        yield from (pair for other in others for pair in pairs_of(other) if pair.prompt not in known)


def _sent(session: ErasureSession, part: list[FoundEmbedding], weight: float) -> Pairs:
    """Embeddings as they were sent to the model, with their encoded targets; in other text spaces their prompts' rows.

    Raises:
        ConfigurationError: for an embedding of another model.
    """
    pairs = [PromptPair(one.prompt, one.target, weight * one.weight) for one in part]
    encoded = dict(session.concept_encoder.pairs(pairs))
    rows: list[EncodedPair] = []
    for one, pair in zip(part, encoded.get(TEXT, []), strict=False):
        sent = one.embedding
        if sent.shape != pair.target.shape or not bool(sent.isfinite().all()):
            raise ConfigurationError(
                f"{FIELD}.found: an embedding has the shape {list(sent.shape)} or holds NaN; this model reads "
                f"{list(pair.target.shape)}. Give what was found on it."
            )
        rows.append(replace(pair, concept=sent.to(pair.target), last=0))
    return {**encoded, TEXT: rows} if TEXT in encoded else encoded


def _summary(robust: Robust, data: ConceptData, mined: Mined, found: Found) -> dict[str, Any]:
    """Of more than :data:`LISTED` the first ones."""
    summary: dict[str, Any] = {}
    if robust.synonyms:
        named = zip((concept.prompt for concept in islice(data.concepts, LISTED)), mined.synonyms, strict=False)
        summary["synonyms"] = {prompt: list(words) for prompt, words in named}
    if robust.neighbours:
        summary["neighbours"] = list(mined.neighbours[:LISTED])
    if robust.found:
        summary[FOUND] = len(found)
    return summary


FoundRow = tuple[str, str, Tensor | None]
"""Whom it brings back, the text, and the embedding in its place."""


@dataclass(frozen=True)
class FoundEmbedding:
    """An embedding that brings a concept back."""

    embedding: Tensor
    """``[positions, d]``."""
    prompt: str
    """That it stood in for."""
    target: str
    weight: float


@dataclass(frozen=True)
class Found:
    """What attacks found on the concepts."""

    prompts: tuple[PromptPair, ...] = ()
    embeddings: tuple[FoundEmbedding, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts) + len(self.embeddings)


def read_found(folder: str, data: ConceptData) -> Found:
    """What attacks found on the concepts of ``data``, from the files that ``RedTeam`` writes.

    Raises:
        ConfigurationError: if there is no such file, or nothing in it is about a concept.
    """
    place = Path(folder).expanduser()
    there = [name for name in (PROMPTS, EMBEDDINGS) if (place / name).is_file()]
    if not there:
        raise ConfigurationError(
            f"{FIELD}.found: {place} has neither {PROMPTS} nor {EMBEDDINGS}; give the folder of a run with RedTeam, or "
            "of `test --attacks`."
        )
    rows: list[FoundRow] = []
    for row in read_table(f"{FIELD}.found", place / PROMPTS) if PROMPTS in there else []:
        rows.append((row.get("concept", ""), row["prompt"], None))
    for one in read_embeddings(place / EMBEDDINGS) if EMBEDDINGS in there else []:
        if one.embedding is not None:  # noise to start from is nothing that an edit could erase
            rows.append((one.concept, one.prompt, one.embedding))
    found = found_on(rows, data)
    if not len(found):
        others = {concept for concept, _, _ in rows if concept.lower() not in concepts_by_name(data)}
        about = f", but about {', '.join(sorted(others))}" if others else ""
        raise ConfigurationError(
            f"{FIELD}.found: {place} holds nothing new about what is erased{about}; give the folder of a run that "
            "attacked these concepts."
        )
    return found


def found_on(rows: Iterable[FoundRow], data: ConceptData) -> Found:
    """What is about the concepts of ``data``, each text once.

    A row belongs to a concept if it names its prompt, or what the evaluation's prompts say that the detector looks for.
    Those of other concepts (controls) are left out. All that was found on a concept counts together as much as the
    concept itself: however many attacks there were, they do not outweigh it.
    """
    names, known = concepts_by_name(data), {pair.prompt.lower() for pair in data.pairs}
    texts: dict[str, Concept] = {}
    embeddings: list[tuple[Tensor, str, Concept]] = []
    for name, prompt, embedding in rows:
        concept = names.get(name.lower())
        if concept is None:
            continue
        if embedding is not None:
            embeddings.append((embedding, prompt, concept))
        elif prompt.lower() not in known:
            texts.setdefault(prompt, concept)
    count = Counter(concept.prompt for concept in (*texts.values(), *(concept for _, _, concept in embeddings)))
    share = {
        concept.prompt: concept.weight / count[concept.prompt] for concept in names.values() if count[concept.prompt]
    }
    return Found(
        tuple(PromptPair(text, concept.target, share[concept.prompt]) for text, concept in texts.items()),
        tuple(FoundEmbedding(rows, text, concept.target, share[concept.prompt]) for rows, text, concept in embeddings),
    )


def concepts_by_name(data: ConceptData) -> dict[str, Concept]:
    """Concepts by their prompt, and by what the detector looks for under it, in lower case."""
    names = {concept.prompt.lower(): concept for concept in data.concepts}
    own = dict(names)
    for row in (*data.test, *data.validation):
        concept = own.get(row.prompt.lower())
        if row.kind == "erased" and concept is not None:
            names.setdefault(row.concept.lower(), concept)
    return names
