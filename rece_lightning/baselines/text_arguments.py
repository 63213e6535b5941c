"""Texts as a pipeline takes them, in the place of its own: as prompts, or as embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rece_lightning.models.denoisers import config_of, denoisers_of, known_family
from rece_lightning.models.family_sampling import family_arguments
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.sampling import Request, prompt_arguments
from rece_lightning.models.text import EncodesPrompts, PromptEncoder
from rece_lightning.models.text_space import TEXT
from rece_lightning.models.vocabulary import BEFORE

LENGTH = "max_sequence_length"
"""Argument of pipelines that pad every text to one length."""


def without_texts(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a pipeline's call but for prompts, their embeddings and masks, and what is called after a step.

    Args:
        arguments: by name.
    """
    return {
        name: value
        for name, value in arguments.items()
        if ("prompt" not in name or name.startswith("num_")) and not name.startswith("callback")
    }


def as_given(pipeline: Any, arguments: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Texts as a call gives its own: as prompts where it gives prompts, otherwise as embeddings.

    Args:
        pipeline: that is called.
        arguments: of its own call.
        texts: one a picture.
    """
    if arguments.get("prompt") is not None:
        return {"prompt": list(texts)}
    found = embedded(pipeline, arguments, texts)
    return {name: value for name, value in found.items() if not name.startswith("negative")}


def embedded(pipeline: Any, arguments: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Embeddings of texts as a pipeline takes them, in the place of the prompt and of the negative prompt.

    Args:
        pipeline: of diffusers.
        arguments: of its own call, whose embeddings are as long.
        texts: one a picture.
    """
    encoder = encoder_of(pipeline, arguments)
    known = {text: requests_of(encoder, [text])[0] for text in dict.fromkeys(texts)}
    return call_of(pipeline, [known[text] for text in texts])


def call_of(pipeline: Any, requests: Sequence[Request]) -> dict[str, Any]:
    """Embeddings as a pipeline takes them; the first request's also in the place of the negative prompt.

    Args:
        pipeline: of diffusers.
        requests: one a picture.
    """
    family = known_family(pipeline)
    if family is not None:
        whole = family_arguments(pipeline, family, requests, requests[0], 1.0)
        return {name: value for name, value in whole.items() if "prompt" in name}
    own = prompt_arguments(pipeline, requests, requests[0])
    given = {name: value for name, value in own.items() if not name.startswith("negative")}
    # Not what is made of the empty prompt: zeros may stand for that.
    return given | {f"negative_{name}": value[:1].expand_as(value) for name, value in given.items()}


def requests_of(encoder: EncodesPrompts, texts: Sequence[str]) -> list[Request]:
    """Texts encoded, as requests with the seed 0.

    Args:
        encoder: of the pipeline.
        texts: any number.
    """
    encoded = encoder.encode(list(texts))
    return [
        Request(
            encoded.embedding(row),
            seed=0,
            pooled=None if encoded.pooled is None else encoded.pooled[row],
            call=encoded.calls[row] if encoded.calls else {},
        )
        for row in range(len(texts))
    ]


def encoder_of(pipeline: Any, arguments: Mapping[str, Any] | None = None) -> EncodesPrompts:
    """What encodes prompts as a pipeline does, with its own parts, and pads them as far as a call has them.

    Args:
        pipeline: of diffusers.
        arguments: of its call, if there is one.

    Raises:
        BaseModelError: if it has no text encoder.
    """
    family = known_family(pipeline)
    if family is None:
        return PromptEncoder.of_pipeline(pipeline)
    config = config_of(next(iter(denoisers_of(pipeline, family).values())))
    encoder = PipelineEncoder(pipeline, family, config, ())
    asked = _padded_to(encoder, arguments or {})
    return PipelineEncoder(pipeline, family, config, (), asked=asked) if asked else encoder


def _padded_to(encoder: PipelineEncoder, arguments: Mapping[str, Any]) -> dict[str, int]:
    """What ``encode_prompt`` is asked for beside its default, so that its rows are as many as a call's.

    Stable Diffusion 3 refuses a negative embedding of another length than the prompt's.
    """
    call = inspect.signature(encoder.pipeline.__call__).parameters
    usual = call[LENGTH].default if LENGTH in call else None
    if not isinstance(usual, int) or LENGTH not in inspect.signature(encoder.pipeline.encode_prompt).parameters:
        return {}
    source = encoder.sources.get(TEXT)
    given = None if source is None else arguments.get(source.argument)
    if not isinstance(given, Tensor):
        return {LENGTH: arguments[LENGTH]} if arguments.get(LENGTH) is not None else {}

    def length(text: str) -> int:
        return len(requests_of(encoder, [text])[0].embedding)

    empty = length("")
    wanted = usual + given.shape[-2] - empty
    # Of other lengths every text is as long as it is.
    return {} if wanted == usual or wanted < 0 or length(BEFORE) != empty else {LENGTH: wanted}
