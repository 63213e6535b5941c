"""Prompts and erasures of every family: rows are the pipeline's own, the concept is where it is said to be, and what is
drawn of it is what the target would be."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import rece_lightning
from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core.editors import UCE
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.denoisers import LiveDenoisers, known_family
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.trace import calls_of
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny.pipelines import BUILDERS, build, smallest

TARGET = "a spoon"


@cache
def opened(name: str) -> tuple[Any, LiveDenoisers, PipelineEncoder]:
    pipeline = build(name)
    family = known_family(pipeline)
    assert family is not None
    live = LiveDenoisers(pipeline, family, "pipeline")
    return pipeline, live, live.encoder(pipeline)


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for one in value for leaf in leaves(one)] if isinstance(value, (list, tuple)) else []


@pytest.mark.parametrize("name", BUILDERS)
def test_rows_are_what_the_pipeline_gives_its_denoiser(name: str) -> None:
    pipeline, live, encoder = opened(name)
    encoded = encoder.encode(["a bomb"])
    for part, denoiser in live.parts.items():
        args, kwargs = calls_of(pipeline, denoiser, "a bomb", **_single(name, pipeline))[0]
        given = leaves([args, kwargs])
        for space in live.spaces:
            if space.before or space.component not in (None, part):
                continue
            if not any(parameter.startswith(f"{part}.") or len(live.parts) == 1 for parameter in space.readers):
                continue
            rows = encoded.rows(space.name)[0].rows
            read = rows[rows.any(dim=-1)]
            assert any(_holds(tensor, read) for tensor in given), space.name


def _single(name: str, pipeline: Any) -> dict[str, Any]:
    arguments = dict(smallest(name))
    if "image_embeddings" in arguments:
        arguments["image_embeddings"] = arguments["image_embeddings"].float()
    return arguments


def _holds(tensor: Tensor, rows: Tensor) -> bool:
    """Whether all these rows are among a tensor's, bit for bit."""
    if not tensor.is_floating_point() or tensor.shape[-1] != rows.shape[-1]:
        return False
    known = {bytes(row.numpy().tobytes()) for row in tensor.reshape(-1, rows.shape[-1])}
    return all(row.numpy().tobytes() in known for row in rows.contiguous())


# One row a prompt has no place; padding on the left moves every row.
@pytest.mark.parametrize("name", [one for one in BUILDERS if one not in ("cascade_decoder", "cogview4")])
def test_the_last_subject_row_is_the_last_token_of_the_prompt(name: str) -> None:
    """Rows before it are those of a prompt that ends differently; under a causal text encoder, bit for bit."""
    _, live, encoder = opened(name)
    short, long = encoder.encode(["a dog", "a dog of a bomb"]).rows(_rows_name(live))
    if _bidirectional(name):
        assert short.last < long.last
        return
    width = short.last + 1
    assert torch.allclose(short.rows[:width], long.rows[:width], atol=1e-5)
    assert not torch.allclose(short.rows[width], long.rows[width], atol=1e-4)


def _bidirectional(name: str) -> bool:
    encoder = opened(name)[2]
    return "T5" in type(encoder.text_encoder).__name__


def _rows_name(live: LiveDenoisers) -> str:
    names = [space.name for space in live.spaces]
    return "text" if "text" in names else names[0]


