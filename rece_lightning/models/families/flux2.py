"""FLUX.2 (dev, klein): three tapped layers of a language model side by side, through one map."""

from rece_lightning.models.families.base import Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import TEXT

FLUX2 = Family(
    name="flux2",
    title="FLUX.2",
    pipelines=("Flux2Pipeline", "Flux2KleinPipeline", "Flux2KleinInpaintPipeline"),
    places=(Place(TEXT, r"context_embedder"),),
    sources=rows_and_pooled(Source("prompt_embeds", 0)),
)
