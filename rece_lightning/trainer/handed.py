"""Loaders that a trainer was given directly, or that are of somebody else's data: read once, as prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from rece_lightning.core.errors import ConfigurationError, check_choice
from rece_lightning.data.batches import AskedBatches, PromptBatches
from rece_lightning.data.concepts import CONCEPT_FIELDS, Concept, PromptPair, digest_of
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.data.prompt_data import PromptData
from rece_lightning.data.prompts import KINDS, EvaluationPrompt, read_prompts
from rece_lightning.distributed import gathered

NAMES = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}
"""Verb → what Lightning calls its loader."""
FIELDS = {"val": "validation", "test": "test", "predict": "predict"}
"""Lightning's name of a loader → ours of its prompts."""
WANTED = "a prompt (text), or a mapping such as {prompt: bomb, target: ' '}"
Row = dict[str, Any]


def data_of(trainer: Trainer | None, concepts: Mapping[str, Any]) -> Any:
    """What a trainer works on: its datamodule, or the data that its loaders are of.

    Loaders of a :class:`ConceptData` stand for it. What others give is read once, before the work: a prompt (text), or
    a mapping with the keys of ``data.concepts`` (in ``fit``, and ``kind: preserved`` for what is preserved) or of
    ``data.validation``, as lists or as torch's ``default_collate`` puts them together. It becomes a ``ConceptData``, so
    that such a run is the same, to the last bit, as one with the same prompts in it, and the trainer goes through that.

    Args:
        trainer: in one of its verbs.
        concepts: what is erased and preserved as far as the module knows; see :meth:`ConceptData.summary`.

    Raises:
        ConfigurationError: for loaders that give something else.
    """
    if trainer is None or trainer.state.fn is None:
        return getattr(trainer, "datamodule", None)
    name = NAMES[trainer.state.fn.value]
    source = _source(trainer, name)
    data, attached = (source, True) if isinstance(source, PromptData) else _handed(trainer, source, name, concepts)
    if data is None:
        return source
    if trainer.fast_dev_run and data.whole is None:  # type: ignore[attr-defined]
        data, attached = data.sample(max(2, int(trainer.fast_dev_run))), False  # type: ignore[attr-defined]
    if not attached:
        data.trainer = trainer
        # Whoever asks later finds the data by its loader. A datamodule of the user's stays the trainer's. Within
        # ``fit`` Evaluation makes the pictures: a loader for them would have each drawn in every epoch, for nobody.
        loader = getattr(data, f"{name}_dataloader")()
        trainer._data_connector.attach_dataloaders(trainer.lightning_module, **{f"{name}_dataloaders": loader})
    return data


def _handed(trainer: Trainer, source: Any, name: str, concepts: Mapping[str, Any]) -> tuple[PromptData | None, bool]:
    """What is no datamodule of ours as data, and whether the trainer goes through it already."""
    loaders = _loaders(source, name)
    if loaders is None:
        return None, True
    data = _owner(loaders, name)
    further = trainer.fit_loop.epoch_loop.val_loop._data_source.instance if name == "train" else None
    validation = _validation(further, data)
    if data is None or validation is not None:
        return _read(loaders, name, concepts, data, validation), False
    return data, data.trainer is trainer and not _is_handed(further)


def _source(trainer: Trainer, name: str) -> Any:
    """What a loop takes its loader from: a datamodule, a module, or what was handed over."""
    loops: dict[str, Any] = {
        "train": trainer.fit_loop,
        "val": trainer.validate_loop,
        "test": trainer.test_loop,
        "predict": trainer.predict_loop,
    }
    return loops[name]._data_source.instance


def _loaders(source: Any, name: str) -> Any:
    """What was handed over, or what somebody else's module gives; ``None`` where it gives none."""
    if not isinstance(source, (LightningDataModule, LightningModule)):
        return source
    method = f"{name}_dataloader"
    return getattr(source, method)() if is_overridden(method, source) else None


def _owner(loaders: Any, name: str) -> PromptData | None:
    """The data whose loader it is, with the very prompts."""
    data = getattr(loaders, "source", None)
    if not isinstance(loaders, (PromptBatches, AskedBatches)) or not isinstance(data, PromptData):
        return None
    if isinstance(loaders, AskedBatches) and loaders.prompts != tuple(getattr(data, FIELDS[name])):
        return None  # such as ``trainer.test(module, data.val_dataloader())``
    return data


def _is_handed(source: Any) -> bool:
    return source is not None and not isinstance(source, (LightningDataModule, LightningModule))


def _validation(source: Any, data: PromptData | None) -> list[Row] | None:
    """The prompts that ``fit`` was handed to validate with; ``None`` where they are the data's own, or none."""
    loaders = None if source is None else _loaders(source, "val")
    if loaders is None or (data is not None and _owner(loaders, "val") is data):
        return None
    return [_prompt_row(row) for row in _rows(loaders, "val")[0]]


