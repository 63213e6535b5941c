"""FID and KID: how far the pictures of one model are from another's, or from real ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.wrappers.abstract import WrapperMetric

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.discrepancy import squared_discrepancy
from rece_lightning.metrics.features import EmojiFeatures, FeatureNetwork
from rece_lightning.metrics.figure import KEPT, SETS, Figure, PictureBatch
from rece_lightning.metrics.means import Spread
from rece_lightning.metrics.ranks import over_ranks

EVERY_SEED = -1


class _Sets(ABC):
    """What FID and KID share: two sets of pictures, known by their features, each told apart by seeds."""

    compares = SETS
    # Erased prompts should give other pictures.
    groups: tuple[tuple[str, ...], ...] = ((KEPT,),)
    features: FeatureNetwork

    @abstractmethod
    def add(self, features: Tensor, seeds: Sequence[int] | None, *, reference: bool) -> None:
        """Add pictures by their features, ``[n, d]``; the other arguments are those of ``update``."""

    def kept_of(self, pictures: Tensor) -> Tensor:
        """The features, ``[n, d]``."""
        return self.features(pictures)

    def take_reference(self, kept: Tensor) -> None:
        """Add features of pictures that belong to every seed, such as real ones."""
        self.add(kept, None, reference=True)

    def take(self, batch: PictureBatch) -> None:
        """Add the pictures of a batch, and their reference where they bring one."""
        self.add(self.kept_of(batch.pictures), batch.seeds, reference=False)
        if batch.reference is not None:
            self.add(batch.reference, batch.seeds, reference=True)


class FrechetDistance(_Sets, WrapperMetric):
    """FID, protocol ``fid FEATURES``: Fréchet distance between Gaussians fitted to two sets of pictures' features.

    The reference is the original model's pictures of the same prompts and seeds, or real ones; say which in a table.
    FID is biased upwards by few pictures (fewer than features at least leave a singular covariance), so compare only
    figures with the same number of pictures, and quote the features: 2,048 of Inception in published tables.

    States are torchmetrics' float64 sums, one set a seed, summed over ranks; their size does not depend on the number
    of pictures.

    Args:
        features: network; the embedded world's detector without it.
        seeds: how many seeds are told apart; 1 makes a single figure.
    """

    higher_is_better = False

    def __init__(self, features: FeatureNetwork | nn.Module | None = None, seeds: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = cast(FeatureNetwork, features) if features is not None else EmojiFeatures()
        self.protocol = f"fid {self.features.protocol}"
        self.seeds = nn.ModuleList(_frechet(self.features.num_features) for _ in range(seeds))
        self.of_all = _frechet(self.features.num_features)

    def update(self, pictures: Tensor, seeds: Sequence[int] | None = None, *, reference: bool) -> None:
        """Add pictures ``[n, 3, h, w]`` in [0, 1].

        Args:
            pictures: of the model, or the reference.
            seeds: place of each picture's seed among the seeds (0, 1, …); without them the pictures belong to every
                seed, as real ones do.
            reference: whether these are the reference's.
        """
        self.add(self.features(pictures), seeds, reference=reference)

    def add(self, features: Tensor, seeds: Sequence[int] | None, *, reference: bool) -> None:
        """Add pictures by their features, ``[n, d]``; the other arguments are those of :meth:`update`."""
        features = features.double().to(self.of_all.device)
        self.of_all.update(features, real=reference)
        places = _places(seeds, len(features), len(self.seeds))
        for place in range(len(self.seeds)):
            chosen = ((places == place) | (places == EVERY_SEED)).to(features.device)
            if bool(chosen.any()):
                self.of_seed(place).update(features[chosen], real=reference)

    def of_seed(self, place: int) -> FrechetInceptionDistance:
        """The distance of one seed's pictures."""
        return cast(FrechetInceptionDistance, self.seeds[place])

    def compute(self) -> Tensor:
        """The distance of all pictures, float64. A RuntimeError says when a set has fewer than two."""
        return self.whole()

    def whole(self) -> Tensor:
        """The same, whichever way the pictures came in."""
        return self.of_all.compute()

    def spread(self) -> Spread:
        """The distance of each seed's pictures, at least two of them. All ranks must call it."""
        return Spread(tuple(float(self.of_seed(place).compute()) for place in range(len(self.seeds))))

    def reset(self) -> None:
        """Forget all pictures."""
        self.of_all.reset()
        for place in range(len(self.seeds)):
            self.of_seed(place).reset()

    def sized(self, prompts: int, seeds: int) -> FrechetDistance:
        """An empty one for so many seeds, with the same network."""
        return FrechetDistance(self.features, seeds)

    def figures(self, role: str) -> list[Figure]:
        """The distance of all pictures with its spread over seeds; none where a set has fewer than two."""
        with over_ranks(self.of_all):
            sizes = [int(getattr(self.of_all, f"{name}_features_num_samples")) for name in ("fake", "real")]
        return _figures(self, role, *sizes)


