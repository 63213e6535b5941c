"""FID and KID: how far the pictures of one model are from another's, or from real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_kernel
from torchmetrics.wrappers.abstract import WrapperMetric

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.features import EmojiFeatures, FeatureNetwork
from rece_lightning.metrics.means import Spread
from rece_lightning.metrics.ranks import over_ranks

KERNEL_ROWS = 512
EVERY_SEED = -1


class FrechetDistance(WrapperMetric):
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

    def __init__(self, features: FeatureNetwork | None = None, seeds: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = features if features is not None else EmojiFeatures()
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
        features = self.features(pictures).double().to(self.of_all.device)
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
        return self.of_all.compute()

    def spread(self) -> Spread:
        """The distance of each seed's pictures, at least two of them. All ranks must call it."""
        return Spread(tuple(float(self.of_seed(place).compute()) for place in range(len(self.seeds))))

    def reset(self) -> None:
        """Forget all pictures."""
        self.of_all.reset()
        for place in range(len(self.seeds)):
            self.of_seed(place).reset()


class KernelDistance(Metric):
    """KID, protocol ``kid FEATURES``: squared maximum mean discrepancy with the kernel ``(x·y/d + 1)³``, times 1,000.

    The unbiased estimate over all pictures at once, so nothing is drawn (published ones average random subsets of the
    same estimate); it can be negative. Sets may differ in size. States are the features, gathered from all ranks.

    Args:
        features: network; the embedded world's detector without it.
        seeds: how many seeds are told apart; 1 makes a single figure.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    model: list[Tensor]
    reference: list[Tensor]

    def __init__(self, features: FeatureNetwork | None = None, seeds: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A rank without pictures takes part with an empty state of the metric's own type and one dimension: so all
        # states are float64 and flat, a row being the seed and the features.
        self.set_dtype(torch.double)
        self.features = features if features is not None else EmojiFeatures()
        self.seeds = seeds
        self.protocol = f"kid {self.features.protocol}"
        self.add_state("model", [], dist_reduce_fx="cat")
        self.add_state("reference", [], dist_reduce_fx="cat")

    def update(self, pictures: Tensor, seeds: Sequence[int] | None = None, *, reference: bool) -> None:
        """Add pictures ``[n, 3, h, w]`` in [0, 1]; the arguments are those of :meth:`FrechetDistance.update`."""
        features = self.features(pictures).double().to(self.device)
        places = _places(seeds, len(features), self.seeds)
        rows = torch.cat([places[:, None].to(features), features], dim=1)
        (self.reference if reference else self.model).append(rows.flatten())

    def compute(self) -> Tensor:
        """The distance of all pictures, float64."""
        model, reference = self._rows()
        return 1000 * squared_discrepancy(model[:, 1:], reference[:, 1:])

    def spread(self) -> Spread:
        """The distance of each seed's pictures. All ranks must call it."""
        with over_ranks(self):
            model, reference = self._rows()
        found = []
        for seed in range(self.seeds):
            of_model = model[(model[:, 0] == seed) | (model[:, 0] == EVERY_SEED)]
            of_reference = reference[(reference[:, 0] == seed) | (reference[:, 0] == EVERY_SEED)]
            found.append(1000 * float(squared_discrepancy(of_model[:, 1:], of_reference[:, 1:])))
        return Spread(tuple(found))

    def _rows(self) -> tuple[Tensor, Tensor]:
        width = self.features.num_features + 1
        found = []
        for state in (self.model, self.reference):
            flat = torch.cat(list(state)) if isinstance(state, list) and state else torch.as_tensor(state)
            found.append(flat.double().reshape(-1, width))
        return found[0], found[1]


def squared_discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of two samples ``[n, d]`` and ``[m, d]``; NaN below two rows."""
    if min(len(first), len(second)) < 2:
        return torch.tensor(float("nan"), dtype=first.dtype)
    return _mean_kernel(first, first) + _mean_kernel(second, second) - 2 * _mean_kernel(first, second)


def _mean_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Mean of the kernel over pairs, without a row's pair with itself; a few rows at a time."""
    same = first is second
    total = first.new_zeros(())
    for start in range(0, len(first), KERNEL_ROWS):
        block = poly_kernel(first[start : start + KERNEL_ROWS], second)
        total += block.sum() - (block.diagonal(start).sum() if same else 0)
    return total / (len(first) * (len(second) - same))


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
