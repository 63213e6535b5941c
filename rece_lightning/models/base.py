"""Find a base model and read from it only what is needed: its projections, one at a time."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.projections import is_text_projection, select_projections

EMBEDDED = {"emoji": Path(__file__).parent.parent / "emoji" / "weights"}
PARTS = ("unet", "text_encoder", "tokenizer", "scheduler", "vae")
# Without these a library takes its defaults in silence.
NEEDED_FILES = (
    ("unet/config.json",),
    ("text_encoder/config.json",),
    ("vae/config.json",),
    ("scheduler/scheduler_config.json",),
    ("tokenizer/vocab.json", "tokenizer/tokenizer.json"),
)
WEIGHT_NAMES = {"unet": "diffusion_pytorch_model", "text_encoder": "model", "vae": "diffusion_pytorch_model"}


@dataclass(frozen=True)
class BaseModel:
    """A diffusers folder whose structure was checked. No weight is loaded until it is asked for."""

    name: str
    """What the user called it."""
    folder: Path
    variant: str | None
    width: int
    """``d``, the width of the text embeddings that its cross-attention reads."""
    projections: dict[str, tuple[int, ...]]
    """Parameter names of every text-reading projection with their shapes, in the file's order."""
    parameters: int
    """Number of parameters of the U-Net."""

    def weight_file(self, part: str) -> Path:
        """The safetensors file of a part."""
        return weight_file(self.folder, part, self.variant)

    def read_projections(self, names: list[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield ``(name, weight [o, d])`` in the stored dtype, one tensor in memory at a time."""
        with safe_open(self.weight_file("unet"), framework="pt") as weights:
            for name in names if names is not None else self.projections:
                weight = weights.get_tensor(name)
                if not bool(weight.isfinite().all()):
                    raise BaseModelError(
                        f"model.pretrained: {self.weight_file('unet')}: {name} holds values that are NaN or infinite; "
                        "fetch the file again, or train the model anew."
                    )
                yield name, weight

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the stored bytes of the projections and of the text encoder's file."""
        digest = hashlib.sha256()
        for name, weight in self.read_projections():
            digest.update(name.encode())
            digest.update(weight.contiguous().view(torch.uint8).numpy().data)
        with self.weight_file("text_encoder").open("rb") as stream:
            text = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"projections": digest.hexdigest(), "text_encoder": text}

    def select(self, kinds: str, layers: str | None) -> list[str]:
        """Names of the projections to edit. See :func:`select_projections`."""
        return select_projections(list(self.projections), kinds, layers)


def find_base(pretrained: str, revision: str | None = None, variant: str | None = None) -> BaseModel:
    """Find a base model and check its folder.

    Args:
        pretrained: ``emoji`` (the embedded world), a diffusers folder, or a hub id.
        revision: of the hub repository.
        variant: of the weight files, such as ``fp16``.

    Raises:
        BaseModelError: if it cannot be found or is not what it should be; the message says what to do.
    """
    if pretrained in EMBEDDED and not Path(pretrained).is_dir():
        folder = EMBEDDED[pretrained]
        if not (folder / "model_index.json").exists():
            raise BaseModelError(
                f"model.pretrained: the weights of the embedded world {pretrained!r} are missing; "
                "install the package anew or train them with `make world`."
            )
    elif Path(pretrained).expanduser().exists():
        folder = Path(pretrained).expanduser()
    else:
        folder = fetch(pretrained, revision, variant)
    return check_folder(pretrained, folder, variant)


def fetch(pretrained: str, revision: str | None, variant: str | None) -> Path:
    """Folder of a hub repository: from the cache, or downloaded."""
    looks_local = pretrained.startswith((".", "/", "~")) or pretrained.count("/") != 1
    if looks_local:
        raise BaseModelError(
            f"model.pretrained: {pretrained!r} is no folder on this machine and no hub id (owner/name). "
            f"Give a diffusers folder, a hub id, or one of the embedded worlds: {', '.join(EMBEDDED)}."
        )
    import os

    # One try: a machine without the hub should hear the remedy within seconds.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    from huggingface_hub import snapshot_download

    suffix = f".{variant}" if variant else ""
    wanted = [f"{part}/*.json" for part in PARTS] + ["tokenizer/*", "model_index.json"]
    wanted += [f"{part}/{stem}{suffix}.safetensors" for part, stem in WEIGHT_NAMES.items()]
    try:
        return Path(snapshot_download(pretrained, revision=revision, allow_patterns=wanted, local_files_only=True))
    except Exception:  # not in the cache: the hub may have it
        pass
    try:
        if not hub_reachable():
            raise ConnectionError("the hub cannot be reached from this machine")
        return Path(snapshot_download(pretrained, revision=revision, allow_patterns=wanted, etag_timeout=5))
    except Exception as error:  # the hub's client raises a dozen kinds; each ends in the same remedy
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(
            f"model.pretrained: {pretrained!r} is not on this machine and could not be fetched ({reason}). "
            "Give a local diffusers folder with --model.pretrained PATH."
        ) from error


def hub_reachable(timeout: float = 4.0) -> bool:
    """Whether the model hub answers at all; its client would retry for minutes."""
    import os
    import urllib.error
    import urllib.request

    if os.environ.get("HF_HUB_OFFLINE", "") in {"1", "true", "TRUE", "yes"}:
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=timeout)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def weight_file(folder: Path, part: str, variant: str | None) -> Path:
    """The safetensors file of a part; a pickle in its place is refused unopened."""
    stem = WEIGHT_NAMES[part] + (f".{variant}" if variant else "")
    path = folder / part / f"{stem}.safetensors"
    if path.exists():
        return path
    pickles = sorted(p.name for p in (folder / part).glob("*") if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"})
    if pickles:
        raise BaseModelError(
            f"model.pretrained: {folder / part} holds {pickles[0]}, a pickle, which can execute code when opened. "
            f"Convert it to {stem}.safetensors or fetch the safetensors file."
        )
    variants = sorted(p.name for p in (folder / part).glob("*.safetensors"))
    hint = f"it holds {', '.join(variants[:3])}: set model.variant" if variants else "copy the model whole"
    raise BaseModelError(f"model.pretrained: {folder / part} has no {stem}.safetensors; {hint}.")


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file of the model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"model.pretrained: {path} cannot be read as JSON ({error}); fetch it again.") from error
    if not isinstance(content, dict):
        raise BaseModelError(f"model.pretrained: {path} is not a JSON object; fetch it again.")
    return content


