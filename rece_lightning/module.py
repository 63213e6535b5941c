"""RECE as a LightningModule: a thin shell that feeds prompts to the core and logs what it answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from rece_lightning.core import diagnostics
from rece_lightning.core.derivation import REGULARIZERS, SURROGATE_ITEMS
from rece_lightning.core.editors.base import EDITORS, check_editor
from rece_lightning.core.editors.null_space import NullSpace, check_augmented_rank
from rece_lightning.core.editors.projection import Projection, check_rank
from rece_lightning.core.editors.uce import TECHNIQUES, EditScales
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap, LayerMaps, beside
from rece_lightning.core.eraser import EpochRecord, Evidence, LoopSettings, RECELoop
from rece_lightning.core.errors import ConfigurationError, check_choice, check_number, nearest
from rece_lightning.core.gram import Gram
from rece_lightning.data.batches import PromptBatch
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.offload import WaitingEncoder
from rece_lightning.devices.placement import Placement
from rece_lightning.devices.strategy import check_trainer
from rece_lightning.distributed import agreed, gathered, rank_and_world
from rece_lightning.epoch_figures import epoch_figures
from rece_lightning.robust.attacking import Search, attack_and_join, check_search
from rece_lightning.erasure.encoding import EncodedPair, encode_pairs, invariant_rows, with_invariants
from rece_lightning.erasure.erasure import Erasure
from rece_lightning.erasure.robust import read_robust
from rece_lightning.erasure.statistics import PromptSums, too_long
from rece_lightning.robust.stopping import CERTIFICATE, smallest_certificate, stop_if_certified
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.models.adapter import open_adapter
from rece_lightning.models.base import BaseModel
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.pipelines import load_pipeline, put_weights
from rece_lightning.models.projections import KINDS, check_layers
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.text import TOKEN_RULES, PromptEncoder
from rece_lightning.runs.resuming import check_map_fits, check_same_run, check_work_left, only_the_end_is_left
from rece_lightning.runs.stored import restore_moments
from rece_lightning.version import __version__
from rece_lightning.vocabulary.expand import JoinedSums, join
from rece_lightning.vocabulary.preserve import choose_preserved
from rece_lightning.vocabulary.synonyms import erase_survivors

# What decides the result: a checkpoint goes on under these settings alone.
DECISIVE = (
    "erase_scale", "preserve_scale", "lamb", "regular_scale", "regularizer", "surrogate_items", "technique", "editor",
    "accumulate", "first_edit", "tokens", "projections", "layers",
)  # fmt: skip
# Beside these, what an editor alone reads.
OF_EDITOR = {"projection": ("erased_rank", "shrinkage"), "null_space": ("null_space_threshold", "augmented_rank")}


class ClosedFormOptimizer(torch.optim.Optimizer):
    """Its step is RECE's epoch: no gradients, no parameters.

    Lightning counts an epoch's progress in optimizer steps; without one it would save no checkpoint.
    """

    def __init__(self, edit: Callable[[], None]) -> None:
        super().__init__([torch.zeros(())], {})
        self._edit = edit

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Run the edit once."""
        if closure is not None:
            closure()
        self._edit()


