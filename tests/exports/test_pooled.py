"""SDXL's second text space: what reads the pooled embedding is edited too, and every format carries it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch import Tensor

import rece_lightning
from rece_lightning import RECE, ConceptData, ConfigurationError, EmbeddingMap, Method
from rece_lightning.callbacks import ErasureCheckpoint
from rece_lightning.core.embedding_map import EmbeddingMap as Map
from rece_lightning.erasure.erasure import ErasedSpace, Erasure
from rece_lightning.erasure.transfer import transfer
from rece_lightning.exports import FORMATS, export
from rece_lightning.models.layouts import config_folder
from rece_lightning.models.pipelines import put_weights
from rece_lightning.models.text import PromptEncoder
from rece_lightning.models.weights import SafetensorsWeights
from rece_lightning.runs.checkpoints import read_checkpoint
from tests.helpers.erasures import edited_exactly, erase, make_xl_checkpoint, original_of, pipeline_of
from tests.helpers.models_original import make_folder

READER = "add_embedding.linear_1.weight"
POOLED = 16
"""Columns of the reader that are the pooled embedding's, in the small model; sizes and crops have the others."""
Given = tuple[Tensor, Tensor]
"""What a U-Net reads of two prompts: rows ``[2, positions, d]`` and pooled ``[2, p]``."""


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Erasure:
    """A small model with all of SDXL's blocks, which a single file needs."""
    return erase(make_folder(tmp_path_factory.mktemp("deep") / "sdxl", "sdxl")).erasure()


def random_given(unet: Any, seed: int = 0) -> Given:
    generator = torch.Generator().manual_seed(seed)
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    width = unet.config.cross_attention_dim
    return torch.randn(2, 16, width, generator=generator), torch.randn(2, pooled, generator=generator)


