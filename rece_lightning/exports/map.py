"""``map``: M itself, for the embeddings of the original model's prompts."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rece_lightning.core import embedding_map
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.erasure.erasure import Erasure
from rece_lightning.exports.record import Loss
from rece_lightning.files import save_tensors
from rece_lightning.models.part_configs import LARGEST_WIDTH
from rece_lightning.models.weights import FLOATS, SafetensorsWeights

KEY = "map"


class EmbeddingMap(embedding_map.EmbeddingMap):
    """The erasure as a map on prompt embeddings: the original model does with mapped ones what the edited model does.

    Give it every embedding that the U-Net's cross-attention reads, those of the negative prompt too. SDXL's pooled
    embedding is read by no cross-attention: leave it alone.
    """

    @classmethod
    def load(cls, path: str | Path) -> EmbeddingMap:
        """Read a file of the format ``map``.

        Raises:
            ConfigurationError: if it is none.
        """
        try:
            weights = SafetensorsWeights(Path(path))
        except BaseModelError as error:
            raise ConfigurationError(
                f"EmbeddingMap: {path} is no whole safetensors file ({error.__cause__ or error}); export it anew."
            ) from error
        # Whatever else is in the file is not read.
        shape = weights.shapes().get(KEY, ())
        if len(shape) != 2 or shape[0] != shape[1] or not 0 < shape[0] <= LARGEST_WIDTH:
            raise ConfigurationError(f"EmbeddingMap: {path} holds no map; write one with `rece export --format map`.")
        if weights.dtypes()[KEY] not in FLOATS:
            raise ConfigurationError(
                f"EmbeddingMap: {path}: the map is stored as {weights.dtypes()[KEY]}; export it anew."
            )
        _, matrix = next(weights.read([KEY]))
        if not bool(matrix.isfinite().all()):
            raise ConfigurationError(f"EmbeddingMap: {path} holds NaN or infinity; export it anew.")
        return cls(matrix.double())

    def save(self, path: str | Path, metadata: dict[str, str] | None = None) -> Path:
        """Write the map in float64."""
        return save_tensors({KEY: self.matrix.cpu()}, Path(path), metadata or {"format": "pt"})

    def __call__(self, prompt_embeds: Tensor) -> Tensor:
        """Map prompt embeddings ``[..., d]``; their dtype and device stay.

        Raises:
            ConfigurationError: if they are of another width.
        """
        if prompt_embeds.shape[-1] != len(self.matrix):
            raise ConfigurationError(
                f"EmbeddingMap: the embeddings are {prompt_embeds.shape[-1]} wide, the map {len(self.matrix)}; "
                "it belongs to another model."
            )
        # Apple's devices have no float64.
        device = torch.device("cpu") if prompt_embeds.device.type == "mps" else prompt_embeds.device
        mapped = embedding_map.EmbeddingMap(self.matrix.to(device)).apply_to_embeddings(prompt_embeds.to(device))
        return mapped.to(prompt_embeds.device)


def check_map(erasure: Erasure) -> None:
    """Refuse an erasure that no single map on the embeddings can stand for.

    Raises:
        ConfigurationError: naming what stands against it.
    """
    if not isinstance(erasure.maps, embedding_map.EmbeddingMap):
        raise ConfigurationError(
            "--format map: model.technique tensor keeps one map a layer, and embeddings can be mapped but once; "
            "export lora or pipeline, or erase with model.technique replace."
        )
    if not erasure.complete:
        left = [name for name in erasure.base.projections if name not in set(erasure.names)]
        raise ConfigurationError(
            f"--format map: {len(left)} of {len(erasure.base.projections)} text-reading projections were not edited "
            f"(model.projections, model.layers), such as {left[0]}, and would read mapped embeddings too; "
            "export lora or pipeline in its place."
        )


def write_map(erasure: Erasure, path: Path, metadata: dict[str, str]) -> Loss:
    """Write ``M``, ``[d, d]``, float64.

    Raises:
        ConfigurationError: if no single map stands for the erasure.
    """
    check_map(erasure)
    EmbeddingMap(erasure.maps.of_layer(0)).save(path, metadata)
    return Loss()
