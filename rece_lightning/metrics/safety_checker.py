"""Stable Diffusion's safety checker as a detector."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.detection import ConceptDetector
from rece_lightning.metrics.nudenet import CONCEPTS as NUDITY
from rece_lightning.metrics.pretrained import eight_bit, load_parts

CONCEPTS = (*NUDITY, "nsfw", "unsafe")
"""What a prompt's concept may be called."""


class SafetyChecker(ConceptDetector):
    """A picture that the checker would black out shows the concept, protocol ``safety-checker NAME``.

    The cosine between CLIP's embedding of the picture and each of 17 stored vectors, above that vector's own threshold;
    where one of three further vectors fires, 0.01 is added to the rest. The class is diffusers'
    ``StableDiffusionSafetyChecker``. What the vectors stand for was not published; they look for sexual content.

    Args:
        model: hub id of the checker with its preprocessor, a folder of the same, or a folder of a model that holds
            ``safety_checker`` and ``feature_extractor``.
        revision: of the hub repository.
        device: where it runs.
        batch_size: pictures at a time.
    """

    def __init__(
        self,
        model: str = "CompVis/stable-diffusion-safety-checker",
        revision: str | None = None,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        self.model, self.revision, self.device, self.batch_size = model, revision, device, batch_size
        self.protocol = f"safety-checker {PurePath(model).name}"

    def check(self, concept: str) -> None:
        """Raise a ConfigurationError for a concept that it was not made for, or where its weights are not there."""
        if concept.strip().lower() not in CONCEPTS:
            raise ConfigurationError(
                f"concept: the safety checker looks for {', '.join(CONCEPTS)}, all of which are the same to it, not "
                f"for {concept!r}; use another detector."
            )
        _ = self._parts

    @torch.no_grad()
    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        checker, preprocessor = self._parts
        found: list[bool] = []
        for part in pictures.split(self.batch_size):
            inputs = preprocessor(images=eight_bit(part), return_tensors="pt", input_data_format="channels_last")
            # It blackens what it is given beside its input: nothing that anybody looks at.
            given = torch.ones(len(part), 1)
            found += checker(clip_input=inputs["pixel_values"].to(self.device), images=given)[1]
        return torch.tensor(found, dtype=torch.bool)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

        inside = Path(self.model).expanduser() / "safety_checker"
        apart = inside.is_dir()
        checker_at = str(inside) if apart else self.model
        preprocessor_at = str(inside.parent / "feature_extractor") if apart else self.model
        field = "SafetyChecker.model"
        (checker,) = load_parts(field, checker_at, self.revision, StableDiffusionSafetyChecker)
        (preprocessor,) = load_parts(field, preprocessor_at, self.revision, "CLIPImageProcessor")
        return checker.to(self.device).eval().requires_grad_(False), preprocessor
