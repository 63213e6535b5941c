"""Steps and guidance belong to the model."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest

from rece_lightning.models.families import FAMILIES
from rece_lightning.models.find import find_base
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.sampling_defaults import default_sampling


@pytest.mark.parametrize("world", ["emoji", "emoji-mmdit"])
def test_the_embedded_worlds_are_drawn_as_they_were_measured(world: str) -> None:
    assert default_sampling(find_base(world)) == Sampling(steps=12, guidance_scale=4.0)


def test_a_unet_takes_stable_diffusions_guidance() -> None:
    base = replace(find_base("emoji"), sampling={})
    assert default_sampling(base) == Sampling(steps=20, guidance_scale=7.5)
    assert default_sampling(replace(base, family="sdxl")) == Sampling(steps=20, guidance_scale=5.0)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_declared_family_is_drawn_as_its_pipeline_draws(family: object, tmp_path: Path) -> None:
    """Of a folder's own class, where it names one of the family's."""
    name = family.pipelines[-1]  # type: ignore[attr-defined]
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    base = replace(find_base("emoji"), sampling={}, family=family.name, config=tmp_path)  # type: ignore[attr-defined]
    found = default_sampling(base)
    taken = inspect.signature(getattr(diffusers, name).__call__).parameters
    for value, argument in ((found.steps, "num_inference_steps"), (found.guidance_scale, family.guidance)):  # type: ignore[attr-defined]
        if argument in taken:
            assert value == taken[argument].default
