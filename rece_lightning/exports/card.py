"""The model card of a folder or a LoRA, as the hub reads it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.erasure.erasure import Erasure
from rece_lightning.exports.folders import MARK
from rece_lightning.exports.record import Loss
from rece_lightning.metrics.intervals import Share

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LARGEST_HEAD = 1 << 16
FAMILIES = {"sd1": "stable-diffusion", "sd2": "stable-diffusion", "sdxl": "stable-diffusion-xl"}


def render_card(erasure: Erasure, kind: str, metadata: dict[str, str], loss: Loss, file: str | None = None) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        erasure: that was written.
        kind: ``pipeline``, ``lora`` or ``kohya``.
        metadata: as the file holds them.
        loss: of what was written.
        file: the LoRA's name; the folder is the model without it.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True
    )
    description = erasure.description
    _, weight = next(erasure.original())
    return environment.get_template("card.md.j2").render(
        front=yaml.safe_dump(front_matter(erasure, kind), sort_keys=False, allow_unicode=True).strip(),
        kind=kind,
        names=[_cell(name) for name in erasure.concepts],
        rows=[{key: _cell(str(value)) for key, value in row.items()} for row in description["concepts"]["erased"]],
        preserved=[_cell(prompt) for prompt in description["concepts"].get("preserved", [])],
        base=_cell(erasure.base.name),
        hub=hub_id(erasure) is not None,
        licence=base_licence(erasure).get("license"),
        description=description,
        settings={key: json.dumps(value) for key, value in description["method"].items()},
        date=metadata["rece.date"],
        loss=loss,
        file=file,
        measured=read_measured(erasure.run),
        parts=(len(erasure.names), len(erasure.base.projections)),
        reference=_literal(str(reference(erasure))),
        from_file=erasure.base.layout == "single_file",
        variant=erasure.base.variant if erasure.base.layout == "folder" else None,
        dtype=str(weight.dtype).removeprefix("torch."),
        prompt=_literal(erasure.concepts[0] if erasure.concepts else ""),
    )


def front_matter(erasure: Erasure, kind: str) -> dict[str, Any]:
    """What the hub indexes. ``base_model`` must be a hub id there, so a base without one is named in the text alone."""
    base = hub_id(erasure)
    front: dict[str, Any] = {}
    if base is not None:
        front["base_model"] = base
        front["base_model_relation"] = "finetune" if kind == "pipeline" else "adapter"
    front |= base_licence(erasure)
    front["library_name"] = "diffusers"
    front["pipeline_tag"] = "text-to-image"
    tags = ["text-to-image", FAMILIES[erasure.base.family], "diffusers", MARK.removeprefix("- "), "concept-erasure"]
    front["tags"] = tags if kind == "pipeline" else [*tags, "lora"]
    return front


def hub_id(erasure: Erasure) -> str | None:
    """The base model's id on the hub: as the user gave it, or as the model's own files name it."""
    base = erasure.base
    if HUB_ID.fullmatch(base.name) and not Path(base.name).exists():
        return base.name
    for file in ("model_index.json", "unet/config.json"):
        try:
            named = json.loads((base.path / file).read_text(encoding="utf-8")).get("_name_or_path")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(named, str) and HUB_ID.fullmatch(named) and not Path(named).exists():
            return named
    return None


def base_licence(erasure: Erasure) -> dict[str, Any]:
    """The keys about the licence in the base model's own card; nothing is made up where it has none."""
    try:
        card = erasure.base.path / "README.md"
        # Its head is a page at most; reading a pipe would wait for ever.
        if not card.is_file():
            return {}
        with card.open(encoding="utf-8") as stream:
            text = stream.read(LARGEST_HEAD)
        front = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, IndexError):
        return {}
    if not isinstance(front, dict):
        return {}
    keys = ("license", "license_name", "license_link")
    # Several licences are a list.
    return {key: front[key] for key in keys if _are_texts(front.get(key))}


def _are_texts(value: Any) -> bool:
    return all(isinstance(one, str) for one in (value if isinstance(value, list) else [value]))


def reference(erasure: Erasure) -> str | Path:
    """By what code finds the base model: its hub id as given, or the place on this machine."""
    base = erasure.base
    return base.name if base.name == hub_id(erasure) else base.path.resolve()


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    flat = " ".join(text.split()).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
    return flat or "(empty prompt)"


def _literal(text: str) -> str:
    """Text as a string in Python's code, without what would end the block of code."""
    return json.dumps(text, ensure_ascii=False).replace("`", "\\u0060")


ROLES = {"erased": "erased concepts", "synonym": "their synonyms", "kept": "preserved concepts"}
# The columns of the file that count, the last epoch's before UCE's where both are there.
EDITED, ATTACKED = ("rece", "uce"), ("rece_derived", "uce_derived")


@dataclass(frozen=True)
class Measured:
    """Detections over the prompts of one role."""

    role: str
    original: Share
    edited: Share
    attacked: Share
    """The edited model, given the derived embedding."""


def read_measured(run: Path | None) -> list[Measured]:
    """One row a role; empty where the run made no pictures, or counted nothing in them.

    Raises:
        ConfigurationError: if the table is damaged.
    """
    if run is None or not (run / "evaluation.csv").is_file():
        return []
    counts: dict[tuple[str, str], list[tuple[bool, str]]] = {}
    try:
        with (run / "evaluation.csv").open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["detected"] in ("0", "1"):
                    counts.setdefault((row["column"], row["role"]), []).append((row["detected"] == "1", row["prompt"]))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise ConfigurationError(
            f"--ckpt_path: {run / 'evaluation.csv'} is damaged ({error}); move it away, or validate the run anew."
        ) from error
    columns = {column for column, _ in counts}

    def share(wanted: Sequence[str], role: str) -> Share:
        column = next((name for name in wanted if name in columns), "")
        found = counts.get((column, role))
        # Pictures of one prompt are alike: the interval is over prompts.
        return Share.of(*zip(*found, strict=True)) if found else Share(0, 0)

    rows = [Measured(t, share(("original",), r), share(EDITED, r), share(ATTACKED, r)) for r, t in ROLES.items()]
    return [row for row in rows if row.original.total or row.edited.total]
