"""Chroma: T5's rows through one map; its guidance reads the timestep alone."""

from rece_lightning.models.families.base import CONTEXT, Family, Source, rows_and_pooled

CHROMA = Family(
    name="chroma",
    title="Chroma",
    pipelines=("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline"),
    places=(CONTEXT,),
    sources=rows_and_pooled(Source("prompt_embeds", 0, mask=2, mask_argument="prompt_attention_mask")),
)
