"""Metrics, each a ``torchmetrics.Metric`` with a named protocol."""

from rece_lightning.metrics.detection import ConceptDetector, DetectionRate, EmojiDetector
from rece_lightning.metrics.intervals import Share, wilson_interval

__all__ = ["ConceptDetector", "DetectionRate", "EmojiDetector", "Share", "wilson_interval"]
