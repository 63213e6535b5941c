"""The columns that an evaluation makes around a ``fit``: one a model state, all of the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rece_lightning.core.derive import Derivation, derive
from rece_lightning.core.diagnostics import ATTACKER_SHARE
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.evaluation.collecting import ColumnParts
from rece_lightning.evaluation.drawing import Derived, Shot, draw, own_share, shots_of
from rece_lightning.evaluation.quality import Quality
from rece_lightning.metrics import ConceptDetector
from rece_lightning.module import RECE
from rece_lightning.reporting.comparison import ORIGINAL, Comparison


class FitColumns:
    """Draws and measures columns; of the original's pictures it keeps what the metrics compare others with.

    Args:
        comparison: that the columns go into.
        detector: that looks at every picture; none without it.
        quality: the metrics.
    """

    def __init__(self, comparison: Comparison, detector: ConceptDetector | None, quality: Quality) -> None:
        self.comparison, self.detector, self.quality = comparison, detector, quality
        self._original: dict[Shot, list[Tensor | None]] = {}

    def shots(self, module: RECE, *, attacked: bool) -> list[Shot]:
        """This process's, of a column; derived embeddings are given for erased concepts alone."""
        prompts = self.comparison.prompts
        shots = own_share(shots_of(prompts, module.seeds), module.sampling.batch_size)
        return [shot for shot in shots if not attacked or prompts[shot[0]].kind == "erased"]

    def add(
        self,
        module: RECE,
        key: str,
        title: str,
        maps: AnyMap | None,
        on_batch: Callable[[int], None],
        *,
        attacked: bool,
    ) -> None:
        """Draw a column, measure it, put it into the comparison.

        Args:
            module: with the pipeline.
            key: of the column.
            title: of the column.
            maps: of the model state; ``None`` is the original.
            on_batch: called with the number of pictures after every batch.
            attacked: give the embeddings that were derived to bring the concepts back.
        """
        shots = self.shots(module, attacked=attacked)
        parts = ColumnParts(self.comparison, self.detector, shots_of(self.comparison.prompts, module.seeds))
        measured = self.quality.column(key, compared=key != ORIGINAL or self.quality.paired)
        derived = Derived(_derivation(module, maps)) if attacked and maps is not None else None

        def take(pictures: Tensor, batch: list[Shot]) -> None:
            measured.add(pictures, batch, self._kept(key, pictures, batch))
            parts.add(pictures, batch)
            on_batch(len(batch))

        module.pictures.use(module.edited_weights(maps) if maps is not None else None)
        draw(module.pictures, self.comparison.prompts, shots, module.sampling, take, derived)
        column = parts.column(key, title, derived.norm_ratio() if derived else None)
        if column is not None:
            self.comparison.columns[key] = column
        self.comparison.quality = [line for line in self.comparison.quality if line.column != key] + measured.lines()

    def _kept(self, key: str, pictures: Tensor, batch: list[Shot]) -> list[Tensor | None] | None:
        """What a batch is compared with: the folder's pictures, or the original's, which is compared with nothing."""
        if self.quality.paired:
            return self.quality.references_of(batch)
        if key == ORIGINAL:
            whole = self.quality.kept_of(pictures)
            for index, shot in enumerate(batch):
                self._original[shot] = [None if kept is None else kept[index].clone() for kept in whole]
            return None
        return self.quality.stacked([self._original[shot] for shot in batch])


def _derivation(module: RECE, maps: AnyMap) -> Derivation:
    """The attacker's derivation: its ridge is a setting of the measurement, not the defender's λ."""
    gram, maps = module.attacked(maps)
    return derive(gram, maps, module.hparams["attacker_scale"] or ATTACKER_SHARE * gram.scale)