class KernelDistance(_Sets, Metric):
    """KID, protocol ``kid FEATURES``: squared maximum mean discrepancy with the kernel ``(x·y/d + 1)³``, times 1,000.

    The unbiased estimate over all pictures at once, so nothing is drawn (published ones average random subsets of the
    same estimate); it can be negative. Sets may differ in size unless they are paired. States are the features,
    gathered from all ranks.

    Args:
        features: network; the embedded world's detector without it.
        seeds: how many seeds are told apart; 1 makes a single figure.
        paired: picture i of the model and picture i of the reference are of the same prompt and seed; what the two have
            in common is then left out of the estimate.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    model: list[Tensor]
    reference: list[Tensor]

    def __init__(
        self,
        features: FeatureNetwork | nn.Module | None = None,
        seeds: int = 1,
        paired: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.paired = paired
        # A rank without pictures takes part with an empty state of the metric's own type and one dimension: so all
        # states are float64 and flat, a row being the seed and the features.
        self.set_dtype(torch.double)
        self.features = cast(FeatureNetwork, features) if features is not None else EmojiFeatures()
        self.seeds = seeds
        self.protocol = f"kid {self.features.protocol}"
        self.add_state("model", [], dist_reduce_fx="cat")
        self.add_state("reference", [], dist_reduce_fx="cat")

    def update(self, pictures: Tensor, seeds: Sequence[int] | None = None, *, reference: bool) -> None:
        """Add pictures ``[n, 3, h, w]`` in [0, 1]; the arguments are those of :meth:`FrechetDistance.update`."""
        self.add(self.features(pictures), seeds, reference=reference)

    def add(self, features: Tensor, seeds: Sequence[int] | None, *, reference: bool) -> None:
        """Add pictures by their features, ``[n, d]``; the other arguments are those of :meth:`update`."""
        features = features.double().to(self.device)
        places = _places(seeds, len(features), self.seeds)
        rows = torch.cat([places[:, None].to(features), features], dim=1)
        (self.reference if reference else self.model).append(rows.flatten())

    def compute(self) -> Tensor:
        """The distance of all pictures, float64."""
        return self.whole()

    def whole(self) -> Tensor:
        """The same, whichever way the pictures came in. All ranks must call it."""
        with over_ranks(self):
            model, reference = self._rows()
        return self._distance(model, reference)

    def spread(self) -> Spread:
        """The distance of each seed's pictures. All ranks must call it."""
        with over_ranks(self):
            model, reference = self._rows()
        found = []
        for seed in range(self.seeds):
            of_model = model[(model[:, 0] == seed) | (model[:, 0] == EVERY_SEED)]
            of_reference = reference[(reference[:, 0] == seed) | (reference[:, 0] == EVERY_SEED)]
            found.append(float(self._distance(of_model, of_reference)))
        return Spread(tuple(found))

    def _distance(self, model: Tensor, reference: Tensor) -> Tensor:
        if self.paired and len(model) != len(reference):
            raise ConfigurationError(
                f"KernelDistance.paired: {len(model)} pictures of the model, {len(reference)} of the reference; give "
                "each its partner, or leave paired out."
            )
        return 1000 * squared_discrepancy(model[:, 1:], reference[:, 1:], paired=self.paired)

    def _rows(self) -> tuple[Tensor, Tensor]:
        width = self.features.num_features + 1
        found = []
        for state in (self.model, self.reference):
            flat = torch.cat(list(state)) if isinstance(state, list) and state else torch.as_tensor(state)
            found.append(flat.double().reshape(-1, width))
        return found[0], found[1]

    def sized(self, prompts: int, seeds: int) -> KernelDistance:
        """An empty one for so many seeds, with the same network."""
        return KernelDistance(self.features, seeds, self.paired)

    def figures(self, role: str) -> list[Figure]:
        """The distance of all pictures with its spread over seeds; none where a set has fewer than two."""
        with over_ranks(self):
            sizes = list(map(len, self._rows()))
        return _figures(self, role, *sizes)


def _figures(metric: FrechetDistance | KernelDistance, role: str, pictures: int, references: int) -> list[Figure]:
    """The distance of all pictures, and the spread of those of each seed."""
    if min(pictures, references) < 2:
        return []
    value = float(metric.whole())
    try:
        spread = metric.spread()
    except RuntimeError:  # a seed has fewer than two pictures
        spread = Spread(())
    if spread.deviation != spread.deviation:
        return [Figure(role, value, pictures, "all pictures at once; no spread over seeds")]
    method = f"all pictures at once; ± over {len(spread.values)} sets of seeds, whose mean is {spread.mean:.3g}"
    return [Figure(role, value, pictures, method, deviation=spread.deviation)]


class _Given(nn.Module):
    """Features that are features already."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count

    def forward(self, features: Tensor) -> Tensor:
        """The same."""
        return features


def _frechet(count: int) -> FrechetInceptionDistance:
    metric = FrechetInceptionDistance(feature=_Given(count))
    # torchmetrics gives the figure in the type of the last features it saw, which a rank without pictures lacks.
    metric.orig_dtype = torch.double
    return metric


def _places(seeds: Sequence[int] | None, count: int, places: int) -> Tensor:
    """Each picture's place among the seeds, ``[count]``; :data:`EVERY_SEED` where none was said."""
    if seeds is None:
        return torch.full((count,), EVERY_SEED)
    chosen = torch.as_tensor(seeds, dtype=torch.long)
    if len(chosen) != count or bool((chosen < 0).any()) or bool((chosen >= places).any()):
        raise ConfigurationError(
            f"seeds: {chosen.tolist()[:8]} for {count} pictures and {places} seeds; give each picture the place of its "
            "seed (0, 1, …), and the metric their number (seeds=…)."
        )
    return chosen
