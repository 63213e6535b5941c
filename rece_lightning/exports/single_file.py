"""``single-file``: one checkpoint in Stable Diffusion's original layout, with the edited projections in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.erasure.rounding import Rounding
from rece_lightning.erasure.trained_weights import AnyErasure
from rece_lightning.exports.modelspec import modelspec
from rece_lightning.exports.record import Loss, rounded_weights
from rece_lightning.exports.safetensors import stream_tensors
from rece_lightning.models.base import BaseModel
from rece_lightning.models.folder import part_weights
from rece_lightning.models.original.model import PARTS, to_original, unet_projections
from rece_lightning.models.original.unet import unet_names
from rece_lightning.models.pickled import PickledWeights
from rece_lightning.models.transformer_file import original_readers
from rece_lightning.models.weights import SafetensorsWeights, Weights

AVERAGED = ("model_ema.",)
"""Moving averages of the weights from training. They are not edited, and a loader that prefers them would bring the
erased concept back; so they are left out."""


def write_single_file(erasure: AnyErasure, path: Path, metadata: dict[str, str]) -> Loss:
    """Write the whole model into one safetensors file under original names, whole or not at all.

    Of a base that is a single file every other tensor is copied bit for bit, whatever it belongs to, but moving
    averages (:data:`AVERAGED`). A diffusers folder is converted: U-Net, autoencoder and text encoders. An SD 2 folder
    has no 24th layer of the text encoder, so neither has the file: the model does not evaluate it.

    Raises:
        BaseModelError: if the original layout has no place for a tensor of the folder.
        ConfigurationError: if the file cannot be written.
    """
    base = erasure.base
    names, tensors = _of_file(base) if base.layout == "single_file" else _of_folder(base)
    missing = [name for name in erasure.names if name not in names]
    if missing:
        raise BaseModelError(
            f"model.pretrained: {base.path}: {missing[0]} has no counterpart in the original layout; "
            "write a diffusers folder (--format pipeline)."
        )
    rounding = Rounding()
    edited = {names[name]: weight for name, weight in erasure.weights(rounding)}

    def with_edits() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors():
            yield name, edited.get(name, tensor)

    said = {**metadata, **modelspec(base, path.stem, erasure.concepts, metadata)}
    stream_tensors(with_edits, path, said)
    return rounded_weights(rounding)


Tensors = Callable[[], Iterator[tuple[str, Tensor]]]


def _of_file(base: BaseModel) -> tuple[dict[str, str], Tensors]:
    """Names of the projections in the file, and all of its tensors."""
    file = base.path
    weights: Weights = SafetensorsWeights(file) if file.suffix == ".safetensors" else PickledWeights(file)
    stored = [name for name in weights.shapes() if not name.startswith(AVERAGED)]
    found = original_readers(weights.shapes())
    return unet_projections(stored) if found is None else found[1], lambda: weights.read(stored)


def _of_folder(base: BaseModel) -> tuple[dict[str, str], Tensors]:
    """Names of the U-Net's tensors in the original layout, and the model's tensors under their names there."""
    vae = part_weights(base.path, "vae", base.variant)
    parts = dict(zip(PARTS[base.family], (base.weights, vae, *base.text), strict=True))
    return unet_names(base.weights.shapes()), lambda: to_original(parts, base.family)