class RECE(LightningModule):
    """Erase concepts from a text-to-image model in closed form (RECE, arXiv 2407.12383).

    Epoch 0 edits the cross-attention key and value projections with the concepts' own embeddings (this
    alone is UCE: ``max_epochs=1``); every later epoch derives the embeddings that would bring the concepts
    back, and edits with those.

    Args:
        pretrained: ``emoji`` (the embedded world), a diffusers folder, a checkpoint file (``.safetensors``,
            ``.ckpt``) in the original layout, or a hub id.
        revision: of the hub repository.
        variant: of the weight files, such as ``fp16``.
        config: of a checkpoint file: a shipped layout such as ``sd2-base``, or a folder of configurations; found
            out from the file unless given.
        adapter: a LoRA, or edited weights, on the base model; for ``validate``, ``test`` and ``predict`` alone.
        erase_scale: η, weight of the erased concepts.
        preserve_scale: λ₁, weight of the preserved prompts.
        lamb: λ₂, weight of leaving the projections as they are.
        regular_scale: λ, the derivation's regularization.
        regularizer: ``norm`` (the paper's), ``standard`` or ``surrogate``.
        surrogate_items: which of the surrogate's two penalties count: ``first``, ``second``, ``both``.
        technique: ``replace``, or ``tensor``, which keeps one map a layer.
        editor: the closed-form edit inside the loop: ``uce``; ``projection``, a singular map that takes the
            concepts' differences to their targets out of every embedding's reach, and which the three scales do not
            enter; or ``null_space``, UCE's edit over directions that the preserved prompts have nothing in (SPEED,
            arXiv 2503.07392; its own objective is ``preserve_scale: 0``, its own projections ``v``).
        erased_rank: of the editor ``projection``: how many leading directions of the differences it takes out, over all
            concepts; one for every erased prompt unless given; below 1, as few as hold that share of them.
        shrinkage: κ of the editor ``projection``: a larger one makes what it takes out the more visible to keys and
            values, and moves kept prompts the more.
        null_space_threshold: τ of the editor ``null_space``: directions count as free where the preserved prompts have
            less than this share of their mean energy (published: 0.1, for 100 concepts 1e-4). The begin-of-text token
            and the empty prompt are held exactly whatever it is.
        augmented_rank: of the editor ``null_space``: how many of the directions that keys and values see least are not
            free either; what the published augmentation of the preserved prompts comes to.
        accumulate: true: every epoch's edit also holds what earlier epochs erased; false is the published
            loop.
        robust: switches of the robust loop, each off unless it is named; without any, the published loop. A mapping of
            ``norms`` (β of further derived embeddings with ``‖c'‖ ≤ β‖c‖``), ``ridges`` (λ of further ones),
            ``templates`` (prompts that every concept is put into: further rows to erase and to derive towards),
            ``synonyms`` (how many words for each concept, mined by the text encoder, are erased with it),
            ``neighbours`` (how many words near each concept are kept), ``within`` (where words stop meaning the
            concept, as a share of its way to the target; 0.25), ``found`` (a folder that ``RedTeam`` wrote into: what
            it found is erased in every epoch, all of it on a concept together as much as the concept), ``attacks``
            (names of searches that ``RedTeam`` runs on the model before every epoch but the first; what they find is
            erased as ``found`` is, from the first epoch on; the one switch that leaves the closed form), ``weight`` (of
            each of these beside the concept's own 1), ``certificate`` (the loop stops once no embedding brings any
            concept back nearer than this share of its way to the target), ``budget`` (β of the certificate; without
            it, embeddings of any norm).
        first_edit: scales of epoch 0 where they differ, such as ``{preserve_scale: 1.0, lamb: 0.5}``.
        tokens: positions that epoch 0 edits: ``aligned`` (from the last subject token on; published),
            ``last``, ``all``.
        projections: ``kv``, ``k`` or ``v``.
        layers: a regular expression over parameter names.
        attacker_scale: ridge of the attacker in the regeneration residual; default ``1e-3 · tr(G)/d``.

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
        erase_scale: float = 1.0,
        preserve_scale: float = 0.1,
        lamb: float = 0.1,
        regular_scale: float = 0.1,
        regularizer: str = "norm",
        surrogate_items: str = "both",
        technique: str = "replace",
        editor: str = "uce",
        erased_rank: int | float | None = None,
        shrinkage: float = 3.0,
        null_space_threshold: float = 0.1,
        augmented_rank: int = 1,
        accumulate: bool = False,
        first_edit: dict[str, float] | None = None,
        tokens: str = "aligned",
        projections: str = "kv",
        layers: str | None = None,
        attacker_scale: float | None = None,
        robust: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_number("model.erase_scale", erase_scale, positive=True)
        check_number("model.preserve_scale", preserve_scale)
        check_number("model.lamb", lamb)
        check_number("model.regular_scale", regular_scale, positive=True)
        if attacker_scale is not None:
            check_number("model.attacker_scale", attacker_scale, positive=True)
        check_choice("model.regularizer", regularizer, REGULARIZERS)
        check_choice("model.surrogate_items", surrogate_items, SURROGATE_ITEMS)
        check_choice("model.technique", technique, TECHNIQUES)
        check_choice("model.editor", editor, EDITORS)
        check_editor("model.", editor, technique=technique, first_edit=first_edit)
        if erased_rank is not None:
            check_rank("model.erased_rank", erased_rank)
        check_number("model.shrinkage", shrinkage, positive=True)
        check_number("model.null_space_threshold", null_space_threshold)
        check_augmented_rank("model.augmented_rank", augmented_rank)
        check_choice("model.tokens", tokens, TOKEN_RULES)
        check_choice("model.projections", projections, KINDS)
        check_layers(layers)
        scales = {"erase_scale": erase_scale, "preserve_scale": preserve_scale, "lamb": lamb}
        for key, value in (first_edit or {}).items():
            if key not in scales:
                raise ConfigurationError(f"model.first_edit: unknown key {key!r}; {nearest(key, scales)}.")
            check_number(f"model.first_edit.{key}", value, positive=key == "erase_scale")
        self.robust = read_robust(robust, editor=editor, technique=technique)
        robust = None if self.robust is None else self.robust.plain()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.strict_loading = False
        self.settings = LoopSettings(
            scales=EditScales(**scales),
            first_scales=EditScales(**{**scales, **first_edit}) if first_edit else None,
            regular_scale=regular_scale,
            regularizer=regularizer,
            surrogate_items=surrogate_items,
            technique=technique,
            editor=editor,
            projection=Projection(erased_rank, shrinkage),
            null_space=NullSpace(null_space_threshold, augmented_rank),
            accumulate=accumulate,
            robust=None if self.robust is None else self.robust.loop,
        )
        self.placement = Placement()
        self.place: Callable[[str], None] | None = None
        """Given a stage, decides which part goes where before one is loaded: ``DevicePlacement``'s."""
        self.keeps_encoder = True
        """Whether the text encoder stays loaded once the prompts are encoded."""
        self.keeps_choice = False
        """Whether the next ``fit`` keeps what ``data.preserve: auto`` chose in a run that was stopped in epoch 0."""
        self.sampling = Sampling()
        self.seeds: tuple[int, ...] = (0,)
        self.drawn: Callable[[Sequence[EvaluationPrompt]], dict[str, Any]] | None = None
        """Gives pictures that exist already; where it is set, no model is opened."""
        self.history: list[dict[str, float]] = []
        """Figures of every epoch so far."""
        self.first_maps: AnyMap | None = None
        """After epoch 0: UCE's edit."""
        # Encoders and pipelines stay out of the module tree: checkpoints are slim, and no strategy
        # broadcasts a model that nobody trains.
        self._base: BaseModel | None = None
        self._tools: dict[str, Any] = {}
        self._loop: RECELoop | None = None
        self._sums: PromptSums | None = None
        self.joined: JoinedSums | None = None
        """What joined the concepts of a robust loop so far."""
        self.search: Search | None = None
        """Runs attacks by name on the module as it is: ``RedTeam``'s."""
        self._summary: dict[str, Any] = {}
        self._restored: dict[str, Any] | None = None

    # What it works on

    @property
    def base(self) -> BaseModel:
        """The base model, found and checked at first use."""
        if self._base is None:
            self._base = find_base(*(self.hparams[key] for key in ("pretrained", "revision", "variant", "config")))
        return self._base

    @property
    def decisive(self) -> tuple[str, ...]:
        """Names of the settings that decide the result."""
        own = OF_EDITOR.get(self.hparams["editor"], ())
        return DECISIVE + own + (() if self.robust is None else ("robust",))

    @property
    def attacks_between_epochs(self) -> Sequence[str]:
        """Names of the searches that a robust loop asks for; none without one."""
        return () if self.robust is None else self.robust.attacks

    @property
    def names(self) -> list[str]:
        """Parameter names of the projections that are edited."""
        return self.base.select(self.hparams["projections"], self.hparams["layers"])

    @property
    def encoder(self) -> PromptEncoder:
        """Tokenizer and text encoder, loaded at first use."""
        if "encoder" not in self._tools:
            with torch.inference_mode(False):  # a fit may follow a validation, and go on with what that loaded
                self._tools["encoder"] = self._new_encoder()
        return self._tools["encoder"]

    def _new_encoder(self) -> PromptEncoder:
        device = self.placement.device_of("text_encoder", self.device)
        if self.placement.waits("text_encoder"):
            return WaitingEncoder(load_encoder(self.base), device)
        return load_encoder(self.base, device)

    @property
    def pictures(self) -> PictureMaker:
        """What makes pictures of the original and the edited model, loaded at first use."""
        if "pictures" not in self._tools:
            with torch.inference_mode(False), torch.no_grad():
                self._tools["pictures"] = self._new_pictures()
        return self._tools["pictures"]

    def _new_pictures(self) -> PictureMaker:
        if self.hparams["adapter"] is None:
            return PictureMaker.load(self.base, self.encoder, self.placement, self.device)
        # An adapter changes the encoder that it is fused into.
        adapter = open_adapter(self.hparams["adapter"])
        return PictureMaker.load(self.base, self._new_encoder(), self.placement, self.device, adapter)

    @property
    def gram(self) -> Gram:
        """``G`` of the original projections, computed at first use."""
        if "gram" not in self._tools:
            self._tools["gram"] = self._gram_of(self.names, keep_layers=self.hparams["technique"] == "tensor")
        return self._tools["gram"]

    def _gram_of(self, names: list[str], *, keep_layers: bool = False) -> Gram:
        device = self.placement.device_of("algebra", self.device)
        projections = self.base.read_projections(names)
        return Gram.of(projections, keep_layers=keep_layers, device=device, shards=self.placement.gram)

    def attacked(self, maps: AnyMap) -> tuple[Gram, AnyMap]:
        """``G`` and ``M`` of all that a prompt embedding meets: with projections that no edit touches, where some are.

        Args:
            maps: of the edited ones.
        """
        if "untouched" not in self._tools:
            edited = set(self.names)
            rest = [
                name
                for name, shape in self.base.projections.items()
                if name not in edited and shape[1] == self.gram.width
            ]
            self._tools["untouched"] = self._gram_of(rest) if rest else None
        untouched = self._tools["untouched"]
        return (self.gram, maps) if untouched is None else beside(self.gram, maps, untouched)

    @property
    def maps(self) -> AnyMap:
        """``M`` after the epochs so far.

        Raises:
            ConfigurationError: if nothing was edited yet.
        """
        if self._loop is not None and self._loop.epoch:
            return self._loop.maps
        if self._restored is not None:
            matrix = self._restored["map"]
            return EmbeddingMap(matrix) if matrix.ndim == 2 else LayerMaps(matrix)
        raise ConfigurationError("Nothing was edited yet: fit the module, or load it from a checkpoint.")

    @property
    def loop(self) -> RECELoop:
        """The loop with its evidence: after epoch 0, or rebuilt from a checkpoint."""
        if self._loop is None:
            self._loop = RECELoop(self.gram, self.holding(self.sums.evidence(self.gram.width)), self.settings)
        return self._loop

    def holding(self, evidence: Evidence) -> Evidence:
        """The evidence with what joins it in a robust loop, and the rows that no edit may move, where there are any."""
        if self.joined is not None:
            evidence = replace(evidence, joined=self.joined.joined)
        return with_invariants(evidence, self.invariants, self.gram.total.device)

    @property
    def invariants(self) -> Tensor | None:
        """Rows that no edit may move, where the editor asks for them; encoded once."""
        if self.hparams["editor"] == "null_space" and "invariants" not in self._tools:
            stored = None if self._restored is None else self._restored.get("invariants")
            self._tools["invariants"] = invariant_rows(self.encoder) if stored is None else stored
        return self._tools.get("invariants")

    @property
    def sums(self) -> PromptSums:
        """What the encoded prompts say so far. With several ranks each holds its share until the loop begins."""
        if self._sums is None:
            self._sums = self._no_prompts(shared=rank_and_world()[1] > 1)
        return self._sums

    def _no_prompts(self, *, shared: bool = False) -> PromptSums:
        device = self.placement.device_of("algebra", self.device)
        whole = self.hparams["technique"] == "tensor"  # every rank encodes all
        return PromptSums(self.hparams["tokens"], device, keep_prompts=whole, shared=shared and not whole)

    @property
    def erased_prompts(self) -> list[str]:
        """What is erased, prompt by prompt."""
        return [row["prompt"] for row in self._summary["erased"]]

    @property
    def pairs(self) -> list[EncodedPair]:
        """Erased prompts with their targets, encoded; encoded anew where a checkpoint holds their moments alone."""
        if self._sums is not None and self._sums.in_rows:
            return self._sums.pairs
        columns = ([row[key] for row in self._summary["erased"]] for key in ("prompt", "target", "weight"))
        return encode_pairs(self.encoder, *columns)

    def release(self, *parts: str) -> None:
        """Let go of loaded parts: ``encoder``, ``pictures``, ``gram``. They load again when needed."""
        for part in parts:
            self._tools.pop(part, None)

    def check_adapter(self, stage: str, *, erased: bool = False) -> None:
        """Look at the adapter before any work.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
            erased: whether the model is that of a checkpoint.

        Raises:
            ConfigurationError: for an adapter that is nowhere, or where it would be unclear what it is put on.
            BaseModelError: if it is damaged or cannot be fused.
        """
        adapter = self.hparams["adapter"]
        if adapter is None:
            return
        if stage == "fit" or erased:
            why, how = "a checkpoint erases from its base alone", "write the erasure with `export --format pipeline`"
            if stage == "fit":
                why, how = "fit edits the base model alone", "fuse the adapter and save the pipeline"
            raise ConfigurationError(f"model.adapter: {adapter}: {why}; {how}, and give that as model.pretrained.")
        open_adapter(adapter)

    # Lightning

    def setup(self, stage: str) -> None:
        """Check trainer and base model before any work."""
        trainer = self._trainer
        if trainer is not None:
            check_trainer(trainer, stage)
        if self.drawn is None or stage == "fit":
            self.check_adapter(stage)
            _ = self.names
            if self.place is not None:
                self.place(stage)
        if stage == "fit" and self._restored is None:
            self._loop, self.first_maps, self.history, self._sums = None, None, [], None
            self.joined = None
            self.release("held_out_moments", "residual_unedited")
        data = getattr(trainer, "datamodule", None)
        if stage == "fit" and trainer is not None and trainer.ckpt_path is None and self._restored is None:
            self._choose_preserved(data)
        if data is not None and hasattr(data, "summary"):
            self._summary = data.summary() | {key: self._summary[key] for key in ("robust",) if key in self._summary}

    def _choose_preserved(self, data: Any) -> None:
        """``data.synonyms: auto``, then ``data.preserve: auto``; a run that goes on keeps what it chose."""
        if self.keeps_choice:
            self.keeps_choice = False
            return
        if getattr(data, "synonyms", None) is not None:
            erase_survivors(self, data)
        if getattr(data, "vocabulary", None) is not None:
            rule = self.hparams["tokens"]
            data.choose(gathered(choose_preserved(data, self.encoder, self.gram, self.settings, rule))[0])

    def configure_optimizers(self) -> ClosedFormOptimizer:
        """The optimizer whose step is an epoch's edit."""
        return ClosedFormOptimizer(self._edit)

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Epoch 0 encodes the batch; the last batch of every epoch triggers the edit."""
        if self.current_epoch == 0:
            self._encode(batch)
        if self.trainer.is_last_batch:
            if not self.keeps_encoder:
                _ = self.invariants  # encoded while the encoder is there
                self.release("encoder")  # before the algebra asks for memory
            elif isinstance(encoder := self._tools.get("encoder"), WaitingEncoder):
                encoder.rest()
            optimizer = self.optimizers()
            optimizer.step()  # type: ignore[union-attr]

    def validation_step(self, batch: tuple[EvaluationPrompt, ...], batch_idx: int) -> dict[str, Any] | None:
        """Generate for prompts with the edited model (the base model, when nothing was edited)."""
        return self._generate(batch)

    def test_step(self, batch: tuple[EvaluationPrompt, ...], batch_idx: int) -> dict[str, Any] | None:
        """As ``validation_step``."""
        return self._generate(batch)

    def predict_step(self, batch: tuple[EvaluationPrompt, ...], batch_idx: int) -> dict[str, Any] | None:
        """As ``validation_step``: prompts, seeds and pictures ``[n, 3, h, w]`` in [0, 1]."""
        return self._generate(batch)

    def _generate(self, batch: tuple[EvaluationPrompt, ...]) -> dict[str, Any] | None:
        if not batch:
            return None  # there are fewer batches than ranks
        if self.drawn is not None:
            return self.drawn(batch)
        maps = self.maps if self._restored is not None or self._loop is not None else None
        self.pictures.use(self.edited_weights(maps) if maps is not None else None)
        rows = [(row, seed) for row in batch for seed in ([row.seed] if row.seed is not None else self.seeds)]
        made = self.pictures.make([row for row, _ in rows], [seed for _, seed in rows], self.sampling)
        return {"prompts": [asdict(row) for row, _ in rows], "seeds": [seed for _, seed in rows], "pictures": made}

    def on_fit_start(self) -> None:
        """Choose what joins the concepts of a robust loop; a run that goes on has it, or lacks the end alone."""
        if self._restored is None:
            self.joined = join(self.robust, getattr(self.trainer, "datamodule", None), self, self.hparams["tokens"])
            if self.joined is not None:
                self._summary = {**self._summary, "robust": self.joined.summary}
        check_search(self)
        if only_the_end_is_left(self.trainer, self):
            self.trainer.should_stop = True
            self.on_train_end()

    def on_train_epoch_start(self) -> None:
        """A robust loop that asks for attacks goes on with what they find on the model as it is."""
        if self.current_epoch and self.attacks_between_epochs:
            again = attack_and_join(self)
            if again is not None and self.joined is not None:
                self._loop = again
                self._agree(again)
                self._summary = {**self._summary, "robust": self.joined.summary}

    def on_train_end(self) -> None:
        """Log how much of the model changed."""
        figures = self.change()
        for logger in self.trainer.loggers:
            # An epoch is a step.
            logger.log_metrics(figures, step=len(self.history))

    # The epoch

    def _encode(self, batch: PromptBatch) -> None:
        """Encode a batch's prompts once and count them, where it is this rank's turn."""
        sums, (rank, world) = self.sums, rank_and_world()
        if not batch.prompts or batch.number in sums.before or (sums.shared and batch.number % world != rank):
            return
        encoder = self.encoder
        if isinstance(encoder, WaitingEncoder):
            encoder.stay()  # for the batches to come
        for prompt, lost in too_long(encoder, [*batch.prompts, *batch.targets]).items():
            print(f"Warning: {prompt!r} is longer than the tokenizer takes; cut: {lost!r}.")
        if batch.kind == "erased":
            pairs = encode_pairs(encoder, list(batch.prompts), list(batch.targets), list(batch.weights))
            sums.add_pairs(batch.prompts, pairs)
        else:
            rows = list(encoder.encode(list(batch.prompts)).embeddings)
            (sums.add_kept if batch.kind == "preserved" else sums.add_held_out)(rows)
        sums.batches.append(batch.number)

    @torch.no_grad()
    def _edit(self) -> None:
        """One epoch of the loop, its figures logged."""
        started = time.perf_counter()
        loop = self.loop
        record = loop.run_epoch()
        self._agree(loop)
        seconds = time.perf_counter() - started
        if loop.epoch == 1:
            self.first_maps = loop.maps
        figures = {**self.measure(record), "edit_seconds": seconds}
        self.history.append(figures)
        self.log_dict(figures, on_step=False, on_epoch=True, batch_size=1)
        stop_if_certified(self)

    def _agree(self, loop: RECELoop) -> None:
        """Every rank goes on with the same bits."""
        maps = loop.maps
        first = agreed(maps.matrix if isinstance(maps, EmbeddingMap) else maps.matrices)
        if first is not None:
            loop.maps = type(maps)(first)

    def measure(self, record: EpochRecord) -> dict[str, float]:
        """What can be said of an epoch without an image."""
        attacker, plan = self.hparams["attacker_scale"], self.robust
        figures = epoch_figures(
            self.loop,
            record,
            held_out=self._held_out_moments(),
            attacker=attacker,
            unedited=self._residual_unedited(),
        )
        if plan is not None and plan.certificate is not None:
            figures[CERTIFICATE] = smallest_certificate(self, plan.budget)
        return figures

    def _residual_unedited(self) -> float:
        """The attacker's own cost, at ``M = I``; computed once."""
        if "residual_unedited" not in self._tools:
            unedited = EmbeddingMap.identity(self.gram.width, self.gram.total.device)
            self._tools["residual_unedited"] = diagnostics.regeneration_residual(
                self.gram, unedited, self.loop.evidence.whole.erased, self.hparams["attacker_scale"]
            )
        return self._tools["residual_unedited"]

    # What comes out

    def edited_weights(self, maps: AnyMap | None = None) -> Iterator[tuple[str, Tensor]]:
        """Edited projections under their diffusers names, in the base model's dtype, one at a time.

        Args:
            maps: in place of the module's own, such as :attr:`first_maps`.
        """
        maps = self.maps if maps is None else maps
        for layer, (name, weight) in enumerate(self.base.read_projections(self.names)):
            yield name, maps.applied_to(weight, layer).cpu()

    def change(self) -> dict[str, float]:
        """Share of the U-Net's parameters that were edited, and ``‖ΔW‖/‖W‖`` over the edited ones."""
        edited = sum(math.prod(self.base.projections[name]) for name in self.names)
        ratio = self.maps.change_gram(self.gram).trace().clamp(min=0) / self.gram.total.trace()
        return {"parameters_edited_share": edited / self.base.parameters, "weight_change": float(ratio.sqrt())}

    def pipeline(self, dtype: torch.dtype = torch.float32) -> Any:
        """A diffusers pipeline of the base model with the edited projections.

        Raises:
            ConfigurationError: if nothing was edited yet.
        """
        maps = self.maps
        pipeline = load_pipeline(self.base, dtype)
        put_weights(pipeline.unet, dict(self.edited_weights(maps)))
        return pipeline

    def erasure(self) -> Erasure:
        """What the exports write: base, names, map and description.

        Raises:
            ConfigurationError: if nothing was edited yet.
        """
        return Erasure(self.base, tuple(self.names), self.maps, self.gram, self.description())

    @property
    def fingerprint(self) -> dict[str, str]:
        """Hashes of the base model's stored bytes, computed once."""
        if "fingerprint" not in self._tools:
            self._tools["fingerprint"] = self.base.fingerprint()
        return self._tools["fingerprint"]

    def description(self) -> dict[str, Any]:
        """Base, concepts, settings and version: what a file of edited weights should say of itself."""
        return {
            "base": self.base.name,
            "fingerprint": self.fingerprint,
            "concepts": self._summary,
            "settings": {key: self.hparams[key] for key in self.decisive},
            "epochs": len(self.history),
            "version": __version__,
        }

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in the map, the rows and what identifies the run: plain types and tensors."""
        if self._loop is None or not self._loop.epoch:
            return
        maps = self.maps
        checkpoint["rece"] = {
            "map": (maps.matrix if isinstance(maps, EmbeddingMap) else maps.matrices).cpu(),
            "evidence": self._stored_evidence(),
            "probe": self._probe(),
            **({} if "invariants" not in self._tools else {"invariants": self._tools["invariants"].cpu()}),
            "history": self.history,
            "epoch": self._loop.epoch,
            **self.description(),
        }

    def _probe(self) -> dict[str, Any] | None:
        """One prompt with its embedding: tells whether another model's text encoder is the same one."""
        return self.sums.probe if self._restored is None else self._restored["probe"]

    def _stored_evidence(self) -> dict[str, Any]:
        """See :func:`rece_lightning.runs.stored.store_evidence`."""
        joined = {} if self.joined is None else {"joined": self.joined.stored()}
        if self._restored is not None and self._sums is None:
            return {**self._restored["evidence"], **joined}  # resumed from moments: there are no rows
        evidence = self.loop.evidence
        return {**self.sums.stored(evidence, self._held_out_moments()), "prompts": evidence.prompts, **joined}

    def restore_evidence(self, stored: dict[str, Any]) -> None:
        """Take back what a checkpoint holds of the prompts: a loop that has run no epoch."""
        device = self.placement.device_of("algebra", self.device)
        self._loop = self._sums = self.joined = None
        if "joined" in stored:
            self.joined = JoinedSums(self.hparams["tokens"], device, self.gram.width).restore(stored["joined"])
        if "pairs" in stored:
            # All of them are here: there is nothing to sum over ranks.
            self._sums = self._no_prompts()
            self._sums.add_pairs([], [EncodedPair(**pair) for pair in stored["pairs"]])
            self._sums.add_kept(stored["kept"])
            self._sums.add_held_out(stored["held_out"])
            return
        self._tools["held_out_moments"] = stored["held_out_moments"].to(device)
        evidence = replace(restore_moments(stored, device), prompts=stored.get("prompts", 1))
        self._loop = RECELoop(self.gram, self.holding(evidence), self.settings)

    def adopt(self, state: dict[str, Any], *, reuse_map: bool) -> None:
        """Take the erasure of a checkpoint that was made from another model with the same text encoder.

        Args:
            state: ``rece`` of the checkpoint.
            reuse_map: take its map; otherwise the epochs run anew on this model's weights.
        """
        check_map_fits(self, state)
        self._summary = state["concepts"]
        self.restore_evidence(state["evidence"])
        loop = self.loop
        for _ in range(state["epoch"]):
            record = loop.run_epoch()
            if reuse_map and loop.epoch == state["epoch"]:
                loop.maps = EmbeddingMap(state["map"].to(self.gram.total.device))
            self.history.append(self.measure(record))

    def _held_out_moments(self) -> Tensor:
        """``P_h`` of held-out prompts, of the preserved ones where there are none; computed once."""
        if "held_out_moments" not in self._tools:
            self._tools["held_out_moments"] = self.sums.held_out_moments(self.gram.width)
        return self._tools["held_out_moments"]

    def check_same_run(self, state: dict[str, Any], data: Any = None) -> None:
        """Refuse the state of another run: see ``resuming.py``."""
        if hasattr(data, "take_chosen"):
            data.take_chosen(state["concepts"])
        asked = data.summary() if hasattr(data, "summary") else None
        if asked is not None and "robust" in state["concepts"]:
            asked = {**asked, "robust": state["concepts"]["robust"]}  # chosen, not asked for
        check_same_run(self, state, asked, tuple(dict.fromkeys((*self.decisive, "robust"))))
        check_map_fits(self, state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the state back, after checking that it belongs to this base, these settings and concepts.

        Raises:
            ConfigurationError: saying what differs.
        """
        state = checkpoint.get("rece")
        if not isinstance(state, dict):
            raise ConfigurationError("ckpt_path: the file holds no erasure; give a checkpoint that RECE wrote.")
        trainer = self._trainer
        self.check_adapter("validate", erased=True)
        self.check_same_run(state, getattr(trainer, "datamodule", None))
        if trainer is not None and trainer.state.fn == "fit":
            check_work_left(trainer, state)
        self._restored = state
        self._summary = state["concepts"]
        self.history = list(state["history"])
        self.restore_evidence(state["evidence"])
        if self.joined is not None:
            self.joined.summary = dict(self._summary.get("robust", {}))
        loop = self.loop
        # The epochs replay in milliseconds: that rebuilds what an accumulating loop holds. The stored map
        # then takes its place, so that a resumed run goes on from the very bits that were saved.
        self.first_maps = loop.run(1)
        loop.run(state["epoch"] - 1)
        stored = state["map"].to(self.gram.total.device)
        replayed = loop.maps.matrix if isinstance(loop.maps, EmbeddingMap) else loop.maps.matrices
        # On the machine that saved it they are the same bits, and the replayed map also knows its factors.
        if not torch.equal(stored, replayed):
            loop.maps = type(loop.maps)(stored)
