"""Other systems than an edit, to be measured beside it: what changes how a pipeline draws, and what is trained."""

from rece_lightning.baselines.concept_ablation import ConceptAblation

__all__ = ["ConceptAblation"]
