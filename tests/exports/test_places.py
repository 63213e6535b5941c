"""No file that is published says where on a disk the base model lay."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors import safe_open

from rece_lightning import RECE, ConceptData
from rece_lightning.erasure.transfer import transfer
from rece_lightning.exports import FORMATS, Erasure, export
from rece_lightning.models.find import find_base
from rece_lightning.models.published import without_places
from tests.helpers.exported import check_no_place, files_below


@pytest.mark.parametrize("kind", FORMATS)
def test_no_format_names_the_folder_of_the_base(kind: str, tiny: Erasure, tmp_path: Path) -> None:
    assert tiny.base.path.is_absolute()
    record = export(tiny, kind, tmp_path / ("model" if FORMATS[kind].place == "folder" else "file.safetensors"))
    check_no_place(tmp_path, tiny.base.path)
    file = record.path if record.path.is_file() else next((record.path / "unet").glob("*.safetensors"))
    with safe_open(file, framework="pt") as stored:
        said = stored.metadata()
    assert said["rece.base"] == tiny.base.path.name
    assert json.loads(said["rece.fingerprint"]) == tiny.base.fingerprint()


def test_what_libraries_wrote_into_the_base_stays_behind(tiny: Erasure, tmp_path: Path) -> None:
    """Configurations of a model that was loaded from a folder name it, and so may the file of the U-Net."""
    base = shutil.copytree(tiny.base.path, tmp_path / "base")
    there = {"_name_or_path": "/home/somebody/secret/model", "special_tokens_map_file": "C:\\Users\\somebody\\map.json"}
    for file in ("unet/config.json", "vae/config.json", "text_encoder/config.json", "model_index.json"):
        content = json.loads((base / file).read_text())
        (base / file).write_text(json.dumps({**content, "_name_or_path": "/home/somebody/secret/model"}))
    for file in ("tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"):
        content = json.loads((base / file).read_text())
        (base / file).write_text(json.dumps({**content, **there, "deeper": {**there, "kept": "owner/model"}}))
    erasure = replace(tiny, source=find_base(str(base)))
    folder = export(erasure, "pipeline", tmp_path / "model").path
    assert not [file for file in files_below(folder) if b"somebody" in file.read_bytes()]
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["deeper"] == {"kept": "owner/model"}
    # Nothing else of a configuration is touched.
    before, after = (json.loads((one / "unet" / "config.json").read_text()) for one in (tiny.base.path, folder))
    assert after == without_places(before)


def test_an_applied_erasure_names_neither_model_by_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    module = RECE(str(tiny_model), tune="off")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", enable_checkpointing=False, **quiet)  # type: ignore[arg-type]
    trainer.fit(module, ConceptData(["bomb"]))
    trainer.save_checkpoint(tmp_path / "run" / "last.ckpt")
    content = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    # The checkpoint itself finds its base again.
    assert content["hyper_parameters"]["pretrained"] == str(tiny_model)
    assert content["rece"]["base"] == tiny_model.name
    # Older ones named the folder.
    content["rece"]["base"] = str(tiny_model)
    other = shutil.copytree(tiny_model, tmp_path / "models" / "other")
    moved = transfer(content, (str(other), None, None, None))
    record = export(moved.erasure, "delta", tmp_path / "published" / "file.safetensors")
    check_no_place(tmp_path / "published", tiny_model, other)
    with safe_open(record.path, framework="pt") as stored:
        said = stored.metadata()
    assert (said["rece.base"], said["rece.applied_from"]) == ("other", tiny_model.name)


@pytest.mark.parametrize(
    ("name", "says"), [("{}", "tiny"), ("{}/", "tiny"), ("{}/unet/..", "tiny"), ("link", "link"), (".", "tiny")]
)
def test_a_base_is_called_by_the_last_part_of_its_path(
    name: str, says: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "tiny")
    (tmp_path / "link").symlink_to(model)
    monkeypatch.chdir(model if name == "." else tmp_path)
    assert find_base(name.format(model)).published == says
    assert find_base("emoji").published == "emoji"
