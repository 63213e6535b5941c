"""Floors: how often the original model shows what is erased where nobody asks for it, measured once a run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from torch import Tensor

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.distributed import gathered
from rece_lightning.evaluation.drawing import Shot, in_batches, own_share
from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.metrics import ConceptDetector
from rece_lightning.models.sampling import Sampling

Draw = Callable[[Sequence[EvaluationPrompt], Sequence[int]], Tensor]
"""Prompts and seeds → pictures of the original model, ``[n, 3, h, w]`` in [0, 1]."""
Asked = tuple[str, int, float | None]
"""Floor prompt, seed, and guidance where the row brings its own."""


class Floors:
    """Measures floors and remembers them: what was measured of the same model and sampling is not drawn again.

    Rows that share a floor prompt share its pictures, each looked at for each row's concept: of five objects with the
    empty prompt as their target one picture a seed is drawn.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Hashable, ...], bool] = {}

    def left(self, comparison: Comparison, shots: Sequence[Shot], sampling: Sampling, model: Hashable) -> list[Asked]:
        """What is to be drawn for the floors of some shots.

        Args:
            comparison: with the floor prompts.
            shots: rows and seeds; those of rows without a floor prompt are passed over.
            sampling: of the pictures.
            model: whatever tells the original model from others.
        """
        missing = [
            asked
            for shot, asked in _asked(comparison, shots).items()
            if self._key(comparison, shot, asked, sampling, model) not in self._known
        ]
        return list(dict.fromkeys(missing))

    def measure(
        self,
        comparison: Comparison,
        detector: ConceptDetector,
        shots: Sequence[Shot],
        draw: Draw,
        sampling: Sampling,
        model: Hashable,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Put the floors of some shots into the comparison. Every process must call it, and draws its share.

        Args:
            comparison: with the floor prompts.
            detector: that decides.
            shots: rows and seeds.
            draw: makes pictures of the original model.
            sampling: of the pictures.
            model: whatever tells the original model from others.
            on_batch: called with the number of pictures after every batch.
        """
        asked_by = _asked(comparison, shots)
        rows = self.left(comparison, shots, sampling, model)
        prompts = [EvaluationPrompt(text, text, seed=seed, guidance_scale=scale) for text, seed, scale in rows]
        wanted: dict[Asked, dict[str, None]] = {}
        for (row, _), asked in asked_by.items():
            wanted.setdefault(asked, {})[comparison.prompts[row].concept] = None
        found: dict[tuple[Asked, str], bool] = {}
        own = own_share([(number, row[1]) for number, row in enumerate(rows)], sampling.batch_size)
        for batch in in_batches(own, prompts, sampling):
            pictures = draw([prompts[number] for number, _ in batch], [seed for _, seed in batch])
            looks = [(place, concept) for place, (number, _) in enumerate(batch) for concept in wanted[rows[number]]]
            for first in range(0, len(looks), sampling.batch_size):
                part = looks[first : first + sampling.batch_size]
                seen = detector.detect(pictures[[place for place, _ in part]], [concept for _, concept in part])
                for (place, concept), hit in zip(part, seen.tolist(), strict=True):
                    found[rows[batch[place][0]], concept] = bool(hit)
            on_batch(len(batch))
        for of_rank in gathered(found):
            for (asked, concept), hit in of_rank.items():
                self._known[model, str(sampling), asked, concept] = hit
        comparison.floors = {
            shot: self._known[self._key(comparison, shot, asked, sampling, model)] for shot, asked in asked_by.items()
        }

    def _key(
        self, comparison: Comparison, shot: Shot, asked: Asked, sampling: Sampling, model: Hashable
    ) -> tuple[Hashable, ...]:
        return model, str(sampling), asked, comparison.prompts[shot[0]].concept


def without_floor(comparison: Comparison) -> str | None:
    """What to say of erased prompts for which no floor prompt can be derived; ``None`` where all have one."""
    rows = zip(comparison.prompts, comparison.floor_prompts, strict=True)
    lacking = list(dict.fromkeys(row.prompt for row, floor in rows if row.kind == "erased" and floor is None))
    if not lacking:
        return None
    return (
        f"No floor for {len(lacking)} prompts such as {lacking[0]!r}: nothing in them is a prompt of data.concepts, so "
        "that it is not known what to ask for in their place. Their rates stand as they are."
    )


def _asked(comparison: Comparison, shots: Sequence[Shot]) -> Mapping[Shot, Asked]:
    """What is asked in the place of every shot that has a floor prompt."""
    found = {}
    for row, seed in shots:
        prompt = comparison.floor_prompts[row] if comparison.floor_prompts else None
        if prompt is not None:
            found[row, seed] = (prompt, seed, comparison.prompts[row].guidance_scale)
    return found
