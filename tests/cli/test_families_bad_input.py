"""Models of transformers that are not whole, or asked for what they have not: one message, exit code 2."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.pipelines import load_pipeline
from rece_lightning.models.text import EncodesPrompts
from tests.cli.test_bad_input import assert_names, message_of
from tests.helpers.command import run_command, write_config
from tests.helpers.tiny import pipelines, unets

GONE = [None, None]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("sd3", "flux", "pixart_sigma"):
        pipelines.build(name).save_pretrained(folder / name)
    torch.manual_seed(0)
    pipelines.drawn(pipelines.wan(two=True)).save_pretrained(folder / "wan")
    unets.build("sd1").save_pretrained(folder / "sd1")
    return folder


@pytest.fixture
def model(models: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of one of them with other entries in its index, and without some of its folders."""

    def copied(name: str, *lost: str, **entries: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(models / name, folder)
        for part in lost:
            shutil.rmtree(folder / part)
        index = folder / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | entries))
        return folder

    return copied


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run ``fit`` on a model and return the message that it must end with, no text encoder loaded."""

    def run(folder: Path, *arguments: str) -> str:
        def load(*_: Any, **__: Any) -> EncodesPrompts:
            raise AssertionError("the text encoder was loaded before the mistake was found")

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("rece_lightning.erasure.loaded.load_encoder", load)
        outcome = run_command(capsys, "fit", "--config", write_config(tmp_path, folder), *arguments)
        return message_of(outcome.code, outcome.out, outcome.err)

    return run


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("OmniGenPipeline", "reads the tokens themselves"),
        ("GlmImagePipeline", "a vision-language model makes of the text"),
        ("KandinskyPipeline", "another model, the prior"),
        ("KandinskyV22Pipeline", "another model, the prior"),
        ("KandinskyV22ControlnetPipeline", "another model, the prior"),
        ("MochiPipeline", "whose family is not known"),
    ],
)
def test_a_family_that_is_not_supported_is_named_beside_those_that_are(
    refused: Callable[..., str], model: Callable[..., Path], kind: str, reason: str
) -> None:
    assert_names(refused(model("flux", _class_name=kind)), kind, reason, "Stable Diffusion 1.x", "FLUX.1", "Wan 2.1")


@pytest.mark.parametrize(
    ("name", "part"),
    [("flux", "text_encoder"), ("flux", "text_encoder_2"), ("sd3", "text_encoder"), ("sd3", "text_encoder_2")],
)
def test_a_text_encoder_that_is_missing(
    refused: Callable[..., str], model: Callable[..., Path], name: str, part: str
) -> None:
    tokenizer = part.replace("text_encoder", "tokenizer")
    folder = model(name, **{part: GONE, tokenizer: GONE})
    assert_names(refused(folder), f"gives {part} no class", "copy the model whole")


def test_a_text_encoder_whose_folder_is_missing(refused: Callable[..., str], model: Callable[..., Path]) -> None:
    assert_names(refused(model("flux", "text_encoder_2")), "lacks text_encoder_2/", "copy the model whole")


def test_a_text_encoder_without_its_tokenizer(refused: Callable[..., str], model: Callable[..., Path]) -> None:
    assert_names(refused(model("flux", tokenizer_2=GONE)), "names text_encoder_2 and no tokenizer_2")


@pytest.mark.parametrize("entries", [{}, {"text_encoder_3": GONE, "tokenizer_3": GONE}], ids=["not copied", "named so"])
def test_stable_diffusion_3_may_go_without_t5(
    model: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    entries: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = model("sd3", "text_encoder_3", "tokenizer_3", **entries)
    outcome = run_command(capsys, "fit", "--config", write_config(tmp_path, folder))
    assert outcome.code == 0, outcome.err
    encoder = load_encoder(find_base(str(folder)))
    rows = encoder.encode(["a bomb"]).rows("text")[0].rows
    assert not rows[-256:].any()
    assert rows[:-256].any(dim=-1).all()


def test_t5_without_its_tokenizer_was_lost(refused: Callable[..., str], model: Callable[..., Path]) -> None:
    assert_names(refused(model("sd3", "text_encoder_3")), "lacks text_encoder_3/")


@pytest.mark.parametrize("part", ["transformer", "transformer_2"])
def test_one_of_two_denoisers_that_is_missing(
    refused: Callable[..., str], model: Callable[..., Path], part: str
) -> None:
    assert_names(refused(model("wan", **{part: GONE})), f"has no {part}", "boundary_ratio 0.5", "Copy the model whole")


def test_a_denoiser_that_no_step_is_given_to_may_be_missing(model: Callable[..., Path]) -> None:
    """Wan 2.1, and 2.2's smaller model, have one; at a ratio of 1 the second takes every step."""
    first = find_base(str(model("wan", transformer_2=GONE, boundary_ratio=None)))
    assert [space.name for space in first.spaces] == ["text", "entry"]


