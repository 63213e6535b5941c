"""Erase: RECE inside somebody else's training, so that the saved model no longer makes some concepts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rece_lightning.core.errors import ConfigurationError, check_count
from rece_lightning.core.gram import Gram
from rece_lightning.core.method import Method
from rece_lightning.data.concepts import ConceptMapping
from rece_lightning.devices.sharded import refuse_sharded
from rece_lightning.erasure.erasure import Erasure, check_finite, erased_spaces
from rece_lightning.erasure.in_training import NOTHING, DenoiserInTraining, lent
from rece_lightning.erasure.lora_training import LoraTraining
from rece_lightning.erasure.plan import ErasurePlan
from rece_lightning.erasure.statistics import ConceptStatistics
from rece_lightning.models.beside import is_control_net
from rece_lightning.models.live_unet import LiveUnet, pooled_width_of
from rece_lightning.models.text import PromptEncoder
from rece_lightning.runs.erased_io import ErasedCheckpoints

READS = ".attn2.to_k."
"""In the names of parameters that read the text."""
SHARDING = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)
"""Strategies under which no process holds the whole weights, or another copy of them overwrites an edit."""


class Erase(Callback):
    """Erase concepts from the U-Net that a LightningModule of yours trains.

    What is saved is erased: whatever is read out of the U-Net with ``state_dict()`` while it trains (a checkpoint, with
    all or with the weights alone, ``save_pretrained`` or ``torch.save`` in a callback of yours) holds RECE's closed
    form of the weights of that moment; so does, in every checkpoint, an average of the weights that another callback
    keeps; and after the last epoch the live U-Net is edited too. Where ``Erase`` stands among the callbacks does not
    matter. A resumed training starts from the erased weights.

    Without a schedule the training itself goes on untouched. With ``every_n_steps`` or ``every_n_epochs`` the
    live weights are edited during it too: the training then goes on from an erased model, can repair what an
    edit cost, and never gets far in learning the concept anew. An edit comes after the optimizer's step
    and leaves the optimizer's state (momentum) as it is. Other denoisers that your module holds are not edited; a
    warning names them.

    LoRAs are edited with their base, ``(W + B A) M = W M + B (A M)``. At the end the LoRA carries the erasure and the
    base is the original one again, so that a LoRA that is saved alone erases (``erasure/adapters.py``).

    Several compose in the order of the callbacks: each edits the weights as the one before left them, in whatever is
    saved too.

    Args:
        concepts: prompts or mappings, as in :class:`rece_lightning.ConceptData`.
        preserve: prompts whose keys and values are held. Unless given, everyday words of the tokenizer that do not
            mean what is erased; with ``tune: off`` the empty prompt alone.
        target: what the concepts become.
        templates: filled with concept and target alike.
        epochs: 1 is UCE; each further one derives and edits. Chosen unless given; 4 with ``tune: off``.
        unet: attribute of your module that holds the U-Net (a path with dots works).
        text_encoder: attribute that holds the CLIP text encoder.
        tokenizer: attribute that holds its tokenizer.
        text_encoder_2: attribute that holds the second text encoder (SDXL).
        tokenizer_2: attribute that holds its tokenizer.
        every_n_steps: also edit the live weights after every so many optimizer steps, as
            ``trainer.global_step`` counts them: accumulated batches count once, a resumed training counts on.
        every_n_epochs: also edit the live weights at the end of every so many epochs, after its validation.
        lora_rank: by how much the rank of a LoRA may grow that is to carry the erasure; unless given, by what an exact
            result needs. At less its error is printed.
        method: how to erase.
        tune: ``balanced`` chooses the settings of ``method`` that are at their defaults, and the epochs, without a
            picture; ``robust`` takes a singular editor; ``off``. Unless given ``balanced``, or ``off`` where a method
            is given. It chooses once, on the weights of the first edit; a resumed training goes on with that.
        drift_budget: of tuning: the most that the keys and values of other prompts may move.

    Raises:
        ConfigurationError: for a setting that makes no sense, an attribute that your module lacks, a strategy that
            shards the weights, or something that reads the text and cannot be edited, such as a ControlNet.
    """

    def __init__(
        self,
        concepts: str | list[str | ConceptMapping],
        preserve: str | list[str] | None = None,
        target: str = " ",
        templates: list[str] = ["{}"],  # noqa: B006
        epochs: int | None = None,
        unet: str = "unet",
        text_encoder: str = "text_encoder",
        tokenizer: str = "tokenizer",
        text_encoder_2: str | None = None,
        tokenizer_2: str | None = None,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        lora_rank: int | None = None,
        method: Method | None = None,
        tune: str | bool | None = None,
        drift_budget: float | None = None,
    ) -> None:
        counts = {"every_n_steps": every_n_steps, "every_n_epochs": every_n_epochs, "lora_rank": lora_rank}
        for field, value in counts.items():
            if value is not None:
                check_count(f"Erase.{field}", value, "null, 1")
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.lora_rank = lora_rank
        self.plan = ErasurePlan.of(
            "Erase", concepts, preserve=preserve, target=target, templates=templates, method=method, epochs=epochs,
            tune=tune, drift_budget=drift_budget,
        )  # fmt: skip
        self.attributes = {"unet": unet, "text_encoder": text_encoder, "tokenizer": tokenizer}
        if text_encoder_2 is not None or tokenizer_2 is not None:
            self.attributes |= {"text_encoder_2": text_encoder_2 or "", "tokenizer_2": tokenizer_2 or ""}
        self._steps_seen = 0
        self._statistics: tuple[torch.device, ConceptStatistics] | None = None
        self._denoiser: DenoiserInTraining | None = None
        self._restoring: RemovableHandle | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the parts before any training."""
        if isinstance(trainer.strategy, SHARDING):
            raise ConfigurationError(
                f"trainer.strategy: {type(trainer.strategy).__name__} shards the weights, which Erase cannot edit; "
                "train with ddp, or without Erase and erase from the saved model."
            )
        # Another module, or another denoiser in the same one: its erasures go with it.
        ErasedCheckpoints.of(trainer.strategy).forget(self)
        self._denoiser = None
        if not self._is_built_later(pl_module):
            self._find(trainer, pl_module)
        if stage == "fit":
            # The last moment before a checkpoint's weights, which are erased, take the place of the base's own.
            self._restoring = pl_module.register_load_state_dict_pre_hook(lambda *_: self._find(trainer, pl_module))

    @property
    def state_key(self) -> str:
        """A trainer may hold several: of other concepts, or of another denoiser."""
        return self._generate_state_key(concepts=[pair.prompt for pair in self.plan.pairs], **self.attributes)

    def state_dict(self) -> dict[str, Any]:
        """What was chosen and drawn."""
        return self.plan.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self.plan = self.plan.chosen_before(state_dict)

    def _is_built_later(self, pl_module: LightningModule) -> bool:
        """Whether a part is missing that the module's own ``setup`` or ``configure_model`` can still make."""
        builds = any(is_overridden(hook, pl_module) for hook in ("setup", "configure_model"))
        return builds and any(self._found(pl_module, role) is None for role in self.attributes)

    def _find(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the denoiser where it is by now, and check all parts."""
        for role in self.attributes:
            self._part(pl_module, role)
        self._refuse_sharded(pl_module)
        self._live(pl_module)
        unet = self._part(pl_module, "unet")
        if self._denoiser is None or self._denoiser.denoiser is not unet:
            self._denoiser = self._enter(trainer, pl_module, unet)
        if trainer.state.fn == TrainerFn.FITTING:
            self._denoiser.loras.remember()

    def _enter(self, trainer: Trainer, pl_module: LightningModule, unet: nn.Module) -> DenoiserInTraining:
        """Have this erasure in whatever the trainer writes of a denoiser."""
        checkpoints = ErasedCheckpoints.of(trainer.strategy)
        checkpoints.forget(self)
        denoiser = checkpoints.denoiser_of(unet)
        if denoiser is None:
            loras = LoraTraining(unet, self._field, self.lora_rank)
            denoiser = DenoiserInTraining(unet, pl_module, lambda: self._live(pl_module).parameters, loras)
            checkpoints.denoisers.append(denoiser)
        denoiser.add(self, lambda *what: self.edited_weights(pl_module, *what))
        return denoiser

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A module that builds or wraps its parts (``setup``, ``configure_model``) did so after this ``setup``."""
        if self._restoring is not None:
            self._restoring.remove()
        self._find(trainer, pl_module)
        self._name_others(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where nothing is fitted: what this trainer saves then is erased too."""
        self._find(trainer, pl_module)

    on_test_start = on_predict_start = on_validation_start

    def _name_others(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of what else in the module reads text, since it is saved as it is; a ControlNet is refused."""
        erasers: list[Erase] = [one for one in trainer.callbacks if isinstance(one, Erase)]  # type: ignore[attr-defined]
        if self is not erasers[0]:
            return
        edited = {id(weight) for one in erasers for weight in one._part(pl_module, "unet").parameters()}
        others = (name for name, one in pl_module.named_parameters() if READS in name and id(one) not in edited)
        tops = sorted({re.split(r"\.(?:down_blocks|mid_block|up_blocks|attn2)\.", name)[0] for name in others})
        for top in tops:
            if is_control_net(pl_module.get_submodule(top)):
                raise ConfigurationError(
                    f"Erase: {top} ({type(pl_module.get_submodule(top)).__name__}) reads the same text for the same "
                    f"pictures, and would stay as it is; add an Erase(..., unet={top!r}) with the same concepts."
                )
        if tops:
            rank_zero_warn(
                f"Erase: {type(pl_module).__name__} also holds {', '.join(map(repr, tops))}, which reads text and is "
                f"saved as it is; add an Erase(..., unet={tops[0]!r}) where it should lose the concepts too."
            )

    def _refuse_sharded(self, pl_module: LightningModule) -> None:
        refuse_sharded(self._part(pl_module, "unet"), f"Erase.unet: {self.attributes['unet']!r}", within=pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The live weights are the training's own, what is read out of them is erased; a resumed training counts on."""
        self._steps_seen = trainer.global_step
        self._statistics = None
        self._in_training.trained()
        self._in_training.hold()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """From here on the live weights may change."""
        self._in_training.trained()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Edit the live weights when ``every_n_steps`` optimizer steps are full."""
        # Several optimizers take several steps a batch; accumulated batches take none.
        steps, before = trainer.global_step, self._steps_seen
        self._steps_seen = steps
        if self.every_n_steps is not None and steps // self.every_n_steps > before // self.every_n_steps:
            self._in_training.edit(self)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Edit the live weights when ``every_n_epochs`` epochs are full."""
        if self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._in_training.edit(self)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Edit the live U-Net."""
        self._in_training.edit()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Edit it again where another callback has put other weights over it since, such as an average."""
        if self._in_training.holds:
            self._in_training.edit()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The live U-Net is erased; what is read out of it is what lies in it from here on. A LoRA carries it."""
        if self._denoiser is None:
            return
        self._denoiser.release()
        added = self._denoiser.carry() if stage == "fit" else None
        if added is not None and self.lora_rank is not None:
            rank_zero_info(
                f"Erase: the LoRA carries the erasure at a rank of {added.rank} beside its own; "
                f"{100 * added.error:.2g} % of the change are lost."
            )
        if added is not None and added.left:
            rank_zero_warn(
                f"Erase: {', '.join(added.left)} is erased in the base weights, not in the LoRA; to save a LoRA that "
                f"erases there too, add {added.left[0].removesuffix('.weight')!r} to target_modules, and save it under "
                "peft's names (get_peft_model_state_dict, without convert_state_dict_to_diffusers)."
            )

    @property
    def _in_training(self) -> DenoiserInTraining:
        assert self._denoiser is not None  # on_fit_start found it
        return self._denoiser

    @torch.no_grad()
    def edited_weights(
        self,
        pl_module: LightningModule,
        weights: Mapping[str, Tensor] | None = None,
        beside: Mapping[str, Any] = NOTHING,
        together: bool = False,
    ) -> dict[str, Tensor]:
        """RECE's closed form of the present weights that read the text, under their names in the U-Net.

        Args:
            pl_module: with the parts.
            weights: in place of the live U-Net's, such as a checkpoint's.
            beside: what was saved beside them, under its names in ``pl_module``: trained text encoders take theirs.
            together: every rank does this now, and all get the same bits. Otherwise none waits for another: what is
                saved may be saved by one rank alone.
        """
        device = next(self._part(pl_module, "unet").parameters()).device
        live = self._live(pl_module, {name: weight.to(device) for name, weight in (weights or {}).items()})
        self.plan, spaces = self.plan.on(live)
        grams = self.plan.grams(live, spaces)
        statistics = self._statistics_now(pl_module, live, beside, grams)
        self.plan = self.plan.tuned(statistics, grams)
        erasers = self.plan.erasers(statistics, grams, together=together)
        edited = dict(Erasure(live, erased_spaces(spaces, erasers.maps, erasers.grams)).weights())
        check_finite(edited)
        return edited

    def _live(self, pl_module: LightningModule, weights: Mapping[str, Tensor] | None = None) -> LiveUnet:
        pooled = pooled_width_of(self._parts(pl_module))
        return LiveUnet(self._part(pl_module, "unet"), self._field, pooled, weights)

    @property
    def _field(self) -> str:
        return f"Erase.unet: {self.attributes['unet']!r}"

    def _statistics_now(
        self, pl_module: LightningModule, live: LiveUnet, beside: Mapping[str, Any], grams: Mapping[str, Gram]
    ) -> ConceptStatistics:
        """What the prompts say: encoded once while the text encoder is frozen, anew while it trains."""
        parts, device = self._parts(pl_module), live.algebra_device
        encoders = [part for role, part in vars(parts).items() if role.startswith("text_encoder")]
        trained = [encoder for encoder in encoders if any(weight.requires_grad for weight in encoder.parameters())]
        if self._statistics is None or trained or self._statistics[0] != device:
            with ExitStack() as saved:
                for encoder in trained:
                    saved.enter_context(lent(pl_module, encoder, beside))
                encoder = PromptEncoder.of_pipeline(parts)
                self.plan, counted = self.plan.counted(encoder, self.plan.on(live)[1], device, grams)
                self._statistics = device, counted
        return self._statistics[1]

    def _parts(self, pl_module: LightningModule) -> SimpleNamespace:
        """Under the names that a diffusers pipeline has them."""
        return SimpleNamespace(**{role: self._part(pl_module, role) for role in self.attributes})

    def _found(self, pl_module: LightningModule, role: str) -> Any:
        """A part, or ``None``; a compiled module wraps the one that holds the weights."""
        part: Any = pl_module
        for step in self.attributes[role].split("."):
            part = getattr(part, step, None) if step else None
        return getattr(part, "_orig_mod", part)

    def _part(self, pl_module: LightningModule, role: str) -> Any:
        part = self._found(pl_module, role)
        if part is None or (role == "unet" and not isinstance(part, nn.Module)):
            raise ConfigurationError(
                f"Erase.{role}: {type(pl_module).__name__} has no {self.attributes[role]!r}; name the attribute "
                f"that holds the {role.replace('_', ' ')}, as in Erase(..., {role}='model.{role}')."
            )
        return part
