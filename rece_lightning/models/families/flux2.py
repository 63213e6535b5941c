"""FLUX.2 (dev, klein): three tapped layers of a language model side by side, through one map."""

from rece_lightning.models.families.base import CONTEXT, Family, Source, rows_and_pooled

FLUX2 = Family(
    name="flux2",
    title="FLUX.2",
    pipelines=("Flux2Pipeline", "Flux2KleinPipeline", "Flux2KleinInpaintPipeline"),
    places=(CONTEXT,),
    sources=rows_and_pooled(Source("prompt_embeds", 0)),
)
