"""Chroma: T5's rows through one map; its guidance reads the timestep alone."""

from rece_lightning.models.families.base import Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import TEXT

CHROMA = Family(
    name="chroma",
    title="Chroma",
    pipelines=("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline"),
    places=(Place(TEXT, r"context_embedder"),),
    sources=rows_and_pooled(Source("prompt_embeds", 0, mask=2, mask_argument="prompt_attention_mask")),
)
