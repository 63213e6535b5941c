"""Models of a hub: what is fetched, and what a cache is enough for, with a small hub on the loopback interface."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

from tests.helpers.hub import Hub, serving

REPOSITORY = Path(__file__).resolve().parents[2]
PLAIN = ["diffusion_pytorch_model.safetensors", "model.safetensors"]
HALF = ["diffusion_pytorch_model.fp16.safetensors", "model.safetensors"]
PARTS = ["feature_extractor", "scheduler", "text_encoder", "tokenizer", "unet", "vae"]
Session = Callable[..., list[Any]]


def halved(folder: Path, part: str, *, keep: bool) -> None:
    """Add the weights of a part in float16 as a variant; without ``keep`` in place of the others."""
    [file] = (folder / part).glob("*model.safetensors")
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file.with_suffix(".fp16.safetensors"))
    if not keep:
        file.unlink()


@pytest.fixture(scope="module")
def hub(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """As models are published: a checkpoint and PyTorch's files beside the parts, a safety checker, a card."""
    found = Hub()
    for name in ("a/whole", "a/half"):
        folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("hub") / "repository")
        found.repositories[name] = folder
        (folder / "README.md").write_text("---\nlicense: openrail\n---\n")
        (folder / "v1.ckpt").write_bytes(b"checkpoint")
        for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/pytorch_model"):
            (folder / f"{part}.bin").write_bytes(b"pickle")
        CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
        (folder / "safety_checker").mkdir()
        (folder / "safety_checker" / "config.json").write_text("{}")
        (folder / "safety_checker" / "model.safetensors").write_bytes(b"large")
        index = json.loads((folder / "model_index.json").read_text())
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
        (folder / "model_index.json").write_text(json.dumps(index))
        halved(folder, "unet", keep=name == "a/whole")
        if name == "a/half":
            (folder / "unet" / "diffusion_pytorch_model.bin").unlink()
    network = tmp_path_factory.mktemp("hub") / "network"
    found.repositories["a/network"] = shutil.copytree(tiny_model / "text_encoder", network)
    (network / "pytorch_model.bin").write_bytes(b"pickle")
    with serving(found):
        yield found


@pytest.fixture
def session(hub: Hub, tmp_path: Path) -> Session:
    """A process with a cache of its own; what each step said."""
    hub.answers = True
    hub.fetched.clear()

    def run(*steps: list[Any]) -> list[Any]:
        command = [sys.executable, "-m", "tests.helpers.hub_client", json.dumps(steps)]
        environment = hub.environment(tmp_path / "home")
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        found: list[Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


def test_what_was_fetched_is_enough_without_the_hub(hub: Hub, session: Session) -> None:
    """The cache lists files that nobody chose: ``.ckpt``, ``.bin``, another variant, the safety checker."""
    found, _, again, loaded, embedded = session(
        ["find", "a/whole", None], ["off"], ["find", "a/whole", None], ["load", "a/whole", None], ["embed", "a/network"]
    )
    assert found == again == PLAIN
    assert loaded == PARTS
    assert "not on this machine and could not be fetched" in embedded
    assert {Path(file).suffix for file in hub.fetched} == {".json", ".safetensors", ".md"}
    assert not [file for file in hub.fetched if "safety_checker" in file or "fp16" in file]

    hub.answers = True
    steps = ["embed", "a/network"], ["off"], ["embed", "a/network"]
    assert session(*steps) == [["CLIPTextModel"], None, ["CLIPTextModel"]]


@pytest.mark.parametrize("listed", [True, False], ids=["the cache has a list", "the cache has no list"])
def test_a_part_is_not_taken_for_the_whole(hub: Hub, session: Session, listed: bool) -> None:
    """With the hub what is missing is fetched, and no more; without it the message says what, and why not."""
    weights, words = "unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer_config.json"
    forget: list[list[Any]] = [] if listed else [["forget", "a/whole"]]
    answers = session(
        ["find", "a/whole", None],
        *forget,
        ["drop", "a/whole", weights],
        ["find", "a/whole", None],
        *forget,
        ["drop", "a/whole", weights],
        ["off"],
        ["find", "a/whole", None],
        ["on"],
        ["find", "a/whole", "fp16"],
    )
    answers = [answer for answer in answers if answer is not None]
    assert answers[0] == answers[1] == PLAIN
    assert "has no diffusion_pytorch_model.safetensors" in answers[2]
    assert "the hub cannot be reached" in answers[2]
    assert answers[3] == HALF
    assert f"a/whole/{words}" in hub.fetched
    if listed:
        dropped = session(["on"], ["drop", "a/whole", words], ["off"], ["find", "a/whole", "fp16"])[-1]
        assert f"lacks {words}" in dropped


def test_a_variant_of_some_parts_only_loads_as_in_diffusers(hub: Hub, session: Session) -> None:
    found, loaded, without, _, offline, other = session(
        ["find", "a/half", "fp16"],
        ["load", "a/half", "fp16"],
        ["find", "a/half", None],
        ["off"],
        ["find", "a/half", "fp16"],
        ["find", "a/half", "ema"],
    )
    assert found == offline == HALF
    assert loaded == PARTS
    assert "it holds diffusion_pytorch_model.fp16.safetensors: set model.variant" in without
    assert "has no diffusion_pytorch_model.ema.safetensors" in other
