"""``load_pipeline``: a diffusers pipeline of whatever ``model.pretrained`` may name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rece_lightning.models.find import find_base
from rece_lightning.models.pipelines import load_pipeline as pipeline_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def load_pipeline(
    pretrained: str = "emoji",
    *,
    revision: str | None = None,
    variant: str | None = None,
    config: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> DiffusionPipeline:
    """Load the original model as a diffusers pipeline, without a safety checker.

    Beside what diffusers loads itself it takes the embedded world and, with nothing fetched, a checkpoint file in the
    original layout.

    Args:
        pretrained: ``emoji``, a diffusers folder, a checkpoint file, or a hub id, as ``model.pretrained``.
        revision: of the hub repository.
        variant: of the weight files in a folder, such as ``fp16``.
        config: of a checkpoint file: a shipped layout or a folder of configurations.
        dtype: of the weights in memory.

    Returns:
        The pipeline on the CPU.

    Raises:
        BaseModelError: if it cannot be found or is not whole; the message says what to do.
    """
    return pipeline_of(find_base(str(pretrained), revision, variant, config), dtype)
