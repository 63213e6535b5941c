"""Who is told to read an export, and what is advised in place of a format that does not fit: nothing refused."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import diffusers
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.exports import FORMATS, export
from rece_lightning.exports.cost import export_costs
from rece_lightning.exports.fitting import NAMES, formats_of, readers_of
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny.pipelines import build

FITS = {
    "flux": {"delta", "pipeline", "lora", "kohya", "map"},
    "sd3": {"delta", "pipeline", "lora", "kohya", "map"},
    "qwen_image": {"delta", "pipeline", "lora"},
    "pixart_sigma": {"delta", "pipeline", "lora"},
    "wan": {"delta", "pipeline"},
    "cascade_prior": {"delta", "pipeline", "lora", "map"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fitting")


@cache
def erased(folder: Path, name: str, *spaces: str) -> RECE:
    if not (folder / name).is_dir():
        build(name).save_pretrained(folder / name)
    module = RECE(str(folder / name), method=Method(spaces=spaces or None))
    fit_quietly(module, ConceptData([{"prompt": "axe", "target": "a spoon"}], preserve=[" "]), epochs=1)
    return module


def test_the_names_are_the_formats() -> None:
    assert set(NAMES) == set(FORMATS)


def advised(text: str) -> set[str]:
    """The formats that a sentence says to write or export."""
    found = re.findall(r"(?:write|export) ((?:[\w-]+(?:, | or )?)+)", text)
    return {name for names in found for name in re.split(r", | or ", names)}


@pytest.mark.parametrize("name", FITS)
def test_what_is_advised_is_written_and_what_is_not_fitting_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    erasure = erased(folder, name).erasure()
    fits = FITS[name]
    assert set(formats_of(erasure)) == fits
    for format in NAMES:
        path = tmp_path / (format if FORMATS[format].place == "folder" else f"{format}.safetensors")
        if format in fits:
            record = export(erasure, format, path)
            assert record.readers == readers_of(format, erasure)
            assert advised(record.readers) <= fits, record.readers
        else:
            with pytest.raises(ConfigurationError) as refused:
                export(erasure, format, path)
            assert advised(str(refused.value)) == fits, refused.value
    assert {cost.format for cost in export_costs(erasure)} == fits


@pytest.mark.parametrize(("name", "entry"), [("pixart_sigma", True), ("wan", True), ("qwen_image", False)])
def test_the_entry_is_advised_where_there_is_one_and_then_a_map_is_written(
    folder: Path, tmp_path: Path, name: str, entry: bool
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        export(erased(folder, name).erasure(), "map", tmp_path / "map.safetensors")

    assert ("spaces: [entry]" in str(refused.value)) == entry
    if entry:
        export(erased(folder, name, "entry").erasure(), "map", tmp_path / "map.safetensors")


def test_code_names_the_part_that_the_delta_fits(folder: Path) -> None:
    assert "transformer.load_state_dict" in readers_of("delta", erased(folder, "flux").erasure())
    assert "prior.load_state_dict" in readers_of("delta", erased(folder, "cascade_prior").erasure())
    assert "transformer and transformer_2" in readers_of("delta", erased(folder, "wan").erasure())


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_kohya_of_a_transformer_is_not_called_diffusers_own(folder: Path, tmp_path: Path, name: str) -> None:
    """Diffusers applies nothing of it; the card shows no code that would."""
    record = export(erased(folder, name).erasure(), "kohya", tmp_path / "kohya.safetensors")

    assert "for diffusers write lora" in record.readers
    card = (tmp_path / "kohya.md").read_text(encoding="utf-8")
    assert record.readers in card
    assert "load_lora_weights" not in card
    assert "<lora:kohya:1>" in card
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder / name)
    before = {key: value.clone() for key, value in pipeline.transformer.state_dict().items()}
    try:
        pipeline.load_lora_weights(tmp_path / "kohya.safetensors")
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    except (ValueError, KeyError, IndexError):
        return  # some versions refuse the names
    after = pipeline.transformer.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_lora_that_diffusers_has_no_loader_for_is_read_by_peft(folder: Path, tmp_path: Path) -> None:
    erasure = erased(folder, "pixart_sigma").erasure()
    record = export(erasure, "lora", tmp_path / "lora.safetensors")

    assert record.readers.startswith("PEFT alone")
    assert "load_lora_weights" not in (tmp_path / "lora.md").read_text(encoding="utf-8")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder / "pixart_sigma")
    assert not hasattr(pipeline, "load_lora_weights")
    stored = {key.removeprefix("transformer."): value for key, value in load_file(record.path).items()}
    layers = [key.removesuffix(".lora_A.weight") for key in stored if key.endswith(".lora_A.weight")]
    config = LoraConfig(r=record.rank, lora_alpha=record.rank, target_modules=layers)
    model = inject_adapter_in_model(config, pipeline.transformer)
    set_peft_model_state_dict(model, stored)
    for name, weight in erasure.weights():
        layer = model.get_submodule(name.removesuffix(".weight"))
        layer.merge()
        torch.testing.assert_close(layer.base_layer.weight.data, weight, rtol=1e-4, atol=1e-5)