@pytest.mark.parametrize("name", BUILDERS)
def test_an_erasure_is_the_plain_formula_and_undone_bit_for_bit(name: str) -> None:
    pipeline, live, encoder = opened(name)
    method = Method(editor=UCE(1.0, 0.5, 0.2), tokens="last")
    before = {key: value.clone() for key, value in live.module.named_parameters()}
    rows = {text: encoder.encode([text]) for text in ("a bomb", TARGET, "a rocket")}

    erasure = rece_lightning.erase(pipeline, "a bomb", preserve=["a rocket"], target=TARGET, method=method, epochs=1)

    edited = [space for space in live.spaces if space.instead_of is None]
    assert set(erasure.names) == {key for space in edited for key in space.readers}
    for space in edited:
        bomb, spoon, rocket = (rows[text].rows(space.name)[0] for text in rows)
        erased = torch.stack([bomb.rows[place] for place in (bomb.last, *(last for _, last in bomb.more))]).double()
        target = torch.stack([spoon.rows[place] for place in (spoon.last, *(last for _, last in spoon.more))]).double()
        kept, ridge = rocket.rows.double(), 0.2 * torch.eye(space.width, dtype=torch.float64)
        preserved = 0.5 * kept.T @ kept + ridge
        matrix = (target.T @ erased + preserved) @ torch.linalg.inv(erased.T @ erased + preserved)
        for key, reader in space.readers.items():
            expected = reader.part(before[key]).double() @ matrix
            torch.testing.assert_close(
                reader.part(live.module.get_parameter(key)).double(), expected, rtol=1e-5, atol=1e-6
            )
    assert all(not torch.equal(live.module.get_parameter(key), before[key]) for key in erasure.names)
    erasure.undo()
    for key, value in live.module.named_parameters():
        assert torch.equal(value, before[key])


def test_keys_alone_are_refused_where_there_are_none() -> None:
    pipeline = opened("flux")[0]
    with pytest.raises(ConfigurationError, match=r"projections.*context_embedder.*neither key nor value"):
        rece_lightning.erase(pipeline, "a bomb", method=Method(projections="v"))


def test_entry_and_readers_are_not_edited_together() -> None:
    pipeline = opened("pixart_alpha")[0]
    with pytest.raises(ConfigurationError, match=r"spaces: entry is read before text"):
        rece_lightning.erase(pipeline, "a bomb", method=Method(spaces=("text", "entry")))


@pytest.mark.parametrize("name", ["pixart_alpha", "wan"])
def test_the_entry_is_edited_in_place_of_what_lies_behind_it(name: str) -> None:
    pipeline, live, _ = opened(name)
    with rece_lightning.erase(pipeline, "a bomb", method=Method(spaces=("entry",)), epochs=2) as erasure:
        assert all(key.endswith("linear_1.weight") for key in erasure.names)
        assert len(erasure.names) == len(live.parts)


@pytest.mark.parametrize("padded_with", ["<|pad|>", "<|end|>"])
def test_padding_on_the_left_moves_the_subject_with_it(padded_with: str) -> None:
    pipeline = build("cogview4")
    pipeline.tokenizer.pad_token = padded_with
    family = known_family(pipeline)
    assert family is not None
    encoder = LiveDenoisers(pipeline, family, "pipeline").encoder(pipeline)
    rows = {text: encoder.encode([text]).rows("text")[0] for text in ("a dog", "a dog of a bomb", "")}

    assert {len(one.rows) for one in rows.values()} == {16}  # a multiple of 16, whatever the prompt
    assert all(one.last == 15 for one in rows.values())


def test_a_fit_of_two_encoders_rows_resumes_with_the_same_bits(tmp_path: Path) -> None:
    """Stable Diffusion 3's rows are CLIP's with T5's behind them: both subjects are in the checkpoint."""
    build("sd3").save_pretrained(tmp_path / "sd3")
    whole, part = fitted(tmp_path, 3), fitted(tmp_path, 2)
    part.trainer.save_checkpoint(tmp_path / "part.ckpt")
    rest = fitted(tmp_path, 3, tmp_path / "part.ckpt")

    for (name, weight), (_, resumed) in zip(whole.erasure().weights(), rest.erasure().weights(), strict=True):
        assert torch.equal(weight, resumed), name
    pair = whole.session.pairs["text"][0]
    assert pair.more[0][0] == 16  # CLIP's positions
    assert len(pair.concept) == 16 + 256


def fitted(folder: Path, epochs: int, checkpoint: Path | None = None) -> RECE:
    module = RECE(str(folder / "sd3"), tune="off")
    fit_quietly(module, ConceptData(["bomb", {"prompt": "axe", "target": "a spoon"}]), checkpoint, epochs)
    return module
