"""Other input embeddings in the place of words, while a pipeline's own ``encode_prompt`` makes rows of the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.encoded_answer import rows_of
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.text import EncodesPrompts, PromptEncoder
from rece_lightning.models.text_space import TEXT


def read_rows(encoder: EncodesPrompts, prompts: Sequence[str], source: str = TEXT) -> Tensor:
    """Rows of prompts as a denoiser is given them; those that it does not read, and behind shorter ones, are zero.

    Args:
        encoder: of the model.
        prompts: any number.
        source: which rows, by their name among the family's sources.

    Returns:
        ``[n, positions, d]``.
    """
    if not isinstance(encoder, PipelineEncoder):
        return encoder.encode(list(prompts)).embeddings
    with torch.no_grad():
        return pad_sequence([rows_read(encoder, one, source) for one, _ in encoder.answers(prompts)], batch_first=True)


def rows_read(encoder: PipelineEncoder, answer: tuple[Any, ...], source: str) -> Tensor:
    """The same rows of one answer of ``encode_prompt``, ``[positions, d]``."""
    rows, mask = rows_of(answer, encoder.sources[source])
    return rows if mask is None else rows * mask[:, None].to(rows)


def searched_encoder(encoder: EncodesPrompts, source: str = TEXT) -> str:
    """The text encoder that a search of tokens goes through: the first of those that make these rows."""
    if not isinstance(encoder, PipelineEncoder):
        return "text_encoder"
    parts = encoder.sources[source].encoders
    return next(name for name in parts if getattr(encoder.pipeline, name, None) is not None)


def searched_tokenizer(encoder: EncodesPrompts, source: str = TEXT) -> Any:
    """Its tokenizer."""
    if not isinstance(encoder, PipelineEncoder):
        return encoder.tokenizer
    return encoder.tokenizer_of(searched_encoder(encoder, source))


def searched_rows(encoder: EncodesPrompts, source: str = TEXT) -> int | None:
    """How many of the rows, from the first on, are that encoder's; ``None``: all of them."""
    if isinstance(encoder, PromptEncoder) or not isinstance(encoder, PipelineEncoder):
        return None
    one = encoder.sources[source]
    if one.one_row or len(one.encoders) == 1:
        return None
    with encoder.recorded() as seen, torch.no_grad():
        encoder.answer("")
    return len(seen[searched_encoder(encoder, source)][0])


class TokenInputs:
    """Gives some tokens of a prompt other input embeddings, in the encoder that is searched.

    Further encoders that read the same tokens, as both CLIP towers of Stable Diffusion 3 do, are given theirs too;
    encoders with another tokenizer read the text.

    Args:
        encoder: of the pipeline; all its text encoders stay in memory.
        source: whose rows are searched for.
        probes: two prompts of as many tokens, which differ in the tokens that are meant and nowhere else.
        free: how many these are.

    Raises:
        BaseModelError: if the encoder has no table of input embeddings, or the tokens are not where they should be.
    """

    def __init__(self, encoder: PipelineEncoder, source: str, probes: tuple[str, str], free: int) -> None:
        self.encoder, self.source = encoder, source
        _ = encoder.towers
        searched = searched_encoder(encoder, source)
        vocabulary = encoder.tokenizer_of(searched).get_vocab()
        self.parts: dict[str, nn.Module] = {
            name: part
            for name, part in encoder.pipeline.components.items()
            if name.startswith("text_encoder")
            and isinstance(part, nn.Module)
            and (name == searched or encoder.tokenizer_of(name).get_vocab() == vocabulary)
        }
        # The searched one first: its tokens are what is asked about.
        self.parts = {searched: self.parts[searched], **self.parts}
        self.tables = [_table(name, part) for name, part in self.parts.items()]
        first, second = (self.ids(probe) for probe in probes)
        self.places = {name: self._differing(name, first.get(name), second.get(name), free) for name in self.parts}
        self.probed = [int(first[searched][place]) for place in self.places[searched]]
        """Ids of the first probe's tokens."""

    def ids(self, prompt: str) -> dict[str, Tensor]:
        """What every encoder is given of a prompt, ``[positions]``."""
        with self.encoder.recorded() as seen, torch.no_grad():
            self.encoder.answer(prompt)
        return {name: ids for name, (ids, _) in seen.items()}

    def placed(self, prompt: str) -> list[int]:
        """Ids of a prompt's tokens in the free places of the searched encoder; fewer where it is shorter."""
        name = next(iter(self.parts))
        ids = self.ids(prompt)[name].tolist()
        return [ids[place] for place in self.places[name] if place < len(ids)]

    def answer(self, prompt: str, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
        """What ``encode_prompt`` gives, differentiable in ``inputs``, ``[free, width]`` for each of :attr:`tables`."""
        with ExitStack() as stack:
            for (name, part), table, soft in zip(self.parts.items(), self.tables, inputs, strict=True):
                stack.enter_context(_replaced(part, table, self.places[name], soft))
            return self.encoder.answer(prompt)

    def _differing(self, name: str, first: Tensor | None, second: Tensor | None, free: int) -> list[int]:
        if first is not None and second is not None and len(first) == len(second):
            places = [int(place) for place in (first != second).nonzero().flatten()]
            if len(places) == free:
                return places
        raise BaseModelError(
            f"attacks: a search of tokens: {name} is not given each word of a prompt as one token; take paraphrase or "
            "derived."
        )


def _table(name: str, part: nn.Module) -> Tensor:
    get: Callable[[], Any] | None = getattr(part, "get_input_embeddings", None)
    table = None if get is None else getattr(get(), "weight", None)
    if not isinstance(table, Tensor) or table.ndim != 2:
        raise BaseModelError(
            f"attacks: a search of tokens: {name} has no table of input embeddings; take paraphrase or derived."
        )
    return table


@contextmanager
def _replaced(part: nn.Module, table: Tensor, places: Sequence[int], soft: Tensor) -> Iterator[None]:
    """Within the block whatever looks tokens up in this table gives ``soft`` in these places."""

    def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        replaced = output.clone()
        replaced[:, list(places)] = soft.to(output)
        return replaced

    # T5's stack looks up in a module of its own, which shares the table that the encoder names.
    readers = [one for one in part.modules() if isinstance(one, nn.Embedding) and one.weight is table]
    handles = [one.register_forward_hook(hook) for one in readers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
