"""Metrics, each a ``torchmetrics.Metric`` with a named protocol."""

from rece_lightning.metrics.classifier import ImageClassifier
from rece_lightning.metrics.clip import Clip, ClipScore, ZeroShot
from rece_lightning.metrics.detection import (
    ConceptDetector,
    DetectionChange,
    DetectionRate,
    EmojiDetector,
    Generality,
    ListingDetector,
    NamingDetector,
    detected,
    names_seen,
)
from rece_lightning.metrics.difference import Difference
from rece_lightning.metrics.features import EmojiFeatures, FeatureNetwork, InceptionFeatures
from rece_lightning.metrics.figure import Figure, Mean, PictureBatch, PictureMetric, Spread
from rece_lightning.metrics.harmonic import HarmonicMean, harmonic_mean
from rece_lightning.metrics.intervals import Share, cluster_bootstrap, wilson_interval
from rece_lightning.metrics.nudenet import NudeNetRece, NudeNetSpeed, NudeNetUnlearnDiffAtk, NudityCount
from rece_lightning.metrics.paired import PairedTest, paired_test, paired_test_of_values
from rece_lightning.metrics.perceptual import ArtistScore, FeatureDistance, Lpips, PerceptualDistance, PictureDistance
from rece_lightning.metrics.quality import FrechetDistance, KernelDistance
from rece_lightning.metrics.safety_checker import SafetyChecker
from rece_lightning.metrics.vision_language import VisionLanguage

__all__ = [
    "ArtistScore",
    "Clip",
    "ClipScore",
    "ConceptDetector",
    "DetectionChange",
    "DetectionRate",
    "Difference",
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
    "ListingDetector",
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
    "SafetyChecker",
    "Share",
    "Spread",
    "VisionLanguage",
    "ZeroShot",
    "cluster_bootstrap",
    "detected",
    "harmonic_mean",
    "names_seen",
    "paired_test",
    "paired_test_of_values",
    "wilson_interval",
]
