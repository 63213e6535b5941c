"""Models of a hub: from the cache, or downloaded, with the remedy where neither is possible."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

from rece_lightning.core.errors import BaseModelError

PARTS = ("unet", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler", "vae")


def fetch(pretrained: str, revision: str | None, variant: str | None) -> Path:
    """Folder of a hub repository: from the cache, or downloaded.

    Raises:
        BaseModelError: if it is neither; the message says what to give instead.
    """
    # One try: a machine without the hub should hear the remedy within seconds.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(pretrained, revision=revision, local_files_only=True))
    except Exception:  # not in the cache: the hub may have it
        pass
    try:
        if not hub_reachable():
            raise ConnectionError("the hub cannot be reached from this machine")
        configurations = [f"{part}/*.json" for part in PARTS] + ["tokenizer*/*", "model_index.json", "README.md"]
        wanted = configurations + wanted_weights(pretrained, revision, variant)
        return Path(snapshot_download(pretrained, revision=revision, allow_patterns=wanted, etag_timeout=5))
    except Exception as error:  # the hub's client raises a dozen kinds; each ends in the same remedy
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"model.pretrained: {pretrained!r} is not on this machine and could not be fetched ({reason}). "
            "Give a local diffusers folder or a checkpoint file with --model.pretrained PATH."
        ) from error


def wanted_weights(pretrained: str, revision: str | None, variant: str | None) -> list[str]:
    """Weight files of a repository that an erasure reads: one format and one variant a part."""
    from huggingface_hub import HfApi

    files = HfApi().list_repo_files(pretrained, revision=revision)
    files = [name for name in files if (f".{variant}" in name if variant else name.count(".") == 1)]
    wanted: list[str] = []
    for part in PARTS:
        of_part = [name for name in files if name.startswith(f"{part}/")]
        tensors = [name for name in of_part if name.endswith(".safetensors")]
        wanted += tensors or [name for name in of_part if name.endswith(".bin")]
    return wanted


def hub_reachable() -> bool:
    """Whether the model hub answers at all; its client would retry for minutes."""
    if os.environ.get("HF_HUB_OFFLINE", "") in {"1", "true", "TRUE", "yes"}:
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=4.0)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
