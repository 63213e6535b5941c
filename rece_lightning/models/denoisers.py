"""The denoisers of a pipeline in memory: what of them reads the text, and the modules that the text passes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.beside import may_read_text, unwrapped
from rece_lightning.models.families import FAMILIES, family_of
from rece_lightning.models.families.base import Family
from rece_lightning.models.families.refused import REFUSED
from rece_lightning.models.layers import live_layers
from rece_lightning.models.live_readers import LiveReaders
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.text_space import TextSpace, home_of


def denoisers_of(pipeline: Any, family: Family | None = None) -> dict[str, nn.Module]:
    """Part → denoiser of a pipeline, those that are there; of a compiled one the module that holds the weights.

    Args:
        pipeline: of diffusers.
        family: of the pipeline; looked up unless given.
    """
    family = family or known_family(pipeline)
    names = ("unet",) if family is None else family.denoisers
    parts = {name: getattr(pipeline, name, None) for name in names}
    found = {name: unwrapped(part) for name, part in parts.items()}
    return {name: part for name, part in found.items() if isinstance(part, nn.Module)}


def besides(pipeline: Any, family: Family) -> dict[str, str]:
    """Part of a pipeline of a family that may read the text and is not edited → its class: a ControlNet."""
    found = {}
    for name, part in vars(pipeline).items():
        kind = type(unwrapped(part)).__name__
        own = name in family.denoisers or name.startswith("text_encoder")
        if isinstance(part, nn.Module) and not own and may_read_text(name, kind):
            found[name] = kind
    return found


def config_of(denoiser: nn.Module) -> Mapping[str, Any]:
    """Its configuration, as diffusers keeps it."""
    config: Any = denoiser.config
    return dict(config)


def together(denoisers: Mapping[str, nn.Module]) -> nn.Module:
    """One module that holds the parameters of all denoisers: a single one itself, several under their parts' names."""
    if len(denoisers) == 1:
        return next(iter(denoisers.values()))
    return nn.ModuleDict(dict(denoisers))


class LiveDenoisers(LiveReaders):
    """The denoisers of a pipeline of a declared family, whose readers can be edited in place.

    Args:
        pipeline: of diffusers.
        family: of the pipeline.
        field: where it was found, for messages.

    Raises:
        ConfigurationError: if it has no denoiser, nothing in one reads text, or a reader cannot be edited where it
            lies: offloaded, quantized, or inside an adapter that is no plain LoRA.
    """

    def __init__(self, pipeline: Any, family: Family, field: str) -> None:
        self.family, self.parts = family, denoisers_of(pipeline, family)
        if not self.parts:
            raise ConfigurationError(
                f"{field}: {type(pipeline).__name__} has no {' or '.join(family.denoisers)}; load the pipeline whole."
            )
        self._configs = {part: config_of(module) for part, module in self.parts.items()}
        readers = {part: family.reader(config) for part, config in self._configs.items()}

        def wanted(name: str) -> bool:
            part, own = home_of(name, self.parts)
            return part in readers and readers[part](own)

        module = together(self.parts)
        layers, parameters = live_layers(module, wanted, field), dict(module.named_parameters())
        by_part: dict[str, dict[str, tuple[int, ...]]] = {part: {} for part in self.parts}
        for name, layer in layers.items():
            part, own = home_of(name, self.parts)
            by_part[part][own] = tuple(parameters[layer.weight].shape)
        spaces = family.spaces({part: (self._configs[part], own) for part, own in by_part.items()})
        if not spaces:
            raise ConfigurationError(f"{field}: nothing in it reads text as {family.title} does.")
        readers_of = {name: layers[name] for space in spaces for name in space.readers}
        super().__init__(module, spaces, readers_of, field)

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the first denoiser."""
        return next(iter(self._configs.values()))

    def passed(self, space: TextSpace, rows: Tensor) -> Tensor:
        """Rows ``[positions, d]`` after the modules that they pass before a reader."""
        part = self.parts[space.component or next(iter(self.parts))]
        for name in space.before:
            module = part.get_submodule(name)
            example = next(module.parameters(), rows)
            rows = module(rows[None].to(example))[0]
        return rows

    def encoder(self, pipeline: Any) -> PipelineEncoder:
        """What encodes prompts for its spaces."""
        return PipelineEncoder(pipeline, self.family, self.config, self.spaces, self.passed)


def known_family(pipeline: Any) -> Family | None:
    """The declared family of a pipeline in memory, told by its class or one that it derives from."""
    for kind in type(pipeline).__mro__:
        if family := family_of(kind.__name__):
            return family
    return None


def refuse_unreachable(kind: str, where: str) -> None:
    """Refuse a pipeline whose text no map on embeddings reaches.

    Args:
        kind: its class in diffusers.
        where: it was named, for messages.

    Raises:
        ConfigurationError: with the reason.
    """
    if kind in REFUSED:
        raise ConfigurationError(
            f"{where}: {kind} cannot be erased from in closed form: {REFUSED[kind]}. Give a model of {supported()}."
        )


def supported() -> str:
    """Names of the families, for messages."""
    return ", ".join(("Stable Diffusion 1.x, 2.x, XL", *(family.title for family in FAMILIES)))
