"""What attacks found on an erasure of the same concepts: in this run, or in the files that ``RedTeam`` writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from rece_lightning.attacks.store import EMBEDDINGS, PROMPTS, read_embeddings
from rece_lightning.concepts import Concept, PromptPair
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data import ConceptData
from rece_lightning.robust.plan import FIELD
from rece_lightning.tables import read_table

FoundRow = tuple[str, str, Tensor | None]
"""Whom it brings back, the text, and the embedding in its place."""


@dataclass(frozen=True)
class Found:
    """What attacks found on the concepts."""

    prompts: tuple[PromptPair, ...] = ()
    embeddings: tuple[tuple[Tensor, str, float], ...] = ()
    """Each ``[positions, d]``, with its target prompt and weight."""

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
    embeddings: list[tuple[Tensor, Concept]] = []
    for name, prompt, embedding in rows:
        concept = names.get(name.lower())
        if concept is None:
            continue
        if embedding is not None:
            embeddings.append((embedding, concept))
        elif prompt.lower() not in known:
            texts.setdefault(prompt, concept)
    count = Counter(concept.prompt for concept in (*texts.values(), *(concept for _, concept in embeddings)))
    share = {
        concept.prompt: concept.weight / count[concept.prompt] for concept in names.values() if count[concept.prompt]
    }
    return Found(
        tuple(PromptPair(text, concept.target, share[concept.prompt]) for text, concept in texts.items()),
        tuple((rows, concept.target, share[concept.prompt]) for rows, concept in embeddings),
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
