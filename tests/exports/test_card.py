"""Model cards: front matter as the hub reads it, and usage code that runs."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from rece_lightning.exports import LORA_FILE, Erasure, ExportRecord, export
from rece_lightning.models.find import find_base

EVALUATION = """column,prompt,concept,role,seed,detected
original,bomb,bomb,erased,0,1
original,bomb,bomb,erased,1,1
uce,bomb,bomb,erased,0,1
uce,bomb,bomb,erased,1,0
rece,bomb,bomb,erased,0,0
rece,bomb,bomb,erased,1,0
rece_derived,bomb,bomb,erased,0,1
rece_derived,bomb,bomb,erased,1,0
original,rocket,rocket,kept,0,1
rece,rocket,rocket,kept,0,1
"""


def write(erasure: Erasure, kind: str, folder: Path) -> tuple[ExportRecord, str]:
    """An export, and its card."""
    record = export(erasure, kind, folder / ("kohya.safetensors" if kind == "kohya" else kind))
    card = record.path / "README.md" if record.path.is_dir() else record.path.with_suffix(".md")
    return record, card.read_text(encoding="utf-8")


def front_of(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def code_of(card: str, erasure: Erasure) -> str:
    """The code, with the base model where this machine has it."""
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return str(code).replace(f'"path/to/{erasure.base.path.name}"', f'"{erasure.base.path}"')


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Execute a card's code where the card lies; the picture that it makes."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["image"]


@pytest.mark.parametrize("name", ["tiny", "xl", "world"])
@pytest.mark.parametrize("kind", ["pipeline", "lora", "kohya"])
def test_the_usage_code_runs(
    kind: str, name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    erasure: Erasure = request.getfixturevalue(name)
    record, card = write(erasure, kind, tmp_path)
    code = code_of(card, erasure)
    # The embedded world's weights are halves, which the CPU need not be good at; and few steps will do.
    code = code.replace("torch.float16", "torch.float32").replace('"bomb")', '"bomb", num_inference_steps=2)')
    assert "num_inference_steps=2" in code
    picture = run(code, record.path if record.path.is_dir() else tmp_path, monkeypatch)
    assert picture.size[0] >= 8


@pytest.mark.parametrize("kind", ["pipeline", "lora", "kohya"])
def test_the_usage_code_of_a_checkpoint_file_loads(
    kind: str, original_file: Erasure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, card = write(original_file, kind, tmp_path)
    code = code_of(card, original_file)
    monkeypatch.chdir(record.path if record.path.is_dir() else tmp_path)
    names: dict[str, Any] = {}
    # Without the picture: these models are as deep as the real ones.
    exec(code[: code.index("image =")], names)
    assert names["pipeline"].unet.dtype == torch.float16


@pytest.mark.parametrize(("kind", "relation"), [("pipeline", "finetune"), ("lora", "adapter"), ("kohya", "adapter")])
def test_front_matter_of_a_base_from_the_hub(kind: str, relation: str, tiny: Erasure, tmp_path: Path) -> None:
    base = shutil.copytree(tiny.base.path, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\ntags: [x]\n---\n# Base\n")
    erasure = replace(tiny, source=replace(find_base(str(base)), name="somebody/tiny-diffusion"))
    _, card = write(erasure, kind, tmp_path)
    front = front_of(card)
    assert front["base_model"] == "somebody/tiny-diffusion"
    assert front["base_model_relation"] == relation
    assert front["license"] == "creativeml-openrail-m"
    assert front["library_name"] == "diffusers"
    assert front["pipeline_tag"] == "text-to-image"
    assert {"text-to-image", "stable-diffusion", "concept-erasure"} <= set(front["tags"])
    assert ("lora" in front["tags"]) == (kind != "pipeline")
    # As the hub's own client reads it.
    assert ModelCard(card).data.base_model == "somebody/tiny-diffusion"
    assert "somebody/tiny-diffusion" in card.split("## Use")[1] or kind == "pipeline"


def test_nothing_is_made_up_for_a_base_on_a_disk(tiny: Erasure, tmp_path: Path) -> None:
    _, card = write(tiny, "lora", tmp_path)
    assert "base_model" not in front_of(card)
    assert "license" not in front_of(card)
    assert "put its hub id into the front matter" in card


def test_a_local_copy_that_names_its_hub_id_is_known_by_it(tiny: Erasure, tmp_path: Path) -> None:
    base = shutil.copytree(tiny.base.path, tmp_path / "base")
    config = (base / "unet" / "config.json").read_text().replace("{", '{"_name_or_path": "somebody/tiny",', 1)
    (base / "unet" / "config.json").write_text(config)
    _, card = write(replace(tiny, source=find_base(str(base))), "lora", tmp_path)
    assert front_of(card)["base_model"] == "somebody/tiny"
    # Its weights may be others than the hub's by now.
    assert f'"path/to/{base.name}"' in card.split("## Use")[1]


def test_concepts_targets_settings_hashes_and_error_stand_in_the_card(tiny: Erasure, tmp_path: Path) -> None:
    record, card = write(tiny, "lora", tmp_path)
    assert "| bomb | (empty prompt) | 1.0 |" in card
    assert "| axe | spoon | 1.0 |" in card
    assert "Held while editing: (empty prompt), rocket." in card
    assert '| `derivation` | `{"scale": 0.1, "regularizer": "norm", "surrogate_items": "both"}` |' in card
    assert all(hash in card for hash in tiny.base.fingerprint().values())
    assert f"| rank | {record.rank} |" in card
    assert record.loss.file is not None
    exact, file = (
        f"{error.change:.1e} of the change of the weights" for error in (record.loss.exact, record.loss.file)
    )
    assert f"| relative error against the exact edit | {exact}" in card
    assert f"| relative error against the weights rounded to float32 | {file}" in card
    assert "\n## Use\n\nFor diffusers (load_lora_weights) and PEFT. A WebUI may apply nothing of it" in card
    assert "torch_dtype=" not in card
    assert LORA_FILE in card
    assert "Nothing: no pictures were made" in card


def test_the_card_names_everything_that_was_edited(tiny: Erasure, xl: Erasure, tmp_path: Path) -> None:
    pooled = replace(xl, spaces=xl.spaces[1:])
    both, one = "the cross-attention and the pooled-embedding layer read", "the cross-attention reads"
    for erasure, kind, says in (
        (tiny, "pipeline", f"erased from it: {one} prompts through other weights"),
        (xl, "pipeline", f"erased from it: {both} prompts through other weights"),
        (tiny, "lora", "at scale 1 the cross-attention's weights are the edited ones"),
        (xl, "lora", "at scale 1 the cross-attention's and the pooled-embedding layer's weights are the edited ones"),
        (pooled, "lora", "at scale 1 the pooled-embedding layer's weights are the edited ones"),
    ):
        _, card = write(erasure, kind, tmp_path / str(erasure.base.path.name) / str(len(erasure.names)))
        assert says in card


def test_measured_results_stand_in_the_card_with_their_intervals(tiny: Erasure, tmp_path: Path) -> None:
    (tmp_path / "evaluation.csv").write_text(EVALUATION)
    _, card = write(replace(tiny, run=tmp_path), "pipeline", tmp_path)
    assert "| erased concepts | 100 % (34–100) | 0 % (0–66) | 50 % (9–91) |" in card
    assert "| preserved concepts | 100 % (21–100) | 100 % (21–100) | – |" in card
    assert "their synonyms" not in card
    assert "not the LoRA of this rank" not in card
    export(replace(tiny, run=tmp_path), "lora", tmp_path / "rough.safetensors", rank=1)
    assert "not the LoRA of this rank" in (tmp_path / "rough.md").read_text(encoding="utf-8")


def test_pictures_that_nobody_counted_are_no_results(tiny: Erasure, tmp_path: Path) -> None:
    (tmp_path / "evaluation.csv").write_text(re.sub(r",[01]$", ",", EVALUATION, flags=re.MULTILINE))
    _, card = write(replace(tiny, run=tmp_path), "pipeline", tmp_path)
    assert "Nothing: no pictures were made, or none were counted." in card


def test_prompts_cannot_break_out_of_the_card(tiny: Erasure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = 'a "b" | c\n---\n```\n# d <script>'
    concepts = {"erased": [{"prompt": prompt, "target": prompt, "weight": 1.0}], "preserved": [prompt]}
    hostile = replace(tiny, description={**tiny.description, "concepts": concepts})
    record, card = write(hostile, "pipeline", tmp_path)
    assert front_of(card)["library_name"] == "diffusers"
    assert card.count("```") == 2
    assert all(line.count(" | ") == 2 for line in card.splitlines() if line.startswith('| a "b"'))
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(code, "card", "exec")
    assert record.path.is_dir()
