"""What joins a robust loop's concepts: other words for them, other prompts, attacks that were found; and neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from rece_lightning.attacks.store import EMBEDDINGS, PROMPTS, read_embeddings
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.moments import Moments
from rece_lightning.core.robust import Joined
from rece_lightning.data.concept_table import LISTED
from rece_lightning.data.concepts import Concept, PromptPair, pairs_of
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.data.tables import read_table
from rece_lightning.distributed import gathered
from rece_lightning.erasure.encoding import EncodedPair, encode_pairs, pair_moments
from rece_lightning.erasure.robust import FIELD, RobustPlan
from rece_lightning.erasure.state import matrix_fault, pairs_fault
from rece_lightning.models.text import PromptEncoder
from rece_lightning.vocabulary.neighbours import Mined, mine

if TYPE_CHECKING:
    from rece_lightning.module import RECE

TOGETHER = 64
"""Prompts that are encoded, and counted, together."""
KINDS = ("words", "found", "kept")
ERASED = ("first", "whole", "found")
FOUND = "found"
"""Of the summary: how many texts and embeddings of attacks joined."""
Item = TypeVar("Item")


@dataclass
class JoinedSums:
    """Moments of what joins, and its rows as long as they take less room: a checkpoint holds whichever is smaller.

    Rows are counted in fixed numbers, so that the same rows give the same bits when a checkpoint gives them back.
    """

    rule: str
    """Positions that epoch 0 erases of other words and prompts."""
    device: torch.device | str
    width: int
    summary: dict[str, Any] = field(default_factory=dict)
    """What joined, in plain types."""

    def __post_init__(self) -> None:
        self.joined = Joined.nothing(self.width, self.device)
        self._rows: dict[str, list[Any]] | None = {kind: [] for kind in KINDS}
        self._elements = 0

    def add(self, kind: str, rows: Iterable[Any]) -> None:
        """Count rows: encoded pairs of ``words`` or ``found``, embeddings ``[positions, d]`` of what is ``kept``."""
        for part in in_parts(rows):
            self.joined = self.joined + self._moments(kind, part)
            self._elements += sum(row.numel() if kind == "kept" else 2 * row.concept.numel() for row in part)
            # Ten matrices in float64 against rows in float32.
            if 4 * self._elements > 8 * 10 * self.width**2:
                self._rows = None
            if self._rows is not None:
                self._rows[kind] += part

    def _moments(self, kind: str, part: Sequence[Any]) -> Joined:
        nothing = Joined.nothing(self.width, self.device)
        if kind == "kept":
            return replace(nothing, preserved=Moments.preserving(torch.cat(list(part)).to(self.device)).preserved)
        first, whole = pair_moments(list(part), self.rule, self.device)
        # An attack's rows are what was sent: all of them count, in every epoch.
        return replace(nothing, first=first, whole=whole) if kind == "words" else replace(nothing, found=whole)

    def stored(self) -> dict[str, Any]:
        """For a checkpoint: plain types and tensors on the CPU."""
        if self._rows is None:
            parts = {name: vars(getattr(self.joined, name)) for name in ERASED}
            moments = {name: {key: value.cpu() for key, value in part.items()} for name, part in parts.items()}
            return {"moments": moments, "preserved": self.joined.preserved.cpu()}
        pairs = {
            kind: [{**vars(pair), "concept": pair.concept.cpu(), "target": pair.target.cpu()} for pair in rows]
            for kind, rows in self._rows.items()
            if kind != "kept"
        }
        return {**pairs, "kept": [rows.cpu() for rows in self._rows["kept"]]}

    def restore(self, stored: Mapping[str, Any]) -> JoinedSums:
        """Take back what :meth:`stored` gave.

        Raises:
            ConfigurationError: if it is something else.
        """
        wrong = fault(stored, self.width)
        if wrong:
            raise ConfigurationError(f"ckpt_path: in the checkpoint {wrong}; give one that RECE wrote.")
        if "moments" in stored:
            parts = {name: Moments(**stored["moments"][name]).to(self.device) for name in ERASED}
            self.joined = Joined(**parts, preserved=stored["preserved"].to(self.device))
            self._rows = None
            return self
        for kind in KINDS:
            self.add(kind, stored[kind] if kind == "kept" else (EncodedPair(**pair) for pair in stored[kind]))
        return self


def in_parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    """At most :data:`TOGETHER` at a time."""
    rest = iter(items)
    while part := list(islice(rest, TOGETHER)):
        yield part


def fault(stored: Any, width: int) -> str | None:
    """What is wrong with the joined rows of a checkpoint, whoever wrote it; ``None`` if nothing is."""
    where, square = "rece.evidence.joined", (width, width)
    try:
        if "moments" in stored:
            names = [part.name for part in fields(Moments)]
            matrices = [stored["moments"][part][name] for part in ERASED for name in names]
            found = (matrix_fault(where, one, square, torch.float64) for one in [*matrices, stored["preserved"]])
            return next((wrong for wrong in found if wrong), None)
        wrong = pairs_fault(where, [*stored["words"], *stored["found"]], width, torch.float32)
        rows = (matrix_fault(where, kept, (len(kept), width), torch.float32) for kept in stored["kept"])
        return wrong or next((one for one in rows if one), None)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"{where} is damaged ({type(error).__name__}: {error})"


@torch.no_grad()
def join(plan: RobustPlan | None, data: Any, module: RECE, rule: str) -> JoinedSums | None:
    """What joins the concepts of ``data``; ``None`` where nothing does.

    Words are mined as rank 0 finds them; every rank encodes all that joins, which is little.

    Args:
        plan: ``model.robust``.
        data: a ConceptData.
        module: whose text encoder and ``G`` say what is near.
        rule: token selection of epoch 0.

    Raises:
        ConfigurationError: for data without concepts, a folder where nothing was found, an embedding of another model.
    """
    if plan is None or not plan.joins:
        return None
    if not isinstance(data, ConceptData):
        raise ConfigurationError(f"{FIELD}: what joins is chosen by the concepts; give them in a ConceptData.")
    found = read_found(plan.found, data) if plan.found else Found()
    encoder, gram = module.encoder, module.gram
    mined = gathered(_mined(plan, data, module))[0]
    sums = JoinedSums(rule, gram.total.device, gram.width, _summary(plan, data, mined, found))
    sums.add("words", _encoded(encoder, _further_pairs(plan, data, mined), plan.weight))
    add_found(sums, encoder, found, plan.weight)
    neighbours = in_parts(mined.neighbours)
    sums.add("kept", (rows for part in neighbours for rows in encoder.encode(part).embeddings))
    return sums


def add_found(sums: JoinedSums, encoder: PromptEncoder, found: Found, weight: float) -> None:
    """Count what attacks found, as it was sent.

    Args:
        sums: that it joins.
        encoder: of prompts and targets.
        found: by attacks.
        weight: of it, beside the concept's own 1.

    Raises:
        ConfigurationError: for an embedding of another model.
    """
    sent = _sent(encoder, found.embeddings, weight)
    sums.add("found", chain(_encoded(encoder, found.prompts, weight), sent))


def _mined(plan: RobustPlan, data: ConceptData, module: RECE) -> Mined:
    """The words that the plan asks to look for; those that validation prompts say should stay are never among them."""
    if not (plan.synonyms or plan.neighbours):
        return Mined((), ())
    return mine(
        module.encoder,
        module.gram,
        [(concept.prompt, concept.target) for concept in data.concepts],
        lambda: module.fingerprint["text_encoder"],
        synonyms=plan.synonyms,
        neighbours=plan.neighbours,
        within=plan.within,
        kept=[*data.preserved, *data.held_out],
    )


def _further_pairs(plan: RobustPlan, data: ConceptData, mined: Mined) -> Iterator[PromptPair]:
    """Other words in the concept's own templates, and the concept in further ones; not what is erased anyway."""
    words = mined.synonyms or [()] * len(data.concepts)
    for concept, own in zip(data.concepts, words, strict=True):
        known = {pair.prompt for pair in pairs_of(concept)}
        others: list[Concept] = [replace(concept, prompt=word) for word in own]
        others += [replace(concept, templates=tuple(plan.templates))] if plan.templates else []
        yield from (pair for other in others for pair in pairs_of(other) if pair.prompt not in known)


