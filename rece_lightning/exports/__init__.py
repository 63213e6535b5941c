"""Files of an erasure for wherever people generate: one format a module."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.core.extras import extra
from rece_lightning.erasure.erasure import Erasure
from rece_lightning.erasure.rounding import Rounding
from rece_lightning.erasure.trained_weights import AnyErasure
from rece_lightning.exports.card import render_card
from rece_lightning.exports.fitting import check_fits, readers_of
from rece_lightning.exports.folders import CARD, MARK, check_folder, write_folder
from rece_lightning.exports.lora import write_kohya, write_lora
from rece_lightning.exports.map import write_map
from rece_lightning.exports.pipeline import write_pipeline
from rece_lightning.exports.record import ExportRecord, Loss, file_metadata, rounded_weights
from rece_lightning.exports.single_file import write_single_file
from rece_lightning.files import save_tensors, write_text

LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for in a folder."""


def write_delta(erasure: AnyErasure, path: Path, metadata: dict[str, str]) -> Loss:
    """Write the edited projections alone, under their diffusers names and in the base model's dtype.

    ``unet.load_state_dict(safetensors.torch.load_file(path), strict=False)`` puts them into the base model's U-Net.
    """
    rounding = Rounding()
    save_tensors(dict(erasure.weights(rounding)), path, metadata)
    return rounded_weights(rounding)


@dataclass(frozen=True)
class Format:
    """A format: what writes it, and what may be asked of it."""

    write: Callable[..., Loss]
    """``(erasure, path, metadata)``, with ``rank`` where the format has one."""
    description: str
    place: str = "file"
    """``file``, ``folder``, or ``either``: what ``output`` may be."""
    ranked: bool = False
    card: bool = False
    """Whether a model card goes with it."""


FORMATS: dict[str, Format] = {
    "delta": Format(
        write_delta,
        "the edited projections under their diffusers names",
    ),
    "pipeline": Format(
        write_pipeline,
        "a whole diffusers folder",
        place="folder",
        card=True,
    ),
    "single-file": Format(
        write_single_file,
        "one checkpoint in the original layout",
    ),
    "lora": Format(
        write_lora,
        "a LoRA for diffusers and PEFT",
        place="either",
        ranked=True,
        card=True,
    ),
    "kohya": Format(
        write_kohya,
        "a LoRA for WebUIs",
        ranked=True,
        card=True,
    ),
    "map": Format(
        write_map,
        "the map on prompt embeddings",
    ),
}


def check_export(format: str, output: str | Path, *, rank: int | None = None, overwrite: bool = False) -> Path:
    """Find out before any work whether an export can be written.

    Returns:
        Where it goes.

    Raises:
        ConfigurationError: for an unknown format, a rank that the format has not, or a place that is taken or does
            not fit.
    """
    if format not in FORMATS:
        raise ConfigurationError(f"--format: unknown format {format!r}; {nearest(format, FORMATS)}.")
    kind, path = FORMATS[format], Path(output).expanduser()
    if rank is not None and not kind.ranked:
        ranked = ", ".join(name for name, other in FORMATS.items() if other.ranked)
        raise ConfigurationError(f"--rank: {format} has no rank; leave it out, or choose one of: {ranked}.")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ConfigurationError(
            f"--rank: {rank!r}; give a whole number of 1 or more, or leave it out for an exact one."
        )
    is_file = path.suffix == ".safetensors"
    if kind.place == "file" and not is_file:
        raise ConfigurationError(
            f"--output: {format} is one file; give a name that ends in .safetensors, not {output}."
        )
    if kind.place == "folder" and is_file:
        raise ConfigurationError(f"--output: {format} is a folder; give a name without .safetensors, not {output}.")
    above = next(parent for parent in path.absolute().parents if parent.exists() or parent.is_symlink())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "cannot be written" if above.is_dir() else "is no folder"
        raise ConfigurationError(f"--output: {above} {what}; choose another place.")
    if not is_file:
        check_folder(path, overwrite)
        return path
    # The card of a LoRA that is a file of its own lies beside it.
    for file in (path, path.with_suffix(".md")) if kind.card else (path,):
        if file.is_dir():
            raise ConfigurationError(f"--output: {file} is a folder; choose another name.")
        if (file.exists() or file.is_symlink()) and not overwrite:
            raise ConfigurationError(f"--output: {file} exists; choose another name, or give --overwrite.")
    return path


def export(
    erasure: AnyErasure, format: str, output: str | Path, *, rank: int | None = None, overwrite: bool = False
) -> ExportRecord:
    """Write an erasure in one of :data:`FORMATS`, whole or not at all.

    Args:
        erasure: to write.
        format: its name.
        output: the file or folder; a LoRA may be either.
        rank: of a LoRA, at most; without it the LoRA is exact.
        overwrite: replace what an earlier export wrote.

    Raises:
        ConfigurationError: if the format does not fit the erasure, or the place is taken.
    """
    path = check_export(format, output, rank=rank, overwrite=overwrite)
    check_fits(format, erasure)
    if path.exists() and path.resolve() == erasure.base.path.resolve():
        raise ConfigurationError(f"--output: {path} is the base model itself; choose another place.")
    kind, metadata = FORMATS[format], file_metadata(erasure.description, format)
    readers = readers_of(format, erasure)
    options = {"rank": rank} if kind.ranked else {}
    if path.suffix == ".safetensors":
        loss = kind.write(erasure, path, metadata, **options)
        if kind.card:
            card = path.with_suffix(".md")
            with extra(str(card)):
                text = render_card(erasure, format, metadata, loss, readers, path.name)
                write_text(card, text)
        return ExportRecord(path, path.stat().st_size, loss, readers)
    file = None if kind.place == "folder" else LORA_FILE

    def fill(folder: Path) -> Loss:
        loss = kind.write(erasure, folder / file if file else folder, metadata, **options)
        # By its tag --overwrite knows the folder as an export, whatever becomes of the card.
        (folder / CARD).write_text(f"---\ntags:\n{MARK}\n---\n", encoding="utf-8")
        with extra(str(path / CARD)):
            text = render_card(erasure, format, metadata, loss, readers, file)
            (folder / CARD).write_text(text, encoding="utf-8")
        return loss

    loss = write_folder(path, fill)
    size = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return ExportRecord(path, size, loss, readers)


__all__ = ["FORMATS", "LORA_FILE", "Erasure", "ExportRecord", "check_export", "export", "file_metadata", "write_delta"]
