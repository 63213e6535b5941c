"""Load the text side of a model of a declared family: tokenizers, text encoders, and what the rows pass after them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn
from transformers.utils import logging as progress

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.base import BaseModel
from rece_lightning.models.encoder_turns import EncoderTurns
from rece_lightning.models.families import family_of
from rece_lightning.models.family_parts import left_out
from rece_lightning.models.folder import variant_of
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.text_space import TextSpace

TEXT_SIDE = ("tokenizer", "text_encoder", "scheduler", "processor")
"""What the names of parts begin with that encoding needs; a scheduler is a few numbers."""


def load_family_encoder(base: BaseModel, device: torch.device | str = "cpu") -> PipelineEncoder:
    """Load text encoders in their stored dtype; denoisers and autoencoder stay on the disk.

    Raises:
        BaseModelError: if they cannot be loaded.
    """
    index: dict[str, Any] = json.loads((base.configurations / "model_index.json").read_text(encoding="utf-8"))
    family = family_of(index["_class_name"])
    assert family is not None
    parts = [key for key, value in index.items() if isinstance(value, list) and not key.startswith("_")]
    without = {part: None for part in parts if not part.startswith(TEXT_SIDE)} | left_out(base.configurations, family)
    try:
        pipeline = getattr(diffusers, index["_class_name"]).from_pretrained(
            base.configurations, variant=base.variant, local_files_only=True, **without
        )
    except Exception as error:  # the libraries raise many kinds; each means that a file is not what it should be
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"model.pretrained: {base.configurations}: tokenizer or text encoder cannot be loaded ({reason}); copy the "
            "model anew."
        ) from error
    encoders = {
        name: part.eval().requires_grad_(False)
        for name, part in pipeline.components.items()
        if isinstance(part, nn.Module) and name.startswith("text_encoder")
    }
    turns = None
    if len(encoders) > 1:
        turns = EncoderTurns(encoders, StoredEncoders(base, encoders), device)
    else:
        for encoder in encoders.values():
            encoder.to(device)
    part, (config, _) = next(iter(base.denoisers.items()))
    if getattr(pipeline, part) is None:
        # Without T5 Stable Diffusion 3's encode_prompt asks the denoiser how wide its rows of zeros are.
        setattr(pipeline, part, SimpleNamespace(config=FrozenDict(config)))
    return PipelineEncoder(pipeline, family, config, base.spaces, StoredModules(base), base.encoding, turns)


class StoredEncoders:
    """Text encoders of a model, loaded anew in the dtype that they had."""

    def __init__(self, base: BaseModel, encoders: Mapping[str, nn.Module]) -> None:
        self._base = base
        self._kinds: dict[str, tuple[Any, Any]] = {name: (type(one), one.dtype) for name, one in encoders.items()}
        weights = dict(zip(base.encoders, base.text, strict=True))
        self._variants = {name: variant_of(Path(weights[name].where).name) for name in encoders}

    def __call__(self, name: str) -> nn.Module:
        """One of them."""
        kind, dtype = self._kinds[name]
        with quiet_loading():
            encoder = kind.from_pretrained(
                self._base.configurations / name, variant=self._variants[name], local_files_only=True, dtype=dtype
            )
        module: nn.Module = encoder.eval().requires_grad_(False)
        return module


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Within the block transformers draws no bar: what is loaded here was loaded before."""
    drawn = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            progress.enable_progress_bar()


class StoredModules:
    """Modules of a denoiser that rows pass before a reader, loaded alone: the denoiser is never instantiated."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._loaded: dict[tuple[str, str], nn.Module] = {}

    @torch.no_grad()
    def __call__(self, space: TextSpace, rows: Tensor) -> Tensor:
        """Rows ``[positions, d]`` of a space after these modules, in float32."""
        part = space.component or next(iter(self.base.denoisers))
        for name in space.before:
            rows = self._module(part, name).to(rows.device)(rows[None].float())[0]
        return rows

    def _module(self, part: str, name: str) -> nn.Module:
        if (part, name) not in self._loaded:
            config, weights = self.base.denoisers[part]
            kind = getattr(diffusers, config["_class_name"])
            with init_empty_weights():
                module = kind.from_config(dict(config)).get_submodule(name)
            wanted = [f"{name}.{own}" for own in module.state_dict()]
            state = {key.removeprefix(f"{name}."): value.float() for key, value in weights.read(wanted)}
            module.load_state_dict(state, assign=True)
            self._loaded[part, name] = module.eval().requires_grad_(False)
        return self._loaded[part, name]
