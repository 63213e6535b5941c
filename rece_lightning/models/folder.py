"""Open a diffusers folder: check that its parts fit together, and find the files of their weights."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import Path

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.base import BaseModel
from rece_lightning.models.beside import may_read_text
from rece_lightning.models.part_configs import check_part, check_parts, read_json, read_parts
from rece_lightning.models.pickled import PICKLES, PickledWeights
from rece_lightning.models.quantized import gguf_refused, is_gguf
from rece_lightning.models.weights import SafetensorsWeights, Weights

PARTS = ("unet", "text_encoder", "tokenizer", "scheduler", "vae")
FIRST, SECOND = ("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")
XL = ("sdxl", "sdxl-refiner")
"""With both text encoders, and with the second alone."""
# Without these a library takes its defaults in silence.
NEEDED_FILES = {
    **dict.fromkeys(("unet", "vae", "text_encoder", "text_encoder_2"), ("config.json",)),
    **dict.fromkeys(("tokenizer", "tokenizer_2"), ("vocab.json", "tokenizer.json")),
    "scheduler": ("scheduler_config.json",),
}
# Names without their endings: diffusers' parts have one of their own, transformers' have two.
STEMS = {
    **dict.fromkeys(("unet", "vae"), ("diffusion_pytorch_model",)),
    **dict.fromkeys(("text_encoder", "text_encoder_2"), ("model", "pytorch_model")),
}


def open_folder(name: str, folder: Path, variant: str | None) -> BaseModel:
    """Check that a folder, which the user called ``name``, is a text-to-image model whose parts fit together.

    Raises:
        BaseModelError: saying what is missing or does not fit.
    """
    if not (folder / "model_index.json").is_file():
        raise BaseModelError(
            f"model.pretrained: {folder} is no diffusers model (model_index.json is missing). "
            "Give the folder that save_pretrained of a pipeline wrote, or a checkpoint file."
        )
    named = read_parts(folder)
    second = "text_encoder_2" in named
    left_out = FIRST if second and not any(part in named for part in FIRST) else ()  # SDXL's refiner
    parts = [*(part for part in PARTS if part not in left_out), *(SECOND if second else ())]
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise BaseModelError(f"model.pretrained: {folder} lacks {', '.join(missing)}/; copy the model whole.")
    for part in parts:
        files = [f"{part}/{file}" for file in NEEDED_FILES[part]]
        if not any((folder / file).is_file() for file in files):
            raise BaseModelError(f"model.pretrained: {folder} has no {' or '.join(files)}; copy the model whole.")
    index = read_json(folder / "model_index.json")
    for part in named:
        if may_read_text(part, str(index[part][1])):
            raise BaseModelError(
                f"model.pretrained: {folder}: its {part} ({index[part][1]}) may read the text too, and an edit of the "
                "U-Net leaves it as it is. Give the model without it; a ControlNet is edited with its U-Net in "
                "memory: rece_lightning.erase(pipeline, …)."
            )
    for part in dict.fromkeys((*parts, *named)):
        check_part(folder / part)
    weights = {part: part_weights(folder, part, variant) for part in STEMS if part in parts}
    encoders = {part: weights[part] for part in parts if part.startswith("text_encoder")}
    spaces, configs = check_parts(folder, str(folder / "unet"), weights["unet"], encoders)
    return BaseModel(
        name=name,
        path=folder,
        layout="folder",
        # OpenCLIP's activation, of Stable Diffusion 2; OpenAI's CLIP has the quick one.
        family=XL[bool(left_out)] if second else "sd2" if configs[0].get("hidden_act") == "gelu" else "sd1",
        variant=variant,
        spaces=spaces,
        parameters=sum(math.prod(shape) for shape in weights["unet"].shapes().values()),
        weights=weights["unet"],
        text=tuple(encoders.values()),
        encoder_names=list(encoders),
    )


def is_named(parts: Collection[str]) -> bool:
    """Whether a model_index.json names the parts of a Stable Diffusion; a pipeline with others is of another family."""
    second = set(SECOND) <= set(parts)
    return all(part in parts for part in PARTS if part not in FIRST or not second)


def part_weights(model: Path, part: str, variant: str | None) -> Weights:
    """The weights of a part of a folder: safetensors before PyTorch's own format, one file before shards.

    Raises:
        BaseModelError: if there are none, or they are damaged.
    """
    # The first stem is that of safetensors files.
    folder, stems = model / part, STEMS["text_encoder" if part.startswith("text_encoder") else "unet"]
    suffix = f".{variant}" if variant else ""
    # As diffusers has it: where some parts have the variant, the others are loaded without.
    for wanted in dict.fromkeys((variant, None if _has_variant(model, variant) else variant)):
        if files := _shard_files(folder, stems[:1], wanted, ".safetensors"):
            return SafetensorsWeights(*files)
        if files := _shard_files(folder, stems, wanted, ".bin"):
            return PickledWeights(*files)
    endings = {".safetensors", *PICKLES}
    gguf = next((path for path in sorted(folder.glob("*")) if is_gguf(path)), None)
    if gguf is not None:
        raise BaseModelError(gguf_refused(gguf))
    others = sorted(path.name for path in folder.glob("*") if path.suffix in endings or "-of-" in path.name)
    fits = [file for file in others if file.startswith(stems) and Path(file).suffix in (".safetensors", ".bin")]
    hint = f"it holds {', '.join(fits[:3])}: set model.variant" if fits else "copy the model whole"
    if others and not fits:
        hint = f"it holds {others[0]}, which is not how diffusers names it; fetch the safetensors file"
    raise BaseModelError(f"model.pretrained: {folder} has no {stems[0]}{suffix}.safetensors; {hint}.")


def _has_variant(model: Path, variant: str | None) -> bool:
    """Whether any part of a folder has weights of a variant."""
    files = (file.name for file in model.glob("*/*") if file.suffix in (".safetensors", ".bin", ".json"))
    return variant is not None and any(variant_of(name) == variant for name in files)


def variant_of(name: str) -> str | None:
    """The variant in the name of a weight file, or of an index of such files.

    Example:
        >>> variant_of("model.fp16-00001-of-00002.safetensors"), variant_of("model.safetensors.index.fp16.json")
        ('fp16', 'fp16')
        >>> variant_of("model-00001-of-00002.safetensors"), variant_of("model.bin.index.json")
        (None, None)
    """
    for ending in (".safetensors", ".bin", ".index", ".json"):
        name = name.replace(ending, "")
    name = re.sub(r"-\d+-of-\d+", "", name)
    return name.split(".", 1)[1] if "." in name else None


def _shard_files(folder: Path, stems: tuple[str, ...], variant: str | None, ending: str) -> list[Path]:
    """The file of a part or the shards that its index names; empty where there is neither."""
    suffix = f".{variant}" if variant else ""
    for stem in stems:
        whole = folder / f"{stem}{suffix}{ending}"
        if whole.exists():
            return [whole]
        if whole.is_symlink():
            raise BaseModelError(f"model.pretrained: {whole} is a link that leads nowhere; fetch the file again.")
        index = folder / f"{stem}{ending}.index{suffix}.json"
        if index.exists():
            return _indexed_files(index)
    return []


def _indexed_files(index: Path) -> list[Path]:
    """The shards that an index names, each inside its folder."""
    content = read_json(index).get("weight_map")
    if not isinstance(content, dict) or not content:
        raise BaseModelError(f"model.pretrained: {index} names no files (weight_map); fetch it again.")
    files = []
    for name in sorted({str(value) for value in content.values()}):
        if Path(name).name != name or len(name) > 255:
            raise BaseModelError(
                f"model.pretrained: {index} leads out of its folder ({name!r}); refused. Fetch the model from where it "
                "was published."
            )
        if not (index.parent / name).is_file():
            raise BaseModelError(f"model.pretrained: {index} names {name}, which is missing; copy the model whole.")
        files.append(index.parent / name)
    return files
