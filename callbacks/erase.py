"""Erase: RECE inside somebody else's training, so that the saved model no longer makes some concepts."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError, check_count
from rece_lightning.core.method import Method
from rece_lightning.data.concepts import ConceptMapping
from rece_lightning.devices.sharded import refuse_sharded
from rece_lightning.erasure.erasure import Erasure, check_finite, erased_spaces
from rece_lightning.erasure.plan import ErasurePlan
from rece_lightning.erasure.statistics import ConceptStatistics
from rece_lightning.models.live_unet import LiveUnet, pooled_width_of
from rece_lightning.models.pipelines import put_weights
from rece_lightning.models.text import PromptEncoder

SHARDING = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)
"""Strategies under which no process holds the whole weights, or another copy of them overwrites an edit."""


class Erase(Callback):
    """Erase concepts from the U-Net that a LightningModule of yours trains.

    What is saved is erased: in every checkpoint the weights that read the text hold RECE's closed form of the
    weights of that moment, and after the last epoch the live U-Net is edited too, so that ``save_pretrained``
    writes an erased model. A resumed training starts from the erased weights.

    Without a schedule the training itself goes on untouched. With ``every_n_steps`` or ``every_n_epochs`` the
    live weights are edited during it too: the training then goes on from an erased model, can repair what an
    edit cost, and never gets far in learning the concept anew. An edit comes after the optimizer's step
    and leaves the optimizer's state (momentum) as it is. Weights that your module keeps beside the U-Net, such as
    a moving average, are not edited.

    Several compose in the order of the callbacks: each edits the weights as the one before left them, in checkpoints
    too.

    Args:
        concepts: prompts or mappings, as in :class:`rece_lightning.ConceptData`.
        preserve: prompts whose keys and values are held.
        target: what the concepts become.
        templates: filled with concept and target alike.
        epochs: 1 is UCE; each further one derives and edits.
        unet: attribute of your module that holds the U-Net (a path with dots works).
        text_encoder: attribute that holds the CLIP text encoder.
        tokenizer: attribute that holds its tokenizer.
        text_encoder_2: attribute that holds the second text encoder (SDXL).
        tokenizer_2: attribute that holds its tokenizer.
        every_n_steps: also edit the live weights after every so many optimizer steps, as
            ``trainer.global_step`` counts them: accumulated batches count once, a resumed training counts on.
        every_n_epochs: also edit the live weights at the end of every so many epochs, after its validation.
        method: how to erase.

    Raises:
        ConfigurationError: for a setting that makes no sense, an attribute that your module lacks, or a
            strategy that shards the weights.
    """

    def __init__(
        self,
        concepts: str | list[str | ConceptMapping],
        preserve: str | list[str] = [" "],  # noqa: B006  never changed
        target: str = " ",
        templates: list[str] = ["{}"],  # noqa: B006
        epochs: int = 4,
        unet: str = "unet",
        text_encoder: str = "text_encoder",
        tokenizer: str = "tokenizer",
        text_encoder_2: str | None = None,
        tokenizer_2: str | None = None,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        method: Method = Method(),  # noqa: B008  frozen
    ) -> None:
        for field, value in (("every_n_steps", every_n_steps), ("every_n_epochs", every_n_epochs)):
            if value is not None:
                check_count(f"Erase.{field}", value, "null, 1")
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.plan = ErasurePlan.of(
            "Erase", concepts, preserve=preserve, target=target, templates=templates, method=method, epochs=epochs
        )
        self.attributes = {"unet": unet, "text_encoder": text_encoder, "tokenizer": tokenizer}
        if text_encoder_2 is not None or tokenizer_2 is not None:
            self.attributes |= {"text_encoder_2": text_encoder_2 or "", "tokenizer_2": tokenizer_2 or ""}
        self._live_is_erased = False
        self._steps_seen = 0
        self._statistics: ConceptStatistics | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the parts before any training."""
        if isinstance(trainer.strategy, SHARDING):
            raise ConfigurationError(
                f"trainer.strategy: {type(trainer.strategy).__name__} shards the weights, which Erase cannot edit; "
                "train with ddp, or without Erase and erase from the saved model."
            )
        for role in self.attributes:
            self._part(pl_module, role)
        self._refuse_sharded(pl_module)
        self._live(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A module that wraps itself (``configure_model``) does so after ``setup``."""
        self._refuse_sharded(pl_module)

    def _refuse_sharded(self, pl_module: LightningModule) -> None:
        refuse_sharded(self._part(pl_module, "unet"), f"Erase.unet: {self.attributes['unet']!r}", within=pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The live weights are the training's own; a resumed training counts on."""
        self._live_is_erased = False
        self._steps_seen = trainer.global_step
        self._statistics = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """From here on the live weights may change."""
        self._live_is_erased = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Edit the live weights when ``every_n_steps`` optimizer steps are full."""
        # Several optimizers take several steps a batch; accumulated batches take none.
        steps, before = trainer.global_step, self._steps_seen
        self._steps_seen = steps
        if self.every_n_steps is not None and steps // self.every_n_steps > before // self.every_n_steps:
            self._edit_live(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Edit the live weights when ``every_n_epochs`` epochs are full."""
        if self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._edit_live(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the erased weights into the checkpoint; the live weights stay as they are."""
        if self._live_is_erased:
            return
        prefix, state = f"{self.attributes['unet']}.", checkpoint["state_dict"]
        saved = {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
        missing = [name for name in self._live(pl_module).names if name not in saved]
        if missing:
            raise ConfigurationError(
                f"Erase: the checkpoint has no {prefix}{missing[0]}; a strategy that shards the weights is not "
                "supported yet."
            )
        for name, weight in self.edited_weights(pl_module, saved).items():
            state[f"{prefix}{name}"] = weight.to(state[f"{prefix}{name}"])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Edit the live U-Net."""
        self._edit_live(pl_module)

    @torch.no_grad()
    def edited_weights(
        self, pl_module: LightningModule, weights: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """RECE's closed form of the present weights that read the text, under their names in the U-Net.

        Args:
            pl_module: with the parts.
            weights: in place of the live U-Net's, such as those of a checkpoint.
        """
        live = self._live(pl_module, weights)
        spaces = self.plan.spaces(live)
        erasers = self.plan.erasers(live, spaces, self._statistics_now(pl_module, live))
        edited = dict(Erasure(live, erased_spaces(spaces, erasers.maps, erasers.grams)).weights())
        check_finite(edited)
        return edited

    def _edit_live(self, pl_module: LightningModule) -> None:
        if not self._live_is_erased:
            put_weights(self._part(pl_module, "unet"), self.edited_weights(pl_module))
            self._live_is_erased = True

    def _live(self, pl_module: LightningModule, weights: Mapping[str, Tensor] | None = None) -> LiveUnet:
        pooled = pooled_width_of(self._parts(pl_module))
        field = f"Erase.unet: {self.attributes['unet']!r}"
        live = LiveUnet(self._part(pl_module, "unet"), field, pooled, weights)
        if live.adapted:
            raise ConfigurationError(
                f"{field}: a LoRA lies around {live.adapted[0]}; train without Erase, then fuse the LoRA and erase."
            )
        return live

    def _statistics_now(self, pl_module: LightningModule, live: LiveUnet) -> ConceptStatistics:
        """What the prompts say: encoded once while the text encoder is frozen, anew while it trains."""
        parts = self._parts(pl_module)
        encoders = [part for role, part in vars(parts).items() if role.startswith("text_encoder")]
        frozen = not any(weight.requires_grad for encoder in encoders for weight in encoder.parameters())
        if self._statistics is None or not frozen:
            encoder, device = PromptEncoder.of_pipeline(parts), live.algebra_device
            self._statistics = self.plan.statistics(encoder, self.plan.spaces(live), device)
        return self._statistics

    def _parts(self, pl_module: LightningModule) -> SimpleNamespace:
        """Under the names that a diffusers pipeline has them."""
        return SimpleNamespace(**{role: self._part(pl_module, role) for role in self.attributes})

    def _part(self, pl_module: LightningModule, role: str) -> Any:
        part: Any = pl_module
        for step in self.attributes[role].split("."):
            part = getattr(part, step, None) if step else None
        if part is None or (role == "unet" and not isinstance(part, nn.Module)):
            raise ConfigurationError(
                f"Erase.{role}: {type(pl_module).__name__} has no {self.attributes[role]!r}; name the attribute "
                f"that holds the {role.replace('_', ' ')}, as in Erase(..., {role}='model.{role}')."
            )
        return part
