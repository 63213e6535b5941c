"""``map``: M itself, for the embeddings of the original model's prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rece_lightning.core import embedding_map
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.core.factored import Factored
from rece_lightning.erasure.erasure import Erasure
from rece_lightning.exports.record import Loss
from rece_lightning.files import save_tensors
from rece_lightning.models.part_configs import LARGEST_WIDTH
from rece_lightning.models.text_space import POOLED, TEXT
from rece_lightning.models.weights import FLOATS, SafetensorsWeights

KEY = "map"
LEFT, RIGHT = "_left", "_right"
"""Behind the name of a map whose factors are written, ``[d, r]`` and ``[r, d]``."""
FURTHER = "map."
"""What the names of the maps of further text spaces begin with: ``map.pooled``."""


class EmbeddingMap(embedding_map.EmbeddingMap):
    """The erasure as a map on prompt embeddings: the original model does with mapped ones what the edited model does.

    Give it every embedding that the U-Net's cross-attention reads, those of the negative prompt too; and SDXL's pooled
    embeddings to :meth:`pooled`.

    Args:
        matrix: ``M`` of the rows that cross-attention reads, ``[d, d]``.
        further: text space → ``M`` of it, such as ``pooled``.
    """

    further: Mapping[str, Tensor]

    def __init__(self, matrix: Tensor, further: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(matrix)
        object.__setattr__(self, "further", dict(further or {}))

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
        shapes = weights.shapes()
        names = [name for name in shapes if name == KEY or name.startswith(FURTHER)]
        names += [name.removesuffix(LEFT) for name in shapes if name.endswith(LEFT)]
        names = [name for name in names if not name.endswith((LEFT, RIGHT))]
        if KEY not in names:
            raise ConfigurationError(f"EmbeddingMap: {path} holds no map; write one with `rece export --format map`.")
        matrices = {name: _read(path, weights, name) for name in names}
        return cls(matrices.pop(KEY), {name.removeprefix(FURTHER): one for name, one in matrices.items()})

    def save(self, path: str | Path, metadata: dict[str, str] | None = None) -> Path:
        """Write the maps in float64."""
        matrices = {KEY: self.matrix} | {f"{FURTHER}{name}": one for name, one in self.further.items()}
        tensors: dict[str, Tensor] = {}
        for name, one in matrices.items():
            if isinstance(one, Factored):
                tensors |= {
                    f"{name}{LEFT}": one.left.cpu().contiguous(),
                    f"{name}{RIGHT}": one.right.cpu().contiguous(),
                }
            else:
                tensors[name] = one.cpu()
        return save_tensors(tensors, Path(path), metadata or {"format": "pt"})

    def __call__(self, prompt_embeds: Tensor) -> Tensor:
        """Map prompt embeddings ``[..., d]``; their dtype and device stay.

        Raises:
            ConfigurationError: if they are of another width.
        """
        return _mapped(self.matrix, prompt_embeds)

    def pooled(self, pooled_prompt_embeds: Tensor) -> Tensor:
        """Map SDXL's pooled embeddings ``[..., p]``; their dtype and device stay.

        Raises:
            ConfigurationError: if they are of another width, or the erasure left them alone.
        """
        if POOLED not in self.further:
            raise ConfigurationError(
                "EmbeddingMap: the erasure did not edit what reads pooled embeddings; give them to the model as they "
                "are."
            )
        return _mapped(self.further[POOLED], pooled_prompt_embeds)


def _read(path: str | Path, weights: SafetensorsWeights, name: str) -> Tensor:
    shapes = weights.shapes()
    if name not in shapes:
        left, right = (shapes.get(f"{name}{end}", ()) for end in (LEFT, RIGHT))
        if len(left) != 2 or right != left[::-1]:
            raise ConfigurationError(f"EmbeddingMap: {path} holds no map; write one with `rece export --format map`.")
        return Factored(_numbers(path, weights, f"{name}{LEFT}"), _numbers(path, weights, f"{name}{RIGHT}"), 1.0)
    shape = shapes[name]
    if len(shape) != 2 or shape[0] != shape[1] or not 0 < shape[0] <= LARGEST_WIDTH:
        raise ConfigurationError(f"EmbeddingMap: {path} holds no map; write one with `rece export --format map`.")
    return _numbers(path, weights, name)


def _numbers(path: str | Path, weights: SafetensorsWeights, name: str) -> Tensor:
    if weights.dtypes()[name] not in FLOATS:
        raise ConfigurationError(
            f"EmbeddingMap: {path}: the map is stored as {weights.dtypes()[name]}; export it anew."
        )
    _, matrix = next(weights.read([name]))
    if not bool(matrix.isfinite().all()):
        raise ConfigurationError(f"EmbeddingMap: {path} holds NaN or infinity; export it anew.")
    return matrix.double()


def _mapped(matrix: Tensor, embeddings: Tensor) -> Tensor:
    if embeddings.shape[-1] != len(matrix):
        raise ConfigurationError(
            f"EmbeddingMap: the embeddings are {embeddings.shape[-1]} wide, the map {len(matrix)}; "
            "it belongs to another model."
        )
    # Apple's devices have no float64.
    device = torch.device("cpu") if embeddings.device.type == "mps" else embeddings.device
    mapped = embedding_map.EmbeddingMap(matrix.to(device)).apply_to_embeddings(embeddings.to(device))
    return mapped.to(embeddings.device)


def map_problem(erasure: Erasure) -> str | None:
    """Why no single map on the embeddings can stand for an erasure; ``None`` where one can."""
    if not all(isinstance(one.maps, embedding_map.EmbeddingMap) for one in erasure.spaces):
        return (
            "the editor keeps one map a layer, and embeddings can be mapped but once; an editor of one map is such as "
            "UCE"
        )
    sources = {one.space.source or one.space.name for one in erasure.spaces}
    for one in erasure.spaces:
        if one.space.before:
            return (
                f"the space {one.space.name!r} is read behind {one.space.before[0]}, and no map on prompt embeddings "
                "does the same"
            )
    if TEXT not in sources:
        return "only rows that the erasure left alone are given to the model one by one"
    edited = set(erasure.names)
    for space in erasure.base.spaces:
        if space.name not in [one.space.name for one in erasure.spaces] and (space.source or space.name) in sources:
            continue  # another place that the same rows might have been edited at
        left = [name for name in space.readers if name not in edited]
        # A space that was left alone altogether needs no map.
        if left and (len(left) < len(space.readers) or space.name == TEXT):
            return (
                f"{len(left)} of {len(space.readers)} weights that read the space {space.name!r} were not edited "
                f"(model.method.projections, layers), such as {left[0]}, and would read mapped embeddings too"
            )
    return None


def entry_beside(erasure: Erasure) -> str | None:
    """The space at the entry of a projector, where the model has one and the erasure is of what lies behind it."""
    if not any(one.space.before for one in erasure.spaces):
        return None
    return next((space.name for space in erasure.base.spaces if space.instead_of is not None), None)


def write_map(erasure: Erasure, path: Path, metadata: dict[str, str]) -> Loss:
    """Write ``M`` of every text space, ``[d, d]``, float64; in factors, ``M = I + L R``, where it was kept so.

    Raises:
        ConfigurationError: if no map on the embeddings stands for the erasure.
    """
    problem = map_problem(erasure)
    if problem is not None:
        raise ConfigurationError(f"--format map: {problem}.")
    matrices = {one.space.name: one.maps.of_layer(0) for one in erasure.spaces}
    main = next(one.space.name for one in erasure.spaces if (one.space.source or one.space.name) == TEXT)
    EmbeddingMap(matrices.pop(main), matrices).save(path, metadata)
    # Float64, as the exact edit; it holds no weights to compare with a file's.
    return Loss()
