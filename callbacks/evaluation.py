"""Evaluation: pictures before and after, and what is measured in them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torchmetrics import Metric

from rece_lightning.baselines import Guard
from rece_lightning.baselines.trained import TrainedErasure
from rece_lightning.callbacks.asked_more import AskedMore
from rece_lightning.callbacks.base import Lent, RunCallback
from rece_lightning.callbacks.columns import draw_column, finish_measured, log_columns
from rece_lightning.callbacks.guarded import check_guard, measured_title
from rece_lightning.callbacks.originals import measure_floors, original_of
from rece_lightning.callbacks.subject import (
    Subject,
    Weights,
    check_beside_of,
    draw_with,
    epochs_of,
    final_states,
    former_weights,
    named_edit,
    pictures_of,
    states_beside,
    subject_of,
    weights_now,
)
from rece_lightning.callbacks.terminal import print_outcome
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.extras import extra
from rece_lightning.core.method import Method
from rece_lightning.erasure.beside import check_beside
from rece_lightning.evaluation.columns import FitColumns, MeasuredColumns, unmeasured
from rece_lightning.evaluation.derived import Derived, out_of_reach
from rece_lightning.evaluation.floors import Floors
from rece_lightning.evaluation.folders import References
from rece_lightning.evaluation.prompts import AskedPrompts
from rece_lightning.evaluation.quality import Quality, check_metrics
from rece_lightning.evaluation.results.comparison import FIRST, LAST, ORIGINAL, Comparison
from rece_lightning.evaluation.results.outcome import COUNTS, column_figures, grid_path, write_outcome
from rece_lightning.metrics import ConceptDetector
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.sampling_defaults import default_sampling
from rece_lightning.module import RECE
from rece_lightning.reporting.terminal import PlainConsole
from rece_lightning.runs.folder import run_folder
from rece_lightning.trainer.loggers import log_epoch, log_picture, show


class Evaluation(RunCallback):
    """Generate pictures for the validation prompts and measure what is erased and what is preserved.

    Around a ``fit`` it makes one column of pictures a model state, all from the same prompts and seeds:
    the original model, UCE's edit (epoch 0), the last epoch's, and both of these given the embedding that
    was derived to bring the concept back. In ``validate`` and ``test`` it measures the model as it is, or pictures that
    exist already. Pictures are measured as they are made and not kept: memory does not grow with their number.

    Args:
        detector: decides whether a picture shows a concept; without one there are pictures and no rates.
        pictures_per_prompt: seeds 0, 1, … of every prompt that brings no seed of its own.
        steps: of the sampler; the model's own unless given, see
            :func:`rece_lightning.models.sampling_defaults.default_sampling`.
        guidance_scale: of prompts that bring none of their own; the model's own unless given.
        batch_size: pictures that are made together.
        attack: also give the derived embeddings.
        every_n_epochs: measure after every n-th epoch too.
        scheduler: name of diffusers' class, such as ``DDIMScheduler``, in place of the model's own.
        protocol: name of the protocol file that these arguments come from (``--protocol NAME``); it stands in the
            tables.
        concept: what the detector looks for in prompts that name no concept.
        kinds: ``given``: a prompt is erased or preserved as it says; ``concepts``: erased if its concept is one of
            ``data.concepts``, preserved otherwise; ``preserved``: all of them are.
        images: folder of pictures to measure in place of the model's (``--images FOLDER``); no model is opened.
        prompts: CSV that says what each of them was made for (``--prompts FILE``); see
            :class:`rece_lightning.evaluation.folders.ExistingPictures`.
        metrics: what is measured beside the detections, into ``quality.csv``: ``PerceptualDistance`` and
            ``ArtistScore`` on erased (synonyms included) and on preserved prompts apart, ``ClipScore``,
            ``FrechetDistance`` and ``KernelDistance`` on preserved ones. Pictures are compared with those of the
            original model of the same prompts and seeds, which ``validate`` and ``test`` make too where a metric asks
            for them.
        references: folder of pictures to compare with in place of the original model's; see
            :class:`rece_lightning.evaluation.folders.References`.
        floors: also measure how often the original model shows what is erased where nobody asks for it, under the
            targets of the erased prompts with the same seeds; see
            :class:`rece_lightning.evaluation.floor_prompts.FloorPrompts`.
        beside: other methods that are measured on the same prompts at the end of a ``fit``, by name: a ``Method``, or
            what ``model.tune`` takes (``balanced``, ``robust``). They have columns, and are not exported.
        guard: what stands around the pipeline of the model that is measured, attacks and ``predict`` included: ``SLD``,
            ``NegativePrompt``, ``SAFREE``, ``OutputFilter``, or one of your own. The original is drawn without it.
        pinpoint: how many of the concepts nearest to what is erased are also asked for, by text and as many by name.
        indirect: also ask for what is erased without its name, and in five languages, each counted apart.
    """

    def __init__(
        self,
        detector: ConceptDetector | None = None,
        pictures_per_prompt: int = 4,
        steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int = 32,
        attack: bool = True,
        every_n_epochs: int | None = None,
        scheduler: str | None = None,
        protocol: str | None = None,
        concept: str | None = None,
        kinds: str = "given",
        images: str | None = None,
        prompts: str | None = None,
        metrics: list[Metric] | None = None,
        references: str | None = None,
        floors: bool = True,
        guard: Guard | None = None,
        beside: dict[str, Method | str] | None = None,
        pinpoint: int | None = None,
        indirect: bool = False,
    ) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ConfigurationError(f"Evaluation.every_n_epochs: {every_n_epochs!r}; give 1 or more, or leave it out.")
        self.detector = detector
        self.pictures_per_prompt = pictures_per_prompt
        given = {"steps": steps, "guidance_scale": guidance_scale, "batch_size": batch_size, "scheduler": scheduler}
        self._given = {key: value for key, value in {**given, "guard": guard}.items() if value is not None}
        self.images = images
        self.asked = AskedPrompts(
            Sampling(**self._given), pictures_per_prompt, protocol, concept, kinds, images, prompts  # type: ignore[arg-type]
        )  # fmt: skip
        self.metrics = check_metrics(metrics or [])
        self.references = References(references) if references is not None else None
        self.attack = attack
        self.every_n_epochs = every_n_epochs
        self.comparison: Comparison | None = None
        self._fit: FitColumns | None = None
        self._measured: MeasuredColumns | None = None
        self._lent: Lent | None = None
        self.more = AskedMore(pinpoint, indirect)
        self._failed = False
        self.floors, self.beside = Floors() if floors else None, check_beside(beside or {})

    @property
    def sampling(self) -> Sampling:
        """How pictures are made; known once :meth:`take_sampling` was told the model."""
        return self.asked.sampling

    def take_sampling(self, module: Subject) -> Sampling:
        """The model's own steps and guidance, and what this callback was given in their place."""
        if self.images is None:
            self.asked.sampling = default_sampling(module.base).with_values(self._given, "Evaluation")
        return self.sampling

    # Before a run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the sampling to the module, check every prompt, and have ``validate`` go through them in batches."""
        module = subject_of(pl_module)
        data: Any = module.data
        module.sampling = self.take_sampling(module)
        module.seeds = tuple(range(self.pictures_per_prompt))
        self.asked.more = self.more.of(module, data, stage, self.detector, drawn=self.images is None)
        self.check_prompts(data, stage)
        if self.images is None:
            check_guard(module, self.asked.prompts)
        check_beside_of(module, self.beside)
        if self.comparison is not None:
            self.comparison.editor = named_edit(module)
            self.comparison.is_trained = isinstance(module, TrainedErasure)
        self._fit = None
        if stage in ("validate", "test") and self.comparison is not None:
            field = "test" if stage == "test" else "validation"
            if not self.comparison.prompts:
                raise ConfigurationError(
                    f"data.{field}: no prompts; give a CSV with a column 'prompt', or choose a --protocol."
                )
            # So a batch of rows is a batch of pictures; teardown gives the data its rows back.
            self._lent = Lent(data, **{field: self.asked.a_row_each(), "batch_size": self.sampling.batch_size})
        module.drawn = None if self.asked.existing is None else self.asked.existing.of
        if isinstance(module, TrainedErasure) and module.drawn is None:
            module.drawn = partial(draw_with, module)

    def check_prompts(self, data: Any, stage: str) -> None:
        """Take the prompts of a stage and check each against the detector, and pictures for what they should be."""
        self.comparison = self.asked.read(data, stage, self.detector)
        self.comparison.nearest, self.comparison.notes = self.more.nearest, list(self.more.notes)
        if self.references is not None and self.references.paired and stage != "predict":
            prompts = self.comparison.prompts
            self.references.check((prompts[row].prompt, seed) for row, seed in self.asked.shots())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the data its rows back."""
        if self._lent is not None:
            self._lent.back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As :meth:`teardown`."""
        self.teardown(trainer, pl_module, "")

    def _quality(self) -> Quality:
        assert self.comparison is not None
        return Quality(self.metrics, self.comparison, self.asked.shots(), self.references)

    # Around a fit

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pictures of the original model, and of what a stopped run had measured before."""
        self._failed = False
        self._softly(trainer, lambda: self._add_former(trainer, subject_of(pl_module)), refusals=True)

    def _add_former(self, trainer: Trainer, module: Subject) -> None:
        self._measure_floors(trainer, module)
        self._add(trainer, module, ORIGINAL, None)
        for epoch, weights in former_weights(module, trainer.ckpt_path, partial(self._is_due, trainer)):
            self._add_epoch(trainer, module, epoch, weights, logged=epoch < epochs_of(module) - 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A column of its own where ``every_n_epochs`` asks for one."""
        epoch = trainer.current_epoch
        if self._is_due(trainer, epoch):
            module = subject_of(pl_module)
            self._softly(trainer, lambda: self._add_epoch(trainer, module, epoch, weights_now(module)))

    def _add_epoch(
        self, trainer: Trainer, module: Subject, epoch: int, weights: Weights, *, logged: bool = False
    ) -> None:
        key = FIRST if epoch == 0 and isinstance(module, RECE) else f"epoch_{epoch}"
        self._add(trainer, module, key, weights)
        if not logged and self.comparison is not None and key in self.comparison.columns:
            figures = column_figures(self.comparison, key)
            show(trainer, figures)
            log_epoch(trainer, figures, epoch)

    @property
    def measures_epochs(self) -> bool:
        """Whether :data:`rece_lightning.trainer.callbacks.EVALUATED` is known after an epoch."""
        # Before setup nobody knows the prompts.
        return bool(self.every_n_epochs and self.detector and (self.comparison is None or self.comparison.prompts))

    def _is_due(self, trainer: Trainer, epoch: int) -> bool:
        """The first epoch and the last one have columns of their own in any case."""
        ends = epoch in (0, (trainer.max_epochs or 0) - 1)
        return bool(self.every_n_epochs) and (ends or (epoch + 1) % (self.every_n_epochs or 1) == 0)

    def missing(self, folder: Path, state: Mapping[str, Any]) -> Path | None:
        """The counts, where a run with all its epochs has not written them."""
        asked = self.comparison is not None and bool(self.comparison.prompts)
        return folder / COUNTS if asked and not (folder / COUNTS).exists() else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that was stopped after its last epoch lacks the pictures alone."""
        if subject_of(pl_module).only_the_end_is_left:
            self.on_train_start(trainer, pl_module)
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Columns of the edited states, with and without the derived embeddings; then the table."""
        self._softly(trainer, lambda: self._finish(trainer, subject_of(pl_module)))

    def _softly(self, trainer: Trainer, make: Callable[[], None], *, refusals: bool = False) -> None:
        """Make pictures within ``fit``: where that fails the run goes on without them, and does not try again."""
        if self._failed:
            return
        what = "what Evaluation draws and measures"
        with extra(what, together=trainer.world_size > 1, refusals=refusals) as outcome:
            make()
        self._failed = outcome.failure is not None

    def _finish(self, trainer: Trainer, module: Subject) -> None:
        states, done = final_states(module), epochs_of(module)
        if self.comparison is None or not self.comparison.prompts or not states:
            return
        if states[-1].key == LAST:  # where the last epoch was measured as it ended, that is its column
            self.comparison.rename(f"epoch_{done - 1}", LAST)
        reason = out_of_reach(module.session) if isinstance(module, RECE) else None
        if self.attack and reason is not None:
            warnings.warn(f"No columns with derived embeddings: {reason}.", stacklevel=2)
        for state in [*states, *states_beside(module, self.beside)]:
            if state.key not in self.comparison.columns:
                self._add(trainer, module, state.key, state.weights())
            if self.attack and reason is None and state.derived is not None:
                self._add(trainer, module, state.derived_key, state.weights(), state.derived())
        self.comparison.sort()
        pictures_of(module).use(None)
        if trainer.is_global_zero:
            write_outcome(self.comparison, run_folder(trainer))
            if self.comparison.is_trained:  # of RECE the report says it
                print_outcome(self.comparison, run_folder(trainer))
        log_columns(trainer, self.comparison, done, by_epoch=self.measures_epochs)

    def _add(
        self, trainer: Trainer, module: Subject, key: str, weights: Weights | None, derived: Derived | None = None
    ) -> None:
        """Make and measure one column."""
        if self.comparison is None or not self.comparison.prompts:
            return
        if self._fit is None:
            self._fit = FitColumns(self.comparison, self.detector, self._quality(), module.seeds, module.sampling)
        draw_column(trainer, module, self._fit, key, weights, derived)

    def _measure_floors(self, trainer: Trainer, module: Subject) -> None:
        if self.comparison is not None and self.floors is not None and self.detector is not None:
            shots = None if self.asked.existing is not None else self.asked.shots()
            measure_floors(trainer, module, self.floors, self.comparison, self.detector, shots)

    # The verbs validate and test

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty columns; the original's too where a metric asks for its pictures."""
        self._measured = None
        comparison = self.comparison
        if comparison is None or not comparison.prompts or trainer.state.fn == "fit":
            return
        quality, module = self._quality(), subject_of(pl_module)
        original = original_of(module) if quality.of_original and self.asked.existing is None else None
        if quality.of_original and original is None:
            comparison.notes += [unmeasured(quality.of_original, existing=self.asked.existing is not None)]
            if trainer.is_global_zero:
                PlainConsole(stderr=True).print(comparison.notes[-1], soft_wrap=True)
        self._measure_floors(trainer, module)
        self._measured = MeasuredColumns(comparison, self.detector, quality, self.asked.shots(), original)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Measure what the module generated."""
        if self._measured is not None and isinstance(outputs, dict) and "pictures" in outputs:
            self._measured.take(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print, write and log what was measured: ``trainer.validate()`` and ``trainer.test()`` return it."""
        if self.comparison is None or self._measured is None:
            return
        finish_measured(self._measured, subject_of(pl_module), measured_title(self.sampling, self.images))
        self._measured = None
        if not self.comparison.columns:
            return
        if trainer.is_global_zero:
            write_outcome(self.comparison, folder := run_folder(trainer))
            print_outcome(self.comparison, folder)
            log_picture(trainer.loggers, "grid", grid_path(folder), 0)
        pl_module.log_dict(column_figures(self.comparison, LAST), batch_size=1, sync_dist=trainer.world_size > 1)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
