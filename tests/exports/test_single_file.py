"""One checkpoint in the original layout: everything but the edited projections keeps its bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.errors import BaseModelError
from rece_lightning.core.gram import Gram
from rece_lightning.erasure.erasure import ErasedSpace, Erasure
from rece_lightning.exports.safetensors import stream_tensors
from rece_lightning.exports.single_file import write_single_file
from rece_lightning.models.base import BaseModel
from rece_lightning.models.find import find_base
from rece_lightning.models.layouts import LAYOUTS, config_folder
from rece_lightning.models.original.model import unet_projections
from rece_lightning.models.weights import SafetensorsWeights
from tests.helpers.models_original import KINDS, make_folder, make_original, original_tensors, small_parts

METADATA = {"rece.version": "test", "rece.concepts": "[]"}
AVERAGE = "model_ema.diffusion_modelinput_blocks11transformer_blocks0attn2to_kweight"


def erasure_of(base: BaseModel, part: str = "") -> Erasure:
    """A random edit, in every text space, of the readers that hold ``part`` in their names."""
    generator, spaces = torch.Generator().manual_seed(1), []
    for whole in base.spaces:
        space = replace(whole, readers={name: one for name, one in whole.readers.items() if part in name})
        if space.readers:
            matrix = torch.eye(space.width, dtype=torch.float64)
            matrix += 0.1 * torch.randn(space.width, space.width, generator=generator).double()
            spaces.append(ErasedSpace(space, EmbeddingMap(matrix), Gram.of(base.read_space(space))))
    return Erasure(base, tuple(spaces))


def assert_only_edits(before: dict[str, Tensor], after: dict[str, Tensor], erasure: Erasure) -> None:
    """The same names; the edited projections are what the erasure says, all other bits are the same."""
    names = unet_projections(before)
    edited = {names[name]: weight for name, weight in erasure.weights()}
    assert set(after) == set(before)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], edited.get(name, tensor)), name
        assert name not in edited or not torch.equal(after[name], tensor)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("sd1", torch.float32), ("sd1-inpainting", torch.float16), ("sd2", torch.float16), ("sdxl", torch.bfloat16)],
)
def test_of_a_file(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """What the model does not need is copied too; moving averages, which hold the concept, are not."""
    extra = {
        "betas": torch.rand(3, dtype=torch.float64),
        "count": torch.tensor(7),
        "odd": torch.ones(3, dtype=torch.uint8),
    }
    held = {**extra, AVERAGE: torch.rand(3)}
    base = find_base(str(make_original(tmp_path / "model.safetensors", kind, dtype=dtype, extra=held)))
    erasure = erasure_of(base)
    write_single_file(erasure, tmp_path / "out.safetensors", METADATA)
    before = load_file(base.path)
    del before[AVERAGE]
    assert_only_edits(before, load_file(tmp_path / "out.safetensors"), erasure)
    with safe_open(tmp_path / "out.safetensors", framework="pt") as stored:
        said = stored.metadata()
    assert {key: text for key, text in said.items() if not key.startswith("modelspec.")} == METADATA
    assert said["modelspec.architecture"].startswith("stable-diffusion-")
    assert said["modelspec.title"] == "out"
    # Back through the loader.
    edited = dict(erasure.weights())
    written = find_base(str(tmp_path / "out.safetensors"))
    assert all(torch.equal(tensor, edited[name]) for name, tensor in written.read_projections())


def test_of_pytorchs_format(tmp_path: Path) -> None:
    """A ``.ckpt`` with more than tensors in it becomes the same safetensors file."""
    base = find_base(str(make_original(tmp_path / "model.ckpt", "sd1")))
    erasure = erasure_of(base, part="up_blocks")
    write_single_file(erasure, tmp_path / "out.safetensors", METADATA)
    before = load_file(make_original(tmp_path / "model.safetensors", "sd1"))
    assert_only_edits(before, load_file(tmp_path / "out.safetensors"), erasure)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_folder(kind: str, tmp_path: Path) -> None:
    """Converted and edited, diffusers loads it as the edited model."""
    # A text encoder this narrow says nothing of its family.
    base = replace(find_base(str(make_folder(tmp_path / "model", kind))), family=LAYOUTS[kind].family)
    erasure = erasure_of(base)
    out = tmp_path / "out.safetensors"
    write_single_file(erasure, out, METADATA)
    parts = small_parts(kind)
    assert_only_edits(original_tensors(parts, kind), load_file(out), erasure)
    pipeline_class = getattr(diffusers, LAYOUTS[kind].configs()["model_index"]["_class_name"])
    folder = config_folder(kind, SafetensorsWeights(out).shapes())
    pipeline = pipeline_class.from_single_file(str(out), config=str(folder), local_files_only=True)
    edited = dict(erasure.weights())
    for part, module in parts.items():
        loaded = getattr(pipeline, part).state_dict()
        for name, tensor in module.state_dict().items():
            assert torch.equal(loaded[name], edited.get(name, tensor) if part == "unet" else tensor), name


def test_a_part_without_a_place_writes_nothing(tmp_path: Path) -> None:
    base = find_base(str(make_folder(tmp_path / "model", "sd1")))
    erasure = erasure_of(base)
    readers = {f"motion.{name}": reader for name, reader in erasure.text.space.readers.items()}
    strange = replace(erasure.text.space, readers=readers)
    moved = Erasure(replace(base, spaces=(strange,)), (replace(erasure.text, space=strange),))
    with pytest.raises(BaseModelError, match="motion"):
        write_single_file(moved, tmp_path / "out.safetensors", METADATA)
    assert not (tmp_path / "out.safetensors").exists()


def test_streamed_files_are_like_safetensors_own(tmp_path: Path) -> None:
    """All dtypes and shapes, each at a multiple of its element's size; the same bytes every time."""
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
    tensors = {str(i): torch.rand(3, 5).mul(9).to(kind) for i, kind in enumerate(kinds)}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "turned": torch.rand(4, 3).T}
    first = stream_tensors(lambda: iter(tensors.items()), tmp_path / "a.safetensors", METADATA)
    second = stream_tensors(lambda: reversed(tensors.items()), tmp_path / "b.safetensors", METADATA)
    assert first.read_bytes() == second.read_bytes()
    read = load_file(first)
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read[name], tensor)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.safetensors", "b.safetensors"]


def test_a_dtype_that_safetensors_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="complex64"):
        stream_tensors(
            lambda: iter({"x": torch.ones(2, dtype=torch.complex64)}.items()), tmp_path / "x.safetensors", {}
        )
    assert not list(tmp_path.iterdir())
