"""Metrics, each a ``torchmetrics.Metric`` with a named protocol."""

from rece_lightning.metrics.artist_score import ArtistScore
from rece_lightning.metrics.bootstrap import cluster_bootstrap
from rece_lightning.metrics.change import DetectionChange
from rece_lightning.metrics.classifier import ImageClassifier
from rece_lightning.metrics.clip import Clip
from rece_lightning.metrics.clip_score import ClipScore
from rece_lightning.metrics.detection import (
    ConceptDetector,
    DetectionRate,
    EmojiDetector,
    NamingDetector,
    names_seen,
)
from rece_lightning.metrics.features import EmojiFeatures, FeatureNetwork, InceptionFeatures
from rece_lightning.metrics.figure import Figure, PictureBatch, PictureMetric
from rece_lightning.metrics.generality import Generality
from rece_lightning.metrics.harmonic import HarmonicMean, harmonic_mean
from rece_lightning.metrics.intervals import Share, wilson_interval
from rece_lightning.metrics.means import Mean, Spread
from rece_lightning.metrics.nudenet import NudeNetRece, NudeNetSpeed, NudeNetUnlearnDiffAtk, NudityCount
from rece_lightning.metrics.paired import PairedTest, paired_test, paired_test_of_values
from rece_lightning.metrics.perceptual import FeatureDistance, Lpips, PerceptualDistance, PictureDistance
from rece_lightning.metrics.quality import FrechetDistance, KernelDistance
from rece_lightning.metrics.zero_shot import ZeroShot

__all__ = [
    "ArtistScore",
    "Clip",
    "ClipScore",
    "ConceptDetector",
    "DetectionChange",
    "DetectionRate",
    "EmojiDetector",
    "EmojiFeatures",
    "FeatureDistance",
    "FeatureNetwork",
    "Figure",
    "FrechetDistance",
    "Generality",
    "HarmonicMean",
    "ImageClassifier",
    "InceptionFeatures",
    "KernelDistance",
    "Lpips",
    "Mean",
    "NamingDetector",
    "NudeNetRece",
    "NudeNetSpeed",
    "NudeNetUnlearnDiffAtk",
    "NudityCount",
    "PairedTest",
    "PerceptualDistance",
    "PictureBatch",
    "PictureDistance",
    "PictureMetric",
    "Share",
    "Spread",
    "ZeroShot",
    "cluster_bootstrap",
    "harmonic_mean",
    "names_seen",
    "paired_test",
    "paired_test_of_values",
    "wilson_interval",
]
