"""The model card of a folder or a LoRA, as the hub reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.extras import extra
from rece_lightning.erasure.trained_weights import AnyErasure, baseline_of
from rece_lightning.evaluation.results.counts import read_counts
from rece_lightning.exports.fitting import diffusers_loads
from rece_lightning.exports.folders import MARK
from rece_lightning.exports.markdown import code, plain
from rece_lightning.exports.record import Loss, error_text
from rece_lightning.metrics.intervals import Share
from rece_lightning.models.find import EMBEDDED
from rece_lightning.models.text_space import POOLED, TEXT

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LARGEST_HEAD = 1 << 16
READERS = {TEXT: "the cross-attention", POOLED: "the pooled-embedding layer"}
"""What reads each text space."""
FAMILIES = {
    "sd1": "stable-diffusion",
    "sd2": "stable-diffusion",
    "sdxl": "stable-diffusion-xl",
    "sdxl-refiner": "stable-diffusion-xl",
}


def render_card(
    erasure: AnyErasure, kind: str, metadata: dict[str, str], loss: Loss, readers: str, file: str | None = None
) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        erasure: that was written.
        kind: ``pipeline``, ``lora`` or ``kohya``.
        metadata: as the file holds them.
        loss: of what was written.
        readers: who reads it.
        file: the LoRA's name; the folder is the model without it.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"plain": plain, "code": code, "literal": _literal}
    description, base, hub = erasure.description, erasure.base, hub_id(erasure)
    named = base.name == hub or base.path == EMBEDDED.get(base.name)
    _, weight = next(erasure.original())
    return environment.get_template("card.md.j2").render(
        front=yaml.safe_dump(front_matter(erasure, kind), sort_keys=False, allow_unicode=True).strip(),
        kind=kind,
        readers=[READERS.get(one.space.name, f"what reads the space {one.space.name}") for one in erasure.spaces],
        baseline=baseline_of(description),
        names=[_cell(name) for name in erasure.concepts],
        rows=[{key: _cell(str(value)) for key, value in row.items()} for row in description["concepts"]["erased"]],
        preserved=[_cell(prompt) for prompt in description["concepts"].get("preserved", [])],
        base=base.published,
        hub=hub is not None,
        licence=base_licence(erasure).get("license"),
        description=description,
        settings={key: json.dumps(value) for key, value in description["method"].items()},
        date=metadata["rece.date"],
        loss=loss,
        error=error_text,
        file=file,
        fits=readers,
        loads=kind == "pipeline" or diffusers_loads(kind, base),
        measured=_measured(erasure.run),
        parts=(len(erasure.names), len(base.projections)),
        # By what code finds the base model: its name, or wherever whoever reads this has it.
        reference=_literal(base.name if named else f"path/to/{base.published}"),
        named=named,
        # What diffusers alone does not find, or cannot read without fetching configurations.
        ours=base.layout == "single_file" or base.path == EMBEDDED.get(base.name),
        variant=base.variant if base.layout == "folder" else None,
        dtype=str(weight.dtype).removeprefix("torch."),
        prompt=_literal(erasure.concepts[0] if erasure.concepts else ""),
    )


def front_matter(erasure: AnyErasure, kind: str) -> dict[str, Any]:
    """What the hub indexes. ``base_model`` must be a hub id there, so a base without one is named in the text alone."""
    base = hub_id(erasure)
    relation = "finetune" if kind == "pipeline" else "adapter"
    named = {} if base is None else {"base_model": base, "base_model_relation": relation}
    tags = [
        "text-to-image",
        FAMILIES.get(erasure.base.family, erasure.base.family),
        "diffusers",
        MARK.removeprefix("- "),
        "concept-erasure",
    ]
    common = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    return {**named, **base_licence(erasure), **common, "tags": tags if kind == "pipeline" else [*tags, "lora"]}


def hub_id(erasure: AnyErasure) -> str | None:
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


def base_licence(erasure: AnyErasure) -> dict[str, Any]:
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
    licence = {key: front.get(key) for key in ("license", "license_name", "license_link")}
    # Several licences are a list.
    lists = {key: value if isinstance(value, list) else [value] for key, value in licence.items()}
    return {key: licence[key] for key, texts in lists.items() if all(isinstance(text, str) for text in texts)}


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return plain(text) or "(empty prompt)"


def _literal(text: str) -> str:
    """Text as a string in Python's code, without what would end the block of code."""
    return json.dumps(text, ensure_ascii=False).replace("`", "\\u0060")


ROLES = {"erased": "erased concepts", "synonym": "their synonyms", "kept": "preserved concepts"}
# The columns of the file that count, the last epoch's before UCE's where both are there.
EDITED, ATTACKED = ("rece", "uce"), ("rece_derived", "uce_derived")


def _measured(run: Path | None) -> list[dict[str, Any]]:
    """What was measured; nothing of a damaged table."""
    with extra("what was measured, in the card,"):
        return read_measured(run)
    return []


def read_measured(run: Path | None) -> list[dict[str, Any]]:
    """Shares of every role that was counted: ``original``, ``edited``, and ``attacked`` with the derived embedding.

    Raises:
        ConfigurationError: if the table is damaged.
    """
    if run is None or not (run / "evaluation.csv").is_file():
        return []
    counts: dict[tuple[str, str], list[tuple[bool, str]]] = {}
    try:
        for count in read_counts(run / "evaluation.csv"):
            if count.detected is not None:
                counts.setdefault((count.column, count.shot.role), []).append((count.detected, count.shot.prompt))
    except ConfigurationError as error:
        raise ConfigurationError(f"--ckpt_path: {error}") from error
    columns = {column for column, _ in counts}

    def share(wanted: Sequence[str], role: str) -> Share:
        column = next((name for name in wanted if name in columns), "")
        detections = counts.get((column, role))
        # Pictures of one prompt are alike: the interval is over prompts.
        return Share.of(*zip(*detections, strict=True)) if detections else Share(0, 0)

    rows = []
    for role, text in ROLES.items():
        original, edited = share(("original",), role), share(EDITED, role)
        if original.total or edited.total:
            rows.append({"role": text, "original": original, "edited": edited, "attacked": share(ATTACKED, role)})
    return rows
