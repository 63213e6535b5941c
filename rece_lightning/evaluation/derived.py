"""The attacker's derived embeddings in place of a prompt's own, where a pipeline takes embeddings of that kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rece_lightning.core.derivation import AnyDerivation, Derivation
from rece_lightning.core.diagnostics import ATTACKER_SHARE
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.distributed import gathered
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.sampling import Request
from rece_lightning.models.text_space import POOLED, TEXT, TextSpace


@dataclass(frozen=True)
class Place:
    """Where a request holds the rows of a text space."""

    source: str = TEXT
    argument: str = ""
    """Of the pipeline, for rows that are neither the embedding nor the pooled one."""
    layer: int | None = None
    """Of an argument that holds several."""
    gain: Tensor | None = None
    """``g`` of the norm ``x / rms(x) · g`` that the rows pass before they are read, ``[d]``."""

    def of(self, request: Request) -> Tensor | None:
        """The rows, ``[positions, d]``; ``None`` where the request has none."""
        if self.source == TEXT:
            return request.embedding
        if self.source == POOLED:
            return None if request.pooled is None else request.pooled[None]
        held = request.call.get(self.argument)
        return held if held is None or self.layer is None else held[self.layer]

    def put(self, request: Request, rows: Tensor) -> Request:
        """The request with other rows."""
        if self.source == TEXT:
            return replace(request, embedding=rows)
        if self.source == POOLED:
            return replace(request, pooled=rows[0])
        held = rows
        if self.layer is not None:
            held = request.call[self.argument].clone()
            held[self.layer] = rows
        return replace(request, call={**request.call, self.argument: held})


class Derived:
    """Gives derived embeddings in place of the prompts' own, of every text space, and remembers how long they are.

    Args:
        derivations: text space → the attacker's derivation.
        places: text space → where a request has its rows; those of Stable Diffusion unless given.
    """

    def __init__(self, derivations: Mapping[str, AnyDerivation], places: Mapping[str, Place] | None = None) -> None:
        self.derivations = derivations
        self.places = {TEXT: Place(), POOLED: Place(POOLED)} if places is None else places
        self._ratios: list[float] = []

    def __call__(self, request: Request) -> Request:
        """The same picture from derived embeddings; a text space that nobody edited keeps its own."""
        for space, derivation in self.derivations.items():
            place = self.places[space]
            own = place.of(request)
            if own is None:
                continue
            read = own if place.gain is None else normed(own, place.gain)
            derived = derivation.apply(read.to(derivation.factor.device)).to(own.device)
            if place.source != POOLED:
                self._ratios.append(float(derived.norm() / read.norm()))
            # The norm gives the direction back, at the length that it gives every row.
            request = place.put(request, derived if place.gain is None else (derived / place.gain.to(derived)).to(own))
        return request

    def norm_ratio(self) -> float | None:
        """Mean ``‖c'‖/‖c‖`` of all processes; every one must call it."""
        ratios = [ratio for part in gathered(self._ratios) for ratio in part]
        return sum(ratios) / len(ratios) if ratios else None


def normed(rows: Tensor, gain: Tensor) -> Tensor:
    """``x / rms(x) · g`` of rows ``[n, d]``; a row of zeros stays one."""
    size = rows.float().square().mean(dim=-1, keepdim=True).sqrt()
    return (rows.float() / size.clamp(min=torch.finfo(torch.float32).tiny) * gain.to(rows.device).float()).to(rows)


def out_of_reach(session: ErasureSession) -> str | None:
    """Why no prompt embedding can be derived for what is edited; ``None`` where one can.

    Behind a projector of the denoiser a derived row would have to be one that the projector gives.
    """
    for space in session.spaces:
        if space.before and gain_of(session, space) is None:
            entry = any(one.instead_of == space.name for one in session.base.spaces)
            way = "; with model.method.spaces: [entry] the erasure and the derivation are before it" if entry else ""
            return (
                f"the space {space.name!r} is read behind {space.before[0]}, and what is derived there is no embedding "
                f"that a pipeline takes{way}"
            )
    return None


@torch.no_grad()
def gain_of(session: ErasureSession, space: TextSpace) -> Tensor | None:
    """``g`` where all that rows pass before a reader is a norm ``x / rms(x) · g``, found by what it answers."""
    encoder = session.encoder
    if not isinstance(encoder, PipelineEncoder):
        return None
    rows = torch.randn(4, space.width, generator=torch.Generator().manual_seed(0))
    try:
        gain = encoder.passed(space, torch.ones(1, space.width))[0].float()
        answer = encoder.passed(space, rows).float()
    except RuntimeError:  # a projector of another width
        return None
    fits = gain.shape == rows.shape[1:] and torch.allclose(answer, normed(rows, gain), rtol=1e-2, atol=1e-3)
    return gain if fits and bool(gain.all()) else None


def places_of(session: ErasureSession) -> dict[str, Place]:
    """Edited text space → where a request has its rows."""
    encoder, found = session.encoder, {}
    sources = encoder.sources if isinstance(encoder, PipelineEncoder) else {}
    for space in session.spaces:
        name = space.source or space.name
        gain = gain_of(session, space) if space.before else None
        if name in (TEXT, POOLED) or name not in sources:
            found[space.name] = Place(name, gain=gain)
        else:
            found[space.name] = Place(name, sources[name].argument, sources[name].layer, gain)
    return found


def attackers(session: ErasureSession, maps: Mapping[str, AnyMap]) -> dict[str, AnyDerivation]:
    """Text space → the attacker's derivation: its ridge is a setting of the measurement, not the defender's λ."""
    return {
        name: Derivation(session.attacker_scale or ATTACKER_SHARE * gram.scale)(gram, met)
        for name, (gram, met) in session.attacked(maps).items()
    }


def derived_of(session: ErasureSession, maps: Mapping[str, AnyMap]) -> Derived:
    """Derived embeddings against maps of an erasure.

    Args:
        session: of the model.
        maps: text space → ``M``.
    """
    return Derived(attackers(session, maps), places_of(session))
