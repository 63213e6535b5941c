"""Sana: Gemma's rows behind written instructions, through a projector and a norm, then keys and values."""

from rece_lightning.models.families.base import Family, Source, behind_projector, rows_and_pooled

SANA = Family(
    name="sana",
    title="Sana, Sana-Sprint",
    pipelines=("SanaPipeline", "SanaPAGPipeline", "SanaSprintPipeline", "SanaSprintImg2ImgPipeline"),
    places=behind_projector("caption_projection", "caption_norm"),
    # Instructions stand before a prompt, not before the empty one that guidance leads away from.
    sources=rows_and_pooled(
        Source("prompt_embeds", 0, mask=1, mask_argument="prompt_attention_mask", negative=2, negative_mask=3)
    ),
)
