"""The tokenizer's words: which still reach an erased concept, and which are erased or preserved with it."""

from rece_lightning.models.vocabulary import vocabulary_words
from rece_lightning.vocabulary.scan import Scan, scan

__all__ = ["Scan", "scan", "vocabulary_words"]
