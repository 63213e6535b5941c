"""What an evaluation is asked to look for: prompts with their concepts and kinds, checked against the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rece_lightning.core.errors import ConfigurationError, check_choice, check_count
from rece_lightning.data.prompts import EvaluationPrompt, kinds_of_concepts
from rece_lightning.evaluation.drawing import Shot, in_batches, shots_of
from rece_lightning.evaluation.floor_prompts import floors_of
from rece_lightning.evaluation.folders import ExistingPictures
from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.metrics import ConceptDetector
from rece_lightning.models.sampling import Sampling

KINDS = ("given", "concepts", "preserved")


def understood(
    field: str, prompts: Sequence[EvaluationPrompt], own: Sequence[str], concept: str | None, kinds: str
) -> list[EvaluationPrompt]:
    """Prompts with the concept and the kind that the settings give them; ``own`` are the prompts that are erased.

    Raises:
        ConfigurationError: if the prompts are about something else than what is erased.
    """
    if concept is not None:
        prompts = [replace(row, concept=concept) if row.concept == row.prompt else row for row in prompts]
    if kinds == "preserved":
        return [replace(row, kind="preserved") for row in prompts]
    return kinds_of_concepts(field, prompts, own) if kinds == "concepts" and prompts else list(prompts)


class AskedPrompts:
    """Where an evaluation's prompts come from, and the pictures that they stand for; see ``Evaluation``.

    Raises:
        ConfigurationError: for settings that make no sense together.
    """

    def __init__(
        self,
        sampling: Sampling,
        pictures_per_prompt: int,
        protocol: str | None,
        concept: str | None,
        kinds: str,
        images: str | None,
        prompts: str | None,
    ) -> None:
        check_count("Evaluation.pictures_per_prompt", pictures_per_prompt)
        check_choice("Evaluation.kinds", kinds, KINDS)
        if prompts is not None and images is None:
            raise ConfigurationError(f"Evaluation.prompts: {prompts}: it says what pictures show; give images too.")
        self.sampling, self.pictures_per_prompt = sampling, pictures_per_prompt
        self.protocol, self.concept, self.kinds = protocol, concept, kinds
        self.images, self.table = images, prompts
        self.existing: ExistingPictures | None = None
        self.prompts: tuple[EvaluationPrompt, ...] = ()
        self.more: list[EvaluationPrompt] = []
        """What is asked beside the prompts of the data."""

    def read(self, data: Any, stage: str, detector: ConceptDetector | None) -> Comparison:
        """The prompts of a stage with their roles, and no column yet.

        Raises:
            ConfigurationError: for a concept that the detector does not know, and for pictures that are not what they
                should be.
        """
        name = "test" if stage == "test" else "validation"
        field = f"data.{name}" if self.images is None else "Evaluation.prompts"
        if self.images is not None and stage in ("validate", "test"):
            self.existing = self.existing or ExistingPictures(self.images, self.table)
            given = self.existing.prompts
        elif self.images is not None and stage == "fit":
            raise ConfigurationError("Evaluation.images: pictures that exist are measured by `validate`, not by `fit`.")
        else:
            given = list(getattr(data, name, []))
        own = [pair.prompt for pair in getattr(data, "pairs", [])]
        asked = [*given, *(row for row in self.more if row not in given)]
        self.prompts = tuple(understood(field, asked, own, self.concept, self.kinds))
        if self.existing is not None:
            self.existing.read_as(self.prompts)
        if data is not None and hasattr(data, name):
            # A fit measures drift on the data's own prompts: what is asked beside them must not change the erasure.
            setattr(data, name, list(self.prompts[: len(given)] if stage == "fit" else self.prompts))
        for index, row in enumerate(self.prompts):
            try:
                if detector is not None:
                    detector.check(row.concept)
            except ConfigurationError as error:
                raise ConfigurationError(f"{field}[{index}]: prompt {row.prompt!r}: {error}") from error
        rule = detector.protocol if detector else ""
        seeds = f"seeds 0–{self.pictures_per_prompt - 1}" if self.pictures_per_prompt > 1 else "seed 0"
        return Comparison(
            prompts=self.prompts,
            own=frozenset(own),
            protocol=f"{self.protocol}: {rule or 'no detector'}" if self.protocol else rule,
            sampling=f"{self.sampling}, {seeds}" if self.images is None else f"pictures of {self.images}",
            floor_prompts=floors_of(self.prompts, data),
        )

    def shots(self) -> list[Shot]:
        """Rows and seeds of all the pictures of a model."""
        if self.existing is None:
            return shots_of(self.prompts, range(self.pictures_per_prompt))
        places = {prompt: row for row, prompt in enumerate(self.prompts)}
        return [(places[prompt], seed) for prompt, _, seed in self.existing.shots()]

    def a_row_each(self) -> list[EvaluationPrompt]:
        """A row a picture in place of one a prompt: so a batch of rows is a batch of pictures."""
        batches = in_batches(list(dict.fromkeys(self.shots())), self.prompts, self.sampling)
        return [replace(self.prompts[row], seed=seed) for batch in batches for row, seed in batch]
