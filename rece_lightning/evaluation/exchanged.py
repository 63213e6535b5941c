"""Pictures of a model that is being trained: its weights are exchanged while it draws, and come back behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.models.text import EncodesPrompts


class ExchangedPictures(PictureMaker):
    """Draws with the denoiser that a training works on, and never leaves other weights in it.

    Args:
        pipeline: with that denoiser.
        encoder: of its prompts.
        original: what is trained, as it was before: name in the denoiser → tensor.
        holding: within it the denoiser holds the weights that it is given.
    """

    def __init__(
        self,
        pipeline: Any,
        encoder: EncodesPrompts,
        original: Mapping[str, Tensor],
        holding: Callable[[Mapping[str, Tensor]], AbstractContextManager[None]],
    ) -> None:
        super().__init__(pipeline, encoder, dict(original))
        self._holding = holding
        self._chosen: dict[str, Tensor] = dict(original)

    def use(self, weights: Iterable[tuple[str, Tensor]] | None) -> None:
        """Choose what is drawn with; ``None`` chooses the original weights."""
        self._chosen = dict(self._original if weights is None else weights)

    def make(self, *arguments: Any, **settings: Any) -> Tensor:
        """As :meth:`PictureMaker.make`."""
        denoiser = next(part for name, part in self.pipeline.components.items() if name in ("unet", "transformer"))
        vae = self.pipeline.vae.to(denoiser.device)
        if vae.dtype != denoiser.dtype:  # trained in half precision
            vae.to(denoiser.dtype)
        with self._holding(self._chosen):
            return super().make(*arguments, **settings)