def check_folder(name: str, folder: Path, variant: str | None) -> BaseModel:
    """Check that a folder is a text-to-image model whose parts fit together."""
    if not folder.is_dir():
        raise BaseModelError(
            f"model.pretrained: {folder} is a file; give the diffusers folder that holds model_index.json."
        )
    if not (folder / "model_index.json").exists():
        raise BaseModelError(
            f"model.pretrained: {folder} is no diffusers model (model_index.json is missing). "
            "Give the folder that save_pretrained of a pipeline wrote."
        )
    read_json(folder / "model_index.json")
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise BaseModelError(f"model.pretrained: {folder} lacks {', '.join(missing)}/; copy the model whole.")
    for file in NEEDED_FILES:
        if not any((folder / name).is_file() for name in file):
            raise BaseModelError(f"model.pretrained: {folder} has no {' or '.join(file)}; copy the model whole.")
    config = read_json(folder / "unet" / "config.json")
    width = config.get("cross_attention_dim")
    if not isinstance(width, int):
        raise BaseModelError(
            f"model.pretrained: {folder / 'unet' / 'config.json'}: cross_attention_dim {width!r} is no single width; "
            "give a model of Stable Diffusion's kind."
        )
    text_width = read_json(folder / "text_encoder" / "config.json").get("hidden_size")
    if text_width != width:
        raise BaseModelError(
            f"model.pretrained: {folder}: the U-Net reads embeddings {width} wide, the text encoder makes "
            f"{text_width}; they belong to different models. Give a folder that is of one model."
        )
    shapes = {part: stored_shapes(weight_file(folder, part, variant)) for part in WEIGHT_NAMES}
    projections = {key: shape for key, shape in shapes["unet"].items() if is_text_projection(key)}
    if not projections:
        raise BaseModelError(
            f"model.pretrained: {folder / 'unet'}: no cross-attention that reads the text (attn2.to_k, attn2.to_v); "
            "give a text-to-image model."
        )
    for key in projections:
        layer = key.removesuffix(".weight").rsplit(".", 1)[0]
        queries, *others = (shapes["unet"].get(f"{layer}.{part}.weight") for part in ("to_q", "to_k", "to_v"))
        # Queries, keys and values of a cross-attention are equally wide in a U-Net.
        if queries is None or any(shape != (queries[0], width) for shape in others):
            raise BaseModelError(
                f"model.pretrained: {folder}: the projections to_k and to_v of {layer} have the shapes {others}, "
                f"beside queries of {queries} and embeddings {width} wide; the file is incomplete or of another model. "
                "Copy the model anew."
            )
    parameters = sum(math.prod(shape) for shape in shapes["unet"].values())
    return BaseModel(name, folder, variant, width, projections, parameters)


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Parameter names of a safetensors file with their shapes, from its header alone.

    Raises:
        BaseModelError: if it is damaged, cut short, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as weights:
            return {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BaseModelError(
            f"model.pretrained: {path} is damaged, cut short or no safetensors file ({error}); fetch it again."
        ) from error
