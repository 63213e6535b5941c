"""A training of LoRAs: what it began with, and the two forms in which its erasure is kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.erasure.adapters import CarriedErasure, LoraSize, carried, carrier_of, carry
from rece_lightning.models.layers import LiveLayer
from rece_lightning.models.live_unet import reader_layers


class LoraTraining:
    """Base weights before any erasure, and how the LoRA that carries one is trained.

    *Narrow*, the base holds ``W M`` and the LoRA ``A M`` and ``B``, of the shapes that are trained: what a whole
    checkpoint is. *Wide*, the base is the original and the LoRA erases: what is kept where the LoRA is saved alone.

    Args:
        denoiser: that is trained.
        field: where it was found, for messages.
        rank: by how much the LoRA may grow; ``None``: by what an exact result needs.
    """

    def __init__(self, denoiser: nn.Module, field: str, rank: int | None = None) -> None:
        self.denoiser, self.field, self.rank = denoiser, field, rank
        self.is_wide = False
        """Whether the live LoRA is."""
        self._said = False
        self._original: dict[str, Tensor] = {}
        self._layers: dict[str, LiveLayer] = {}
        self._sizes: dict[str, LoraSize] = {}
        self._carrier = ""

    @property
    def is_remembered(self) -> bool:
        """Whether it is known what the training began with."""
        return bool(self._original)

    def remember(self) -> None:
        """Note what the training begins with, once there is a LoRA: before a checkpoint or an edit changes the base."""
        layers = reader_layers(self.denoiser, self.field)
        if self._original:
            return
        if not any(layer.loras for layer in layers.values()):
            if not self._said and any(hasattr(module, "lora_A") for module in self.denoiser.modules()):
                warnings.warn(
                    f"{self.field}: the LoRA lies around no layer that reads the text, so the erasure stays in the "
                    "base weights, and a LoRA that is saved alone does not erase; put it around to_k or to_v too.",
                    stacklevel=2,
                )
                self._said = True
            return
        weights = {name: self.denoiser.get_parameter(layer.weight) for name, layer in layers.items()}
        alone = "the erasure stays in the base weights; a LoRA that is saved alone does not erase."
        if any(weight.requires_grad for weight in weights.values()):
            warnings.warn(f"{self.field}: the base is trained beside its LoRA, so {alone}", stacklevel=2)
            return
        try:
            self._carrier, _ = carrier_of(layers, self.field)
        except ConfigurationError as error:
            warnings.warn(f"{error} Until then {alone}", stacklevel=2)
            return
        self._layers = layers
        self._original = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
        self._sizes = {
            name: LoraSize.of(layer, self._carrier) for name, layer in layers.items() if self._carrier in layer.loras
        }

    def carry(self) -> CarriedErasure | None:
        """Make the live LoRA wide; ``None`` where none carries an erasure."""
        if not self._original or self.is_wide:
            return None
        added = carry(self.denoiser, self._original, rank=self.rank, field=self.field)
        self.is_wide = True
        return added

    def is_alone(self, names: Mapping[str, Tensor]) -> bool:
        """Whether the LoRA is there and its base is not."""
        pairs = [(self._layers[name].weight, self._layers[name].loras[self._carrier][0]) for name in self._sizes]
        return any(down in names and weight not in names for weight, down in pairs)

    @torch.no_grad()
    def wide(self, erased: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The wide form of narrow weights, name → tensor, of the readers that the LoRA lies around."""
        if not self._sizes or self.is_wide:
            return {}
        layers = {name: self._layers[name] for name in self._sizes}
        if any(part not in erased for layer in layers.values() for part in (layer.weight, *layer.loras[self._carrier])):
            return {}
        weights = {name: erased[layer.weight] for name, layer in layers.items()}
        result: dict[str, Tensor] = {}
        bare = [name for name, layer in self._layers.items() if name not in self._sizes and layer.weight in erased]
        if any(not torch.equal(erased[self._layers[name].weight].cpu(), self._original[name]) for name in bare):
            warnings.warn(
                f"{self.field}: no LoRA lies around {bare[0]}, so a LoRA that is saved alone before the training ends "
                "does not erase there; at its end it does. Train keys and values both "
                '(target_modules=["to_k", "to_v"]) to have it earlier.',
                stacklevel=2,
            )
        for name, (down, up) in carried(self._original, weights, self.rank).factors.items():
            rows, columns = layers[name].loras[self._carrier]
            wide = self._sizes[name].wide(erased[rows], erased[columns], down, up)
            result |= dict(zip((rows, columns), wide, strict=True))
            result[layers[name].weight] = self._original[name].to(weights[name])
        return result

    @torch.no_grad()
    def narrow(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The narrow form of wide weights: what changes, and what the training has no place for."""
        changed: dict[str, Tensor] = {}
        gone: list[str] = []
        for name, layer in self._layers.items():
            where = layer.weight.removesuffix(".weight").removesuffix(".base_layer")
            base, *places = (f"{where}.{part}.weight" for part in ("base_layer", *self._factors))
            size = self._sizes.get(name, LoraSize(0, 1.0, next(iter(self._sizes.values())).weighted))
            rows, columns = (state.get(place) for place in places)
            if rows is None or columns is None or len(rows) <= size.rank:
                continue
            down, up, change = size.narrow(rows, columns)
            weight = state.get(base, self._original[name])
            changed[layer.weight] = (weight.double() + change.to(weight.device)).to(weight)
            if name in self._sizes:
                changed |= dict(zip(places, (down, up), strict=True))
            else:
                gone += [place for place in (*places, base) if place != layer.weight]
        return changed, gone

    @property
    def _factors(self) -> tuple[str, str]:
        return f"lora_A.{self._carrier}", f"lora_B.{self._carrier}"