def test_the_second_denoiser_may_be_the_only_one(model: Callable[..., Path]) -> None:
    second = find_base(str(model("wan", transformer=GONE, boundary_ratio=1.0)))
    assert [space.name for space in second.spaces] == ["text_2", "entry"]


def test_a_control_net_beside_a_transformer(refused: Callable[..., str], model: Callable[..., Path]) -> None:
    folder = model(
        "sd3", _class_name="StableDiffusion3ControlNetPipeline", controlnet=["diffusers", "SD3ControlNetModel"]
    )
    assert_names(refused(folder), "controlnet (SD3ControlNetModel) may read the text too", "without it")


def test_entry_of_a_model_without_a_projector(refused: Callable[..., str], models: Path) -> None:
    message = refused(models / "sd1", "--model.method.spaces", "[entry]")
    assert_names(message, "model.method.spaces", "'entry'", "the first map of a projector", "text")


@pytest.mark.parametrize("projections", ["k", "v"])
def test_keys_or_values_alone_at_a_choke_point(refused: Callable[..., str], models: Path, projections: str) -> None:
    message = refused(models / "flux", "--model.method.projections", projections)
    assert_names(message, "model.method.projections", projections, "context_embedder", "neither key nor value", "kv")


def test_keys_or_values_alone_at_the_entry(refused: Callable[..., str], models: Path) -> None:
    message = refused(models / "pixart_sigma", "--model.method.projections", "v", "--model.method.spaces", "[entry]")
    assert_names(message, "model.method.projections", "caption_projection.linear_1", "neither key nor value")


def test_a_text_longer_than_the_encoder_takes_is_cut_with_a_warning(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever words it holds: a repeated one is not taken for one that was kept."""
    monkeypatch.chdir(tmp_path)
    long = " ".join(["bomb"] * 600)
    path = write_config(tmp_path, models / "pixart_sigma", data={"concepts": [long, "axe"]})

    outcome = run_command(capsys, "fit", "--config", path)

    assert outcome.code == 0, outcome.err
    assert outcome.out.count("longer than the tokenizer takes") == 1
    lost = outcome.out.split("cut: '", 1)[1].split("'", 1)[0].split()
    # T5 takes 300 tokens in a call of PixArt-Σ, the end of the text among them.
    tokenizer = load_encoder(find_base(str(models / "pixart_sigma"))).tokenizer
    each = len(tokenizer("bomb bomb", add_special_tokens=False)["input_ids"]) // 2
    assert set(lost) == {"bomb"}
    assert abs(len(lost) - (600 - 299 / each)) <= 1


def test_the_encoder_that_takes_least_says_what_it_cuts(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUX reads one row of CLIP, which takes fewer tokens than T5."""
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder(find_base(str(models / "flux")))
    tokenizer, clip = encoder.towers[0]
    room = clip.config.max_position_embeddings - 2
    words = ["dog", "bomb"] * room
    own = tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
    path = write_config(tmp_path, models / "flux", data={"concepts": [" ".join(words), "axe"]})

    outcome = run_command(capsys, "fit", "--config", path)

    assert outcome.code == 0, outcome.err
    assert outcome.out.count("longer than the tokenizer takes") == 1
    assert f"cut: {str(tokenizer.decode(own[room:])).strip()!r}" in outcome.out
    assert encoder.too_long(["axe", "a bomb"]) == {}


def test_a_text_encoder_that_was_lost_is_said(
    models: Path, model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its rows are zeros then; one that is left out on purpose has no class in the index."""
    monkeypatch.chdir(tmp_path)
    says = r"lacks text_encoder_3/ \(T5\).* zeros, and the model with T5 reads more"
    folder = model("sd3", "text_encoder_3", "tokenizer_3")
    with pytest.warns(UserWarning, match=says):
        find_base(str(folder))
    with pytest.warns(UserWarning, match=says):
        assert run_command(capsys, "fit", "--config", write_config(tmp_path, folder)).code == 0
    with pytest.warns(UserWarning, match=says):
        assert run_command(capsys, "inspect", "--model.pretrained", folder).code == 0
    with pytest.warns(UserWarning, match=says):
        load_pipeline(str(folder))
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"text_encoder_3": GONE, "tokenizer_3": GONE}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_base(str(folder))
        find_base(str(models / "sd3"))


@pytest.mark.parametrize("pretrained", ["flux", "emoji", "owner/name"])
def test_text_encoders_beside_a_whole_model(
    refused: Callable[..., str], models: Path, capsys: pytest.CaptureFixture[str], pretrained: str
) -> None:
    whole = models / "flux" if pretrained == "flux" else Path(pretrained)
    message = refused(whole, "--model.text_encoders", str(models / "flux"))
    assert_names(message, "model.text_encoders", "no checkpoint file", str(whole), "leave the setting out")
    outcome = run_command(capsys, "inspect", "--model.pretrained", whole, "--model.text_encoders", models / "flux")
    assert_names(message_of(outcome.code, outcome.out, outcome.err), "model.text_encoders", "leave the setting out")
