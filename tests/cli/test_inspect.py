"""``rece inspect``: what is said of a model, from its headers alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch

from rece_lightning.cli.inspect import size
from rece_lightning.devices.sizes import KEPT_MATRICES, WORKING_MATRICES
from rece_lightning.models.find import find_base
from tests.helpers.command import run_command
from tests.helpers.models import make_checkpoint
from tests.helpers.tiny.pipelines import build


def test_a_transformer_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("flux").save_pretrained(tmp_path / "flux")

    outcome = run_command(capsys, "inspect", "--model.pretrained", tmp_path / "flux")

    assert outcome.code == 0, outcome.err
    assert "family: FLUX.1" in outcome.out
    assert "space text: 24 wide" in outcome.out
    assert "context_embedder.weight  32 × 24" in outcome.out
    assert "space pooled: 16 wide" in outcome.out
    assert "text_encoder_2" in outcome.out
    assert f"reads {4 * (32 * 24 + 32 * 16) / 1000:.3g} kB of the denoiser's" in outcome.out


def test_what_lies_behind_a_projector_and_what_may_be_edited_in_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build("pixart_sigma").save_pretrained(tmp_path / "pixart")

    out = run_command(capsys, "inspect", "--model.pretrained", tmp_path / "pixart").out

    assert "behind caption_projection" in out
    assert "keys and values can be edited apart" in out
    assert "space entry: 24 wide, in place of text" in out
    assert "… 4 in all" in out
    # text and entry are 32 and 24 wide, and one of them is edited.
    base = find_base(str(tmp_path / "pixart"))
    text = next(space for space in base.spaces if space.name == "text")
    assert f"its matrices take {size(8 * KEPT_MATRICES * text.width**2)} of memory" in out
    assert f"{size(8 * WORKING_MATRICES * text.width**2)} more" in out


def test_stable_diffusion_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run_command(capsys, "inspect", "--model.pretrained", make_checkpoint(tmp_path / "sd")).out

    assert "family: Stable Diffusion 1.x" in out
    assert "space text: 24 wide" in out
    assert "attn2.to_k.weight" in out


def test_no_weight_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file whose tensors are damaged beyond the header nothing but the header is looked at."""
    build("chroma").save_pretrained(tmp_path / "chroma")
    for file in (tmp_path / "chroma").rglob("*.safetensors"):
        assert safetensors.torch.load_file(file)
        length = int.from_bytes(file.read_bytes()[:8], "little")
        content = bytearray(file.read_bytes())
        content[8 + length :] = b"\xff" * (len(content) - 8 - length)
        file.write_bytes(content)

    outcome = run_command(capsys, "inspect", "--model.pretrained", tmp_path / "chroma")

    assert outcome.code == 0, outcome.err
    assert "space text" in outcome.out


def test_without_a_model_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run_command(capsys, "inspect")

    assert outcome.code == 2
    assert "--model.pretrained" in outcome.err
