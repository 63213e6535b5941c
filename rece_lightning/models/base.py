"""What is known of a base model before anything of it is loaded, and its projections, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.published import published_name
from rece_lightning.models.text_space import TextSpace, home_of
from rece_lightning.models.weights import Weights, all_finite, check_floats, digest_tensors, plain_name


@dataclass(frozen=True)
class BaseModel:
    """A text-to-image model whose structure was checked. No weight is loaded until it is asked for."""

    name: str
    """What the user called it."""
    path: Path
    """The diffusers folder, or the checkpoint file."""
    layout: str
    """``folder`` or ``single_file``."""
    family: str
    """``sd1``, ``sd2``, ``sdxl``, or the name of a declared family: what decides names in other formats."""
    variant: str | None
    spaces: tuple[TextSpace, ...]
    """What it reads its text from, and which weights read it; the rows of the prompt come first."""
    parameters: int
    """Number of parameters of what denoises."""
    weights: Weights = field(repr=False)
    """Of what denoises, a U-Net or transformers, under their diffusers names: what reads the text at least."""
    text: tuple[Weights, ...] = field(repr=False)
    """Of every text encoder."""
    denoisers: Mapping[str, tuple[Mapping[str, Any], Weights]] = field(default_factory=dict, repr=False)
    """Part → its configuration and weights, of a model of a declared family; empty for a U-Net of Stable Diffusion's
    kind."""
    encoder_names: list[str] = field(default_factory=list)
    """Parts that are text encoders; the first ones of a U-Net of Stable Diffusion's kind unless given."""
    config: Path | None = None
    """Folder of the configurations that a single file does not hold."""
    encoding: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of its pipeline's ``encode_prompt`` that it wants in place of the defaults of a call."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Steps and guidance that it wants in place of its family's."""

    @property
    def published(self) -> str:
        """What others may read of the name: the whole of a hub id, of a path its last part."""
        if self.path != Path(self.name).expanduser():
            return published_name(self.name)
        # Of a link its own name; the folder that one stands in has to be looked for.
        return (self.path if self.path.name not in ("", "..") else self.path.resolve()).name

    @property
    def width(self) -> int:
        """``d``, the width of the first text space."""
        return self.spaces[0].width

    @property
    def projections(self) -> dict[str, tuple[int, ...]]:
        """Diffusers names of every weight that reads text, with its whole shape."""
        return {name: reader.shape for space in self.spaces for name, reader in space.readers.items()}

    @property
    def parts(self) -> dict[str, Weights]:
        """Part → weights of every denoiser, under the names that they have there."""
        return {part: weights for part, (_, weights) in self.denoisers.items()} or {"unet": self.weights}

    def home(self, name: str) -> tuple[str, str]:
        """The denoiser that a reader lies in, and how it is called there: of several, names begin with the part's."""
        return home_of(name, self.parts)

    @property
    def encoders(self) -> list[str]:
        """Parts that are text encoders, in the order of :attr:`text`."""
        return self.encoder_names or ["text_encoder", "text_encoder_2"][: len(self.text)]

    @property
    def configurations(self) -> Path:
        """The folder with the parts' configurations and tokenizers."""
        return self.config or self.path

    def read_projections(self, names: list[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield ``(name, weight [o, i])`` of weights that read text, in the stored dtype, one in memory at a time.

        Raises:
            BaseModelError: for values that are no numbers, or no floating-point numbers.
        """
        wanted = names if names is not None else list(self.projections)
        check_floats(self.weights, wanted)
        for name, weight in self.weights.read(wanted):
            if not all_finite(weight):
                raise BaseModelError(
                    f"model.pretrained: {self.weights.where}: {name} holds values that are NaN or infinite; "
                    "fetch the file again, or train the model anew."
                )
            yield name, weight

    def read_parameters(self, names: list[str]) -> Iterator[tuple[str, str, Tensor]]:
        """The same beside the parameter's name: in a file every reader is one parameter."""
        for name, weight in self.read_projections(names):
            yield name, name, weight

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the stored bytes of what reads the text, of what it passes before, and of its text encoders.

        Over names and bytes of the tensors, not of a file: the same model in one file, in shards or with other
        metadata has the same fingerprint.
        """
        # First what is checked on the way: a text encoder has gigabytes.
        found = {"projections": digest_tensors(self.read_projections())}
        if passed := self._passed():
            found["passed"] = digest_tensors(self.weights.read(passed))
        return {**found, "text_encoder": digest_tensors(self._text_tensors())}

    def _passed(self) -> list[str]:
        """Names of the weights that rows of text pass before a reader: of a projector, a norm."""
        several = len(self.denoisers) > 1
        stems = tuple(
            f"{space.component}.{module}." if several and space.component else f"{module}."
            for space in self.spaces
            for module in space.before
        )
        return sorted(name for name in self.weights.shapes() if stems and name.startswith(stems))

    def _text_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for weights in self.text:
            # Old files hold the buffer position_ids, which is no weight.
            names = (name for name in weights.shapes() if not name.endswith("position_ids"))
            yield from weights.read(sorted(names, key=plain_name))

    def read_space(self, space: TextSpace) -> Iterator[tuple[str, Tensor]]:
        """Yield ``(name, columns [o, d])`` of a space's readers, what of each reads the text."""
        for name, weight in self.read_projections(space.names):
            yield name, space.readers[name].part(weight)
