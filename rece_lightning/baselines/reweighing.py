"""A U-Net's skip features under one prompt, damped where their low frequencies exceed those under another prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from rece_lightning.baselines.branches import hooked
from rece_lightning.core.errors import ConfigurationError

LOW = (-1, 0)
"""Numbers of the low frequencies along each side: FreeU's box of two by two (arXiv 2309.11497)."""
ROUNDING = 32
"""In units of the features' precision: so much more than another's is no more than rounding makes of the same."""


class Reweighing:
    """Compares the skip features of a U-Net under two prompts, and damps those of the second.

    SAFREE's re-attention (arXiv 2410.12761, in the Fourier domain), for every picture, channel and low frequency ``k``
    of a skip connection ``h``::

        F = FFT(h)    F'_k = s F_k(changed) where |F_k(changed)| > |F_k(own)|, else F_k(changed)    h' = Re IFFT(F')

    The published scales are written down for Stable Diffusion, by the width of what comes from below: 1280 channels,
    its widest, have s1, and 640, the next width, s2; others are left alone. Here the scales are of the widest and of
    the next width of any U-Net, and narrower ones are left alone.

    The U-Net's own calls are listened to within :meth:`listening`; within :meth:`damping` what it is asked is damped.

    Args:
        scales: s1, s2, …: from the widest blocks on.
    """

    def __init__(self, scales: Sequence[float]) -> None:
        self._scales = tuple(scales)
        self._own: dict[tuple[int, int], Tensor] = {}
        """Block and resnet → skip features of the U-Net's own call."""
        self._rows: slice | None = None
        self.heard = True
        """Whether own calls are kept: those whose step is changed."""

    @staticmethod
    def check(denoiser: nn.Module) -> None:
        """Refuse a denoiser without a U-Net's skip connections.

        Args:
            denoiser: of a pipeline.

        Raises:
            ConfigurationError: with the remedy.
        """
        if not isinstance(denoiser, UNet2DConditionModel):
            raise ConfigurationError(no_skips("guard: SAFREE", type(denoiser).__name__))

    @contextmanager
    def listening(self, denoiser: nn.Module) -> Iterator[None]:
        """Within the block, this denoiser's features are seen; afterwards it is as it was.

        Args:
            denoiser: of a pipeline, which passed :meth:`check`.
        """
        unet: Any = denoiser
        widths = sorted({_width_below(unet, block, place) for block, place in _places(unet)}, reverse=True)
        scale_of = dict(zip(widths, self._scales, strict=False))
        with ExitStack() as stack:
            for block, module in enumerate(unet.up_blocks):

                def seen(
                    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], block: int = block
                ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
                    skips = list(kwargs["res_hidden_states_tuple"])
                    for place in range(len(skips)):  # a block takes them from the end
                        scale = scale_of.get(_width_below(unet, block, place), 1.0)
                        if scale != 1:
                            skips[-1 - place] = self._seen((block, place), skips[-1 - place], scale)
                    return args, {**kwargs, "res_hidden_states_tuple": tuple(skips)}

                stack.enter_context(hooked(module.register_forward_pre_hook(seen, with_kwargs=True)))
            stack.callback(self._own.clear)
            yield

    @contextmanager
    def damping(self, rows: slice) -> Iterator[None]:
        """Within the block, the denoiser is asked about the changed prompt.

        Args:
            rows: of its own last call, those under the prompt.
        """
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None
            self._own.clear()

    def _seen(self, key: tuple[int, int], features: Tensor, scale: float) -> Tensor:
        if self._rows is not None:
            return damped(features, self._own[key][self._rows], scale)
        if self.heard:
            self._own[key] = features
        return features


def no_skips(field: str, denoiser: str) -> str:
    """Why the features of a denoiser that is no U-Net are left alone, and what to do.

    Args:
        field: who asks.
        denoiser: what it is.
    """
    return (
        f"{field}: reweigh: {denoiser} has no skip connections of a U-Net that could be damped; leave reweigh out: the "
        "prompt's rows are changed without it."
    )


def damped(changed: Tensor, own: Tensor, scale: float) -> Tensor:
    """Features whose low frequencies are scaled where they exceed the others'.

    Written as a difference to the features, so that what is not damped keeps its bits. The box holds a frequency
    without its conjugate, so that the inverse transform is complex: its real part is taken, as FreeU does.

    Args:
        changed: features to damp, ``[n, c, h, w]``.
        own: to compare them with, of the same shape.
        scale: s.

    Returns:
        Of the shape and type of ``changed``.
    """
    precision = torch.finfo(changed.dtype).eps
    wide, beside = changed.float(), own.float()
    found, other = torch.fft.fft2(wide), torch.fft.fft2(beside)
    noise = ROUNDING * precision * wide.square().sum((-2, -1), keepdim=True).sqrt()
    change = torch.zeros_like(found)
    for row in LOW:
        for column in LOW:
            one = found[..., row, column]
            more = one.abs() > other[..., row, column].abs() + noise[..., 0, 0]
            change[..., row, column] = torch.where(more, (scale - 1) * one, 0)
    return (wide + torch.fft.ifft2(change).real).to(changed)


def _places(unet: Any) -> list[tuple[int, int]]:
    return [(block, place) for block, module in enumerate(unet.up_blocks) for place in range(len(module.resnets))]


def _width_below(unet: Any, block: int, place: int) -> int:
    """Channels that a resnet of an up block gets from below, beside those of the skip connection."""
    if place:
        return int(unet.up_blocks[block].resnets[place - 1].out_channels)
    if block:
        return int(unet.up_blocks[block - 1].resnets[-1].out_channels)
    return int(unet.config.block_out_channels[-1])
