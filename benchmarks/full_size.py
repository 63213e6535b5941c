"""Checkpoints in Stable Diffusion's real shapes with random weights: ``python -m benchmarks.full_size FOLDER [KIND]``.

Only for timing: their pictures are noise. Numbers of layers and widths are those of the configurations that ship.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from rece_lightning.models.families.unet import text_projection
from rece_lightning.models.layouts import LAYOUTS, write_vocabulary


def write_checkpoint(folder: Path, kind: str = "sd1", dtype: torch.dtype = torch.float16) -> Path:
    """A diffusers folder of ``kind`` with random weights; an existing one is kept."""
    if (folder / "model_index.json").exists():
        return folder
    configs = LAYOUTS[kind].configs()
    for part, build in (
        ("unet", lambda config: UNet2DConditionModel.from_config(config)),
        ("vae", lambda config: AutoencoderKL.from_config(config)),
        ("text_encoder", lambda config: CLIPTextModel(CLIPTextConfig(**config))),
        ("text_encoder_2", lambda config: CLIPTextModelWithProjection(CLIPTextConfig(**config))),
    ):
        if part in configs:
            fill(with_shapes(build, configs[part]), dtype).save_pretrained(folder / part)
    for part in [part for part in configs if part.startswith("tokenizer")]:
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "tokenizer_config.json").write_text(json.dumps(configs[part]))
        write_vocabulary(folder / part)
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs["scheduler"]))
    (folder / "model_index.json").write_text(json.dumps(configs["model_index"]))
    return folder


def with_shapes(build, config) -> nn.Module:  # type: ignore[no-untyped-def]
    """The module without memory for its weights, so that no random number is drawn twice."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return build(config)


def fill(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give a module random weights of a trained model's size."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            state[name] = torch.full(parameter.shape, 0.0 if name.endswith("bias") else 1.0, dtype=dtype)
        else:
            scale = parameter[0].numel() ** -0.5
            state[name] = (torch.randn(parameter.shape, generator=generator) * scale).to(dtype)
    module.load_state_dict(state, strict=False, assign=True)
    return module


def projection_shapes(kind: str) -> list[tuple[int, int]]:
    """``(o, d)`` of every text-reading projection of a published model."""
    unet = with_shapes(UNet2DConditionModel.from_config, LAYOUTS[kind].configs()["unet"])
    shapes = {name: tuple(value.shape) for name, value in unet.named_parameters()}
    return [shape for name, shape in shapes.items() if text_projection(name, shapes, {})]  # type: ignore[misc]


def random_projections(shapes: list[tuple[int, int]], device: str = "cpu") -> list[Tensor]:
    """Weights of these shapes, float32."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(shape, generator=generator) * shape[1] ** -0.5).to(device) for shape in shapes]


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", nargs="?", default="sd1", choices=sorted(LAYOUTS))
    arguments = parser.parse_args()
    print(write_checkpoint(arguments.folder, arguments.kind))


if __name__ == "__main__":
    main()
