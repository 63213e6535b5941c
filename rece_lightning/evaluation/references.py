"""Pictures in a folder that a model's are compared with: of the same prompts and seeds, or real ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.devices.ranks import share_of
from rece_lightning.evaluation.existing import ENDINGS, INDEX, ExistingPictures
from rece_lightning.png import read_picture

FIELD = "Evaluation.references"
AT_ONCE = 64


class References:
    """The folder of ``Evaluation.references``.

    With an ``index.csv`` (``predict`` writes one) its pictures are another model's of the same prompts and seeds.
    Without one they are any pictures, such as photographs, and only their distribution is compared.

    Args:
        folder: of the pictures.

    Raises:
        ConfigurationError: if there is no such folder, fewer than two pictures are in it, or one is missing.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise ConfigurationError(f"{FIELD}: there is no folder {folder}; give the one with the pictures.")
        self.paired = (self.folder / INDEX).is_file()
        self._of_shot: dict[tuple[str, int], Path] = {}
        self._files: list[Path] = []
        if self.paired:
            shots = ExistingPictures(folder, field=FIELD).shots()
            self._of_shot = {(row.prompt, seed): path for row, path, seed in shots}
        else:
            self._files = sorted(path for path in self.folder.iterdir() if path.suffix.lower() in ENDINGS)
            if len(self._files) < 2:
                raise ConfigurationError(
                    f"{FIELD}: {folder} holds {len(self._files)} pictures ({', '.join(ENDINGS)}); give two or more."
                )

    def __str__(self) -> str:
        """What figures are said to be measured against."""
        return f"the pictures in {self.folder.name}"

    def check(self, shots: Iterable[tuple[str, int]]) -> None:
        """Raise a ConfigurationError unless every prompt and seed has its picture."""
        for prompt, seed in shots:
            if (prompt, seed) not in self._of_shot:
                raise ConfigurationError(
                    f"{FIELD}: {self.folder} has no picture of {prompt!r} with seed {seed}; make it with rece predict, "
                    "or measure the prompts and seeds that are there."
                )

    def of(self, shots: Sequence[tuple[str, int]]) -> Tensor:
        """Pictures of prompts and seeds, ``[n, 3, h, w]`` in [0, 1]."""
        return torch.stack([read_picture(FIELD, self._of_shot[shot]) for shot in shots])

    def batches(self) -> Iterator[Tensor]:
        """This process's share of the pictures, neighbours of one size together."""
        batch: list[Tensor] = []
        for file in share_of(self._files):
            picture = read_picture(FIELD, file)
            if batch and (len(batch) == AT_ONCE or picture.shape != batch[0].shape):
                yield torch.stack(batch)
                batch = []
            batch.append(picture)
        if batch:
            yield torch.stack(batch)
