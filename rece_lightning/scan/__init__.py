"""The vocabulary scan: which words of the tokenizer still reach an erased concept, and which were hurt unasked."""

from rece_lightning.scan.reaching import Scan, scan_module
from rece_lightning.scan.words import vocabulary_words

__all__ = ["Scan", "scan_module", "vocabulary_words"]
