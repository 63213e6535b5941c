"""An erasure whose matrices stay in factors, whole: FLUX.2's reading, beside the same one formed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file

import rece_lightning
from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core import factored
from rece_lightning.core.editors import NullSpace, Projection
from rece_lightning.core.embedding_map import stored
from rece_lightning.core.factored import Factored
from rece_lightning.core.reaching import Reaching
from rece_lightning.core.robust import Robust
from rece_lightning.devices.sizes import algebra
from rece_lightning.erasure.certificates import certificates
from rece_lightning.erasure.wide import kept_in_factors
from rece_lightning.exports import write_delta
from rece_lightning.exports.cost import export_costs
from rece_lightning.exports.lora import write_lora
from rece_lightning.exports.map import EmbeddingMap, write_map
from rece_lightning.models import pipeline_encoder
from rece_lightning.models.text_space import Reader, TextSpace
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny.pipelines import drawn, flux2_klein

WIDTH, READER = 96, "context_embedder.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.2 [klein] with 32 outputs and 96 inputs of its reader."""
    path = tmp_path_factory.mktemp("flux2")
    torch.manual_seed(0)
    drawn(flux2_klein(width=WIDTH // 3)).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _short_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty rows a prompt, of which the template takes most: three prompts have fewer rows than 96."""
    monkeypatch.setattr(pipeline_encoder, "FIXED", {**pipeline_encoder.FIXED, "max_sequence_length": 20})


@pytest.fixture
def _in_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factored, "WIDEST_FORMED", WIDTH - 1)


def fitted(folder: Path, epochs: int = 3, resume: Path | None = None, method: Method | None = None) -> RECE:
    module = RECE(str(folder), method=method or Method())
    fit_quietly(module, ConceptData([{"prompt": "bomb", "target": "a spoon"}], preserve=[" "]), resume, epochs)
    return module


def edited(module: RECE) -> torch.Tensor:
    return dict(module.erasure().weights())[READER]


@pytest.mark.usefixtures("_in_factors")
def test_a_fit_in_factors_is_the_formed_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = fitted(folder)
    maps = stored(module.session.maps["text"])
    assert isinstance(maps, Factored)
    assert maps.left.shape[1] < WIDTH

    monkeypatch.undo()
    monkeypatch.setattr(pipeline_encoder, "FIXED", {**pipeline_encoder.FIXED, "max_sequence_length": 20})
    plain = fitted(folder)
    assert not isinstance(stored(plain.session.maps["text"]), Factored)
    torch.testing.assert_close(edited(module), edited(plain), rtol=1e-5, atol=1e-6)
    original = dict(plain.erasure().original())[READER]
    assert (edited(module) - original).norm() > 0.05 * original.norm()
    for own, other in zip(module.history, plain.history, strict=True):
        for name in set(other) - {"map_rank", "map_condition", "edit_seconds", "erase_seconds"}:
            assert own[name] == pytest.approx(other[name], rel=1e-5, abs=1e-8), name


@pytest.mark.usefixtures("_in_factors")
def test_its_checkpoint_holds_factors_and_goes_on_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    whole, part = fitted(folder), fitted(folder, 2)
    part.trainer.save_checkpoint(tmp_path / "part.ckpt")
    state = torch.load(tmp_path / "part.ckpt", weights_only=True)["rece"]
    assert set(state["erasers"]["text"]) == {"map_left", "map_right", "epoch"}
    assert not any(one.shape == (WIDTH, WIDTH) for one in state["statistics"]["spaces"]["text"].values())

    rest = fitted(folder, 3, tmp_path / "part.ckpt")
    assert torch.equal(edited(rest), edited(whole))
    again = RECE.load_from_checkpoint(tmp_path / "part.ckpt", weights_only=True)
    assert torch.equal(edited(again), edited(part))


@pytest.mark.usefixtures("_in_factors")
def test_it_is_written_in_every_format(folder: Path, tmp_path: Path) -> None:
    module = fitted(folder)
    erasure, weight = module.erasure(), edited(module)
    original = dict(erasure.original())[READER]
    write_delta(erasure, tmp_path / "delta.safetensors", {})
    assert torch.equal(load_file(tmp_path / "delta.safetensors")[READER], weight)

    write_map(erasure, tmp_path / "map.safetensors", {"format": "pt"})
    assert set(load_file(tmp_path / "map.safetensors")) == {"map_left", "map_right"}
    again = EmbeddingMap.load(tmp_path / "map.safetensors")
    rows = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(rows) @ original.mT, rows @ weight.mT, rtol=1e-4, atol=1e-5)

    write_lora(erasure, tmp_path / "lora.safetensors", {"format": "pt"})
    pipeline = diffusers.Flux2KleinPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(tmp_path / "lora.safetensors")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    torch.testing.assert_close(pipeline.transformer.context_embedder.weight, weight, rtol=1e-4, atol=1e-5)

    of_map = next(cost for cost in export_costs(erasure) if cost.format == "map")
    assert of_map.bytes == 8 * sum(one.numel() for one in load_file(tmp_path / "map.safetensors").values())


