"""ConceptData: what to erase and to keep, as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from rece_lightning.concepts import ConceptMapping, check_disjoint, prompt_pairs, read_concepts, read_preserved
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.prompts import EvaluationPrompt, PromptMapping, read_prompts


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that the module encodes together."""

    prompts: tuple[str, ...]
    targets: tuple[str, ...]
    """Of erased prompts; empty text for the others."""
    weights: tuple[float, ...]
    kind: str
    """``erased``, ``preserved``, or ``held_out`` (measured only)."""


class PromptBatches(IterableDataset[PromptBatch]):
    """Batches of one kind each. An IterableDataset, so that no trainer puts a sampler in front of it."""

    def __init__(self, batches: Sequence[PromptBatch]) -> None:
        self.batches = tuple(batches)

    def __iter__(self) -> Iterator[PromptBatch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class EvaluationBatches(IterableDataset[tuple[EvaluationPrompt, ...]]):
    """Batches of prompts to generate for."""

    def __init__(self, prompts: Sequence[EvaluationPrompt], size: int) -> None:
        self.prompts = tuple(prompts)
        self.size = size

    def __len__(self) -> int:
        return -(-len(self.prompts) // self.size)

    def __iter__(self) -> Iterator[tuple[EvaluationPrompt, ...]]:
        for first in range(0, len(self.prompts), self.size):
            yield self.prompts[first : first + self.size]


class ConceptData(LightningDataModule):
    """What is erased, what it becomes, and what is kept.

    Args:
        concepts: prompts, mappings ``{prompt, target, weight, templates}``, or the path of a CSV with those
            columns.
        target: what every concept becomes unless it says otherwise; ``" "`` is the empty prompt.
        preserve: prompts whose keys and values are held, each counted once, or the path of a CSV with a
            column ``prompt``.
        templates: filled with concept and target alike, such as ``"painting by {}"``.
        validation: prompts that ``fit`` and ``validate`` generate pictures for: a list, or the path of a CSV
            with ``prompt``, ``seed``, ``guidance_scale``, ``concept``, ``kind`` (``erased`` or
            ``preserved``), or with the columns of I2P's or RECE's files.
        test: the same for ``test``; the validation prompts unless given.
        predict: the same for ``predict``.
        batch_size: prompts that are encoded together.

    Raises:
        ConfigurationError: for every mistake that can be seen without a model.
    """

    def __init__(
        self,
        concepts: str | list[str | ConceptMapping],
        target: str = " ",
        preserve: str | list[str] = [" "],  # noqa: B006  never changed; jsonargparse shows it in --help
        templates: list[str] = ["{}"],  # noqa: B006
        validation: str | list[str | PromptMapping] | None = None,
        test: str | list[str | PromptMapping] | None = None,
        predict: str | list[str | PromptMapping] | None = None,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigurationError(f"data.batch_size: {batch_size!r}; give a whole number of 1 or more.")
        self.batch_size = batch_size
        self.concepts = read_concepts(concepts, target, templates)
        self.pairs = prompt_pairs(self.concepts)
        self.preserved = read_preserved(preserve)
        check_disjoint(self.pairs, self.concepts, self.preserved)
        self.validation = read_prompts("data.validation", validation)
        self.test = read_prompts("data.test", test) or self.validation
        self.predict = read_prompts("data.predict", predict)
        self.left: Callable[[], EvaluationBatches] | None = None
        """Says what ``predict`` still has to make, where somebody knows what is there; all of it otherwise."""

    @property
    def held_out(self) -> list[str]:
        """Validation prompts that should stay and are in nobody's list: the measure of drift."""
        listed = {prompt.strip().lower() for prompt in self.preserved}
        kept = [row.prompt for row in self.validation if row.kind == "preserved"]
        return [prompt for prompt in dict.fromkeys(kept) if prompt.strip().lower() not in listed]

    def summary(self) -> dict[str, Any]:
        """Plain description of what is asked, kept with checkpoints and in ``edited.safetensors``."""
        return {
            "erased": [{"prompt": p.prompt, "target": p.target, "weight": p.weight} for p in self.pairs],
            "preserved": list(self.preserved),
        }

    def batches(self) -> list[PromptBatch]:
        """Everything to encode, in the order in which it is counted."""
        result = []
        for first in range(0, len(self.pairs), self.batch_size):
            part = self.pairs[first : first + self.batch_size]
            result.append(
                PromptBatch(
                    tuple(pair.prompt for pair in part),
                    tuple(pair.target for pair in part),
                    tuple(pair.weight for pair in part),
                    "erased",
                )
            )
        for kind, prompts in (("preserved", self.preserved), ("held_out", self.held_out)):
            for first in range(0, len(prompts), self.batch_size):
                names = tuple(prompts[first : first + self.batch_size])
                result.append(PromptBatch(names, ("",) * len(names), (1.0,) * len(names), kind))
        return result

    def train_dataloader(self) -> DataLoader[PromptBatch]:
        """Batches of prompts; epoch 0 encodes each once, later epochs take nothing from them."""
        return _loader(PromptBatches(self.batches()))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Prompts to generate for. In ``fit`` the Evaluation callback asks for them when it is time."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            return []
        return _loader(EvaluationBatches(self.validation, self.batch_size))

    def test_dataloader(self) -> DataLoader[Any]:
        """Prompts of ``data.test``."""
        return _loader(EvaluationBatches(self.test, self.batch_size))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Prompts of ``data.predict``."""
        if not self.predict:
            raise ConfigurationError("data.predict: no prompts; give a CSV with a column 'prompt'.")
        whole = EvaluationBatches(self.predict, self.batch_size)
        return _loader(whole if self.left is None else self.left())

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Batches hold text; there is nothing to move."""
        return batch


def _loader(dataset: IterableDataset[Any]) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=None)