@torch.no_grad()
def predicted(unet: Any, given: Given) -> Tensor:
    """What a U-Net predicts for two prompts from the same noise."""
    dtype = unet.dtype
    sample = torch.randn(1, unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    rows, pooled = (one.to(dtype) for one in given)
    added = {"text_embeds": pooled, "time_ids": torch.arange(6, dtype=dtype).repeat(2, 1)}
    made: Tensor = unet(sample.repeat(2, 1, 1, 1), 5, rows, added_cond_kwargs=added).sample
    return made


def with_maps(erasure: Erasure, make: Callable[[ErasedSpace], Tensor], names: Sequence[str]) -> Erasure:
    """The same erasure with other maps in the text spaces of some names, and no other space."""
    spaces = [one for one in erasure.spaces if one.space.name in names]
    return replace(erasure, spaces=tuple(replace(one, maps=Map(make(one))) for one in spaces))


def test_the_columns_of_the_pooled_embedding_are_edited_and_those_of_sizes_are_not(xl: Erasure) -> None:
    assert [(one.space.name, one.space.width) for one in xl.spaces] == [("text", 40), ("pooled", POOLED)]
    before, after = dict(xl.original())[READER], dict(xl.weights())[READER]
    assert before.shape == after.shape == (64, POOLED + 6 * 8)
    assert torch.equal(after[:, POOLED:], before[:, POOLED:])
    change = (after - before)[:, :POOLED]
    assert float(change.norm()) > 1e-2 * float(before[:, :POOLED].norm())
    exact = before[:, :POOLED].double() @ xl.maps["pooled"].of_layer(0)
    assert torch.equal(after[:, :POOLED], exact.float())


def test_a_concepts_pooled_embedding_is_read_as_its_targets(xl: Erasure) -> None:
    encoded = PromptEncoder.of_pipeline(pipeline_of(xl)).encode(["bomb", " "])
    assert encoded.pooled is not None
    concept, target = encoded.pooled.double()
    before, after = original_of(xl)[READER][:, :POOLED], edited_exactly(xl)[READER][:, :POOLED]
    assert (after @ concept - before @ target).norm() < 0.6 * (before @ (concept - target)).norm()


def test_the_text_space_alone_leaves_the_pooled_reader_alone(xl_module: RECE, xl: Erasure) -> None:
    alone = erase(xl.base.path, Method(spaces=("text",)))
    weights = dict(alone.erasure().weights())
    assert list(alone.maps) == ["text"]
    assert READER not in weights
    assert set(weights) == {name for name in xl_module.session.names if name != READER}
    # The spaces know nothing of one another.
    edited = dict(xl.weights())
    assert all(torch.equal(weight, edited[name]) for name, weight in weights.items())
    assert torch.equal(alone.pipeline().unet.get_parameter(READER), dict(xl.original())[READER])


def test_the_pooled_space_alone_leaves_keys_and_values_alone(xl: Erasure) -> None:
    alone = erase(xl.base.path, Method(spaces=("pooled",))).erasure()
    assert alone.names == [READER]
    assert torch.equal(dict(alone.weights())[READER], dict(xl.weights())[READER])


def test_a_space_that_a_model_has_not_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.method\.spaces: this model has no text space 'pooled'"):
        erase(tiny_model, Method(spaces=("text", "pooled")))


def loaded_back(kind: str, erasure: Erasure, folder: Path) -> Callable[[Given], Tensor]:
    """An export, put where its users put it; gives what the model predicts."""
    path = export(erasure, kind, folder / ("out" if FORMATS[kind].place == "folder" else "out.safetensors")).path
    if kind == "pipeline":
        pipeline = StableDiffusionXLPipeline.from_pretrained(path, local_files_only=True)
    elif kind == "single-file":
        configs = str(config_folder("sdxl", SafetensorsWeights(path).shapes()))
        pipeline = StableDiffusionXLPipeline.from_single_file(str(path), config=configs, local_files_only=True)
    else:
        pipeline = pipeline_of(erasure)
    if kind == "delta":
        pipeline.unet.load_state_dict(load_file(path), strict=False)
    if kind in ("lora", "kohya"):
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    if kind == "map":
        mapped = EmbeddingMap.load(path)
        return lambda given: predicted(pipeline.unet, (mapped(given[0]), mapped.pooled(given[1])))
    return lambda given: predicted(pipeline.unet, given)


# Diffusers reads a single file of SDXL's own blocks alone.
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for name in ("xl", "deep") for kind in FORMATS if (kind, name) != ("single-file", "xl")],
)
def test_every_format_carries_it(kind: str, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    erasure: Erasure = request.getfixturevalue(name)
    unet = pipeline_of(erasure).unet
    given = random_given(unet)
    before = predicted(unet, given)
    text = {key: weight for key, weight in erasure.weights() if key != READER}
    put_weights(unet, text)
    without_it = predicted(unet, given)
    put_weights(unet, dict(erasure.weights()))
    wanted = predicted(unet, given)
    found = loaded_back(kind, erasure, tmp_path)(given)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    # There is something to get wrong, and part of it is the pooled reader.
    assert not torch.allclose(before, wanted, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(without_it, wanted, rtol=1e-3, atol=1e-4)


def test_a_kohya_file_calls_it_as_the_original_layout_does(xl: Erasure, tmp_path: Path) -> None:
    tensors = load_file(export(xl, "kohya", tmp_path / "kohya.safetensors").path)
    down = tensors["lora_unet_label_emb_0_0.lora_down.weight"]
    assert down.shape[1] == POOLED + 6 * 8
    assert bool(down[:, :POOLED].any())
    assert not bool(down[:, POOLED:].any())


def test_a_map_of_the_text_space_alone_says_that_pooled_embeddings_stay(xl: Erasure, tmp_path: Path) -> None:
    alone = replace(xl, spaces=xl.spaces[:1])
    mapped = EmbeddingMap.load(export(alone, "map", tmp_path / "map.safetensors").path)
    with pytest.raises(ConfigurationError, match="did not edit what reads pooled embeddings"):
        mapped.pooled(torch.ones(1, POOLED))
    both = EmbeddingMap.load(export(xl, "map", tmp_path / "both.safetensors").path)
    with pytest.raises(ConfigurationError, match="7 wide, the map 16"):
        both.pooled(torch.ones(1, 7))


def test_mapped_embeddings_are_read_as_the_edited_model_reads_them(xl: Erasure) -> None:
    """``(W M) c = W (M c)`` in both spaces, in float64: nothing of the prompt gets into the U-Net elsewhere."""
    plain, edited = (pipeline_of(xl, torch.float64).unet for _ in range(2))
    put_weights(edited, edited_exactly(xl))
    rows, pooled = (one.double() for one in random_given(plain))
    mapped = (xl.spaces[0].maps.apply_to_embeddings(rows), xl.spaces[1].maps.apply_to_embeddings(pooled))  # type: ignore[union-attr]
    wanted = predicted(edited, (rows, pooled))
    torch.testing.assert_close(predicted(plain, mapped), wanted, rtol=1e-9, atol=1e-10)
    # Neither space alone is enough.
    for given in ((mapped[0], pooled), (rows, mapped[1])):
        assert not torch.allclose(predicted(plain, given), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("zeroed", "blind"), [(("text", "pooled"), True), (("text",), False), (("pooled",), False), ((), False)]
)
def test_a_unet_with_all_readers_zeroed_sees_no_prompt(xl: Erasure, zeroed: tuple[str, ...], blind: bool) -> None:
    """Exactly: there is no way round the readers of the two spaces, and either alone is one."""
    pipeline = pipeline_of(xl)
    encoded = PromptEncoder.of_pipeline(pipeline).encode(["bomb", "a church in the rain"])
    assert encoded.pooled is not None
    if zeroed:
        with_maps(xl, lambda one: torch.zeros(one.space.width, one.space.width).double(), zeroed).apply_(pipeline.unet)
    first, second = predicted(pipeline.unet, (encoded.embeddings, encoded.pooled))
    assert torch.equal(first, second) == blind


def test_erase_edits_a_live_pipeline_and_undo_gives_it_back(xl: Erasure) -> None:
    pipeline = pipeline_of(xl)
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    concepts: list[Any] = ["bomb", {"prompt": "axe", "target": "spoon"}]
    erasure = rece_lightning.erase(pipeline, concepts, preserve=[" ", "rocket"], epochs=2, tune="off")
    assert set(erasure.maps) == {"text", "pooled"}
    assert READER in erasure.names
    after, wanted = pipeline.unet.state_dict(), dict(xl.weights())
    assert torch.equal(after[READER][:, POOLED:], before[READER][:, POOLED:])
    for name, weight in after.items():
        torch.testing.assert_close(weight, wanted.get(name, before[name]), rtol=1e-4, atol=1e-6)
        assert torch.equal(weight, before[name]) == (name not in wanted)
    erasure.undo()
    assert all(torch.equal(weight, before[name]) for name, weight in pipeline.unet.state_dict().items())


def test_undo_refuses_where_the_pooled_reader_was_trained_since(xl: Erasure) -> None:
    pipeline = pipeline_of(xl)
    erasure = rece_lightning.erase(pipeline, "bomb", epochs=1, tune="off")
    with torch.no_grad():
        pipeline.unet.get_parameter(READER)[0, -1] += 1
    with pytest.raises(ConfigurationError, match="changed since"):
        erasure.undo()


def fitted(pretrained: Path, folder: Path | None = None) -> RECE:
    """The erasure of the fixtures, with a checkpoint where a folder is given."""
    module = RECE(str(pretrained), tune="off")
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        callbacks=[] if folder is None else [ErasureCheckpoint(dirpath=str(folder))],
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ConceptData(["bomb"], preserve=[" ", "rocket"]))
    return module


@pytest.mark.parametrize("reuse_map", [False, True])
def test_another_model_with_the_same_text_encoders_is_erased_in_both_spaces(tmp_path: Path, reuse_map: bool) -> None:
    first = make_xl_checkpoint(tmp_path / "first", seed=13)
    other = shutil.copytree(first, tmp_path / "other")
    unet = UNet2DConditionModel.from_pretrained(other / "unet")
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    unet.save_pretrained(other / "unet")
    module = fitted(first, tmp_path / "checkpoints")
    content = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    moved = transfer(content, (str(other), None, None, None), reuse_map=reuse_map)
    fresh = fitted(other).erasure()
    found, original = dict(moved.erasure.weights()), dict(fresh.original())
    assert set(found) == set(fresh.names)
    assert torch.equal(found[READER][:, POOLED:], original[READER][:, POOLED:])
    assert moved.encoder_difference == 0
    reused = with_maps(fresh, lambda one: module.maps[one.space.name].of_layer(0), ["text", "pooled"])
    for name, weight in edited_exactly(reused if reuse_map else fresh).items():
        torch.testing.assert_close(found[name].double(), weight, rtol=1e-4, atol=1e-6)
    # The derivation sees the weights, so the two are not the same.
    first_found, first_fresh = found[READER].double(), edited_exactly(fresh)[READER]
    assert torch.allclose(first_found, first_fresh, rtol=1e-4, atol=1e-6) != reuse_map
    path = export(moved.erasure, "pipeline", tmp_path / "out").path
    written = StableDiffusionXLPipeline.from_pretrained(path, local_files_only=True).unet
    assert all(torch.equal(written.get_parameter(name), weight) for name, weight in found.items())