@pytest.mark.usefixtures("_in_factors")
def test_a_pipeline_in_memory_is_erased_in_factors_and_undone(folder: Path) -> None:
    pipeline = diffusers.Flux2KleinPipeline.from_pretrained(folder)
    before = pipeline.transformer.context_embedder.weight.detach().clone()
    with rece_lightning.erase(pipeline, "bomb", target="a spoon", method=Method(), epochs=3) as erasure:
        assert isinstance(stored(erasure.maps["text"]), Factored)
        assert erasure.figures["regeneration_residual"] >= erasure.figures["regeneration_residual_unedited"]
        torch.testing.assert_close(
            pipeline.transformer.context_embedder.weight, edited(fitted(folder)), rtol=1e-5, atol=1e-6
        )
    assert torch.equal(pipeline.transformer.context_embedder.weight, before)


@pytest.mark.usefixtures("_in_factors")
@pytest.mark.parametrize("editor", [NullSpace(threshold=0.5), Projection()], ids=lambda one: type(one).__name__)
def test_an_editor_that_needs_the_matrices_has_them(folder: Path, editor: Any) -> None:
    module = fitted(folder, 1, method=Method(editor))
    assert not isinstance(stored(module.session.maps["text"]), Factored)


@pytest.mark.usefixtures("_in_factors")
def test_more_rows_than_the_width_are_formed(folder: Path) -> None:
    module = RECE(str(folder), method=Method())
    words = ["rocket", "spoon", "dog", "cat"]
    fit_quietly(module, ConceptData(["bomb"], preserve=words), epochs=2)
    assert not isinstance(stored(module.session.maps["text"]), Factored)
    assert isinstance(module.session.gram.total, Factored)
    assert edited(module).isfinite().all()


@pytest.mark.usefixtures("_in_factors")
def test_certificate_and_scan_work_on_factors(folder: Path) -> None:
    session = fitted(folder, 2).session
    (found,) = certificates(session.erasure(), session.erased_prompts, session.pairs, [0.25, 1.0])
    assert 0 < found.bounds[0.25] <= found.residuals[0.25]
    assert 0 <= found.bounds[1.0] <= found.residuals[1.0]
    rows = session.pairs["text"][0]
    concept, target = (one[-2:][None] for one in (rows.concept, rows.target))
    reaching = Reaching.of(session.gram, session.maps["text"], concept, target)
    assert all(one.isfinite().all() for one in reaching.measure(rows.concept[:4].view(2, 2, -1)))


def test_the_rule_names_wide_readers_and_methods_that_can() -> None:
    dev = TextSpace("text", 15_360, {READER: Reader((6144, 15_360))})
    flux = TextSpace("text", 4096, {READER: Reader((3072, 4096))})
    assert kept_in_factors(dev, Method())
    assert not kept_in_factors(flux, Method())
    assert not kept_in_factors(dev, Method(Projection()))
    assert not kept_in_factors(dev, Method(robust=Robust(ridges=(0.1,))))


@pytest.mark.usefixtures("_in_factors")
def test_the_memory_that_is_told_knows_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = RECE(str(folder)).session.base
    monkeypatch.setattr("rece_lightning.devices.sizes.ROWS_IN_FACTORS", 4)
    assert algebra(base, [READER]) < algebra(base, [READER], apart=1)
