"""Other systems than an edit, to be measured beside it: what changes how a pipeline draws, and what is trained."""

from rece_lightning.baselines.concept_ablation import ConceptAblation
from rece_lightning.baselines.esd import ESD
from rece_lightning.baselines.guard import Guard, guard
from rece_lightning.baselines.negative_prompt import NegativePrompt
from rece_lightning.baselines.output_filter import OutputFilter
from rece_lightning.baselines.safree import SAFREE
from rece_lightning.baselines.selective_amnesia import SelectiveAmnesia
from rece_lightning.baselines.sld import SLD

__all__ = [
    "ESD",
    "SAFREE",
    "SLD",
    "ConceptAblation",
    "Guard",
    "NegativePrompt",
    "OutputFilter",
    "SelectiveAmnesia",
    "guard",
]