def _read(
    loaders: Any, name: str, concepts: Mapping[str, Any], own: PromptData | None, validation: list[Row] | None
) -> PromptData:
    """Loaders as data. ``own`` is the data that the training's loader is of, where another one validates."""
    if own is not None:
        own = copy(own)
        own.validation = read_prompts(f"{FIELDS['val']} loader", validation)
        return own
    rows, size = _rows(loaders, name)
    if name != "train":
        asked: dict[str, Any] = {FIELDS[name]: [_prompt_row(row) for row in rows]}
        data = PromptData(**asked, batch_size=size)
        data.pairs = [PromptPair(row["prompt"], row["target"], row["weight"]) for row in concepts.get("erased", [])]
        return data
    erase, preserve = list[Row](), list[str]()
    for row in map(_concept_row, rows):
        kind = str(row.pop("kind", "erased"))
        check_choice("the loader's kind", kind, KINDS)
        if kind == "preserved":
            preserve.append(row["prompt"])
        else:
            erase.append(row)
    if not erase:
        raise ConfigurationError(f"train_dataloaders: they give nothing to erase; give {WANTED}.")
    return ConceptData(erase, preserve=preserve or [" "], validation=validation, batch_size=size)  # type: ignore[arg-type]


def _rows(loaders: Any, name: str) -> tuple[list[Any], int]:
    """Every row of every batch, the same ones on every rank, and how many the largest batch has."""
    rows, largest = list[Any](), 1
    for loader in _flat(loaders, name):
        if isinstance(loader, AskedBatches):  # a rank goes through its share alone
            batches: Iterable[Any] = [loader.prompts]
            largest = max(largest, getattr(loader.source, "batch_size", 1))
        else:
            batches = _uncollated(loader)
        for batch in batches:
            new = list(_rows_in(batch))
            rows += new
            largest = largest if isinstance(loader, AskedBatches) else max(largest, len(new))
    if len(set(gathered(digest_of(map(repr, rows))))) > 1:
        raise ConfigurationError(
            f"{name}_dataloaders: not the same prompts in the same order in every process; give shuffle=False and no "
            "sampler: they are dealt out to the processes afterwards."
        )
    return rows, largest


def _uncollated(loader: Iterable[Any]) -> Iterable[Any]:
    """The loader's batches as lists of rows: torch's own ``default_collate`` drops keys that the first row has not."""
    if not isinstance(loader, DataLoader) or loader.collate_fn is not default_collate:
        return loader
    plain = copy(loader)
    plain.collate_fn = list
    return plain


def _flat(loaders: Any, name: str) -> list[Iterable[Any]]:
    """The loaders one by one."""
    flat = loaders.flattened if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders).flattened
    for loader in flat:
        # Lightning takes a list of texts for loaders that give letters.
        if isinstance(loader, (str, bytes, int, float, Mapping, list, tuple)) or not isinstance(loader, Iterable):
            raise ConfigurationError(
                f"{name}_dataloaders: {loader!r} is no loader; give DataLoader(prompts, batch_size=8) or a ConceptData."
            )
    return list(flat)


def _rows_in(batch: Any) -> Iterator[Any]:
    """The rows of a batch: text, a mapping, an object of ours; lists of these; a mapping of lists."""
    if isinstance(batch, (str, Concept, PromptPair, EvaluationPrompt)):
        yield batch
    elif isinstance(batch, Mapping) and isinstance(batch.get("prompt"), (list, tuple)):
        for place in range(len(batch["prompt"])):
            yield {key: _at(values, place) for key, values in batch.items()}
    elif isinstance(batch, Mapping):
        yield batch
    elif isinstance(batch, (list, tuple)):
        for row in batch:
            if isinstance(row, (list, tuple)):
                raise ConfigurationError(f"the loader gives {row!r} as one row; {WANTED} is one.")
            yield from _rows_in(row)
    else:
        raise ConfigurationError(f"the loader gives {type(batch).__name__}; RECE takes {WANTED}, or lists of these.")


def _at(values: Any, place: int) -> Any:
    """A row's value of what was collated; of a list of lists torch puts every place's values together."""
    if isinstance(values, Tensor):
        return values[place].item()
    if isinstance(values, Sequence) and not isinstance(values, str):
        if values and isinstance(values[0], (list, tuple)):
            return [one[place] for one in values]
        return values[place]
    return values


def _concept_row(row: Any) -> Row:
    """A row of ``data.concepts``, with its kind."""
    if isinstance(row, Concept):
        return {**asdict(row), "templates": list(row.templates)}
    if isinstance(row, PromptPair):
        return asdict(row)
    found = {"prompt": row} if isinstance(row, str) else asdict(row) if isinstance(row, EvaluationPrompt) else dict(row)
    if isinstance(row, EvaluationPrompt):
        found = {key: value for key, value in found.items() if key in ("prompt", "kind")}
    if not isinstance(found.get("prompt"), str):
        keys = ", ".join((*CONCEPT_FIELDS, "kind"))
        raise ConfigurationError(f"train_dataloaders: {row!r} names no prompt; the keys of a row are {keys}.")
    return found


def _prompt_row(row: Any) -> Row:
    """A row of ``data.validation``."""
    if isinstance(row, (Concept, PromptPair)):
        return {"prompt": row.prompt}
    found = asdict(row) if isinstance(row, EvaluationPrompt) else {"prompt": row} if isinstance(row, str) else dict(row)
    return {key: value for key, value in found.items() if value is not None}
