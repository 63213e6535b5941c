"""Erasures, each fitted once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rece_lightning import RECE, Method
from rece_lightning.core import TensorUCE
from rece_lightning.exports import Erasure
from tests.helpers.erasures import erase, make_xl_checkpoint
from tests.helpers.models import make_checkpoint
from tests.helpers.models_original import make_folder, make_original


@pytest.fixture(scope="session")
def tiny_module(tiny_model: Path) -> RECE:
    """One map for all layers, a float32 base."""
    return erase(tiny_model)


@pytest.fixture(scope="session")
def tiny(tiny_module: RECE) -> Erasure:
    """Of the module."""
    return tiny_module.erasure()


@pytest.fixture(scope="session")
def half_module(tmp_path_factory: pytest.TempPathFactory) -> RECE:
    """A half base whose files carry a variant's name."""
    folder = tmp_path_factory.mktemp("model") / "half"
    return erase(make_checkpoint(folder, seed=12, dtype=torch.float16, variant="fp16"), variant="fp16")


@pytest.fixture(scope="session")
def half(half_module: RECE) -> Erasure:
    """Of the module."""
    return half_module.erasure()


@pytest.fixture(scope="session")
def xl_module(tmp_path_factory: pytest.TempPathFactory) -> RECE:
    """Stable Diffusion XL's layout."""
    return erase(make_xl_checkpoint(tmp_path_factory.mktemp("model") / "xl", seed=13))


@pytest.fixture(scope="session")
def xl(xl_module: RECE) -> Erasure:
    """Of the module."""
    return xl_module.erasure()


@pytest.fixture(scope="session", params=["sd1", "sd2", "sdxl"])
def original_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Erasure:
    """Of a checkpoint file in the original layout."""
    folder = tmp_path_factory.mktemp("original")
    configs = make_folder(folder / "configs", request.param)
    file = make_original(folder / "model.safetensors", request.param, dtype=torch.float16)
    return erase(file, config=str(configs)).erasure()


@pytest.fixture(scope="session")
def per_layer_module(tiny_model: Path) -> RECE:
    """One map a layer."""
    return erase(tiny_model, Method(editor=TensorUCE()))


@pytest.fixture(scope="session")
def per_layer(per_layer_module: RECE) -> Erasure:
    """Of the module."""
    return per_layer_module.erasure()


@pytest.fixture(scope="session")
def values_only(tiny_model: Path) -> Erasure:
    """Keys are left as they were."""
    return erase(tiny_model, Method(projections="v")).erasure()


@pytest.fixture(scope="session")
def world_module() -> RECE:
    """The embedded world."""
    return erase("emoji")


@pytest.fixture(scope="session")
def world(world_module: RECE) -> Erasure:
    """Of the module."""
    return world_module.erasure()
