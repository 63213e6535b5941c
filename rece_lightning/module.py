"""RECE as a LightningModule: a thin shell that feeds prompts to a session and logs what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule

from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.extras import guard
from rece_lightning.core.method import Method
from rece_lightning.core.tuning import OFF, Tuning
from rece_lightning.data.batches import PromptBatch
from rece_lightning.data.datamodule import ConceptData, asked_of
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.placement import Placement
from rece_lightning.devices.strategy import check_trainer
from rece_lightning.erasure.certificates import CERTIFICATE, read_certificate, smallest_certificate
from rece_lightning.erasure.erasure import Erasure
from rece_lightning.erasure.loaded import LoadedModel
from rece_lightning.erasure.same import check_same
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.erasure.state import former_layout
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.models.adapter import check_adapter
from rece_lightning.models.base import BaseModel
from rece_lightning.models.pipelines import load_pipeline, put_into
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.sampling_defaults import default_sampling
from rece_lightning.models.transformer_file import config_of_file
from rece_lightning.trainer.callbacks import check_callbacks
from rece_lightning.trainer.ending import check_ended, goes_on, has_ended
from rece_lightning.trainer.epochs import close_epochs, open_epochs
from rece_lightning.trainer.handed import data_of
from rece_lightning.trainer.loggers import log_at, log_concepts, log_epoch
from rece_lightning.trainer.optimizer import ClosedFormOptimizer
from rece_lightning.trainer.quiet import PutAside
from rece_lightning.trainer.stopwatch import ERASE_SECONDS, ToErase
from rece_lightning.vocabulary.choice import choose
from rece_lightning.vocabulary.expand import join

DEFAULT = Method()
"""Stands for a method that nobody gave."""


class RECE(LightningModule):
    """Erase concepts from a text-to-image model in closed form (RECE, arXiv 2407.12383).

    Epoch 0 edits what reads the text with the concepts' own embeddings (this alone is UCE: ``max_epochs=1``); every
    later epoch derives the embeddings that would bring the concepts back, and edits with those.

    Args:
        pretrained: ``emoji`` (the embedded world), a diffusers folder, a checkpoint file, or a hub id.
        revision: of the hub repository.
        variant: of the files, such as ``fp16``.
        config: of a checkpoint file: a shipped layout such as ``sd2-base``, or a folder; found out unless given.
        adapter: a LoRA, or edited weights, on the base model; for ``validate``, ``test`` and ``predict`` alone.
        method: how to erase: editor, derivation, and what they work on; see :class:`Method`.
        attacker_scale: ridge of the attacker in the regeneration residual; default ``1e-3 · tr(G)/d``.
        tune: ``balanced`` chooses settings of ``method`` at their defaults, and epochs unless ``max_epochs`` is
            given, without a picture; ``robust``; ``off``: what a method that is given stands for.
        drift_budget: of tuning: the most that the keys and values of held-out prompts may move.
        certificate: log every epoch's ``certificate``, the least share of a concept's way to its target that no
            embedding makes up for: of ``any`` norm (of use with a singular editor), or up to β times the concept's.
        text_encoders: diffusers folder of the text encoders of a file that holds the transformer alone.

    Raises:
        ConfigurationError: for every setting that makes no sense, before any model is touched.
    """

    def __init__(
        self,
        pretrained: str = "emoji",
        revision: str | None = None,
        variant: str | None = None,
        config: str | None = None,
        adapter: str | None = None,
        method: Method = DEFAULT,
        attacker_scale: float | None = None,
        certificate: float | str | None = None,
        tune: str | bool | None = None,
        drift_budget: float | None = None,
        text_encoders: str | None = None,
    ) -> None:
        super().__init__()
        if attacker_scale is not None:
            check_number("model.attacker_scale", attacker_scale, positive=True)
        tuning = Tuning.of(tune, drift_budget, given=method is not DEFAULT)
        method = Method.of(method)
        config = config_of_file(pretrained, config, text_encoders)  # one name for both from here on, in checkpoints too
        # Models stay out of the module tree: checkpoints are slim, and no strategy broadcasts what nobody trains.
        loaded = LoadedModel((pretrained, revision, variant, config))
        self._session = ErasureSession(loaded, method, attacker_scale, tuning)
        self._certificate_budget = read_certificate(certificate, self._session.method)
        self.save_hyperparameters(ignore=["method", "text_encoders"])
        # LightningCLI adds names that load_from_checkpoint would import; the method is kept in plain types.
        for key in ("_instantiator", "_class_path"):
            self.hparams.pop(key, None)
        tune = OFF if tuning is None else tuning.aim
        self.hparams.update(method=method.plain(), tune=tune, config=config)
        self.automatic_optimization = False
        self.strict_loading = False
        self._pictures: PictureMaker | None = None
        self._aside: PutAside | None = None
        self._epochs_before, self._to_erase = 0, ToErase()
        self.place: Callable[[str], None] | None = None
        """Given a stage, decides which part goes where before one is loaded: ``DevicePlacement``'s."""
        self.keeps_encoder = True
        """Whether the text encoder stays loaded once the prompts are encoded."""
        self.keeps_choice = False
        """Whether the next ``fit`` keeps the words that were chosen in a run that was stopped in epoch 0."""
        self._sampling: Sampling | None = None
        self.seeds: tuple[int, ...] = (0,)
        self.drawn: Callable[[Sequence[EvaluationPrompt]], dict[str, Any]] | None = None
        """Gives pictures that exist already; where it is set, no model is opened."""

    # What it works on

    @property
    def session(self) -> ErasureSession:
        """Everything of the erasure that needs no trainer."""
        self._session.loaded.home = self.device
        return self._session

    @property
    def method(self) -> Method:
        """How it erases."""
        return self._session.method

    @property
    def base(self) -> BaseModel:
        """The base model, found and checked at first use."""
        return self.session.base

    @property
    def placement(self) -> Placement:
        """Which device holds which part."""
        return self._session.loaded.placement

    @placement.setter
    def placement(self, placement: Placement) -> None:
        self._session.loaded.placement = placement

    @property
    def data(self) -> Any:
        """What the trainer works on: its datamodule, or its loaders as one; see :func:`data_of`."""
        return data_of(self._trainer, self._session.concepts)

    @property
    def history(self) -> list[dict[str, float]]:
        """Figures of every epoch so far."""
        return self._session.history

    @property
    def pictures(self) -> PictureMaker:
        """What makes pictures of the original and the edited model, loaded at first use."""
        if self._pictures is None:
            with torch.inference_mode(False), torch.no_grad():
                self._pictures = PictureMaker.of(self.session.loaded, self.hparams["adapter"], self.device)
        return self._pictures

    def release(self, *, encoder: bool = False, pictures: bool = False) -> None:
        """Let go of loaded parts. They load again when needed."""
        if encoder:
            self._session.loaded.release_encoder()
        if pictures:
            self._pictures = None

    @property
    def sampling(self) -> Sampling:
        """How pictures are made: as the model wants it, unless this is set."""
        return self._sampling or default_sampling(self.base)

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        self._sampling = sampling

    # What comes out

    @property
    def maps(self) -> dict[str, AnyMap]:
        """Text space → ``M`` after the epochs so far.

        Raises:
            ConfigurationError: if nothing was edited yet.
        """
        return self.session.maps

    @property
    def first_maps(self) -> dict[str, AnyMap] | None:
        """The same after epoch 0: UCE's edit; ``None`` before it."""
        return self.session.first_maps

    def erasure(self, maps: Mapping[str, AnyMap] | None = None) -> Erasure:
        """The result: what exports, certificates and the scan read; of ``maps`` such as :attr:`first_maps` where given.

        Raises:
            ConfigurationError: if nothing was edited yet.
        """
        return self.session.erasure(maps)

    def pipeline(self, dtype: torch.dtype = torch.float32) -> Any:
        """A diffusers pipeline of the base model with the edited weights.

        Raises:
            ConfigurationError: if nothing was edited yet.
        """
        weights = self.erasure().weights()
        return put_into(load_pipeline(self.base, dtype=dtype), weights)

    # Lightning

    def configure_callbacks(self) -> list[Callback]:
        """None of its own; refuse those that cannot work beside a closed form, before one of them is set up."""
        check_callbacks(self.trainer, own=type(self) is RECE)
        return []

    def setup(self, stage: str) -> None:
        """Check trainer and base model before any work."""
        trainer, session = self._trainer, self.session
        data = self.data
        if trainer is not None:
            session.tuned.tuning = open_epochs(trainer, stage, session.tuned.tuning)
            check_trainer(trainer, stage)
            guard(trainer.loggers)
        if self.drawn is None or stage == "fit":
            check_adapter(self.hparams["adapter"], stage)
            _ = session.names
            if self.place is not None:
                self.place(stage)
        if stage == "fit" and (trainer is None or trainer.ckpt_path is None):
            if session.was_loaded or goes_on(trainer, epochs=len(self.history)):
                # It goes on with its own concepts, and with no others.
                own = session.description()
                check_same(own, own["method"], asked_of(data, session.concepts), "load_from_checkpoint")
            else:
                session.begin()
                if not self.keeps_choice:
                    self._to_erase.watch.of(choose, session, data)
                self.keeps_choice = False
        if data is not None and hasattr(data, "summary") and not session.has_begun:
            session.concepts = data.summary()
        if trainer is not None:
            log_concepts(trainer.loggers, self.hparams_initial, session.concepts)
            self._aside = PutAside(trainer, stage, len(data.train_dataloader()) if isinstance(data, ConceptData) else 0)

    def configure_optimizers(self) -> ClosedFormOptimizer:
        """The optimizer whose step is an epoch's edit."""
        return ClosedFormOptimizer(self._edit)

    def on_fit_start(self) -> None:
        """Choose what joins the concepts of a robust loop; a run that goes on has it."""
        if not self.session.has_begun:
            self._to_erase.watch.of(join, self.session, self.data)
        self._epochs_before = len(self.history)
        if self.only_the_end_is_left:
            self.trainer.should_stop = True
            self.on_train_end()

    @property
    def only_the_end_is_left(self) -> bool:
        """Whether a resumed ``fit`` has all its epochs: Lightning then calls neither ``on_train_start`` nor
        ``on_train_end``, and what belongs there is done in ``on_fit_start``."""
        return self.trainer.ckpt_path is not None and has_ended(self.trainer, self.history)

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Epoch 0 encodes the batch; the last batch of every epoch triggers the edit."""
        session = self.session
        if self.current_epoch == 0 and not session.has_begun:
            for prompt, lost in self._to_erase.watch.of(session.count, batch).items():
                print(f"Warning: {prompt!r} is longer than the tokenizer takes; cut: {lost!r}.")
        if self.trainer.is_last_batch:
            if not self.keeps_encoder:
                self._to_erase.watch.of(session.hold_invariants)  # encoded while the encoder is there
                self.release(encoder=True)  # before the algebra asks for memory
            session.loaded.rest()
            self._to_erase.watch.of(self.optimizers().step)  # type: ignore[union-attr]

    @torch.no_grad()
    def _edit(self) -> None:
        """One epoch, its figures logged."""
        started = time.perf_counter()
        session = self.session
        figures = {**session.step(), "edit_seconds": 0.0, ERASE_SECONDS: 0.0}
        if self.hparams["certificate"] is not None:
            figures[CERTIFICATE] = smallest_certificate(
                session.erasure(), session.erased_prompts, session.pairs, self._certificate_budget
            )
        figures["edit_seconds"] = time.perf_counter() - started
        figures[ERASE_SECONDS] = self._to_erase.after(session.history)
        session.history[-1] = figures
        if len(session.history) == 1:
            close_epochs(self.trainer, session.tuned.tuning, session.tuned.choice, tell=True)
        self.log_dict(figures, on_step=False, on_epoch=True, batch_size=1, logger=False)
        log_epoch(self.trainer, figures, self.current_epoch)

    def on_fit_end(self) -> None:
        """Say what ended the run before its last epoch; a ConfigurationError where nothing was edited."""
        check_ended(self.trainer, self.history, self._epochs_before, self.session.statistics.batches, self.data)

    def teardown(self, stage: str) -> None:
        """Give the trainer back what was put aside."""
        if self._aside is not None:
            self._aside.give_back()
            self._aside = None

    def on_train_end(self) -> None:
        """Log how much of the model changed."""
        if self.history:
            log_at(self.trainer, self.session.change(), len(self.history) - 1)

    def validation_step(
        self, batch: tuple[EvaluationPrompt, ...], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any] | None:
        """Prompts, seeds and pictures ``[n, 3, h, w]`` in [0, 1] of the edited model; of the base before any edit."""
        if not batch:
            return None  # there are fewer batches than ranks
        if self.drawn is not None:
            return self.drawn(batch)
        self.pictures.use(self.erasure().weights() if self.session.has_begun else None)
        return self.pictures.made_of(batch, self.seeds, self.sampling)

    test_step = predict_step = validation_step

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in the session's state: plain types and tensors."""
        if self.history:
            checkpoint["rece"] = self.session.state_dict()

    def check_same_run(self, state: Mapping[str, Any], data: Any = None) -> None:
        """Refuse the state of another run with a ConfigurationError that says what differs."""
        if former := former_layout(state):
            raise ConfigurationError(f"ckpt_path: {former}.")
        self.session.check_same(state, asked_of(data, state["concepts"]))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the state back; a ConfigurationError says what differs from this base, method and list of concepts."""
        state = checkpoint.get("rece")
        if not isinstance(state, dict):
            raise ConfigurationError("ckpt_path: the file holds no erasure; give a checkpoint that RECE wrote.")
        check_adapter(self.hparams["adapter"], "validate", erased=True)
        self.check_same_run(state, self.data)
        self.session.load_state_dict(state)
        close_epochs(self._trainer, self.session.tuned.tuning, self.session.tuned.choice)
