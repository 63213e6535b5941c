"""FID and KID: how far the pictures of one model are from another's, or from real ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_kernel
from torchmetrics.wrappers.abstract import WrapperMetric

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.detection import over_ranks
from rece_lightning.metrics.features import EmojiFeatures, FeatureNetwork
from rece_lightning.metrics.figure import KEPT, SETS, Figure, PictureBatch, Spread

EVERY_SEED = -1
KERNEL_ROWS = 512


class _Sets(ABC):
    """What FID and KID share: two sets of pictures, known by their features, each told apart by seeds."""

    compares = SETS
    # Erased prompts should give other pictures.
    groups: tuple[tuple[str, ...], ...] = ((KEPT,),)
    features: FeatureNetwork

    def update(self, pictures: Tensor, seeds: Sequence[int] | None = None, *, reference: bool) -> None:
        """Add pictures ``[n, 3, h, w]`` in [0, 1].

        Args:
            pictures: of the model, or the reference.
            seeds: place of each picture's seed among the seeds (0, 1, …); without them the pictures belong to every
                seed, as real ones do.
            reference: whether these are the reference's.
        """
        self.add(self.features(pictures), seeds, reference=reference)

    @abstractmethod
    def add(self, features: Tensor, seeds: Sequence[int] | None, *, reference: bool) -> None:
        """Add pictures by their features, ``[n, d]``; the other arguments are those of :meth:`update`."""

    def compute(self) -> Tensor:
        """The distance of all pictures, float64. A RuntimeError says when a Fréchet distance has fewer than two."""
        return self.whole()

    @abstractmethod
    def whole(self) -> Tensor:
        """The same, whichever way the pictures came in. All ranks must call it."""

    @abstractmethod
    def spread(self) -> Spread:
        """The distance of each seed's pictures, at least two of them. All ranks must call it."""

    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Pictures of the model and of the reference. All ranks must call it."""

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

    def figures(self, role: str) -> list[Figure]:
        """The distance of all pictures with its spread over seeds; none where a set has fewer than two."""
        pictures, references = self.sizes()
        if min(pictures, references) < 2:
            return []
        value = float(self.whole())
        try:
            spread = self.spread()
        except RuntimeError:  # a seed has fewer than two pictures
            spread = Spread(())
        if spread.deviation != spread.deviation:
            return [Figure(role, value, pictures, "all pictures at once; no spread over seeds")]
        method = f"all pictures at once; ± over {len(spread.values)} sets of seeds, whose mean is {spread.mean:.3g}"
        return [Figure(role, value, pictures, method, deviation=spread.deviation)]


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

    def add(self, features: Tensor, seeds: Sequence[int] | None, *, reference: bool) -> None:
        features = features.double().to(self.of_all.device)
        self.of_all.update(features, real=reference)
        places = _places(seeds, len(features), len(self.seeds))
        for place, metric in enumerate(self._of_seeds()):
            chosen = ((places == place) | (places == EVERY_SEED)).to(features.device)
            if bool(chosen.any()):
                metric.update(features[chosen], real=reference)

    def _of_seeds(self) -> list[FrechetInceptionDistance]:
        return [cast(FrechetInceptionDistance, metric) for metric in self.seeds]

    def whole(self) -> Tensor:
        return self.of_all.compute()

    def spread(self) -> Spread:
        return Spread(tuple(float(metric.compute()) for metric in self._of_seeds()))

    def sizes(self) -> tuple[int, int]:
        with over_ranks(self.of_all):
            return int(self.of_all.fake_features_num_samples), int(self.of_all.real_features_num_samples)

    def reset(self) -> None:
        for metric in (self.of_all, *self._of_seeds()):
            metric.reset()

    def sized(self, prompts: int, seeds: int) -> FrechetDistance:
        return FrechetDistance(self.features, seeds)


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
        self, features: FeatureNetwork | nn.Module | None = None, seeds: int = 1, paired: bool = False, **kwargs: Any
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

    def add(self, features: Tensor, seeds: Sequence[int] | None, *, reference: bool) -> None:
        features = features.double().to(self.device)
        places = _places(seeds, len(features), self.seeds)
        rows = torch.cat([places[:, None].to(features), features], dim=1)
        (self.reference if reference else self.model).append(rows.flatten())

    def whole(self) -> Tensor:
        return self._distance(*self._rows())

    def spread(self) -> Spread:
        sets = self._rows()
        of_seeds = (
            [rows[(rows[:, 0] == seed) | (rows[:, 0] == EVERY_SEED)] for rows in sets] for seed in range(self.seeds)
        )
        return Spread(tuple(float(self._distance(*chosen)) for chosen in of_seeds))

    def sizes(self) -> tuple[int, int]:
        model, reference = self._rows()
        return len(model), len(reference)

    def _distance(self, model: Tensor, reference: Tensor) -> Tensor:
        if self.paired and len(model) != len(reference):
            raise ConfigurationError(
                f"KernelDistance.paired: {len(model)} pictures of the model, {len(reference)} of the reference; give "
                "each its partner, or leave paired out."
            )
        return 1000 * squared_discrepancy(model[:, 1:], reference[:, 1:], paired=self.paired)

    def _rows(self) -> tuple[Tensor, Tensor]:
        """Rows of both sets, of all ranks: the seed and the features."""
        width = self.features.num_features + 1
        rows = []
        with over_ranks(self):
            for state in (self.model, self.reference):
                flat = torch.cat(list(state)) if isinstance(state, list) and state else torch.as_tensor(state)
                rows.append(flat.double().reshape(-1, width))
        return rows[0], rows[1]

    def sized(self, prompts: int, seeds: int) -> KernelDistance:
        return KernelDistance(self.features, seeds, self.paired)


def squared_discrepancy(first: Tensor, second: Tensor, *, paired: bool = False) -> Tensor:
    """Unbiased squared maximum mean discrepancy of two samples.

    Args:
        first: ``[n, d]``.
        second: ``[m, d]``.
        paired: row i of one depends on row i of the other (n = m). Then the kernel of these two is left out as well:
            pictures of one seed are alike, and with it the estimate would be far below zero (Gretton et al., *A Kernel
            Two-Sample Test*, JMLR 2012, lemma 6).

    Returns:
        The estimate; NaN below two rows.
    """
    if min(len(first), len(second)) < 2:
        return torch.tensor(float("nan"), dtype=first.dtype)
    within = _mean_kernel(first, first, apart=True) + _mean_kernel(second, second, apart=True)
    return within - 2 * _mean_kernel(first, second, apart=paired)


def _mean_kernel(first: Tensor, second: Tensor, *, apart: bool) -> Tensor:
    """Mean of the kernel over pairs of rows, ``apart``: without those of the same place; a few rows at a time."""
    total = first.new_zeros(())
    for start in range(0, len(first), KERNEL_ROWS):
        block = poly_kernel(first[start : start + KERNEL_ROWS], second)
        total += block.sum() - (block.diagonal(start).sum() if apart else 0)
    return total / (len(first) * (len(second) - apart))


def _frechet(count: int) -> FrechetInceptionDistance:
    given = nn.Identity()  # features that are features already
    given.num_features = count  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=given)
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
