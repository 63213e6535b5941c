"""Configurations of the published Stable Diffusion models, for checkpoint files, which hold none.

Nothing is fetched: their numbers lie in ``data/``, and so does CLIP's vocabulary.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rece_lightning.models.clip_vocabulary import write_vocabulary
from rece_lightning.models.fitted import fit_to_shapes
from rece_lightning.models.original import UNET, projections_in, text_prefixes
from rece_lightning.models.original.pieces import Shape

DATA = Path(__file__).parent / "data"
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


_EPSILON: dict[str, Mapping[str, Any]] = {
    "scheduler": {"prediction_type": "epsilon", "_class_name": "PNDMScheduler"},
    "vae": {"sample_size": 512},
}

LAYOUTS: dict[str, Layout] = {
    "sd1": Layout("sd1"),
    "sd1-inpainting": Layout(
        "sd1", _inpainting("StableDiffusionInpaintPipeline", scheduler={"_class_name": "DDIMScheduler"})
    ),
    "sd2": Layout("sd2"),
    "sd2-base": Layout("sd2", {"unet": {"sample_size": 64}, **_EPSILON}),
    "sd2-inpainting": Layout(
        "sd2", _inpainting("StableDiffusionInpaintPipeline", unet={"sample_size": 64}, **_EPSILON)
    ),
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

    Args:
        shapes: of all tensors of the file.
    """
    entry = shapes.get(f"{UNET}input_blocks.0.0.weight")
    projections = [name for name in projections_in(shapes).values() if "attn2" in name]
    if entry is None or len(entry) < 2 or not projections:
        return None
    prefixes = text_prefixes(shapes)
    family = TEXT.get(prefixes) if prefixes else WIDTHS.get(shapes[projections[0]][-1])
    return f"{family}-inpainting" if family and entry[1] == 9 else family


def config_folder(kind: str, shapes: Mapping[str, Shape] | None = None) -> Path:
    """A diffusers folder with the configurations and tokenizers of a model and no weights.

    It is what ``config=`` of diffusers' ``from_single_file`` takes. It is written once and removed when the process
    ends.

    Args:
        kind: one of :data:`LAYOUTS`.
        shapes: of all tensors of the file that is to be loaded. Numbers that can be read from them (channels, layers,
            widths) then come from the file, so that models smaller or larger than the published ones load too.

    Raises:
        BaseModelError: if a part of the file is incomplete, or its text encoder has another vocabulary than CLIP's.
    """
    layout = LAYOUTS[kind]
    configs = layout.configs()
    if shapes is not None:
        configs = fit_to_shapes(configs, shapes, layout.family)
    return _written(json.dumps(configs)).path


@dataclass(frozen=True)
class _Folder:
    """A folder that lives as long as the process."""

    owner: tempfile.TemporaryDirectory[str]

    @property
    def path(self) -> Path:
        return Path(self.owner.name)


@cache
def _written(configs: str) -> _Folder:
    folder = _Folder(tempfile.TemporaryDirectory(prefix="rece-layout-"))
    for part, config in json.loads(configs).items():
        if part == "model_index":
            _write_json(folder.path / "model_index.json", config)
        elif part == "scheduler":
            _write_json(folder.path / part / "scheduler_config.json", config)
        elif part.startswith("tokenizer"):
            _write_json(folder.path / part / "tokenizer_config.json", config)
            write_vocabulary(folder.path / part)
        else:
            _write_json(folder.path / part / "config.json", config)
    return folder


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
