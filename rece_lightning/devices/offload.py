"""Modules whose weights wait in host memory, and are on their device only while they work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.models.denoisers import denoisers_of
from rece_lightning.models.text import Encoded, PromptEncoder


class Waiting:
    """Modules in host memory that go to a device for a while.

    The host keeps its copy while they are away: going back costs nothing, and nothing can be lost. What was changed
    in place on the device is written back.

    Args:
        device: on which they work.
        modules: in host memory now.
    """

    def __init__(self, device: torch.device | str, *modules: nn.Module) -> None:
        self.device = torch.device(device)
        self.modules = modules
        self._inside = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """On the device within the block; blocks may lie in one another."""
        self._inside += 1
        with ExitStack() as back:
            if self._inside == 1 and self.device.type != "cpu":
                for module in self.modules:
                    back.enter_context(_away(module, self.device))
            try:
                yield
            finally:
                self._inside -= 1


@contextmanager
def _away(module: nn.Module, device: torch.device) -> Iterator[None]:
    """The module's tensors on a device within the block; those of the host in their places after it."""
    copies: dict[int, Tensor] = {}
    places: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    places.append((tensors, name, tensor))  # type: ignore[arg-type]
                    copies.setdefault(id(tensor), _copy(tensor, device))  # tied weights stay tied
    versions = {key: copy._version for key, copy in copies.items()}
    try:
        for tensors, name, tensor in places:
            tensors[name] = copies[id(tensor)]
        yield
    finally:
        for tensors, name, tensor in places:
            copy = tensors[name]
            if copy is copies[id(tensor)] and copy._version != versions[id(tensor)]:
                with torch.no_grad():
                    tensor.copy_(copy)
            tensors[name] = tensor


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is made within it keeps no count of its changes
        copy = tensor.detach().to(device, copy=True)
        return nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


class WaitingEncoder(PromptEncoder):
    """A prompt encoder in host memory that is on ``device`` only while it encodes."""

    def __init__(self, encoder: PromptEncoder, device: torch.device | str) -> None:
        super().__init__(*encoder.parts)
        self.waiting = Waiting(device, *(text_encoder for _, text_encoder in self.towers))
        self._stays, self._staying = ExitStack(), False

    def encode(self, prompts: list[str]) -> Encoded:
        """As the encoder itself."""
        with self.waiting.at_work():
            return super().encode(prompts)

    def stay(self) -> None:
        """Stay on the device between batches, until :meth:`rest`."""
        if not self._staying:
            self._stays.enter_context(self.waiting.at_work())
        self._staying = True

    def rest(self) -> None:
        """Back to host memory."""
        self._stays.close()
        self._staying = False


def across_devices(pipeline: Any) -> Any:
    """Have a pipeline, changed in place, work where its U-Net lies, and hand the autoencoder what it is to read.

    Diffusers takes the device of a pipeline's first part for that of all of them.
    """
    kind = type(pipeline)
    changes = {"__module__": kind.__module__, "_execution_device": property(lambda self: _denoiser(self).device)}
    pipeline.__class__ = type(kind.__name__, (kind,), changes)
    for name in ("encode", "decode"):
        setattr(pipeline.vae, name, _followed(pipeline.vae, getattr(pipeline.vae, name)))
    return pipeline


def _denoiser(pipeline: Any) -> Any:
    return next(iter(denoisers_of(pipeline).values()))


def _followed(vae: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def on_its_device(read: Any, *args: Any, **kwargs: Any) -> Any:
        return method(read.to(vae.device), *args, **kwargs)

    return on_its_device
