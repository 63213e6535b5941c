"""SAFREE (Yoon et al., arXiv 2410.12761): a prompt's tokens that lead to a concept are taken out of its direction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from rece_lightning.baselines.branches import branch_of, denoisers_under
from rece_lightning.baselines.guard import Guard
from rece_lightning.baselines.masked import Masking, Segment, projected
from rece_lightning.baselines.reweighing import Reweighing, no_skips
from rece_lightning.baselines.steps import steps_changed
from rece_lightning.baselines.text_arguments import call_of
from rece_lightning.baselines.words import Concept, words_of
from rece_lightning.core.errors import ConfigurationError, check_count, check_number
from rece_lightning.models.families import family_named
from rece_lightning.models.sampling import Request

PUBLISHED = (0.9, 0.2)
"""s1 and s2 of the published re-weighing."""


@dataclass(frozen=True)
class Cleaned:
    """A prompt as SAFREE changes it."""

    request: Request
    """The changed rows and pooled embedding."""
    triggers: tuple[tuple[int, ...], ...]
    """Of every text encoder's own tokens, the rows that were changed."""
    share: float
    """β, how far the projection turns the prompt's rows: 1 − their mean cosine."""
    steps: int
    """So many of the first steps read the changed prompt."""


@dataclass(frozen=True)
class SAFREE(Guard):
    """Projection of prompt rows, and a number of steps that the prompt itself decides.

    ``C`` holds a summary row of each concept, ``P_C`` projects onto their span; ``P_I`` projects onto the span of the
    prompt's summary rows ``e_∖i`` with token ``i`` masked. Row ``i`` of the prompt is changed where the rest of the
    prompt is farther from the concepts than it is without other tokens::

        d_i = ‖(I − P_C) e_∖i‖ ≥ (1 + α) mean_{j≠i} d_j:    e_i ← (I − P_C) P_I e_i
        β = 1 − mean cos(e, (I − P_C) P_I e)    over the prompt's own tokens
        the first round(most · sigmoid(2 k (10 β − t))) steps read the changed prompt, the others the prompt itself

    A text's summary is its end-of-text row, or its last row where it has none. Rows of several text encoders are
    changed each with their own summaries; a pooled embedding is projected in the same way where one of its encoder's
    tokens was changed. A prompt of one token has no others to be compared with, and is changed. The published method is
    of Stable Diffusion 1.4's one encoder. It reads words: an attacker who gives embeddings passes it by.

    In the steps that read the changed prompt the denoiser runs once more. Of a U-Net ``reweigh`` also damps the low
    frequencies of its skip features there that exceed those under the prompt itself, the paper's re-attention in the
    Fourier domain (:class:`rece_lightning.baselines.reweighing.Reweighing`). The paper compares complex numbers, which
    have no order: magnitudes are compared here. It is off unless asked for, as it is in the script that the authors
    published, whose filter is given no kind and changes nothing; its factors of the features from below are 1.

    Args:
        concept: words or phrases, one each; together they span what is taken out.
        alpha: α.
        steepness: k; 3.5 for artists.
        midpoint: t; 5.5 for artists.
        most: steps at most, of 50 as published.
        reweigh: damp the U-Net's features too: by 0.9 in the widest blocks and by 0.2 in the next, as published, or by
            numbers from 0 to 1 of your own, such as ``[0.9, 0.2]``, from the widest blocks on.

    Raises:
        ConfigurationError: for a value that makes no sense.
    """

    concept: Concept
    alpha: float = 0.01
    steepness: float = 2.5
    midpoint: float = 5.333
    most: int = 10
    reweigh: bool | Sequence[float] = False
    needs_guidance: ClassVar[bool] = False
    reads_words: ClassVar[bool] = True

    def __post_init__(self) -> None:
        words_of("SAFREE.concept", self.concept)
        for name in ("alpha", "steepness", "midpoint"):
            check_number(f"SAFREE.{name}", getattr(self, name))
        check_count("SAFREE.most", self.most)
        if not (isinstance(self.reweigh, bool) or _are_scales(self.reweigh)):
            raise ConfigurationError(
                f"SAFREE.reweigh: {self.reweigh!r}; give true, false, or one or more numbers from 0 to 1."
            )

    @property
    def title(self) -> str:
        fields = ("alpha", "steepness", "midpoint", "most")
        own = [name for name in fields if getattr(self, name) != type(self).__dataclass_fields__[name].default]
        settings = "".join(f", {name} {getattr(self, name):g}" for name in own)
        if self._scales:
            settings += f", features by {' and '.join(f'{scale:g}' for scale in self._scales)}"
        return f"SAFREE{settings} ({words_of('SAFREE.concept', self.concept)})"

    @property
    def _scales(self) -> tuple[float, ...]:
        if isinstance(self.reweigh, bool):
            return PUBLISHED if self.reweigh else ()
        return tuple(self.reweigh)

    def check_asked(self, field: str, name: str, scales: Iterable[float | None]) -> None:
        """Refuse a model without a U-Net where its features are to be damped; see :meth:`Guard.check_asked`."""
        super().check_asked(field, name, scales)
        family = family_named(name)
        if self._scales and family is not None and "unet" not in family.denoisers:
            raise ConfigurationError(no_skips(f"{field}: SAFREE", f"the denoiser of {family.title}"))

    def draw(self, pipeline: Any, arguments: Mapping[str, Any], texts: Sequence[str | None]) -> Any:
        """Call the pipeline with the first steps reading changed prompts; see :meth:`Guard.draw`."""
        reweighing = self._reweighing(pipeline)
        masking = Masking(pipeline, arguments)
        with torch.no_grad():
            known = {text: self.cleaned(masking, text) for text in dict.fromkeys(texts) if text is not None}
        steps = [0 if text is None else known[text].steps for text in texts]
        if not any(steps):
            return pipeline(**arguments)
        with torch.no_grad():
            empty = masking.whole("")  # nobody reads it: an embedding without a text is left alone
        requests = [empty if text is None else known[text].request for text in texts]
        given = {name: value for name, value in call_of(pipeline, requests).items() if "negative" not in name}
        branch = branch_of(pipeline, arguments, given)
        each = torch.tensor(steps).repeat_interleave(branch.rows // len(steps))
        count = 0

        def change(prompt: Tensor, without: Tensor | None, further: list[Tensor]) -> Tensor:
            nonlocal count
            count += 1
            changed = (each >= count).reshape(-1, *[1] * (prompt.ndim - 1)).to(prompt.device)
            return torch.where(changed, further[0], prompt)

        with steps_changed(pipeline, [branch], change, guided=False, steps=max(steps), reweighing=reweighing):
            return pipeline(**arguments)

    def _reweighing(self, pipeline: Any) -> Reweighing | None:
        if not self._scales:
            return None
        made = Reweighing(self._scales)
        for denoiser in denoisers_under(pipeline):
            made.check(denoiser)
        return made

    def cleaned(self, masking: Masking, text: str) -> Cleaned:
        """A prompt's changed rows, and for how many steps they are read.

        Args:
            masking: of the pipeline.
            text: the prompt.
        """
        whole = masking.whole(text)
        rows, pooled = whole.embedding.double().clone(), whole.pooled
        triggers, cosines = [], list[float]()
        for segment in masking.segments(text):
            concepts = [self._summary(masking, concept, segment) for concept in self._concepts]
            masked = [masking.masked(text, segment, token) for token in range(len(segment.rows))]
            concept = torch.stack([one for one, _ in concepts])
            without = torch.stack([one.embedding[segment.summary].double() for one in masked])
            own = whole.embedding[list(segment.rows)].double()
            turned = _cleaned(own, without, concept)
            found = self._triggers(without, concept)
            cosines += torch.nn.functional.cosine_similarity(own, turned, dim=-1).tolist()
            for token in found:
                rows[segment.rows[token]] = turned[token]
            triggers.append(tuple(segment.rows[token] for token in found))
            moved = [one.pooled for one in masked if one.pooled is not None]
            if found and pooled is not None and len(moved) == len(masked):
                pools = torch.stack(moved).double()
                if bool((pools != pooled.double()).any()):  # this segment's encoders make it
                    spanned = torch.stack([one for _, one in concepts if one is not None])
                    pooled = _cleaned(pooled.double()[None], pools, spanned)[0].to(pooled)
        share = 1 - sum(cosines) / len(cosines) if cosines else 0.0
        steps = round(self.most / (1 + math.exp(-2 * self.steepness * (10 * share - self.midpoint))))
        request = replace(whole, embedding=rows.to(whole.embedding), pooled=pooled)
        return Cleaned(request, tuple(triggers), share, steps if any(triggers) else 0)

    @property
    def _concepts(self) -> list[str]:
        return [self.concept] if isinstance(self.concept, str) else list(self.concept)

    def _summary(self, masking: Masking, concept: str, like: Segment) -> tuple[Tensor, Tensor | None]:
        """A concept's summary row of the same encoders, and its pooled embedding."""
        whole = masking.whole(concept)
        own = next((one for one in masking.segments(concept) if one.places.keys() & like.places.keys()), like)
        return whole.embedding[own.summary].double(), None if whole.pooled is None else whole.pooled.double()

    def _triggers(self, without: Tensor, concept: Tensor) -> list[int]:
        """Tokens without which a prompt is farther from the concepts than without others."""
        distances = (without - projected(without, concept)).norm(dim=1).tolist()
        if len(distances) < 2:
            return list(range(len(distances)))
        total = sum(distances)
        return [
            token
            for token, distance in enumerate(distances)
            if distance >= (1 + self.alpha) * (total - distance) / (len(distances) - 1)
        ]


def _are_scales(given: object) -> bool:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        return False
    return all(isinstance(one, (int, float)) and not isinstance(one, bool) and 0 <= one <= 1 for one in given)


def _cleaned(rows: Tensor, span: Tensor, concept: Tensor) -> Tensor:
    """``(I − P_C) P_I`` of rows, float64."""
    inside = projected(rows, span)
    return inside - projected(inside, concept)
