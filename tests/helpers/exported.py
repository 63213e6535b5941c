"""What is asked of every folder and file that is written to be published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file
from transformers import CLIPTokenizer

from rece_lightning.exports import Erasure

PROMPTS = ["a bomb, lit on a table", "", "Émile's café 42!", "<x> beside <x>_1"]


def text_names(folder: Path, part: str = "text_encoder") -> set[str]:
    return {name for file in (folder / part).glob("*.safetensors") for name in load_file(file)}


def old_tokens(folder: Path) -> dict[str, int]:
    """Text → number as transformers 4's tokenizer reads them: from ``vocab.json`` and ``added_tokens.json``."""
    more = folder / "added_tokens.json"
    added = json.loads(more.read_text(encoding="utf-8")) if more.exists() else {}
    return {**json.loads((folder / "vocab.json").read_text(encoding="utf-8")), **added}


def check_tokenizer(folder: Path) -> None:
    """What the old files say is what the new one does, token by token and prompt by prompt."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert old_tokens(folder) == tokenizer.get_vocab()
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    assert merges[0].startswith("#version")
    assert [tuple(pair.split(" ")) for pair in merges[1:]] == [tuple(pair) for pair in pairs]
    # Without the new file the old ones are all that there is.
    old = folder.parent / f"{folder.name}-old"
    shutil.copytree(folder, old, ignore=shutil.ignore_patterns("tokenizer.json"))
    assert CLIPTokenizer.from_pretrained(old)(PROMPTS)["input_ids"] == tokenizer(PROMPTS)["input_ids"]
    shutil.rmtree(old)


def check_for_both(erasure: Erasure, folder: Path) -> None:
    """Text encoders and tokenizers of an exported folder are what transformers 4 and 5 both read."""
    parts = [path.name for path in folder.iterdir() if path.name.startswith("text_encoder")]
    assert len(parts) == len(erasure.base.text)
    for part in parts:
        names = text_names(folder, part)
        assert {name for name in names if not name.startswith("text_model.")} <= {"text_projection.weight"}
        assert len(names) > 10
        check_tokenizer(folder / part.replace("text_encoder", "tokenizer"))


def files_below(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def check_no_place(folder: Path, *places: Path) -> None:
    """No file in a folder holds the path of one of these places, or of what they lie in."""
    hidden = {part for place in places for part in (str(place), str(place.parent), str(place.parent.parent))}
    for file in files_below(folder):
        content = file.read_bytes()
        assert not [place for place in hidden if place.encode() in content], file
