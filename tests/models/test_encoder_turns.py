"""Text encoders that are in memory one at a time: the same bits, and less memory."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rece_lightning.models import encoder_turns
from rece_lightning.models.denoisers import LiveDenoisers, known_family
from rece_lightning.models.encoder_turns import EncoderTurns
from rece_lightning.models.family_encoder import load_family_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.text import Encoded
from tests.helpers.tiny.pipelines import build

PROMPTS = ["a bomb", "a spoon on a table", "", "a rocket"]
SEVERAL = {"sd3": 3, "flux": 2, "hidream": 4, "hunyuan_video": 2}
KINDS = {"sd3": "bfloat16", "flux": "float32", "hidream": "bfloat16", "hunyuan_video": "float32"}


@pytest.fixture(scope="module", params=KINDS.items(), ids=str)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """A folder of a family with several text encoders, and the pipeline itself."""
    name, kind = request.param
    pipeline = build(name, dtype=getattr(torch, kind))
    path = tmp_path_factory.mktemp("model")
    pipeline.save_pretrained(path)
    # As a user has it: weights that lie elsewhere in memory may round their last digits otherwise.
    return name, path, type(pipeline).from_pretrained(path, torch_dtype=getattr(torch, kind))


def opened(path: Path) -> PipelineEncoder:
    return load_family_encoder(find_base(str(path)))


def turns_of(encoder: PipelineEncoder) -> EncoderTurns:
    assert encoder.turns is not None
    return encoder.turns


def here(encoder: PipelineEncoder) -> set[str]:
    return {
        name
        for name, part in turns_of(encoder).encoders.items()
        if all(weight.untyped_storage().nbytes() >= weight.nbytes for weight in part.parameters())
    }


def assert_same(one: Encoded, other: Encoded) -> None:
    assert torch.equal(one.embeddings, other.embeddings)
    assert torch.equal(one.last_subject, other.last_subject)
    for space, rows in other.spaces.items():
        for own, expected in zip(one.rows(space), rows, strict=True):
            assert torch.equal(own.rows, expected.rows), space
            assert (own.last, own.more) == (expected.last, expected.more)


def test_rows_are_the_pipelines_own_bits_and_encoders_are_let_go(model: tuple[str, Path, Any]) -> None:
    name, path, pipeline = model
    family = known_family(pipeline)
    assert family is not None
    expected = LiveDenoisers(pipeline, family, "pipeline").encoder(pipeline).encode(PROMPTS)
    encoder = opened(path)
    assert len(turns_of(encoder).encoders) == SEVERAL[name]
    # Whoever is called, all that ran before are gone.
    ran: list[str] = []
    together: list[set[str]] = []
    for part, module in turns_of(encoder).encoders.items():
        block = next(one for one in module.modules() if not list(one.children()) and list(one.parameters()))

        def note(*_: object, part: str = part) -> None:
            together.append(here(encoder).intersection((*ran, part)))
            ran.append(part)

        block.register_forward_pre_hook(note)

    assert_same(encoder.encode(PROMPTS), expected)
    ran.clear()  # of the first time, when it was looked up what the tokenizers put behind a text
    assert_same(encoder.encode(PROMPTS), expected)
    assert together
    assert all(len(one) == 1 for one in together)
    # A turn, not a prompt: each encoder has all prompts before the next one runs.
    assert len([1 for one, then in pairwise(ran) if one != then]) == len(set(ran)) - 1

    assert_same(encoder.encode(PROMPTS[::-1]), _reversed(expected))
    assert encoder.too_long(["a bomb"]) == {}


def _reversed(encoded: Encoded) -> Encoded:
    spaces = {name: list(rows)[::-1] for name, rows in encoded.spaces.items()}
    return Encoded(encoded.embeddings.flip(0), last_subject=encoded.last_subject.flip(0), spaces=spaces)


def test_answers_beyond_the_room_wait_for_another_round(
    model: tuple[str, Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = opened(model[1]).encode(PROMPTS)
    monkeypatch.setattr(encoder_turns, "ROOM", 0)
    assert_same(opened(model[1]).encode(PROMPTS), expected)


def test_who_works_on_the_weights_has_all_of_them(model: tuple[str, Path, Any]) -> None:
    name, path, _ = model
    encoder = opened(path)
    expected = encoder.encode(PROMPTS)
    assert len(here(encoder)) < SEVERAL[name]
    towers = encoder.towers
    assert len(here(encoder)) == len(towers) == SEVERAL[name]
    assert_same(encoder.encode(PROMPTS), expected)
    assert len(here(encoder)) == SEVERAL[name]


def test_what_is_tied_stays_tied(model: tuple[str, Path, Any]) -> None:
    if model[0] != "sd3":
        pytest.skip("T5 ties its embeddings")
    encoder = opened(model[1])
    encoder.encode(PROMPTS)
    assert encoder.towers
    t5 = encoder.pipeline.text_encoder_3
    assert t5.shared.weight is t5.encoder.embed_tokens.weight


class Two(torch.nn.Module):
    """An encoder that is called again after another one."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(factor), requires_grad=False)

    def forward(self, value: Tensor) -> Tensor:
        return value * self.weight


def test_encoders_may_be_called_in_any_order_and_more_than_once() -> None:
    encoders = {"one": Two(2.0), "two": Two(3.0)}
    loads: list[str] = []

    def load(name: str) -> Two:
        loads.append(name)
        return Two({"one": 2.0, "two": 3.0}[name])

    turns = EncoderTurns(encoders, load, "cpu")

    def ask(prompt: str) -> float:
        value = torch.tensor(float(prompt))
        return float(encoders["one"](encoders["two"](encoders["one"](value)) + 1))

    assert list(turns.answers(["1", "2", "5"], ask)) == [2 * (6 * value + 1) for value in (1, 2, 5)]
    assert loads == ["one"]
    assert list(turns.answers([], ask)) == []


PEAK = """
import sys, torch
from rece_lightning.models.find import find_base
from rece_lightning.models.family_encoder import load_family_encoder

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

encoder = load_family_encoder(find_base(sys.argv[1]))
before = peak()
encoder.encode(["a bomb", "a spoon"])
in_turns = peak() - before
assert encoder.towers
encoder.encode(["a bomb", "a spoon"])
print(in_turns, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_peak_is_the_largest_encoder_not_all_of_them(tmp_path: Path) -> None:
    pipeline = build("flux")
    sizes = {}
    for name in ("text_encoder", "text_encoder_2"):
        own = getattr(pipeline, name)
        config = own.config
        for field in ("num_hidden_layers", "num_layers"):
            if hasattr(config, field):
                setattr(config, field, 60)
        config.__dict__.update({"d_ff": 20_000} if name == "text_encoder_2" else {"intermediate_size": 50_000})
        grown = type(own)(config).to(torch.bfloat16)
        sizes[name] = sum(weight.numel() * 2 for weight in grown.parameters()) / 2**20
        setattr(pipeline, name, grown)
    pipeline.save_pretrained(tmp_path)
    ran = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    in_turns, together = map(float, ran.stdout.split()[-2:])
    assert in_turns < 0.85 * together
    assert together > 0.9 * sum(sizes.values())
