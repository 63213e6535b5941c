"""Networks whose features stand for a picture in FID, KID and perceptual distances."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.pretrained import check_pictures


class FeatureNetwork(Protocol):
    """What FID, KID and feature distances ask of a network."""

    protocol: str
    """Its name in the figures' protocols."""
    num_features: int

    def __call__(self, pictures: Tensor) -> Tensor:
        """``[n, 3, h, w]`` in [0, 1] → ``[n, num_features]``."""


class EmojiFeatures(nn.Module):
    """The 192 features under the embedded world's detector, 32×32 pictures; ships with the package."""

    protocol = "emoji-detector-192"
    num_features = 192

    def __init__(self, device: str = "cpu", batch_size: int = 256) -> None:
        super().__init__()
        from rece_lightning.emoji.detector import load_detector

        self.detector = load_detector().to(device)
        self.device, self.batch_size = device, batch_size

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """``[n, 3, h, w]`` in [0, 1] → ``[n, 192]`` on the CPU."""
        check_pictures(pictures)
        parts = pictures.split(self.batch_size)
        return torch.cat([self.detector.features(part.to(self.device).float() * 2 - 1).cpu() for part in parts])


class InceptionFeatures(nn.Module):
    """Inception's 2,048 pooled features as published FIDs use them (the network converted from TensorFlow's).

    Needs the extra ``perceptual``, and the file ``weights-inception-2015-12-05-6726825d.pth`` of torch-fidelity's
    release 0.2.0. Not run by this project with these weights, which could not be fetched: the code is tested with
    random ones.

    Args:
        weights: path of the file.
        device: where it runs.
        batch_size: pictures at a time.
    """

    protocol = "inception-2048"
    num_features = 2048

    def __init__(self, weights: str, device: str = "cpu", batch_size: int = 32) -> None:
        super().__init__()
        path = Path(weights).expanduser()
        if not path.is_file():
            raise ConfigurationError(
                f"InceptionFeatures.weights: {weights!r} is no file; get torch-fidelity's "
                "weights-inception-2015-12-05-6726825d.pth (release 0.2.0)."
            )
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except (ImportError, RuntimeError) as error:  # torchvision for another torch raises RuntimeError
            raise ConfigurationError(
                f"InceptionFeatures needs the package torch-fidelity ({error}); install the extra: "
                "pip install 'rece-lightning[perceptual]'."
            ) from error
        try:
            # The extractor unpickles the file without restraint: look first.
            torch.load(path, map_location="cpu", weights_only=True)
            network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ConfigurationError(
                f"InceptionFeatures.weights: {weights!r} does not hold Inception's weights as torch-fidelity stores "
                "them; get weights-inception-2015-12-05-6726825d.pth from its release 0.2.0."
            ) from error
        self.network = network.to(device)
        self.device, self.batch_size = device, batch_size

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """``[n, 3, h, w]`` in [0, 1] → ``[n, 2048]`` on the CPU."""
        check_pictures(pictures)
        parts = (pictures.clamp(0, 1) * 255).round().byte().split(self.batch_size)
        return torch.cat([self.network(part.to(self.device))[0].float().cpu() for part in parts])
