"""All metrics on the same pictures, by one process or by two."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rece_lightning.metrics import (
    ArtistScore,
    ClipScore,
    DetectionChange,
    DetectionRate,
    EmojiDetector,
    EmojiFeatures,
    FeatureDistance,
    FrechetDistance,
    Generality,
    HarmonicMean,
    KernelDistance,
    PerceptualDistance,
)
from tests.helpers.pictures import rendered

NAMES = ["bomb", "axe", "church", "rocket", "dagger", "cactus", "dog", "guitar"]
SEEDS = 3


def figures(rank: int, world: int) -> dict[str, Any]:
    """Every rank takes each ``world``-th batch: one batch a seed, all prompts in it. Three batches leave two ranks
    with unequal parts, and every seed to one rank alone.
    """
    detector, features, prompts = EmojiDetector(), EmojiFeatures(), len(NAMES)
    rate, generality = DetectionRate(detector, prompts), Generality(detector, prompts)
    change, harmonic = DetectionChange(detector, prompts), HarmonicMean(detector, 3, prompts)
    fid, kid = FrechetDistance(features, SEEDS), KernelDistance(features, SEEDS)
    clip, distance = ClipScore(prompts=prompts), PerceptualDistance(FeatureDistance(features), prompts)
    artists, empty = ArtistScore(FeatureDistance(features), prompts), KernelDistance(features, SEEDS)
    for seed in range(rank, SEEDS, world):
        before, after = rendered(NAMES, seed), rendered(NAMES[1:] + NAMES[:1], 10 + seed)
        rows, seeds = list(range(prompts)), [seed] * prompts
        rate.update(before, NAMES, rows)
        generality.update(before, NAMES, ["something else"] * prompts, rows)
        change.update(before, after, NAMES, rows)
        for role in ("erased", "kept", "synonym"):
            harmonic.update(before if role == "kept" else after, NAMES, role, rows)
        for metric in (fid, kid):
            metric.update(before, seeds, reference=True)
            metric.update(after, seeds, reference=False)
        clip.update(before, NAMES, rows)
        distance.update(before, after, rows)
        artists.update(before, after, "erased", rows)
        artists.update(before, before.flip(3), "kept", rows)
        if seed == 0:  # the other rank has nothing
            empty.update(before, seeds, reference=True)
            empty.update(after, seeds, reference=False)
    return {
        "counts": {
            "rate": (rate.share().clusters, float(rate.compute()), rate.share().interval),
            "generality": generality.share().clusters,
            "change": (change.test(), [share.clusters for share in change.shares()], float(change.compute())),
            "harmonic": (float(harmonic.compute()), harmonic.interval()),
        },
        "sums": {
            "fid": float(fid.compute()),
            "fid of seeds": list(fid.spread().values),
            "kid": float(kid.compute()),
            "kid of seeds": list(kid.spread().values),
            "kid of one rank": float(empty.compute()),
            "clip": [float(clip.compute()), clip.mean().mean, *clip.mean().interval],
            "distance": [float(distance.compute()), *distance.mean().interval],
            "artists": [float(artists.compute()), *artists.means()["erased"].interval],
        },
    }


HEAVY = (
    "nudenet",
    "onnxruntime",
    "diffusers",
    "lightning",
    "torchvision",
    "torch_fidelity",
    "rece_lightning.emoji.clip",
)


def run(rank: int, port: int) -> dict[str, Any]:
    """The figures by one of two processes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        return figures(rank, 2)
    finally:
        dist.destroy_process_group()


def run_second(port: int, folder: str) -> None:
    """The second process: its figures, and what importing the metrics alone had loaded."""
    loaded = [name for name in HEAVY if name in sys.modules]
    torch.set_num_threads(1)
    torch.save({**run(1, port), "loaded": loaded}, Path(folder) / "second.pt")
