"""What a sweep works on: the parts of a ``fit``, checked, and nothing run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.method import FIELD, Method
from rece_lightning.data.concepts import PromptPair
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.erasure.loaded import LoadedModel
from rece_lightning.evaluation.floors import Floors
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.metrics import ConceptDetector
from rece_lightning.models.sampling import Sampling
from rece_lightning.sweep.grid import Setting


@dataclass(frozen=True)
class Measure:
    """How settings are measured with pictures: what the configuration's ``Evaluation`` says."""

    comparison: Comparison
    """Prompts with their roles; no column."""
    detector: ConceptDetector
    described: Any
    """The detector as the configuration names it."""
    sampling: Sampling
    seeds: tuple[int, ...]
    pictures: Callable[[], PictureMaker]
    """Gives what draws, which is loaded when it is first asked for."""
    floors: Floors | None = None
    """Measures and remembers the floors; ``None``: without them."""

    def description(self) -> dict[str, Any]:
        """What detections are comparable under."""
        sampling = asdict(self.sampling)
        sampling.pop("batch_size")
        prompts = [prompt.plain() for prompt in self.comparison.prompts]
        return {"detector": self.described, "sampling": sampling, "seeds": list(self.seeds), "prompts": prompts}

    def __str__(self) -> str:
        return f"{self.comparison.protocol}; {self.comparison.sampling}"


@dataclass(frozen=True)
class Parts:
    """Of a ``fit``."""

    loaded: LoadedModel
    method: Method
    """The configuration's own."""
    attacker_scale: float | None
    """Ridge of the attacker behind the figures; ``1e-3 · tr(G)/d`` unless given."""
    data: ConceptData
    arguments: dict[str, Any]
    """Of ``ConceptData``."""
    epochs: int
    measure: Measure | None
    """``None`` without a detector or without prompts."""
    root: Path
    """Folder of the configuration's runs."""
    configuration: Callable[[Setting], str]
    """The whole configuration with a setting in it, as YAML for ``fit``."""

    def base(self) -> Setting:
        """The configuration as it is.

        Raises:
            ConfigurationError: for a robust loop, or lists that a ``fit`` finds by itself: the ranking without pictures
                would pass over them.
        """
        if self.method.robust is not None:
            raise ConfigurationError(f"{FIELD}.robust: a sweep ranks the published loop; leave it out.")
        for name, chosen in (("preserve", self.data.vocabulary), ("synonyms", self.data.synonyms)):
            if chosen is not None:
                raise ConfigurationError(
                    f"data.{name}: 'auto' is chosen in a fit, under its own settings; give a sweep the list that a fit "
                    "chose (it stands in its report)."
                )
        return Setting(self.method, self.epochs, self.arguments["target"])

    @cached_property
    def held_out(self) -> list[str]:
        """Prompts that drift is measured on: those of the validation that must stay, or what is preserved.

        Raises:
            ConfigurationError: if there is none.
        """
        held_out = self.data.held_out or [prompt for prompt in self.data.preserved if prompt.strip()]
        if not held_out:
            raise ConfigurationError(
                "data.validation: nothing is preserved, so that no setting can do harm; add prompts with kind: "
                "preserved, or data.preserve."
            )
        return held_out

    def pairs(self, target: str) -> list[PromptPair]:
        """The prompts to erase under another ``data.target``."""
        return list(ConceptData(**{**self.arguments, "target": target}).pairs)

    def description(self) -> dict[str, Any]:
        """What lines and pictures are comparable under."""
        return {
            "model": {**self.loaded.fingerprint, "attacker_scale": self.attacker_scale},
            "concepts": [asdict(pair) for pair in self.pairs(" ")],
            "preserved": list(self.data.preserved),
            "held_out": self.held_out,
            "protocol": {} if self.measure is None else self.measure.description(),
        }
