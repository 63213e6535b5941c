"""Erase: RECE inside somebody else's training, so that the saved model no longer makes some concepts."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from rece_lightning.concepts import ConceptMapping, check_disjoint, prompt_pairs, read_concepts, read_preserved
from rece_lightning.core.edit import EditScales
from rece_lightning.core.embedding_map import apply_to_weight
from rece_lightning.core.errors import ConfigurationError, check_choice
from rece_lightning.core.gram import Gram
from rece_lightning.core.loop import LoopSettings, RECELoop
from rece_lightning.evidence import encode_pairs, gather_evidence
from rece_lightning.models.pipelines import put_weights
from rece_lightning.models.projections import is_text_projection, select_projections
from rece_lightning.models.text import TOKEN_RULES, PromptEncoder


class Erase(Callback):
    """Erase concepts from the U-Net that a LightningModule of yours trains.

    Training itself goes on untouched. What is saved is erased: in every checkpoint the cross-attention
    projections hold RECE's closed form of the weights of that moment, and after the last epoch the live
    U-Net is edited too, so that ``save_pretrained`` writes an erased model. A resumed training starts from
    the erased weights.

    Args:
        concepts: prompts or mappings, as in :class:`rece_lightning.ConceptData`.
        preserve: prompts whose keys and values are held.
        target: what the concepts become.
        templates: filled with concept and target alike.
        epochs: 1 is UCE; each further one derives and edits.
        unet: attribute of your module that holds the U-Net (a path with dots works).
        text_encoder: attribute that holds the CLIP text encoder.
        tokenizer: attribute that holds its tokenizer.
        erase_scale: η.
        preserve_scale: λ₁.
        lamb: λ₂.
        regular_scale: λ.
        regularizer: of the derivation.
        accumulate: hold what earlier epochs erased.
        tokens: positions that epoch 0 edits.
        projections: ``kv``, ``k`` or ``v``.

    Raises:
        ConfigurationError: for a setting that makes no sense, or an attribute that your module lacks.
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
        erase_scale: float = 1.0,
        preserve_scale: float = 0.1,
        lamb: float = 0.1,
        regular_scale: float = 0.1,
        regularizer: str = "norm",
        accumulate: bool = False,
        tokens: str = "aligned",
        projections: str = "kv",
    ) -> None:
        if not isinstance(epochs, int) or epochs < 1:
            raise ConfigurationError(f"Erase.epochs: {epochs!r}; give 1 (UCE) or more.")
        check_choice("Erase.tokens", tokens, TOKEN_RULES)
        wanted = read_concepts(concepts, target, templates)
        self.pairs = prompt_pairs(wanted)
        self.preserved = read_preserved(preserve)
        check_disjoint(self.pairs, wanted, self.preserved)
        self.epochs = epochs
        self.attributes = {"unet": unet, "text_encoder": text_encoder, "tokenizer": tokenizer}
        self.tokens = tokens
        self.projections = projections
        self.settings = LoopSettings(
            scales=EditScales(erase_scale, preserve_scale, lamb),
            regular_scale=regular_scale,
            regularizer=regularizer,
            accumulate=accumulate,
        )
        self._edited_live = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the parts before any training."""
        for role in self.attributes:
            self._part(pl_module, role)
        if not any(is_text_projection(name) for name, _ in self._part(pl_module, "unet").named_parameters()):
            raise ConfigurationError(
                f"Erase.unet: {self.attributes['unet']!r} has no cross-attention that reads the text (attn2.to_k)."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The live weights are the training's own."""
        self._edited_live = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the erased projections into the checkpoint; the live weights stay as they are."""
        if self._edited_live:
            return
        prefix = self.attributes["unet"]
        state = checkpoint["state_dict"]
        for name, weight in self.edited_weights(pl_module).items():
            key = f"{prefix}.{name}"
            if key not in state:
                raise ConfigurationError(
                    f"Erase: the checkpoint has no {key}; a strategy that shards the weights is not supported yet."
                )
            state[key] = weight.to(state[key])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Edit the live U-Net."""
        put_weights(self._part(pl_module, "unet"), self.edited_weights(pl_module))
        self._edited_live = True

    @torch.no_grad()
    def edited_weights(self, pl_module: LightningModule) -> dict[str, Tensor]:
        """RECE's closed form of the present projections, under their names in the U-Net."""
        unet = self._part(pl_module, "unet")
        parameters = {name: weight.detach() for name, weight in unet.named_parameters() if is_text_projection(name)}
        names = select_projections(list(parameters), self.projections)
        text_encoder = self._part(pl_module, "text_encoder")
        # The encoder may be training: leave its mode and its gradients as they are.
        was_training, wanted = text_encoder.training, [weight.requires_grad for weight in text_encoder.parameters()]
        encoder = PromptEncoder(self._part(pl_module, "tokenizer"), text_encoder)
        device = unet.device if unet.device.type != "mps" else torch.device("cpu")
        try:
            pairs = encode_pairs(
                encoder,
                [pair.prompt for pair in self.pairs],
                [pair.target for pair in self.pairs],
                [pair.weight for pair in self.pairs],
            )
            kept = list(encoder.encode(self.preserved).embeddings) if self.preserved else []
        finally:
            text_encoder.train(was_training)
            for weight, needs in zip(text_encoder.parameters(), wanted, strict=True):
                weight.requires_grad_(needs)
        gram = Gram.of(((name, parameters[name]) for name in names), device=device)
        maps = RECELoop(gram, gather_evidence(pairs, kept, self.tokens, device), self.settings).run(self.epochs)
        return {name: apply_to_weight(parameters[name], maps.of_layer(0)) for name in names}

    def _part(self, pl_module: LightningModule, role: str) -> Any:
        part: Any = pl_module
        for step in self.attributes[role].split("."):
            part = getattr(part, step, None)
        if part is None or (role == "unet" and not isinstance(part, nn.Module)):
            raise ConfigurationError(
                f"Erase.{role}: {type(pl_module).__name__} has no {self.attributes[role]!r}; name the attribute "
                f"that holds the {role.replace('_', ' ')}, as in Erase(..., {role}='model.{role}')."
            )
        return part
