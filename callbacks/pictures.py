"""PictureWriter: what ``predict`` generates, one file a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from rece_lightning.callbacks.base import RunCallback, data_for, rece_module
from rece_lightning.callbacks.evaluation import Evaluation
from rece_lightning.core.errors import ConfigurationError, check_count
from rece_lightning.data.batches import EvaluationBatches
from rece_lightning.data.prompt_data import PromptData
from rece_lightning.data.prompts import EvaluationPrompt, one_each
from rece_lightning.distributed import gathered
from rece_lightning.evaluation.background import Background
from rece_lightning.evaluation.png import save_pixels, to_pixels
from rece_lightning.evaluation.predictions import PictureFolder, is_stopped, plan_in, plan_of, state_of
from rece_lightning.models.sampling import Sampling
from rece_lightning.module import RECE
from rece_lightning.reporting.terminal import PlainConsole
from rece_lightning.runs.folder import run_folder

FOLDER = "pictures"


class PictureWriter(BasePredictionWriter, RunCallback):
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
        if pictures_per_prompt is not None:
            check_count("PictureWriter.pictures_per_prompt", pictures_per_prompt)
        given = {"steps": steps, "guidance_scale": guidance_scale, "batch_size": batch_size, "scheduler": scheduler}
        self._sampling = {key: value for key, value in given.items() if value is not None}
        Sampling(**self._sampling, owner="PictureWriter")  # type: ignore[arg-type]
        self.folder = Path(folder).expanduser() if folder is not None else None
        self.pictures_per_prompt = pictures_per_prompt
        self._left: Iterator[int] = iter(())
        self._data: PromptData | None = None
        self._made: PictureFolder | None = None
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
        if self.folder is not None or not is_stopped(place):
            return False
        self._take_sampling(trainer, module)
        return plan_in(place) == self._plan(module, one_each(data.predict, self._seeds), state)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the data ask what is left to make.

        Raises:
            ConfigurationError: if the data is none of ours.
        """
        if stage != "predict":
            return
        module = rece_module(pl_module, "PictureWriter")
        data = data_for(trainer, module)
        if not isinstance(data, PromptData):
            raise ConfigurationError("PictureWriter: it writes what RECE makes of data.predict; give a ConceptData.")
        self._take_sampling(trainer, module)
        # Otherwise the trainer would keep every picture.
        trainer.predict_loop.return_predictions = False
        # The loader is made once the module has its checkpoint.
        data.left = cache(partial(self._begin, trainer, module, data))
        self._data = data

    def _begin(self, trainer: Trainer, module: RECE, data: PromptData) -> EvaluationBatches:
        """Look at what is there, and leave the rest for the module to make.

        Raises:
            ConfigurationError: if the folder holds pictures of other settings, or cannot be written.
        """
        rows = one_each(data.predict, self._seeds)
        made = PictureFolder(
            run_folder(trainer) / FOLDER if self.folder is None or trainer.fast_dev_run else self.folder,  # type: ignore[attr-defined]
            rows,
            self.sampling,
            self._plan(module, rows, state_of(module.session)),
        )
        if trainer.is_global_zero:
            made.prepare()
        # Rank 0 looks: another rank may be making pictures by the time that this one comes.
        left = gathered(made.left() if trainer.is_global_zero else [])[0]
        batches = EvaluationBatches([rows[number] for number in left], self.sampling.batch_size)
        self._left, self._made, self._writer = iter([left[place] for place in batches.mine()]), made, Background()
        if len(left) < len(rows) and trainer.is_global_zero:
            PlainConsole().print(
                f"{made.place}: {len(rows) - len(left)} of {len(rows)} pictures are there; making the rest",
                soft_wrap=True,
            )
        return batches

    def _plan(self, module: RECE, rows: Sequence[EvaluationPrompt], state: Mapping[str, Any] | None) -> dict[str, Any]:
        return plan_of(module.session, module.hparams["adapter"], rows, self.sampling, state)

    def _take_sampling(self, trainer: Trainer, module: RECE) -> None:
        """This callback's own settings before those of ``Evaluation``, whichever of them is set up first."""
        self.sampling, self._seeds = module.sampling, module.seeds
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Evaluation):
                self.sampling, self._seeds = callback.take_sampling(module), tuple(range(callback.pictures_per_prompt))
        self.sampling = self.sampling.with_values(self._sampling, "PictureWriter")
        if self.pictures_per_prompt is not None:
            self._seeds = tuple(range(self.pictures_per_prompt))

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
        assert self._made is not None
        for picture in prediction["pictures"] if prediction is not None else ():
            number = next(self._left)
            metadata = self._made.metadata(self._made.rows[number])
            self._writer.submit(partial(save_pixels, to_pixels(picture), self._made.file(number), metadata))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the last picture; write the index."""
        self._finish(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Where no picture was left to make, Lightning calls no other hook."""
        if stage == "predict":
            self._finish(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """What was made is written, the index is not."""
        self._let_go()
        if self._writer is not None:
            self._writer.stop()
            self._writer = None

    def _let_go(self) -> None:
        if self._data is not None:
            self._data.left = None
            self._data = None

    def _finish(self, trainer: Trainer) -> None:
        if self._writer is None or self._made is None:
            return
        writer, self._writer = self._writer, None
        writer.close()
        self._let_go()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        missing, count = self._made.missing(), len(self._made.rows)
        if missing:  # the trainer was told to stop early
            PlainConsole().print(f"{missing} of {count} pictures are still to be made: {self._made.place}")
            return
        self._made.write_index()
        PlainConsole().print(f"{count} pictures: {self._made.place}", soft_wrap=True)
