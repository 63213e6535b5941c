"""Configurations of the published Stable Diffusion models, for checkpoint files, which hold none.

Nothing is fetched: their numbers lie in ``data/``, and so does CLIP's vocabulary.
"""

from __future__ import annotations

import json
import lzma
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rece_lightning.models.fitted import fit_to_shapes
from rece_lightning.models.original.model import TEXT_PROJECTIONS, text_prefixes, unet_projections
from rece_lightning.models.original.pieces import Shape
from rece_lightning.models.original.unet import PREFIX

DATA = Path(__file__).parent / "data"
FILES = {"model_index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}
NOTHING: Mapping[str, Any] = {}
Configs = dict[str, dict[str, Any]]
"""Part → its configuration; ``model_index`` among them."""


@dataclass(frozen=True)
class Layout:
    """A published model: its family's numbers, and what differs from them."""

    family: str
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def configs(self) -> Configs:
        """The configurations of all parts."""
        stored: Configs = json.loads((DATA / f"{self.family}.json").read_text(encoding="utf-8"))
        configs = {part: {**config, **self.changes.get(part, {})} for part, config in stored.items()}
        configs["model_index"]["scheduler"] = ["diffusers", configs["scheduler"]["_class_name"]]
        return configs


def _inpainting(pipeline: str, **changes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    unet = {"in_channels": 9, **changes.pop("unet", {})}
    return {"model_index": {"_class_name": pipeline}, "unet": unet, **changes}


INPAINTING = "StableDiffusionInpaintPipeline"
_EPSILON: dict[str, Mapping[str, Any]] = {
    "scheduler": {"prediction_type": "epsilon", "_class_name": "PNDMScheduler"},
    "vae": {"sample_size": 512},
}

LAYOUTS: dict[str, Layout] = {
    "sd1": Layout("sd1"),
    "sd1-inpainting": Layout("sd1", _inpainting(INPAINTING, scheduler={"_class_name": "DDIMScheduler"})),
    "sd2": Layout("sd2"),
    "sd2-base": Layout("sd2", {"unet": {"sample_size": 64}, **_EPSILON}),
    "sd2-inpainting": Layout("sd2", _inpainting(INPAINTING, unet={"sample_size": 64}, **_EPSILON)),
    "sdxl": Layout("sdxl"),
    "sdxl-inpainting": Layout("sdxl", _inpainting("StableDiffusionXLInpaintPipeline")),
}
"""``sd2`` predicts v at 768 pixels, ``sd2-base`` the noise at 512: their tensors have the same names and shapes."""

WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
TEXT = {
    ("cond_stage_model.transformer.",): "sd1",
    ("cond_stage_model.model.",): "sd2",
    ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."): "sdxl",
}


def kind_of(shapes: Mapping[str, Shape]) -> str | None:
    """Which of :data:`LAYOUTS` a file in the original layout has; ``None`` if it has none.

    The names of its text encoders tell, and in a file without any the width of what its cross-attention reads. SD 2's
    two predictions cannot be told apart from shapes: the answer is ``sd2`` (v), as in diffusers.
    """
    entry = shapes.get(f"{PREFIX}input_blocks.0.0.weight")
    projections = [name for name in unet_projections(shapes).values() if name.endswith(TEXT_PROJECTIONS)]
    if entry is None or len(entry) < 2 or not projections:
        return None
    prefixes = text_prefixes(shapes)
    family = TEXT.get(prefixes) if prefixes else WIDTHS.get(shapes[projections[0]][-1])
    return f"{family}-inpainting" if family and entry[1] == 9 else family


def config_folder(
    kind: str, shapes: Mapping[str, Shape] | None = None, changes: Mapping[str, Mapping[str, Any]] = NOTHING
) -> Path:
    """A diffusers folder with the configurations and tokenizers of a model and no weights.

    It is what ``config=`` of diffusers' ``from_single_file`` takes. It is written once and removed when the process
    ends.

    Args:
        kind: one of :data:`LAYOUTS`.
        shapes: of all tensors of the file that is to be loaded. Numbers that can be read from them (channels, layers,
            widths) then come from the file, so that models smaller or larger than the published ones load too.
        changes: part → entries that the file says otherwise, as its markers do.

    Raises:
        BaseModelError: if a part of the file is incomplete, or its text encoder has another vocabulary than CLIP's.
    """
    configs = LAYOUTS[kind].configs()
    if shapes is not None:
        configs = fit_to_shapes(configs, shapes, LAYOUTS[kind].family)
    configs = {part: {**config, **changes.get(part, {})} for part, config in configs.items()}
    scheduler = configs["scheduler"]
    # PNDM, the scheduler of Stable Diffusion 1, cannot begin where no signal is left.
    if scheduler.get("rescale_betas_zero_snr") and scheduler["_class_name"] == "PNDMScheduler":
        scheduler |= {"_class_name": "DDIMScheduler", "clip_sample": False}
    configs["model_index"]["scheduler"] = ["diffusers", scheduler["_class_name"]]
    return Path(_written(json.dumps(configs)).name)


@cache
def _written(configs: str) -> tempfile.TemporaryDirectory[str]:
    """A folder that lives as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="rece-layout-")
    for part, config in json.loads(configs).items():
        kind = part.startswith("tokenizer") * "tokenizer_"
        file = Path(folder.name) / FILES.get(part, f"{part}/{kind}config.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if kind:
            write_vocabulary(file.parent)
    return folder


def byte_characters() -> list[str]:
    """A visible character for each of the 256 bytes, in the vocabulary's order.

    Bytes that Latin-1 prints stand for themselves and come first; the others follow as the characters from 256 on.
    """
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printed] + [chr(256 + i) for i in range(256 - len(printed))]


@cache
def merges() -> tuple[str, ...]:
    """CLIP's pairs of tokens in the order in which they are merged, as ``"left right"``."""
    return tuple(lzma.decompress((DATA / "clip_merges.txt.xz").read_bytes()).decode("utf-8").splitlines())


@cache
def vocabulary() -> dict[str, int]:
    """CLIP's tokens → their numbers, :data:`~rece_lightning.models.fitted.VOCABULARY_SIZE` of them."""
    letters = byte_characters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(pair.replace(" ", "") for pair in merges())]
    return {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def write_vocabulary(folder: Path) -> None:
    """Write CLIP's ``vocab.json`` and ``merges.txt``, which a CLIPTokenizer loads."""
    write_byte_pairs(folder, vocabulary(), merges())


def write_byte_pairs(folder: Path, tokens: Mapping[str, int], pairs: Iterable[str]) -> None:
    """Write ``vocab.json`` and ``merges.txt``.

    Args:
        folder: of a tokenizer.
        tokens: token → number.
        pairs: ``"left right"`` in the order in which they are merged.
    """
    (folder / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    # Readers take the first line for a heading.
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n", encoding="utf-8")
