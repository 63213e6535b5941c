"""Pictures that exist already, of any model from anywhere, with what they were made for."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.prompts import EvaluationPrompt, read_prompts
from rece_lightning.data.tables import read_table
from rece_lightning.distributed import share_of
from rece_lightning.evaluation.png import read_picture

PATHS = ("file", "path", "filename", "image")
"""Columns that name a picture."""
NUMBER = "case_number"
"""Column of files whose pictures are called ``<number>_<i>.png`` (I2P, RECE)."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
INDEX = "index.csv"
"""Of the folder that ``predict`` writes."""


class ExistingPictures:
    """Pictures in a folder, and the table that says what each was made for.

    Args:
        folder: of the pictures; paths in the table start there.
        table: a CSV with a column ``file`` or ``path`` (the index that ``predict`` writes), or with ``case_number``
            where pictures are called ``<case_number>_<i>.png``; and ``prompt``, ``concept``, ``kind``, ``seed`` as in
            any prompt file. ``index.csv`` in the folder unless given.
        field: the setting that named the folder, for messages.

    Raises:
        ConfigurationError: if a picture is missing, none, or of another size than the first one.
    """

    def __init__(self, folder: str, table: str | None = None, field: str = "Evaluation.images") -> None:
        self.folder, self.field = Path(folder).expanduser(), field
        if not self.folder.is_dir():
            raise ConfigurationError(f"{field}: there is no folder {folder}; give the one with the pictures.")
        file = Path(table).expanduser() if table is not None else self.folder / INDEX
        if not file.is_file():
            raise ConfigurationError(
                f"Evaluation.prompts: there is no {file}; give a CSV that says what each picture was made for (columns "
                "file, prompt, concept, kind, seed)."
            )
        rows = read_table("Evaluation.prompts", file)
        prompts = read_prompts("Evaluation.prompts", str(file))
        self._pictures: dict[EvaluationPrompt, list[tuple[Path, int]]] = {}
        for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            pictures = self._pictures.setdefault(replace(prompt, seed=None), [])
            for path in self._paths(f"{file}, row {number + 1}", row):
                pictures.append((path, len(pictures) if prompt.seed is None else prompt.seed))
        self._check_sizes()

    @property
    def prompts(self) -> list[EvaluationPrompt]:
        """Every prompt once, without seeds."""
        return list(self._pictures)

    def shots(self) -> Iterator[tuple[EvaluationPrompt, Path, int]]:
        """Every picture with its prompt and seed."""
        yield from ((row, path, seed) for row, pictures in self._pictures.items() for path, seed in pictures)

    def read_as(self, prompts: Sequence[EvaluationPrompt]) -> None:
        """Take the prompts for these, one by one: with another concept or kind."""
        self._pictures = dict(zip(prompts, self._pictures.values(), strict=True))

    def _paths(self, where: str, row: dict[str, str]) -> list[Path]:
        named = next((row[column] for column in PATHS if row.get(column)), None)
        if named is not None:
            return [self.folder / named]
        if not row.get(NUMBER):
            raise ConfigurationError(f"Evaluation.prompts: {where} names no picture; add a column {PATHS[0]!r}.")
        paths = [path for path in self.folder.glob(f"{glob.escape(row[NUMBER])}_*") if path.suffix.lower() in ENDINGS]
        if not paths:
            raise ConfigurationError(
                f"Evaluation.prompts: {where}: {self.folder} has no {row[NUMBER]}_0.png; give the whole folder, or a "
                "shorter table."
            )
        return sorted(paths, key=lambda path: (len(path.name), path.name))

    def _check_sizes(self) -> None:
        first: tuple[Path, tuple[int, int]] | None = None
        for _, path, _ in self.shots():
            try:
                with Image.open(path) as picture:
                    size = picture.size
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise ConfigurationError(f"{self.field}: {path} is missing or no picture ({error}).") from error
            first = first or (path, size)
            if size != first[1]:
                raise ConfigurationError(
                    f"{self.field}: {path} has {size[0]}×{size[1]} pixels, {first[0].name} {first[1][0]}×"
                    f"{first[1][1]}; measure pictures of one size at a time."
                )

    def of(self, prompts: Sequence[EvaluationPrompt]) -> dict[str, Any]:
        """What a module's ``validation_step`` gives: prompts, seeds and pictures ``[n, 3, h, w]`` in [0, 1].

        A prompt with a seed stands for its pictures of this seed, one without for all of them.
        """
        shots = [
            (row, path, seed)
            for row in prompts
            for path, seed in self._pictures[replace(row, seed=None)]
            if row.seed in (None, seed)
        ]
        return {
            "prompts": [asdict(row) for row, _, _ in shots],
            "seeds": [seed for _, _, seed in shots],
            "pictures": torch.stack([read_picture(self.field, path) for _, path, _ in shots]),
        }


FIELD = "Evaluation.references"
AT_ONCE = 64


class References:
    """The folder of ``Evaluation.references``.

    With an ``index.csv`` (``predict`` writes one) its pictures are another model's of the same prompts and seeds.
    Without one they are any pictures, such as photographs, and only their distribution is compared.

    Raises:
        ConfigurationError: if there is no such folder, fewer than two pictures are in it, or one is missing.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise ConfigurationError(f"{FIELD}: there is no folder {folder}; give the one with the pictures.")
        self.paired = (self.folder / INDEX).is_file()
        shots = ExistingPictures(folder, field=FIELD).shots() if self.paired else ()
        self._of_shot = {(row.prompt, seed): path for row, path, seed in shots}
        self._files: list[Path] = []
        if not self.paired:
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
