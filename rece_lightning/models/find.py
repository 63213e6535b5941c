"""Find the base model that a user names: an embedded world, a folder, a file, or a hub id."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.base import BaseModel
from rece_lightning.models.family_folder import open_folder
from rece_lightning.models.hub import open_hub
from rece_lightning.models.single_file import open_single_file

EMOJI = Path(__file__).parent.parent / "emoji"
EMBEDDED = {"emoji": EMOJI / "weights", "emoji-mmdit": EMOJI / "mmdit"}
ENCODING = {"emoji-mmdit": {"max_sequence_length": 0}}
"""World → how its prompts are encoded. Without T5 a call adds 256 rows of zeros; the MMDiT was trained with any number
of them, and draws seven times faster without."""
SAMPLING = {"steps": 12, "guidance_scale": 4.0}
"""Of the embedded worlds: a guidance of 7.5 shows half of what they are asked for (benchmarks/world.md)."""


def find_base(
    pretrained: str, revision: str | None = None, variant: str | None = None, config: str | None = None
) -> BaseModel:
    """Find a base model and check its structure.

    Takes what :func:`rece_lightning.models.pipelines.load_pipeline` does.

    Raises:
        BaseModelError: if it cannot be found or is not what it should be; the message says what to do.
    """
    try:
        return _find(pretrained, revision, variant, config)
    except OSError as error:
        raise BaseModelError(
            f"model.pretrained: {error.filename or pretrained} cannot be read ({error.strerror or error}); "
            "make it readable, or give another model."
        ) from error


def _find(pretrained: str, revision: str | None, variant: str | None, config: str | None) -> BaseModel:
    try:
        path = Path(pretrained).expanduser()
    except RuntimeError:  # ~name of nobody
        path = Path(pretrained)
    if config is not None and (path.is_dir() or pretrained in EMBEDDED):
        raise BaseModelError(
            f"model.config: {config!r} would say how a checkpoint file is laid out, and {pretrained} is no file: it "
            "brings its own configuration; leave it out."
        )
    if pretrained in EMBEDDED and not path.is_dir():
        folder = EMBEDDED[pretrained]
        if not (folder / "model_index.json").exists():
            raise BaseModelError(
                f"model.pretrained: the weights of the embedded world {pretrained!r} are missing; "
                "install the package anew or train them with `make world`."
            )
        return replace(
            open_folder(pretrained, folder, variant), encoding=ENCODING.get(pretrained, {}), sampling=SAMPLING
        )
    if path.is_file():
        return open_single_file(pretrained, path, config, variant)
    if path.is_dir():
        return open_folder(pretrained, path, variant)
    if path.exists() or path.is_symlink():
        raise BaseModelError(f"model.pretrained: {path} is a link that leads nowhere; give the model itself.")
    if pretrained.startswith((".", "/", "~")) or pretrained.count("/") != 1:
        raise BaseModelError(
            f"model.pretrained: {pretrained!r} is no folder or file on this machine and no hub id (owner/name). "
            f"Give a diffusers folder, a checkpoint file, a hub id, or one of the embedded worlds: "
            f"{', '.join(EMBEDDED)}."
        )
    return open_hub(pretrained, revision, variant, lambda folder: open_folder(pretrained, folder, variant))
