"""``delta``: equals what the module edits; and what every file says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rece_lightning import RECE, ConfigurationError
from rece_lightning.exports import Erasure, export, file_metadata
from rece_lightning.version import __version__
from tests.helpers.erasures import pipeline_of


@pytest.mark.parametrize("module_name", ["tiny_module", "half_module", "xl_module", "per_layer_module", "world_module"])
def test_equals_the_edited_pipeline(module_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    module: RECE = request.getfixturevalue(module_name)
    record = export(module.erasure(), "delta", tmp_path / "delta.safetensors")
    written = load_file(record.path)
    dtype = next(iter(written.values())).dtype
    unet = module.pipeline(dtype).unet
    assert set(written) == set(module.session.names)
    for name, weight in written.items():
        assert torch.equal(unet.get_parameter(name), weight)
    assert record.bytes == record.path.stat().st_size


def test_loads_into_the_original_unet_as_the_readme_says(tiny: Erasure, tmp_path: Path) -> None:
    unet = pipeline_of(tiny).unet
    unet.load_state_dict(load_file(export(tiny, "delta", tmp_path / "delta.safetensors").path), strict=False)
    for name, weight in tiny.weights():
        assert torch.equal(unet.get_parameter(name), weight)


def test_metadata_name_base_hash_concepts_targets_settings_version_and_date(
    tiny: Erasure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = export(tiny, "delta", tmp_path / "a.safetensors").path
    with safe_open(first, framework="pt") as file:
        said = file.metadata()
    assert said["rece.base"] == tiny.base.path.name
    assert json.loads(said["rece.fingerprint"]) == tiny.base.fingerprint()
    erased = json.loads(said["rece.concepts"])["erased"]
    assert [(row["prompt"], row["target"]) for row in erased] == [("bomb", " "), ("axe", "spoon")]
    assert json.loads(said["rece.method"])["editor"] == {
        "class_path": "UCE",
        "init_args": {"erase_scale": 1.0, "preserve_scale": 0.1, "lamb": 0.1},
    }
    assert said["rece.version"] == __version__
    assert said["rece.kind"] == "delta"
    assert said["rece.date"] == "2023-11-14T22:13:20+00:00"
    assert first.read_bytes() == export(tiny, "delta", tmp_path / "b.safetensors").path.read_bytes()


def test_a_date_that_is_none_is_refused(tiny: Erasure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigurationError, match="SOURCE_DATE_EPOCH: 'yesterday'"):
        file_metadata(tiny.description, "delta")
