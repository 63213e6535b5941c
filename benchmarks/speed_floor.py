"""The least that an erasure must do before it can compute: imports, one text encoder, the prompts encoded.

``python -m benchmarks.speed_floor`` imports what the command imports; with a folder it loads and encodes too. Run by
``benchmarks.speed`` as a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import diffusers  # noqa: F401
import yaml
from torch.utils.tensorboard import SummaryWriter  # noqa: F401
from transformers import CLIPTextModel  # noqa: F401

import rece_lightning.cli.lightning
from rece_lightning.cli.verbs import PACKAGE
from rece_lightning.data.concepts import prompt_pairs, read_concepts, read_preserved
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base


def main(folder: str | None) -> None:
    """Load and encode what the configuration ``nudity`` names."""
    rece_lightning.cli.lightning.quiet()
    if folder is None:
        return
    data = yaml.safe_load((Path(PACKAGE) / "configs" / "nudity.yaml").read_text(encoding="utf-8"))["data"]
    concepts = read_concepts(data["concepts"], data.get("target", " "), data.get("templates", ["{}"]))
    pairs = prompt_pairs(concepts)
    prompts = [text for pair in pairs for text in (pair.prompt, pair.target)]
    prompts += read_preserved(data.get("preserve", [" "]))
    load_encoder(find_base(folder)).encode(list(dict.fromkeys(prompts)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