def _encoded(encoder: PromptEncoder, pairs: Iterable[PromptPair], weight: float) -> Iterator[EncodedPair]:
    for part in in_parts(pairs):
        prompts, targets = [pair.prompt for pair in part], [pair.target for pair in part]
        yield from encode_pairs(encoder, prompts, targets, [weight * pair.weight for pair in part])


def _sent(
    encoder: PromptEncoder, embeddings: Iterable[tuple[Tensor, str, float]], weight: float
) -> Iterator[EncodedPair]:
    """Embeddings as they were sent to the model, with their encoded targets."""
    for part in in_parts(embeddings):
        targets = encoder.encode([target for _, target, _ in part])
        for (sent, _, own), target, last in zip(part, targets.embeddings, targets.last_subject.tolist(), strict=True):
            if sent.shape != target.shape or not bool(sent.isfinite().all()):
                raise ConfigurationError(
                    f"{FIELD}.found: an embedding has the shape {list(sent.shape)} or holds NaN; this model reads "
                    f"{list(target.shape)}. Give what was found on it."
                )
            yield EncodedPair(sent.to(target), target, 0, last, weight * own)


def _summary(plan: RobustPlan, data: ConceptData, mined: Mined, found: Found) -> dict[str, Any]:
    """Of more than :data:`LISTED` the first ones."""
    summary: dict[str, Any] = {}
    if plan.synonyms:
        named = zip((concept.prompt for concept in islice(data.concepts, LISTED)), mined.synonyms, strict=False)
        summary["synonyms"] = {prompt: list(words) for prompt, words in named}
    if plan.neighbours:
        summary["neighbours"] = list(mined.neighbours[:LISTED])
    if plan.found:
        summary[FOUND] = len(found)
    return summary


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
