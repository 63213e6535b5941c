"""Pictures of a model whose projections can be exchanged: original, edited, edited again."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from rece_lightning.data.prompts import EvaluationPrompt, one_each
from rece_lightning.devices.offload import Waiting, WaitingEncoder, across_devices
from rece_lightning.devices.placement import Placement
from rece_lightning.erasure.loaded import LoadedModel
from rece_lightning.models.adapter import Adapter, open_adapter
from rece_lightning.models.base import BaseModel
from rece_lightning.models.denoisers import denoisers_of, together
from rece_lightning.models.pipelines import check_draws, load_pipeline, put_into
from rece_lightning.models.sampling import Request, Sampling, generate, requests_of
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.models.weights import ModuleWeights

ENCODED_TOGETHER = 64
KEPT_EMBEDDINGS = 256
"""Prompts whose embeddings stay for the next call: columns of a comparison share theirs, and a prompt file may be
longer than memory (SDXL's take 630 kB each)."""


class PictureMaker:
    """A pipeline that is loaded once; its projections are exchanged between columns of a comparison."""

    def __init__(
        self, pipeline: Any, encoder: EncodesPrompts, original: dict[str, Tensor], waiting: Sequence[Waiting] = ()
    ) -> None:
        self.pipeline, self.encoder = pipeline, encoder
        self._original, self._waiting = original, waiting
        self._embedded: OrderedDict[str, Request] = OrderedDict()

    @classmethod
    def load(
        cls,
        base: BaseModel,
        encoder: EncodesPrompts,
        placement: Placement,
        default: torch.device,
        adapter: Adapter | None = None,
    ) -> PictureMaker:
        """Load the pipeline and put its parts where the placement says.

        Parts that it leaves to the trainer go to ``default``. An adapter belongs to the original model here: it is
        fused into the encoder too.

        Raises:
            BaseModelError: if the pipeline cannot be loaded, or the adapter does not fit it.
            ConfigurationError: if it makes no pictures from prompts alone.
        """
        check_draws(base)
        pipeline = load_pipeline(base)
        denoiser = together(denoisers_of(pipeline))
        original = dict(base.read_projections())
        if adapter is not None:
            adapter.fuse(denoiser, [text_encoder for _, text_encoder in encoder.towers], base.family)
            fused = ModuleWeights(denoiser).read(base.projections)
            original = {name: weight.clone() for name, weight in fused}
        # One text encoder, not two: the maker's own is the pipeline's.
        names = (name for name in pipeline.components if name.startswith("text_encoder"))
        there = [name for name in names if getattr(pipeline, name) is not None]
        for name, (_, text_encoder) in zip(there, encoder.towers, strict=True):
            setattr(pipeline, name, text_encoder)
        waiting, devices = [], []
        for part, module in (("unet", denoiser), ("autoencoder", pipeline.vae)):
            device = placement.device_of(part, default)
            devices.append(device)
            if placement.waits(part):
                waiting.append(Waiting(device, module))
            else:
                module.to(device)
        if len(set(devices)) > 1:
            across_devices(pipeline)
        return cls(pipeline, encoder, original, waiting)

    @classmethod
    def of(cls, loaded: LoadedModel, adapter: str | None, default: torch.device) -> PictureMaker:
        """The same of a loaded model, with the adapter that a user names.

        Raises:
            BaseModelError: if there is no such adapter.
        """
        if adapter is None:
            return cls.load(loaded.base, loaded.encoder, loaded.placement, default)
        # An adapter changes the encoder that it is fused into.
        return cls.load(loaded.base, loaded.new_encoder(), loaded.placement, default, open_adapter(adapter))

    @contextmanager
    def at_work(self, *, encoding: bool = True) -> Iterator[None]:
        """Within the block nothing waits in host memory: for who works with the pipeline itself."""
        with ExitStack() as stack:
            for one in self._waiting:
                stack.enter_context(one.at_work())
            if encoding and isinstance(self.encoder, WaitingEncoder):
                stack.enter_context(self.encoder.waiting.at_work())
            yield

    def use(self, weights: Iterable[tuple[str, Tensor]] | None) -> None:
        """Put edited projections in; ``None`` puts the original ones back."""
        put_into(self.pipeline, self._original.items())
        if weights is not None:
            put_into(self.pipeline, weights)

    def embed(self, prompts: Sequence[str]) -> list[Request]:
        """Embeddings of prompts, each encoded once, as requests with the seed 0."""
        found = {prompt: self._embedded[prompt] for prompt in prompts if prompt in self._embedded}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        for first in range(0, len(missing), ENCODED_TOGETHER):
            part = missing[first : first + ENCODED_TOGETHER]
            with torch.inference_mode(False), torch.no_grad():  # they are kept for the verbs to come
                for prompt, one in zip(part, requests_of(self.encoder.encode(part)), strict=True):
                    # A view would keep the whole batch.
                    pooled = None if one.pooled is None else one.pooled.clone()
                    call = {name: value.clone() for name, value in one.call.items()}
                    found[prompt] = replace(one, text=prompt, embedding=one.embedding.clone(), pooled=pooled, call=call)
        for prompt, request in found.items():
            self._embedded[prompt] = request
            self._embedded.move_to_end(prompt)
        while len(self._embedded) > KEPT_EMBEDDINGS:
            self._embedded.popitem(last=False)
        return [found[prompt] for prompt in prompts]

    @torch.no_grad()
    def make(
        self,
        prompts: Sequence[EvaluationPrompt],
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        derive: Callable[[Request], Request] | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> Tensor:
        """One picture for each prompt with its seed, ``[n, 3, h, w]`` in [0, 1].

        ``derive`` changes every request, to attack with derived embeddings; ``on_batch`` is called with the number of
        pictures after every batch.
        """
        *own, empty = self.embed([*(row.prompt for row in prompts), ""])
        requests = [
            replace(
                embedded if derive is None else derive(replace(embedded, text=None)),
                seed=seed,
                guidance_scale=row.guidance_scale,
            )
            for embedded, seed, row in zip(own, seeds, prompts, strict=True)
        ]
        with self.at_work(encoding=sampling.guard is not None):
            return generate(self.pipeline, requests, empty, sampling, on_batch)

    def made_of(self, batch: Sequence[EvaluationPrompt], seeds: Sequence[int], sampling: Sampling) -> dict[str, Any]:
        """Rows with their own seed, or with each of ``seeds``: prompts (plain), seeds, pictures ``[n, 3, h, w]``, and
        the seconds that they took."""
        rows = one_each(batch, seeds)
        drawn = [int(row.seed or 0) for row in rows]
        started = time.perf_counter()
        pictures = self.make(rows, drawn, sampling)
        return {"prompts": [asdict(row) for row in batch for _ in one_each([row], seeds)], "seeds": drawn,
                "pictures": pictures, "seconds": time.perf_counter() - started}  # fmt: skip
