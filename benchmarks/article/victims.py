"""Every method as attacks see it: the weights that it changes, and the guard that stands around them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.article.bench import Bench
from benchmarks.article.plan import Contender, Trained
from benchmarks.harness import digest, unet_digest
from benchmarks.results.plan import Erasure
from rece_lightning.attacks import Victim
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.files import save_tensors
from rece_lightning.models.denoisers import denoisers_of, together
from rece_lightning.models.pipelines import put_into
from rece_lightning.models.sampling import Sampling


class Whole:
    """A maker's pipeline of which every weight of the denoiser can be exchanged: training changes more than an edit.

    Args:
        maker: with the original weights in its pipeline.
    """

    def __init__(self, maker: PictureMaker) -> None:
        self.pipeline, self.encoder = maker.pipeline, maker.encoder
        self.original = {name: weight.clone() for name, weight in self.now().items()}

    def now(self) -> dict[str, Tensor]:
        """Name → weight of the denoiser as it is; not copies."""
        denoiser = together(denoisers_of(self.pipeline))
        return {name: parameter.detach() for name, parameter in denoiser.named_parameters()}

    def use(self, weights: Iterable[tuple[str, Tensor]] | None) -> None:
        """Put weights in; ``None`` puts the original ones back."""
        put_into(self.pipeline, self.original.items())
        if weights is not None:
            put_into(self.pipeline, weights)

    def changed(self) -> dict[str, Tensor]:
        """Copies of the weights that are not the original ones now."""
        now = self.now()
        return {name: now[name].clone() for name, old in self.original.items() if not torch.equal(now[name], old)}


@dataclass(frozen=True)
class Changed:
    """What a method does to a model."""

    weights: dict[str, Tensor]
    """Name in the denoiser → weight, where it is another one."""
    sampling: Sampling
    """With the guard, where there is one."""


class Victims:
    """Makes the victims of a world; what was trained is kept, because it takes minutes.

    Args:
        bench: of the world.
        folder: of trained weights, made with the first of them.
    """

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench, self.folder, self.pictures = bench, folder, Whole(bench.world.maker)

    def of(self, thing: Erasure, contender: Contender) -> Victim:
        """A method's model under attack. A search sees its weights, what it finds is drawn through its guard."""
        changed = self.changed(thing, contender)
        return Victim(
            self.pictures, weights=changed.weights or None, detector=self.bench.world.detector,
            sampling=changed.sampling,
        )  # fmt: skip

    def changed(self, thing: Erasure, contender: Contender) -> Changed:
        """Erase, train or guard; the pipeline is the original one again afterwards."""
        kept = self.file(thing, contender)
        if kept is not None and kept.exists():
            return Changed(load_file(kept), self.bench.draws.sampling)
        self.pictures.use(None)
        with self.bench.applied(thing, contender) as done:
            changed = Changed(self.pictures.changed(), done.sampling)
        if kept is not None:
            save_tensors(changed.weights, kept, {"method": contender.name, "erased": thing.name})
        return changed

    def file(self, thing: Erasure, contender: Contender) -> Path | None:
        """Where trained weights lie, by all that decides them; ``None`` for what is not trained."""
        how, world = contender.how, self.bench.world.pretrained
        if not isinstance(how, Trained):
            return None
        name = digest([unet_digest(world), thing.data, how.told])
        return self.folder / "trained" / f"{world}_{thing.name}_{name}.safetensors"
