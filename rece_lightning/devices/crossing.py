"""A diffusers pipeline whose U-Net and autoencoder lie on different devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any


def across_devices(pipeline: Any) -> Any:
    """Have a pipeline work where its U-Net lies, and hand the autoencoder what it is to read.

    Diffusers takes the device of a pipeline's first part for that of all of them.

    Args:
        pipeline: changed in place.
    """
    pipeline.__class__ = type(
        type(pipeline).__name__,
        (type(pipeline),),
        {
            "__module__": type(pipeline).__module__,
            "_execution_device": property(lambda self: self.unet.device),
        },
    )
    vae = pipeline.vae
    for name in ("encode", "decode"):
        setattr(vae, name, _followed(vae, getattr(vae, name)))
    return pipeline


def _followed(vae: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def on_its_device(read: Any, *args: Any, **kwargs: Any) -> Any:
        return method(read.to(vae.device), *args, **kwargs)

    return on_its_device
