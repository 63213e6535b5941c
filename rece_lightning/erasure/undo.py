"""Taking an edit of a model in memory back."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.layers import live_layers, plain_path
from rece_lightning.models.pipelines import put_weights


class Undo:
    """Puts the original weights of an edited module back, bit for bit.

    Args:
        module: that was edited in place.
        original: name → weight, on the CPU.
    """

    def __init__(self, module: nn.Module, original: dict[str, Tensor]) -> None:
        self.done = False
        self._module, self._original = module, original
        self._digests = {name: digest(module.get_parameter(name)) for name in original}

    @property
    def names(self) -> list[str]:
        """Parameter names of what was edited."""
        return list(self._original)

    def __call__(self, *, force: bool = False) -> None:
        """Put them back. A second call does nothing.

        Args:
            force: also over weights that somebody else changed since, in whatever dtype they have now.

        Raises:
            ConfigurationError: if the weights are not the edit's any more, or the module does not compute with them.
        """
        if self.done:
            return
        places, present = self._places(), dict(self._module.named_parameters())
        if any(present[place].is_meta for place in places.values()):
            raise ConfigurationError("undo: the U-Net was offloaded to the device meta since; remove its hooks first.")
        if not force and any(digest(present[place]) != self._digests[name] for name, place in places.items()):
            raise ConfigurationError(
                "undo: the edited projections were changed since (by another erasure, a training, a LoRA fused or "
                "unfused, a cast to another dtype). Undo what came later first; undo(force=True) puts the originals "
                "over it."
            )
        put_weights(self._module, {place: self._original[name] for name, place in places.items()})
        self.done = True
        self._original = dict.fromkeys(self._original, torch.empty(0))

    def _places(self) -> dict[str, str]:
        """Name when it was edited → name now, of what still is there: a LoRA that was unloaded took its part with it.

        Raises:
            ConfigurationError: if what was edited is not where it was, or nothing computes with it there.
        """
        wanted = {plain_path(name) for name in self._original}
        layers = live_layers(self._module, wanted.__contains__, "undo: the U-Net")
        present = {name for layer in layers.values() for name in layer.edited}
        unwrapped = {name: layer.weight for name, layer in layers.items() if not layer.loras}
        places = {name: name for name in self._original if name in present}
        for name in self._original:
            layer, is_lora, _ = name.partition(".lora_A.")
            if name in places or (is_lora and f"{plain_path(layer)}.weight" in layers):
                continue
            if plain_path(name) not in unwrapped:
                raise ConfigurationError(
                    f"undo: the U-Net has no {name} any more; unload what was put around it since (a LoRA) first."
                )
            places[name] = unwrapped[plain_path(name)]
        return places


def digest(weight: Tensor) -> str:
    """SHA-256 of a weight's dtype and bytes, wherever it lies."""
    found = hashlib.sha256(str(weight.dtype).encode())
    found.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
