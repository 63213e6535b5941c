"""Models of a hub: from the cache where all of one is there, otherwise downloaded, with the remedy where neither is."""

from __future__ import annotations

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.base import BaseModel

INDEX, CARD = "model_index.json", "README.md"


def open_hub(
    pretrained: str, revision: str | None, variant: str | None, opens: Callable[[Path], BaseModel]
) -> BaseModel:
    """A model of a hub repository: from the cache, or downloaded.

    Whether the cache holds all of it is asked of what is to be read: a cache lists files that nobody chose to fetch
    (checkpoints beside the parts, other variants), and may hold the part that another program wanted.

    Args:
        pretrained: the repository, ``owner/name``.
        revision: branch, tag or commit; the main branch unless given.
        variant: of the weight files.
        opens: checks a diffusers folder.

    Raises:
        BaseModelError: if it is neither; the message says what to give instead.
    """
    # One try: a machine without the hub should hear the remedy within seconds.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    lacking: BaseModelError | None = None
    folder = cached_folder(pretrained, revision)
    if folder is not None:
        try:
            check_tokenizers(pretrained, folder)
            return opens(folder)
        except BaseModelError as error:  # not all of it is there, or it is none for us: the hub's own will tell
            lacking = error
    try:
        if not hub_reachable():
            raise ConnectionError("the hub cannot be reached from this machine")
        folder = download(pretrained, revision, variant)
    except Exception as error:  # the hub's client raises a dozen kinds; each ends in the same remedy
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if lacking is not None:
            raise BaseModelError(
                f"{lacking} So it is in the cache, and {pretrained!r} could not be fetched anew ({reason})."
            ) from error
        raise BaseModelError(
            f"model.pretrained: {pretrained!r} is not on this machine and could not be fetched ({reason}). "
            "Give a local diffusers folder or a checkpoint file with --model.pretrained PATH."
        ) from error
    return opens(folder)


def cached_folder(pretrained: str, revision: str | None) -> Path | None:
    """Where the cache has a repository, whole or in part; ``None`` where it has no index of it. Asks no network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        index = try_to_load_from_cache(pretrained, INDEX, revision=revision)
    except HFValidationError:  # no name that a repository can have: the download says so
        return None
    return Path(index).parent if isinstance(index, str) else None


def check_tokenizers(pretrained: str, folder: Path) -> None:
    """Refuse a cached folder that lacks a file of its tokenizers or scheduler: they would take defaults in silence.

    Raises:
        BaseModelError: naming the file, where the cache knows what the repository lists.
    """
    try:
        from huggingface_hub import get_cached_repo_tree  # since 2.0

        listed = [file.path for file in get_cached_repo_tree(pretrained, revision=folder.name)]
    except Exception:  # an older client keeps no list
        return
    needed = [path for path in listed if path.startswith(("tokenizer", "scheduler")) and path.count("/") == 1]
    missing = [path for path in needed if not (folder / path).is_file()]
    if missing:
        raise BaseModelError(f"model.pretrained: {folder} lacks {missing[0]}; fetch the model whole.")


def download(pretrained: str, revision: str | None, variant: str | None) -> Path:
    """Fetch what diffusers loads of a repository, one format and variant a part, and its card for the licence."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download

    # Nothing of ours asks the safety checker, the largest of its parts.
    folder = Path(DiffusionPipeline.download(pretrained, revision=revision, variant=variant, safety_checker=None))
    with contextlib.suppress(Exception):  # few have none; nothing but the licence is read from it
        hf_hub_download(pretrained, CARD, revision=folder.name)
    return folder


def hub_reachable() -> bool:
    """Whether the model hub answers at all; its client would retry for minutes."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=4.0)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
