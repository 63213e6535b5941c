"""Evaluation: pictures before and after, and what is detected in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from rece_lightning.core.derive import Derivation, derive
from rece_lightning.core.diagnostics import ATTACKER_SHARE
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError, check_choice
from rece_lightning.existing import ExistingPictures
from rece_lightning.metrics import ConceptDetector, names_seen
from rece_lightning.models.pipelines import Sampling
from rece_lightning.module import RECE
from rece_lightning.prompts import EvaluationPrompt, kinds_of_concepts
from rece_lightning.reporting.comparison import (
    FIRST,
    FIRST_DERIVED,
    LAST,
    LAST_DERIVED,
    ORIGINAL,
    TITLES,
    Column,
    Comparison,
)
from rece_lightning.reporting.counts import counts_of, write_counts
from rece_lightning.reporting.grid import save_grid
from rece_lightning.reporting.sheets import save_sheet, sheet_path
from rece_lightning.reporting.table import comparison_table
from rece_lightning.runs.checkpoints import stored_map
from rece_lightning.runs.folder import run_folder
from rece_lightning.runs.resuming import only_the_end_is_left

COUNTS = "evaluation.csv"
KINDS = ("given", "concepts", "preserved")


class Evaluation(Callback):
    """Generate pictures for the validation prompts and measure what is erased and what is kept.

    Around a ``fit`` it makes one column of pictures a model state, all from the same prompts and seeds:
    the original model, UCE's edit (epoch 0), the last epoch's, and both of these given the embedding that
    was derived to bring the concept back. In ``validate`` and ``test`` it measures the model as it is, or pictures that
    exist already.

    Args:
        detector: decides whether a picture shows a concept; without one there are pictures and no rates.
        pictures_per_prompt: seeds 0, 1, … of every prompt that brings no seed of its own.
        steps: of the sampler.
        guidance_scale: of prompts that bring none of their own.
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
            :class:`rece_lightning.existing.ExistingPictures`.
    """

    def __init__(
        self,
        detector: ConceptDetector | None = None,
        pictures_per_prompt: int = 4,
        steps: int = 20,
        guidance_scale: float = 7.5,
        batch_size: int = 32,
        attack: bool = True,
        every_n_epochs: int | None = None,
        scheduler: str | None = None,
        protocol: str | None = None,
        concept: str | None = None,
        kinds: str = "given",
        images: str | None = None,
        prompts: str | None = None,
    ) -> None:
        if not isinstance(pictures_per_prompt, int) or pictures_per_prompt < 1:
            raise ConfigurationError(
                f"Evaluation.pictures_per_prompt: {pictures_per_prompt!r}; give a whole number of 1 or more."
            )
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ConfigurationError(f"Evaluation.every_n_epochs: {every_n_epochs!r}; give 1 or more, or leave it out.")
        self.detector = detector
        self.pictures_per_prompt = pictures_per_prompt
        check_choice("Evaluation.kinds", kinds, KINDS)
        if prompts is not None and images is None:
            raise ConfigurationError(f"Evaluation.prompts: {prompts}: it says what pictures show; give images too.")
        self.sampling = Sampling(steps, guidance_scale, batch_size, scheduler)
        self.protocol, self.concept, self.kinds = protocol, concept, kinds
        self.images, self.prompts = images, prompts
        self._existing: ExistingPictures | None = None
        self.attack = attack
        self.every_n_epochs = every_n_epochs
        self.comparison: Comparison | None = None
        self._console = Console(stderr=True)

    # Schedule

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the sampling to the module and check every prompt against the detector."""
        module = _rece(pl_module)
        module.sampling = self.sampling
        module.seeds = tuple(range(self.pictures_per_prompt))
        self.check_prompts(getattr(trainer, "datamodule", None), stage)
        if stage in ("validate", "test") and self.comparison is not None and not self.comparison.prompts:
            field = "test" if stage == "test" else "validation"
            raise ConfigurationError(
                f"data.{field}: no prompts; give a CSV with a column 'prompt', or choose a --protocol."
            )
        module.drawn = None if self._existing is None else self._existing.of

    def check_prompts(self, data: Any, stage: str) -> None:
        """Take the prompts of a stage and check each against the detector.

        Raises:
            ConfigurationError: for a concept that the detector does not know, and for pictures that are not what they
                should be.
        """
        name = "test" if stage == "test" else "validation"
        field = f"data.{name}" if self.images is None else "Evaluation.prompts"
        if self.images is not None and stage in ("validate", "test"):
            self._existing = self._existing or ExistingPictures(self.images, self.prompts)
            given = self._existing.prompts
        elif self.images is not None and stage == "fit":
            raise ConfigurationError("Evaluation.images: pictures that exist are measured by `validate`, not by `fit`.")
        else:
            given = list(getattr(data, name, []))
        own = [pair.prompt for pair in getattr(data, "pairs", [])]
        prompts = self._understood(field, given, own)
        if self._existing is not None:
            self._existing.read_as(prompts)
        if data is not None and hasattr(data, name):
            setattr(data, name, prompts)
        detector = self.detector.protocol if self.detector else ""
        seeds = f"seeds 0–{self.pictures_per_prompt - 1}"
        self.comparison = Comparison(
            prompts=tuple(prompts),
            own=frozenset(own),
            protocol=f"{self.protocol}: {detector or 'no detector'}" if self.protocol else detector,
            sampling=f"{self.sampling}, {seeds}" if self.images is None else f"pictures of {self.images}",
        )
        if self.detector is not None:
            for index, row in enumerate(prompts):
                try:
                    self.detector.check(row.concept)
                except ConfigurationError as error:
                    raise ConfigurationError(f"{field}[{index}]: prompt {row.prompt!r}: {error}") from error

    def _understood(
        self, field: str, prompts: Sequence[EvaluationPrompt], own: Sequence[str]
    ) -> list[EvaluationPrompt]:
        """Prompts with the concept and the kind that these settings give them."""
        if self.concept is not None:
            prompts = [replace(row, concept=self.concept) if row.concept == row.prompt else row for row in prompts]
        if self.kinds == "preserved":
            return [replace(row, kind="preserved") for row in prompts]
        return kinds_of_concepts(field, prompts, own) if self.kinds == "concepts" and prompts else list(prompts)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pictures of the original model, and of what a stopped run had measured before."""
        module = _rece(pl_module)
        self._add(trainer, module, ORIGINAL, None)
        for epoch in range(len(module.history)):
            if self._is_between(trainer, epoch):
                file = Path(trainer.ckpt_path or "").parent / f"epoch={epoch}.ckpt"
                maps = stored_map(file) if file.is_file() else None
                if maps is None:
                    module.print(f"{file} is gone: no pictures of epoch {epoch}.")
                    continue
                self._add(trainer, module, f"epoch_{epoch}", maps, title=f"RECE, epoch {epoch}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A column of its own where ``every_n_epochs`` asks for one."""
        epoch = trainer.current_epoch
        if self._is_between(trainer, epoch):
            module = _rece(pl_module)
            self._add(trainer, module, f"epoch_{epoch}", module.maps, title=f"RECE, epoch {epoch}")

    def _is_between(self, trainer: Trainer, epoch: int) -> bool:
        # The first and the last epoch have columns of their own at the end.
        between = 0 < epoch < (trainer.max_epochs or 0) - 1
        return bool(self.every_n_epochs and between and (epoch + 1) % self.every_n_epochs == 0)

    def missing(self, folder: Path, state: Mapping[str, Any]) -> Path | None:
        """The counts, where a run with all its epochs has not written them."""
        asked = self.comparison is not None and bool(self.comparison.prompts)
        return folder / COUNTS if asked and not (folder / COUNTS).exists() else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that was stopped after its last epoch lacks the pictures alone."""
        if only_the_end_is_left(trainer, _rece(pl_module)):
            self.on_train_start(trainer, pl_module)
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Columns of the edited states, with and without the derived embeddings; then the table."""
        module = _rece(pl_module)
        if self.comparison is None or not self.comparison.prompts or module.first_maps is None:
            return
        states: list[tuple[str, str, AnyMap]] = [(FIRST, FIRST_DERIVED, module.first_maps)]
        if len(module.history) > 1:
            states.append((LAST, LAST_DERIVED, module.maps))
        later = {key: self.comparison.columns.pop(key) for key in list(self.comparison.columns) if key != ORIGINAL}
        for position, (plain, attacked, maps) in enumerate(states):
            if position == 1:
                self.comparison.columns.update(later)
            self._add(trainer, module, plain, maps)
            if self.attack:
                self._add(trainer, module, attacked, maps, derivation=self._derivation(module, maps))
        module.pictures.use(None)
        self._write(trainer)
        # An epoch is a step.
        self._log(trainer, len(module.history))

    def _derivation(self, module: RECE, maps: AnyMap) -> Derivation:
        """The attacker's derivation: its ridge is a setting of the measurement, not the defender's λ."""
        ridge = module.hparams["attacker_scale"] or ATTACKER_SHARE * module.gram.scale
        return derive(module.gram, maps, ridge)

    # Columns

    def _add(
        self,
        trainer: Trainer,
        module: RECE,
        key: str,
        maps: AnyMap | None,
        *,
        derivation: Derivation | None = None,
        title: str | None = None,
    ) -> None:
        """Make and measure one column."""
        comparison = self.comparison
        if comparison is None or not comparison.prompts:
            return
        title = title or TITLES[key]
        rows = [
            (index, seed)
            for index, prompt in enumerate(comparison.prompts)
            if derivation is None or prompt.kind == "erased"
            for seed in ([prompt.seed] if prompt.seed is not None else module.seeds)
        ]
        if not rows:
            return
        attack: Callable[[Tensor], Tensor] | None = None
        norms: list[float] = []
        if derivation is not None:
            known = derivation

            def attack(embedding: Tensor) -> Tensor:
                derived = known.apply(embedding.to(known.of_concept.device))
                norms.append(float(derived.norm() / embedding.norm()))
                return derived.to(embedding.device)

        module.pictures.use(module.edited_weights(maps) if maps is not None else None)
        with self._progress(trainer) as progress:
            task = progress.add_task(title, total=len(rows))
            pictures = module.pictures.make(
                [comparison.prompts[index] for index, _ in rows],
                [seed for _, seed in rows],
                self.sampling,
                derive=attack,
                on_batch=lambda made: progress.advance(task, made),
            )
        concepts = [comparison.prompts[index].concept for index, _ in rows]
        comparison.columns[key] = Column(
            key=key,
            title=title,
            rows=tuple(index for index, _ in rows),
            seeds=tuple(int(seed) for _, seed in rows),
            pictures=pictures,
            hits=self.detector.detect(pictures, concepts) if self.detector else None,
            shown=names_seen(self.detector, pictures, concepts) if self.detector else None,
            norm_ratio=sum(norms) / len(norms) if norms else None,
        )

    def _progress(self, trainer: Trainer) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("pictures"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not trainer.is_global_zero,
        )

    # What comes out

    def _write(self, trainer: Trainer) -> None:
        """``images/grid.png`` and the counts as ``evaluation.csv``."""
        if not trainer.is_global_zero or self.comparison is None:
            return
        folder = run_folder(trainer)
        save_grid(self.comparison, folder / "images" / "grid.png")
        for column in self.comparison.columns.values():
            save_sheet(column.pictures, sheet_path(folder / "images", column.key))
        write_counts(counts_of(self.comparison), folder / COUNTS)

    def _log(self, trainer: Trainer, step: int) -> None:
        """Rates to every logger, the grid to TensorBoard."""
        comparison = self.comparison
        if comparison is None:
            return
        figures = {}
        for key in comparison.columns:
            for name, roles in (("erased", ("erased",)), ("synonym", ("synonym",)), ("kept", ("kept",))):
                share = comparison.share(key, roles)
                if share.total:
                    figures[f"detected_{name}/{key}"] = share.rate
        for logger in trainer.loggers:
            if figures:
                logger.log_metrics(figures, step=step)
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                picture = run_folder(trainer) / "images" / "grid.png"
                if picture.exists():
                    import numpy as np
                    from PIL import Image

                    pixels = np.asarray(Image.open(picture).convert("RGB"))
                    logger.experiment.add_image("grid", pixels, step, dataformats="HWC")
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in figures.items()})

    # The verbs validate and test

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an empty column."""
        self._parts: list[dict[str, Any]] = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Collect what the module generated."""
        if isinstance(outputs, dict) and "pictures" in outputs:
            self._parts.append(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, print and write what was generated."""
        self._finish(trainer)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_end = on_validation_end

    def _finish(self, trainer: Trainer) -> None:
        comparison = self.comparison
        if comparison is None or not self._parts or trainer.state.fn == "fit":
            return
        index: dict[tuple[str, str, str], int] = {}
        for place, row in enumerate(comparison.prompts):
            # A file may hold a prompt several times, with other seeds.
            index.setdefault((row.prompt, row.concept, row.kind), place)
        rows = [index[row["prompt"], row["concept"], row["kind"]] for part in self._parts for row in part["prompts"]]
        pictures = torch.cat([part["pictures"] for part in self._parts])
        concepts = [comparison.prompts[row].concept for row in rows]
        seeds = tuple(int(seed) for part in self._parts for seed in part["seeds"])
        hits = self.detector.detect(pictures, concepts) if self.detector else None
        title = "the model measured" if self.images is None else f"the pictures in {Path(self.images).name}"
        shown = names_seen(self.detector, pictures, concepts) if self.detector else None
        comparison.columns = {LAST: Column(LAST, title, tuple(rows), seeds, pictures, hits, shown=shown)}
        self._write(trainer)
        if trainer.is_global_zero:
            Console().print(comparison_table(comparison))
            Console().print(f"grid: {run_folder(trainer) / 'images' / 'grid.png'}", soft_wrap=True)
        for logger in trainer.loggers:
            shares = {name: comparison.share(LAST, (name,)) for name in ("erased", "synonym", "kept")}
            figures = {f"detected_{name}": share.rate for name, share in shares.items() if share.total}
            if figures:
                logger.log_metrics(figures)


def _rece(module: LightningModule) -> RECE:
    if not isinstance(module, RECE):
        raise ConfigurationError(f"Evaluation: {type(module).__name__} is no RECE module; use it beside one.")
    return module
