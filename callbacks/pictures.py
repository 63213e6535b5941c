"""PictureWriter: what ``predict`` generates, one file a picture."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from rich.console import Console

from rece_lightning.background import Background
from rece_lightning.callbacks.evaluation import Evaluation
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data import ConceptData, EvaluationBatches
from rece_lightning.files import check_writable, discard_temporaries, write_atomically
from rece_lightning.models.adapter import open_adapter
from rece_lightning.models.pipelines import Sampling
from rece_lightning.module import RECE
from rece_lightning.png import metadata_of, save_pixels, to_pixels
from rece_lightning.prompts import EvaluationPrompt, one_each
from rece_lightning.runs.folder import run_folder
from rece_lightning.version import __version__

FOLDER, INDEX, SETTINGS = "pictures", "index.csv", "settings.json"


class PictureWriter(BasePredictionWriter):
    """Write every picture of ``predict`` as ``NNNNN.png``: its number is its place among prompts and seeds.

    A picture's metadata (PNG text chunks) holds prompt, seed, guidance, steps, scheduler, base model, erased concepts,
    the erasure's hash and the version. ``settings.json`` beside them is there from the start, ``index.csv`` (file,
    prompt, concept, kind, seed, guidance) comes last: where it is, every picture is there.

    Interrupted, killed too, ``predict`` goes on when it is called again: the command finds the newest folder
    ``version_N/pictures`` of the same settings and prompts that has no index, in Python and with ``folder`` it is the
    same folder again. Pictures that are whole and of the same settings stay, the others are made.

    Pictures are written beside the work on the next ones; neither their number nor the disk's speed costs memory.

    Args:
        folder: of the pictures; ``pictures`` in the run's folder unless given.
        pictures_per_prompt: seeds 0, 1, … of every prompt that brings no seed of its own.
        steps: of the sampler.
        guidance_scale: of prompts that bring none of their own.
        batch_size: pictures that are made together.
        scheduler: diffusers' class in place of the model's own.

    What is left out is taken from ``Evaluation`` where the trainer has one.

    Raises:
        ConfigurationError: if the folder holds pictures of other settings.
    """

    def __init__(
        self,
        folder: str | None = None,
        pictures_per_prompt: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int | None = None,
        scheduler: str | None = None,
    ) -> None:
        super().__init__(write_interval="batch")
        count = pictures_per_prompt
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConfigurationError(f"PictureWriter.pictures_per_prompt: {count!r}; give a whole number of 1 or more.")
        given = {"steps": steps, "guidance_scale": guidance_scale, "batch_size": batch_size, "scheduler": scheduler}
        self._sampling = {key: value for key, value in given.items() if value is not None}
        Sampling(**self._sampling, owner="PictureWriter")  # type: ignore[arg-type]
        self.folder = Path(folder).expanduser() if folder is not None else None
        self.pictures_per_prompt = pictures_per_prompt
        self._rows: list[EvaluationPrompt] = []
        self._left: Iterator[int] = iter(())
        self._known: dict[str, str] = {}
        self._writer: Background | None = None

    # What is to be made

    def goes_on_in(self, run: Path, trainer: Trainer, module: RECE, data: Any, state: Mapping[str, Any] | None) -> bool:
        """Whether a run's folder holds a stopped ``predict`` of these settings and prompts.

        Args:
            run: a folder of an earlier run.
            trainer: with the callbacks.
            module: that would make the pictures.
            data: with the prompts.
            state: ``rece`` of the checkpoint.
        """
        place = run / FOLDER
        if self.folder is not None or not (place / SETTINGS).is_file() or (place / INDEX).exists():
            return False
        self._take_sampling(trainer, module)
        return _read_json(place / SETTINGS) == self._plan(module, one_each(data.predict, self._seeds), state)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the data ask what is left to make.

        Raises:
            ConfigurationError: if the data is none of ours.
        """
        if stage != "predict":
            return
        module, data = pl_module, getattr(trainer, "datamodule", None)
        if not isinstance(module, RECE) or not isinstance(data, ConceptData):
            raise ConfigurationError("PictureWriter: it writes what RECE makes of data.predict; give a ConceptData.")
        self._take_sampling(trainer, module)
        # Otherwise the trainer would keep every picture.
        trainer.predict_loop.return_predictions = False
        # The loader is made once the module has its checkpoint.
        data.left = partial(self._begin, trainer, module, data)

    def _begin(self, trainer: Trainer, module: RECE, data: ConceptData) -> EvaluationBatches:
        """Look at what is there, and leave the rest for the module to make.

        Raises:
            ConfigurationError: if the folder holds pictures of other settings, or cannot be written.
        """
        self._rows = one_each(data.predict, self._seeds)
        plan = self._plan(module, self._rows, _state_of(module))
        self._known = {key: _text(value) for key, value in plan["settings"].items() if key != "fingerprint"}
        place = self._prepare(trainer, plan)
        left = [number for number, row in enumerate(self._rows) if not self._is_there(place, number, row)]
        # Pictures of one guidance are made together.
        left.sort(key=lambda number: (self._guidance(self._rows[number]), number))
        self._left = iter(left)
        self._writer, self._place = Background(), place
        if len(left) < len(self._rows):
            Console().print(
                f"{place}: {len(self._rows) - len(left)} of {len(self._rows)} pictures are there; making the rest",
                soft_wrap=True,
            )
        return EvaluationBatches([self._rows[number] for number in left], self.sampling.batch_size)

    def _take_sampling(self, trainer: Trainer, module: RECE) -> None:
        """This callback's own settings before those of ``Evaluation``, whichever of them is set up first."""
        self.sampling, self._seeds = module.sampling, module.seeds
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Evaluation):
                self.sampling, self._seeds = callback.sampling, tuple(range(callback.pictures_per_prompt))
        for field, value in self._sampling.items():
            self.sampling = self.sampling.with_value(field, value)
        if self.pictures_per_prompt is not None:
            self._seeds = tuple(range(self.pictures_per_prompt))

    def _guidance(self, row: EvaluationPrompt) -> float:
        return self.sampling.guidance_scale if row.guidance_scale is None else row.guidance_scale

    def _plan(self, module: RECE, rows: Sequence[EvaluationPrompt], state: Mapping[str, Any] | None) -> dict[str, Any]:
        """What decides the pictures: settings in plain words, and a hash of the rows."""
        adapter = module.hparams["adapter"]
        asked = [[row.prompt, row.seed, self._guidance(row)] for row in rows]
        return {
            "settings": {
                "base": module.base.name,
                "fingerprint": module.fingerprint,
                "adapter": "" if adapter is None else open_adapter(adapter).digest()[:16],
                "concepts": [] if state is None else [pair["prompt"] for pair in state["concepts"]["erased"]],
                "erasure": "" if state is None else _hash(state["map"].cpu().contiguous().numpy().tobytes()),
                "steps": self.sampling.steps,
                "scheduler": self.sampling.scheduler or "",
                "version": __version__,
            },
            "pictures": len(rows),
            "prompts": _hash(json.dumps(asked).encode()),
        }

    def _prepare(self, trainer: Trainer, plan: Mapping[str, Any]) -> Path:
        """The folder, with this plan in it."""
        place = self.folder or run_folder(trainer) / FOLDER
        if trainer.is_global_zero:
            check_writable("PictureWriter.folder", place)
            found = _read_json(place / SETTINGS) if (place / SETTINGS).is_file() else None
            if found is None and any(place.glob("*.png")):
                raise ConfigurationError(f"PictureWriter: {place} holds other pictures; choose another folder.")
            if found is not None and found != plan:
                raise ConfigurationError(
                    f"PictureWriter: {place} holds pictures of other prompts or settings (see {SETTINGS} there); "
                    "choose another folder, or move them away."
                )
            discard_temporaries(place)
            content = json.dumps(plan, indent=1, ensure_ascii=False)
            write_atomically(place / SETTINGS, lambda path: path.write_text(content, encoding="utf-8"))
        return place

    def _metadata(self, row: EvaluationPrompt) -> dict[str, str]:
        own = {"prompt": row.prompt, "seed": str(row.seed), "guidance_scale": f"{self._guidance(row):g}"}
        return {**own, **self._known}

    def _is_there(self, place: Path, number: int, row: EvaluationPrompt) -> bool:
        file = place / _name(number)
        return file.is_file() and metadata_of(file) == self._metadata(row)

    # What is made

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand the sampling to the module."""
        if isinstance(pl_module, RECE):
            pl_module.sampling = self.sampling

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Hand a batch's pictures to the threads that write them."""
        assert self._writer is not None
        for picture in prediction["pictures"]:
            number = next(self._left)
            work = partial(
                save_pixels, to_pixels(picture), self._place / _name(number), self._metadata(self._rows[number])
            )
            self._writer.submit(work)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the last picture; write the index."""
        self._finish(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Where no picture was left to make, Lightning calls no other hook."""
        if stage == "predict":
            self._finish(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """What was made is written, the index is not."""
        if isinstance(trainer.datamodule, ConceptData):  # type: ignore[attr-defined]
            trainer.datamodule.left = None  # type: ignore[attr-defined]
        if self._writer is not None:
            self._writer.stop()
            self._writer = None

    def _finish(self, trainer: Trainer) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.close()
        if isinstance(trainer.datamodule, ConceptData):  # type: ignore[attr-defined]
            trainer.datamodule.left = None  # type: ignore[attr-defined]
        missing = [number for number in range(len(self._rows)) if not (self._place / _name(number)).is_file()]
        if missing:  # the trainer was told to stop early
            Console().print(f"{len(missing)} of {len(self._rows)} pictures are still to be made: {self._place}")
            return
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["file", "prompt", "concept", "kind", "seed", "guidance_scale"])
        for number, row in enumerate(self._rows):
            guidance = f"{self._guidance(row):g}"
            table.writerow([_name(number), row.prompt, row.concept, row.kind, row.seed, guidance])
        write_atomically(self._place / INDEX, lambda path: path.write_text(text.getvalue(), "utf-8", newline=""))
        Console().print(f"{len(self._rows)} pictures: {self._place}", soft_wrap=True)


def _name(number: int) -> str:
    return f"{number:05d}.png"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _state_of(module: RECE) -> dict[str, Any] | None:
    """What a checkpoint would say of a module; ``None`` where nothing was edited."""
    if not module.history:
        return None
    maps = module.maps
    matrix = maps.matrix if isinstance(maps, EmbeddingMap) else maps.matrices
    return {"map": matrix, "concepts": module.description()["concepts"]}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
