"""An adapter on a base model, for measuring: a LoRA or edited weights, fused when pictures are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.models.lora_file import ALPHA, PEFT_FILE, Factors, factors_of, layers_of, plain_layer
from rece_lightning.models.pickled import file_weights
from rece_lightning.models.weights import Weights, all_finite, check_floats, digest_tensors

FILES = (PEFT_FILE, "pytorch_lora_weights")
"""What PEFT and diffusers call the file in a folder."""
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
OTHER_KINDS = {"hada_": "LoHa", "lokr_": "LoKr", "oft_": "OFT", "dora_scale": "DoRA", "lora_magnitude": "DoRA"}
OTHER_KINDS |= {"lora_mid": "LoCon with a middle factor", "lora_embedding": "LoRA of embeddings"}


@dataclass(frozen=True)
class Adapter:
    """A file that was read as far as its names and shapes."""

    path: Path
    weights: Weights = field(repr=False)
    factors: Mapping[str, Factors] = field(repr=False)
    """Layer, as the file calls it → its factors; empty for edited weights."""

    @property
    def kind(self) -> str:
        """``lora`` or ``delta``."""
        return "lora" if self.factors else "delta"

    def digest(self) -> str:
        """SHA-256 over names and bytes of its tensors."""
        return digest_tensors(self.weights.read(sorted(self.weights.shapes())))

    @torch.no_grad()
    def fuse(self, unet: nn.Module, text_encoders: Sequence[nn.Module], family: str) -> None:
        """Put it into a model of this family: a LoRA adds to its weights, edited weights take their place.

        Raises:
            BaseModelError: if one of its tensors has no place in the model; then nothing was changed.
        """
        if not self.factors:
            self._replace(unet)
            return
        places = layers_of(unet, text_encoders, family)
        lost = [layer for layer in self.factors if plain_layer(layer) not in places]
        if lost:
            raise BaseModelError(
                f"model.adapter: {self.path}: {len(lost)} of its {len(self.factors)} layers are none of this model's, "
                f"for example {lost[0]}; it was trained on another model, or names its layers in a way that is not "
                "read (those of diffusers, PEFT, kohya, ComfyUI and the original layout are). Give the base that it "
                "was trained on, or save it with diffusers."
            )
        shapes = self.weights.shapes()
        for layer, factors in self.factors.items():
            whole = (shapes[factors.up][0], *shapes[factors.down][1:])
            self._check_shape(layer, whole, tuple(places[plain_layer(layer)].shape))
        for layer, factors in self.factors.items():
            weight = places[plain_layer(layer)]
            (_, down), (_, up) = self._read((factors.down, factors.up))
            # Of a convolution ``down`` has its kernel.
            change = factors.scale * (up.float().flatten(1) @ down.float().flatten(1))
            weight.add_(change.to(weight).view_as(weight))

    def _replace(self, unet: nn.Module) -> None:
        state = unet.state_dict()
        shapes = self.weights.shapes()
        names = {name: name.removeprefix("unet.") for name in shapes}
        lost = [name for name, parameter in names.items() if parameter not in state]
        if lost:
            raise BaseModelError(
                f"model.adapter: {self.path}: {lost[0]} is no parameter of this U-Net; give edited weights under "
                "diffusers names, or a LoRA. A whole model belongs in model.pretrained."
            )
        for name, parameter in names.items():
            self._check_shape(name, shapes[name], tuple(state[parameter].shape))
        for name, value in self._read(names):
            state[names[name]].copy_(value)

    def _read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.weights.read(names):
            if not all_finite(value):
                raise BaseModelError(
                    f"model.adapter: {self.path}: {name} holds NaN or infinite values; fetch it again."
                )
            yield name, value

    def _check_shape(self, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        # Some U-Nets have a 1×1 convolution where others have a matrix.
        if tuple(size for size in found if size != 1) != tuple(size for size in wanted if size != 1):
            raise BaseModelError(
                f"model.adapter: {self.path}: {name} is made for weights of shape {list(found)}, this model's are "
                f"{list(wanted)}; give the base that it was trained on."
            )


def open_adapter(path: str | Path) -> Adapter:
    """Look into a LoRA or a file of edited weights; tensors are read when it is fused.

    Args:
        path: a file under the names of diffusers, PEFT or kohya; or a folder that holds one.

    Raises:
        ConfigurationError: if there is no such file.
        BaseModelError: if it is damaged, or of a kind that cannot be fused exactly.
    """
    file = _find_file(Path(path).expanduser())
    try:
        weights = file_weights(file)
        check_floats(weights, (name for name in weights.shapes() if not ALPHA.match(name)))
    except BaseModelError as error:
        raise BaseModelError(str(error).replace("model.pretrained", "model.adapter", 1)) from error
    names = list(weights.shapes())
    for mark, kind in OTHER_KINDS.items():
        for name in names:
            if mark in name:
                raise BaseModelError(
                    f"model.adapter: {file} is a {kind} ({name}), which is not read; fuse it elsewhere."
                )
    if not names:
        raise BaseModelError(f"model.adapter: {file} holds no tensors; give a LoRA or edited weights.")
    is_lora = any("lora" in name for name in names)
    return Adapter(file, weights, factors_of(file, weights) if is_lora else {})


def _find_file(path: Path) -> Path:
    """The file of an adapter: itself, or the one in a folder."""
    if path.is_file():
        if path.suffix not in ENDINGS:
            raise ConfigurationError(f"model.adapter: {path} ends in none of {', '.join(ENDINGS)}; give such a file.")
        return path
    if not path.is_dir():
        raise ConfigurationError(f"model.adapter: there is no {path}; give a LoRA, edited weights, or their folder.")
    for name in (f"{stem}{ending}" for stem in FILES for ending in (".safetensors", ".bin")):
        if (path / name).is_file():
            return path / name
    others = sorted(path.glob("*.safetensors"))
    if len(others) != 1:
        named = ", ".join(file.name for file in others[:3])
        raise ConfigurationError(
            f"model.adapter: {path} holds {f'{len(others)} files ({named})' if others else 'no safetensors file'}; "
            "give the path of one file."
        )
    return others[0]


def check_adapter(adapter: str | None, stage: str, *, erased: bool = False) -> None:
    """Look at ``model.adapter`` before a verb, the ``stage``, does any work; ``erased`` if its model is a checkpoint's.

    Raises:
        ConfigurationError: for an adapter that is nowhere, or where it would be unclear what it is put on.
        BaseModelError: if it is damaged or cannot be fused.
    """
    if adapter is None:
        return
    if stage == "fit" or erased:
        why, how = "a checkpoint erases from its base alone", "write the erasure with `export --format pipeline`"
        if stage == "fit":
            why, how = "fit edits the base model alone", "fuse the adapter and save the pipeline"
        raise ConfigurationError(f"model.adapter: {adapter}: {why}; {how}, and give that as model.pretrained.")
    open_adapter(adapter)
