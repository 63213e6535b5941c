"""Does a picture show a concept? Detectors, and rates of detections and their change as torchmetrics classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torchmetrics import Metric

from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.emoji.catalog import WEIGHTS, load_catalog
from rece_lightning.emoji.detector import Detector, load_detector
from rece_lightning.metrics.intervals import Share
from rece_lightning.metrics.paired import PairedTest, paired_test_of_counts


@runtime_checkable
class ConceptDetector(Protocol):
    """What an evaluation asks of a detector. Any class with these members can be named in YAML by its class path, one
    that is imported and derives from this by its name alone."""

    protocol: str
    """Name of the rule by which a detection counts."""

    def check(self, concept: str) -> None:
        """Raise a ConfigurationError if it cannot recognise ``concept``."""

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        """Whether picture i shows concept i: ``[n, 3, h, w]`` in [0, 1] → ``[n]`` bool."""


@runtime_checkable
class NamingDetector(Protocol):
    """A detector that also says what it sees where the concept is not."""

    def name(self, pictures: Tensor, concepts: Sequence[str]) -> list[str]:
        """What picture i shows, among the classes that concept i is one of: ``[n, 3, h, w]`` in [0, 1] → n names."""


@runtime_checkable
class ListingDetector(Protocol):
    """A detector that knows a list of concepts, and no others."""

    def concepts(self) -> Sequence[str]:
        """Names of all that a model may be asked for and that it recognises."""


BLACK = "nothing: a black picture"
"""In the place of what a detector sees."""


def detected(detector: ConceptDetector, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
    """Whether picture i shows concept i, ``[n]`` bool; one that is black all over, as filters give, shows nothing.

    Args:
        detector: that looks; one without a threshold sees something in a black picture too.
        pictures: ``[n, 3, h, w]`` in [0, 1].
        concepts: one a picture.
    """
    found = detector.detect(pictures, concepts)
    return found & pictures.flatten(1).any(1).to(found.device)


def names_seen(detector: ConceptDetector, pictures: Tensor, concepts: Sequence[str]) -> tuple[str, ...] | None:
    """What a detector sees in every picture; ``None`` where it cannot say."""
    if not isinstance(detector, NamingDetector):
        return None
    lit = pictures.flatten(1).any(1).tolist()
    return tuple(name if seen else BLACK for name, seen in zip(detector.name(pictures, concepts), lit, strict=True))


class EmojiDetector(ConceptDetector):
    """The embedded world's detector, protocol ``emoji-top1``.

    A picture shows an object (by name or synonym), a style or a background when that class has the highest logit of its
    head. There is no threshold.

    Args:
        folder: of other weights; the shipped ones without it.
        device: where it runs.
    """

    protocol = "emoji-top1"

    def __init__(self, folder: str | None = None, device: str = "cpu") -> None:
        self.catalog = load_catalog()
        self.device = device
        self._folder = Path(folder) if folder else WEIGHTS / "detector"
        self._detector: Detector | None = None
        self._classes: dict[str, tuple[str, int]] = {}
        for index, item in enumerate(self.catalog.objects):
            for word in (*item.synonyms, item.name):
                self._classes[word] = ("objects", index)
        for index, style in enumerate(self.catalog.styles):
            self._classes[f"{style} style"] = self._classes[style] = ("styles", index)
        for index, name in enumerate(self.catalog.backgrounds):
            self._classes[f"{name} background"] = self._classes[name] = ("backgrounds", index)

    def check(self, concept: str) -> None:
        """Raise a ConfigurationError with the nearest known concept."""
        if concept not in self._classes:
            names = [*self.catalog.names, *self.catalog.styles, *self.catalog.backgrounds]
            close = nearest(concept, names).split(" Valid:")[0]
            hint = close if close.startswith("did") else "give one of its object, style or background names"
            raise ConfigurationError(f"concept: the emoji detector does not know {concept!r}; {hint}.")

    def concepts(self) -> Sequence[str]:
        """The objects that the denoisers were trained on."""
        return [item.name for item in self.catalog.trained]

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        seen = self._seen(pictures, concepts)
        wanted = [self._classes[concept][1] for concept in concepts]
        return torch.tensor([index == own for index, own in zip(seen, wanted, strict=True)], dtype=torch.bool)

    def name(self, pictures: Tensor, concepts: Sequence[str]) -> list[str]:
        """What picture i shows among the objects, styles or backgrounds, whichever concept i is one of."""
        names = {
            "objects": [item.name for item in self.catalog.objects],
            "styles": [f"{style} style" for style in self.catalog.styles],
            "backgrounds": [f"{name} background" for name in self.catalog.backgrounds],
        }
        seen = self._seen(pictures, concepts)
        return [names[self._classes[concept][0]][index] for index, concept in zip(seen, concepts, strict=True)]

    @torch.no_grad()
    def _seen(self, pictures: Tensor, concepts: Sequence[str]) -> list[int]:
        """Index of the class with the highest logit in the head that concept i belongs to."""
        if self._detector is None:
            self._detector = load_detector(self._folder).to(self.device)
        seen = []
        for first in range(0, len(concepts), 256):
            found = self._detector(pictures[first : first + 256].to(self.device) * 2 - 1)
            for row, concept in enumerate(concepts[first : first + 256]):
                seen.append(int(getattr(found, self._classes[concept][0])[row].argmax()))
        return seen


class DetectionRate(Metric):
    """Share of pictures in which their concept is detected.

    Detector, threshold, classes and what counts are the detector's; ``protocol`` names them. States are whole
    numbers a prompt and are summed over ranks: two processes give the counts of one.

    Args:
        detector: that decides; see :class:`ConceptDetector`.
        prompts: how many there are, where several pictures share one: the interval then knows which do.

    Example:
        >>> import torch
        >>> class Bright:
        ...     protocol = "bright"
        ...     def check(self, concept): ...
        ...     def detect(self, pictures, concepts):
        ...         return pictures.mean((1, 2, 3)) > 0.5
        >>> rate = DetectionRate(Bright())
        >>> rate.update(torch.stack([torch.ones(3, 2, 2), torch.zeros(3, 2, 2)]), ["light", "light"])
        >>> float(rate.compute())
        0.5
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False
    hits: Tensor
    total: Tensor

    def __init__(self, detector: ConceptDetector, prompts: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.detector = detector
        for name in ("hits", "total"):
            self.add_state(name, torch.zeros(prompts, dtype=torch.long), dist_reduce_fx="sum")

    @property
    def protocol(self) -> str:
        """Name of the rule by which a detection counts."""
        return self.detector.protocol

    def update(self, pictures: Tensor, concepts: Sequence[str], rows: Sequence[int] | None = None) -> None:
        """Count pictures ``[n, 3, h, w]`` in [0, 1], each with the concept it is searched for.

        ``rows`` are the indices of their prompts; without them all are the first one's.
        """
        places = prompt_places(rows, len(concepts), self.hits)
        found = self.detector.detect(pictures, concepts).to(self.hits)
        self.hits.index_add_(0, places, found)
        self.total.index_add_(0, places, torch.ones_like(found))

    def compute(self) -> Tensor:
        """The share, NaN when nothing was counted."""
        return self.hits.sum().double() / self.total.sum()

    def share(self) -> Share:
        """The share with its 95 % interval, of the pictures of all ranks; all of them must call it."""
        with over_ranks(self):
            return Share.over(zip(self.hits.tolist(), self.total.tolist(), strict=True))


class Generality(DetectionRate):
    """Detection rate of erased concepts on prompts that name them by synonyms or paraphrases. Lower is better.

    Protocol ``generality DETECTOR``. The picture is searched for the concept, not for the word. A prompt that holds
    the concept's own name as words is refused: it would measure the erasure itself. Published tables call the rate
    ``Acc_g`` (MACE).
    """

    higher_is_better = False

    @property
    def protocol(self) -> str:
        return f"generality {self.detector.protocol}"

    def update(  # type: ignore[override]
        self, pictures: Tensor, concepts: Sequence[str], texts: Sequence[str], rows: Sequence[int] | None = None
    ) -> None:
        """Count pictures ``[n, 3, h, w]`` in [0, 1]; ``texts`` are the prompts that they were made for."""
        for concept, text in zip(concepts, texts, strict=True):
            if f" {' '.join(concept.lower().split())} " in f" {' '.join(text.lower().split())} ":
                raise ConfigurationError(
                    f"texts: {text!r} names {concept!r} itself; generality asks for it in other words."
                )
        super().update(pictures, concepts, rows)


class DetectionChange(Metric):
    """Change of a detection rate between two models' pictures of the same prompts and seeds, with a paired test.

    The detector names the protocol. States are whole numbers a prompt and are summed over ranks.

    Args:
        detector: that decides.
        prompts: how many there are, where several pictures share one.
    """

    is_differentiable = False
    full_state_update = False
    pairs: Tensor

    def __init__(self, detector: ConceptDetector, prompts: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.detector = detector
        # Columns: seen in neither, only before, only after, in both.
        self.add_state("pairs", torch.zeros(prompts, 4, dtype=torch.long), dist_reduce_fx="sum")

    @property
    def protocol(self) -> str:
        return self.detector.protocol

    def update(self, before: Tensor, after: Tensor, concepts: Sequence[str], rows: Sequence[int] | None = None) -> None:
        """Count pairs of pictures ``[n, 3, h, w]`` in [0, 1] of the same concept, prompt and seed."""
        if len(before) != len(after):
            raise ConfigurationError(f"after: {len(after)} pictures beside {len(before)}; give pairs.")
        places = prompt_places(rows, len(concepts), self.pairs)
        first, second = (self.detector.detect(pictures, concepts).to(self.pairs) for pictures in (before, after))
        self.pairs.view(-1).index_add_(0, 4 * places + first + 2 * second, torch.ones_like(first))

    def compute(self) -> Tensor:
        """Rate after − rate before, float64; NaN when nothing was counted."""
        counts = self.pairs.sum(0)
        return (counts[2] - counts[1]).double() / counts.sum()

    def test(self) -> PairedTest:
        """Whether the change is more than chance; all ranks must call it."""
        with over_ranks(self):
            return paired_test_of_counts((row[1], row[2], sum(row)) for row in self.pairs.tolist())

    def shares(self) -> tuple[Share, Share]:
        """The rates before and after with their intervals; all ranks must call it."""
        with over_ranks(self):
            rows = self.pairs.tolist()
        before = Share.over((row[1] + row[3], sum(row)) for row in rows)
        return before, Share.over((row[2] + row[3], sum(row)) for row in rows)


def prompt_places(rows: Sequence[int] | None, count: int, state: Tensor) -> Tensor:
    """Where in a state ``[prompts, …]`` each of ``count`` pictures belongs, ``[count]``.

    Raises:
        ConfigurationError: for a row that the state has no place for.
    """
    places = torch.zeros(count, dtype=torch.long) if rows is None else torch.as_tensor(rows, dtype=torch.long)
    prompts = state.shape[0]
    if len(places) != count or bool((places < 0).any()) or bool((places >= prompts).any()):
        raise ConfigurationError(
            f"rows: {places.tolist()[:8]} for {count} pictures and {prompts} prompts; give each picture the index of "
            "its prompt, and the metric the number of prompts (prompts=…)."
        )
    return places.to(state.device)


@contextmanager
def over_ranks(metric: Metric) -> Iterator[None]:
    """Inside, the metric's states are those of all ranks; every rank must come here. Does nothing on one rank."""
    alone = not metric._is_synced
    with metric.sync_context(dist_sync_fn=metric.dist_sync_fn, should_sync=alone, should_unsync=alone):
        yield
