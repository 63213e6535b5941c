"""Other systems than an edit, to be measured beside it: what changes how a pipeline draws, and what is trained."""

from rece_lightning.baselines.concept_ablation import ConceptAblation
from rece_lightning.baselines.esd import ESD
from rece_lightning.baselines.selective_amnesia import SelectiveAmnesia

__all__ = ["ESD", "ConceptAblation", "SelectiveAmnesia"]
