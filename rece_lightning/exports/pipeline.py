"""``pipeline``: a whole diffusers folder, the base model's with other projections in its U-Net."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.erasure.rounding import Rounding
from rece_lightning.erasure.trained_weights import AnyErasure
from rece_lightning.exports.generations import write_for_both
from rece_lightning.exports.record import Loss, rounded_weights
from rece_lightning.exports.safetensors import copy_with_metadata, replace_tensors
from rece_lightning.models.folder import variant_of
from rece_lightning.models.published import forget_places
from rece_lightning.models.weights import SafetensorsWeights, Weights

# One format is loaded, the first of these that is there.
FORMATS = (".safetensors", ".bin")
WEIGHTS = re.compile(
    r"\.(safetensors|bin|msgpack|onnx|onnx_data|pb|h5|ckpt|pt|pth|xml)$|\.(safetensors|bin)\.index(\..+)?\.json$"
)
STEM = "diffusion_pytorch_model"


def write_pipeline(erasure: AnyErasure, folder: Path, metadata: dict[str, str]) -> Loss:
    """Fill an existing folder with the model.

    Every tensor but the edited ones keeps the base model's bytes; those of CLIP get the names that transformers 4 and 5
    both read. A U-Net in PyTorch's own format becomes safetensors. What no part of the pipeline loads stays behind:
    other variants, other formats, checkpoints beside the parts, all of which would hold the model before the edit.
    """
    base = erasure.base
    if base.layout == "folder":
        copy_parts(base.path, folder, base.variant, tuple(base.parts))
        files = {
            part: copy_weights(weights, base.path / part, folder / part, metadata)
            for part, weights in base.parts.items()
        }
    else:
        files = {"unet": save_parts(erasure, folder, metadata)}
    write_for_both(folder)
    forget_places(folder)
    rounding = Rounding()
    for number, (part, of_part) in enumerate(files.items()):
        # Every pass goes over all weights; they are counted once.
        replace_tensors(of_part, weights_of(erasure, part, Rounding() if number else rounding))
    return rounded_weights(rounding)


def weights_of(erasure: AnyErasure, part: str, rounding: Rounding) -> Iterator[tuple[str, Tensor]]:
    """The edited weights of one denoiser, under the names that they have there."""
    for name, weight in erasure.weights(rounding):
        home, own = erasure.base.home(name)
        if home == part:
            yield own, weight


def copy_parts(source: Path, target: Path, variant: str | None, denoisers: Sequence[str] = ("unet",)) -> None:
    """Copy every part that ``model_index.json`` names, the denoisers without their weights.

    A part that the source lacks, as a safety checker that was not fetched, is one that the copy does without.
    """
    index: dict[str, Any] = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
    for part, value in index.items():
        if not isinstance(value, list) or not value or value[0] is None:
            continue
        if (source / part).is_dir():
            copy_part(source / part, target / part, variant, weights=part not in denoisers)
        else:
            index[part] = [None, None]
            if part == "safety_checker" and "requires_safety_checker" in index:
                index["requires_safety_checker"] = False
    (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def copy_part(source: Path, target: Path, variant: str | None, *, weights: bool) -> None:
    """Copy a part's configuration, and the weights that diffusers would load of it."""
    target.mkdir()
    files = [file for file in sorted(source.iterdir()) if file.is_file()]
    chosen = [file for file in files if not WEIGHTS.search(file.name)]
    if weights:
        chosen += loaded_files([file for file in files if WEIGHTS.search(file.name)], variant)
    for file in chosen:
        # Weights were found to be weights when the model was opened, and often lie on another disk.
        if not WEIGHTS.search(file.name):
            check_link(file, source.parent)
        # The content, not the mode: files of a hub's cache are links and may be read-only.
        shutil.copyfile(file, target / file.name)


def check_link(file: Path, model: Path) -> None:
    """Refuse to copy what a link brings in from outside the model's folder: the copy may be published.

    A hub's cache keeps the files of its snapshots in a folder beside them.

    Raises:
        BaseModelError: naming the link.
    """
    real, home = file.resolve(), model.resolve()
    cached = home.parent.name == "snapshots" and real.is_relative_to(home.parent.parent / "blobs")
    if not cached and not real.is_relative_to(home):
        raise BaseModelError(
            f"model.pretrained: {file} leads out of the model's folder, to {real}; refused, since the copy would hold "
            "it. Put the file itself there."
        )


def loaded_files(files: list[Path], variant: str | None) -> list[Path]:
    """Of a part's weight files those of one format and one variant; those without a variant where it has none."""
    for wanted in dict.fromkeys((variant, None)):
        for ending in FORMATS:
            found = [file for file in files if ending in file.name and variant_of(file.name) == wanted]
            if found:
                return found
    return []


def copy_weights(weights: Weights, source: Path, target: Path, metadata: dict[str, str]) -> list[Path]:
    """A denoiser's weights as safetensors files, still unedited.

    Args:
        weights: of the part.
        source: its folder.
        target: the folder that they are to lie in.
        metadata: of every file.
    """
    if isinstance(weights, SafetensorsWeights):
        for file in weights.files:
            copy_with_metadata(file, target / file.name, metadata)
        if len(weights.files) > 1:
            for index in source.glob(f"{STEM}.safetensors.index*.json"):
                if variant_of(index.name) == variant_of(weights.files[0].name):
                    shutil.copyfile(index, target / index.name)
        return [target / file.name for file in weights.files]
    variant = variant_of(Path(weights.where).name)
    file = target / f"{STEM}{f'.{variant}' if variant else ''}.safetensors"
    # A copy of each: tensors that share memory cannot be written.
    save_file({name: tensor.clone() for name, tensor in weights.read(weights.shapes())}, file, metadata)
    return [file]


def save_parts(erasure: AnyErasure, target: Path, metadata: dict[str, str]) -> list[Path]:
    """A model that is no folder, as diffusers saves it; the U-Net's files, still unedited."""
    from rece_lightning.models.pipelines import load_pipeline

    _, weight = next(erasure.original())
    load_pipeline(erasure.base, dtype=weight.dtype).save_pretrained(target, safe_serialization=True)
    files = sorted((target / "unet").glob("*.safetensors"))
    for file in files:
        plain = file.rename(file.with_suffix(".plain"))
        copy_with_metadata(plain, file, metadata)
        plain.unlink()
    return files
