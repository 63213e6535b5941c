"""The vocabulary scan: which words of the tokenizer still reach an erased concept, and which were hurt unasked."""

from rece_lightning.models.vocabulary import vocabulary_words
from rece_lightning.vocabulary.scan import Scan, scan_module

__all__ = ["Scan", "scan_module", "vocabulary_words"]
